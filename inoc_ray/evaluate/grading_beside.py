"""Grading beside the sampling: judges grade what is sampled while more is sampled, each in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Set
from dataclasses import replace

from inoc_ray import stopping
from inoc_ray.console import Progress, say
from inoc_ray.errors import InputError, TrialError
from inoc_ray.evaluate.beside import Beside, Lingering
from inoc_ray.evaluate.grading import GradingOutcome, asking, grade, judge_failure
from inoc_ray.evaluate.ungraded import ungraded_parts
from inoc_ray.plan.cells import stored_once
from inoc_ray.plan.judge_assignment import JudgeModel
from inoc_ray.plan.plan import Plan
from inoc_ray.store.store import Store

GATHER_SECONDS = 5.0
"""Time over which sampled cells are gathered before they are judged."""
_LOOK_SECONDS = 0.5


class Sampled:
    """The cells that were sampled just now, as one who judges them meanwhile learns it."""

    def __init__(self) -> None:
        self._keys: set[tuple[str, str]] = set()
        self._changed = threading.Condition()
        self._over = False
        self.gives_way = False
        """Whether the place of the judge is needed: it ends at once, and what it leaves is graded after the sampling."""

    def add(self, key: tuple[str, str]) -> None:
        """Note that samples of a cell were committed; from another thread."""
        with self._changed:
            self._keys.add(key)

    def over(self) -> None:
        """Note that no more is sampled."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def give_way(self) -> None:
        """Note that the judge is to end; from another thread."""
        self.gives_way = True
        self.over()

    def take(self) -> set[tuple[str, str]]:
        """Return the keys that were added since the last time, but not more often than every few seconds; none at the end.

        Raises KeyboardInterrupt when the command is told to stop.
        """
        end = time.monotonic() + GATHER_SECONDS
        while True:
            stopping.check()
            with self._changed:
                if self.gives_way:
                    return set()
                if self._over or (self._keys and time.monotonic() >= end):
                    taken, self._keys = self._keys, set()
                    return taken
                self._changed.wait(_LOOK_SECONDS)


class JudgesBeside:
    """The judges of a study that grade beside the sampling.

    A judge that fails is not asked again here: `grade_missing` does that afterwards, and has the last word. Those on engines of
    their own hold their place until all is sampled, or until that is needed (`give_way`).
    """

    def __init__(self, plan: Plan, store: Store, engines: Lingering) -> None:
        self._plan, self._store, self._engines = plan, store, engines
        self._going: dict[str, tuple[JudgeModel, Sampled, Beside[GradingOutcome]]] = {}

    def begin(self, judge: JudgeModel) -> None:
        """Let a judge begin, unless it has: with what is sampled and not graded, then with what is sampled."""
        if judge.name in self._going:
            return
        if judge.folder is not None:
            say(f"judge {judge.name} grades beside the sampling")
        sampled = Sampled()
        work = Beside(lambda: self._grade(judge, sampled), f"judge {judge.name}")
        self._going[judge.name] = judge, sampled, work

    @property
    def have_begun(self) -> bool:
        """Whether any of them has begun."""
        return bool(self._going)

    @property
    def on_engines(self) -> list[JudgeModel]:
        """Those that have begun and hold a place on the cluster."""
        going = self._going.values()
        return [judge for judge, _, work in going if judge.folder is not None and not work.is_over]

    def add(self, key: tuple[str, str]) -> None:
        """Note that samples of a cell were committed; from another thread."""
        for _, sampled, _ in list(self._going.values()):
            sampled.add(key)

    def give_way(self) -> None:
        """End the judges on engines of their own, whose place something else needs."""
        for judge in self.on_engines:
            say(f"judge {judge.name} gives its place to what waits for it; what it leaves is graded after the sampling")
            self._going[judge.name][1].give_way()

    def finish(self) -> int:
        """Wait until they have graded all that was sampled; return how many requests they were sent."""
        for _, sampled, _ in self._going.values():
            sampled.over()
        return sum(work.result().calls for _, _, work in self._going.values())

    def leave(self) -> None:
        """Wait until they have ended, whatever comes of it."""
        for _, sampled, _ in self._going.values():
            sampled.give_way()
        for _, _, work in self._going.values():
            work.leave()

    def _grade(self, judge: JudgeModel, sampled: Sampled) -> GradingOutcome:
        """Grade with one judge until no more is sampled."""
        outcome = GradingOutcome()
        cells = stored_once(cell for cell in self._plan.asked if judge.name in cell.judges.gradings)
        total = sum(self._plan.missing(cell) * len(cell.judges.gradings[judge.name].rubrics) for cell in cells)
        keys: Set[tuple[str, str]] = {cell.key for cell in cells}
        try:
            with (
                asking(self._plan, self._store, judge, serve=self._engines.serving) as asked,
                Progress(f"judging ({judge.name})", total, "judgments") as progress,
            ):
                while keys and not sampled.gives_way:
                    # Sampled here are cells alone: fine-tunes that are missing are no concern of this.
                    new = tuple(cell for cell in self._plan.asked if cell.key in keys)
                    parts = ungraded_parts(
                        replace(self._plan, cells=new, courses=(), trials=(), prior_stages=()), self._store
                    )
                    if mine := parts.get(judge.name, []):
                        progress.total = max(progress.total, progress.done + sum(part.judgments for part in mine))
                        stopping.run(grade(asked, mine, outcome, progress, lambda: sampled.gives_way))
                    keys = sampled.take()
        except (TrialError, InputError, RuntimeError, OSError) as error:
            failed = judge_failure(self._plan, self._store, judge.name, error)
            say(f"note: {failed['label']}: {failed['error']}; it is asked again after the sampling")
        if sampled.gives_way:
            self._engines.end()
        return outcome
