"""Tasks that go on at once, each in a thread of its own, as far as there is room for what they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from inoc_ray.evaluate.beside import Beside

T = TypeVar("T")
N = TypeVar("N")
_LOOK_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Task(Generic[N, T]):
    """Something to do, and what it takes while it goes on."""

    takes: Sequence[N]
    do: Callable[[], T]


def side_by_side(tasks: Sequence[Task[N, T]], holds: Callable[[list[N]], bool]) -> list[T]:
    """Do all tasks, each as soon as there is room for it and for those that go on; return their results in the tasks' order.

    holds: whether there is room for all that is taken. A task that has no room even alone is done alone, and says why it fails.
    The first error is raised once no task goes on.
    """
    if len(tasks) == 1:
        # In this thread, where a signal breaks it off.
        return [tasks[0].do()]
    begun: list[Beside[T]] = []
    try:
        while len(begun) < len(tasks) or not all(task.is_over for task in begun):
            while len(begun) < len(tasks) and _has_room(tasks, begun, holds):
                begun.append(Beside(tasks[len(begun)].do, "engine"))
            time.sleep(_LOOK_SECONDS)
        return [task.result() for task in begun]
    except BaseException:
        for task in begun:
            task.leave()
        raise


def _has_room(tasks: Sequence[Task[N, T]], begun: Sequence[Beside[T]], holds: Callable[[list[N]], bool]) -> bool:
    """Return whether the next task has room beside those that go on."""
    taken = [part for task, going in zip(tasks, begun, strict=False) if not going.is_over for part in task.takes]
    return not taken or holds([*taken, *tasks[len(begun)].takes])
