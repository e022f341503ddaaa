"""An actor beside a command on a shared cluster: it outlives the command, and then does what the command could not do any more.

A command that is killed, or stopped with less time than that takes, would leave what is not Ray's to end until the next command.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from inoc_ray.cluster.connect import owns_cluster

NAMESPACE = "inoc_ray"
LOOK_SECONDS = 1.0
"""How often a keeper asks whether the command lives."""
FAREWELL_SECONDS = 30.0
"""How long a command waits for the keepers of dead ones to be done."""
PATIENCE_SECONDS = 600.0
"""How long a keeper tries again what fails: the head may start anew, and answers nothing meanwhile."""
CHORE_SECONDS = 20.0
"""How long it tries a chore again: Serve may be just starting, or ending."""
_NAME = "keeper-"
T = TypeVar("T")


class Keeper:
    """Watches a Ray job from a detached actor; when the job is dead, does its chores and ends itself."""

    def __init__(self, job_id: str, chores: Sequence[Callable[[], object]]) -> None:
        self._job_id, self._chores = job_id, chores
        # Not a method that the command calls: a keeper that Ray starts again on another node has no caller.
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        import ray

        try:
            while self._job_id not in persistently(dead_jobs):
                time.sleep(LOOK_SECONDS)
            # Side by side, since most of their time is waiting, and somebody may wait for them.
            at_work = [threading.Thread(target=_do, args=(chore,), daemon=True) for chore in self._chores]
            for thread in at_work:
                thread.start()
            for thread in at_work:
                thread.join()
        finally:
            # Each later command would wait for a keeper that stays.
            persistently(lambda: ray.kill(ray.get_runtime_context().current_actor))


def _do(chore: Callable[[], object]) -> None:
    """Do a chore. If it cannot be done the others are no less due, and the next command on the cluster tries again."""
    try:
        persistently(chore, CHORE_SECONDS)
    except Exception:
        logging.getLogger(__name__).exception("left undone for a command that is gone: %s", chore)


def persistently(ask: Callable[[], T], seconds: float | None = None) -> T:
    """Return what a function that asks the cluster returns, called again while it fails; then raise what it raises.

    seconds: how long it is called again; PATIENCE_SECONDS if None.
    """
    end = time.monotonic() + (PATIENCE_SECONDS if seconds is None else seconds)
    failed = False
    while True:
        try:
            return ask()
        except Exception as error:
            if time.monotonic() > end:
                raise
            if not failed:
                logging.getLogger(__name__).warning(
                    "the cluster does not answer its keeper, which tries again: %s", error
                )
            failed = True
        time.sleep(LOOK_SECONDS)


def dead_jobs() -> set[str]:
    """Return the ids of the Ray jobs of this cluster that are over."""
    from ray._private import state

    return {job["JobID"] for job in state.jobs() if job["IsDead"]}


def start(*chores: Callable[[], object]) -> Any:
    """Start a keeper of this command and return it. The chores are functions of a module that every node has."""
    import ray

    job_id = ray.get_runtime_context().get_job_id()
    # A name is free again only some time after its actor was killed.
    options = {"name": f"{_NAME}{job_id}-{uuid.uuid4().hex}", "namespace": NAMESPACE, "lifetime": "detached"}
    return ray.remote(Keeper).options(num_cpus=0, max_restarts=-1, **options).remote(job_id, chores)


@contextlib.contextmanager
def kept(*chores: Callable[[], object]) -> Iterator[None]:
    """Have a keeper do the chores if this command does not live to the end of the block; on a private cluster, nobody."""
    keeper = None if owns_cluster() else start(*chores)
    yield
    # Not when the block ends with an error: what it leaves is the keeper's.
    if keeper is not None:
        release(keeper)


def release(keeper: Any) -> None:
    """End a keeper whose chores are done."""
    import ray

    ray.kill(keeper)


def wait_for_keepers() -> None:
    """Wait until the keepers of dead commands are done, so that nobody builds on what is being taken down."""
    end = time.monotonic() + FAREWELL_SECONDS
    while any(_at_work()) and time.monotonic() < end:
        time.sleep(LOOK_SECONDS / 4)


def _at_work() -> Iterator[str]:
    """Yield the names of keepers whose command is dead."""
    import ray

    found = ray.util.list_named_actors(all_namespaces=True)
    names = [one["name"] for one in found if one["namespace"] == NAMESPACE and one["name"].startswith(_NAME)]
    if names:
        dead = dead_jobs()
        yield from (name for name in names if name.split("-")[1] in dead)
