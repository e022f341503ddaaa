"""How many engines answer for one model side by side, and which engines a cluster holds at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inoc_ray.cluster.fit import Capacity, Node, hold_together
from inoc_ray.plan.cells import Cell, judges_of
from inoc_ray.plan.judge_assignment import JudgeModel
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import Subject
from inoc_ray.serve.memory import AUTO, HOST_SHARE
from inoc_ray.sizing.engines import JUDGE_ANSWER_TOKENS, JUDGE_PROMPT_TOKENS, worth
from inoc_ray.sizing.schedule import (
    answering_seconds,
    engine_bytes,
    engine_start_seconds,
    sampling_seconds,
    start_seconds,
)
from inoc_ray.study.resources import EngineResources


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What engines may take."""

    capacity: Capacity
    host_bytes: int | None = None
    """Memory of a node; None for enough. What an engine on GPUs takes of it does not count."""
    taken: tuple[EngineNeed, ...] = ()
    """What others take of it."""

    def beside(self, engines: Iterable[EngineNeed]) -> Room:
        """Return what is left beside engines."""
        return replace(self, taken=(*self.taken, *engines))

    def holds(self, engines: Sequence[EngineNeed]) -> bool:
        """Return whether the engines have room at once."""
        engines = [*self.taken, *engines]
        on_hosts = sum(engine.bytes for engine in engines)
        enough = self.host_bytes is None or on_hosts <= HOST_SHARE * self.host_bytes * len(self.capacity.all_nodes)
        return enough and hold_together([engine.shape for engine in engines], self.capacity)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineNeed:
    """What one engine takes of a node."""

    shape: Node
    bytes: int
    """Of the node's memory; 0 for one on GPUs."""


def need_of(plan: Plan, subject: Subject) -> EngineNeed:
    """Return what an engine of the subject's model takes."""
    return _need(subject.model.path, subject.precision, plan.study.resources.of_engine(subject.model.name))


def replicas_of(plan: Plan, subject: Subject, cells: Sequence[Cell], *, others: int, room: Room | None) -> int:
    """Return how many engines answer for a model: as the study says, or as many as are worth their start and have room.

    cells: what they are asked. others: engines of other models that are to have room, too. room: None where it is not known, and
    then there is one.
    """
    engine = plan.study.resources.of_engine(subject.model.name)
    if engine.serve_replicas is not None or room is None or not cells:
        return engine.serve_replicas or 1
    most = worth(sampling_seconds(plan, cells), engine_start_seconds(cells[0], plan))
    return _with_room(most, need_of(plan, subject), others, room)


def weights_of(subject: Subject) -> tuple[str, str]:
    """Return what tells one engine from another: a base with all its adapters is one, and each full fine-tune."""
    return (subject.trial_id if subject.is_own_model else subject.model.hash), subject.precision


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedEngine:
    """The engines of one set of weights, as a plan foresees them."""

    subject: Subject
    replicas: int
    gpus: int
    """Of each."""

    def to_json(self) -> dict[str, Any]:
        """Return the value for `--json`."""
        full = self.subject.trial_id if self.subject.is_own_model else None
        return {
            "model": self.subject.model.name,
            "full_fine_tune": full,
            "replicas": self.replicas,
            "gpus": self.gpus,
        }


def planned_engines(plan: Plan, room: Room | None) -> list[PlannedEngine]:
    """Return the engines for all that is to be sampled, were it all sampled after the training. room: as in `replicas_of`."""
    return _planned(plan, plan.to_sample, room)


def needs_of_engines(plan: Plan, cells: Sequence[Cell], room: Room | None) -> list[EngineNeed]:
    """Return what the engines take that these cells are asked of, all of them at once. room: as in `replicas_of`."""
    planned = _planned(plan, cells, room)
    return [need for engine in planned for need in [need_of(plan, engine.subject)] * engine.replicas]


def _planned(plan: Plan, cells: Sequence[Cell], room: Room | None) -> list[PlannedEngine]:
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        found.setdefault(weights_of(cell.subject), []).append(cell)
    return [
        PlannedEngine(
            subject=mine[0].subject,
            gpus=plan.study.resources.of_engine(mine[0].subject.model.name).gpus,
            replicas=replicas_of(plan, mine[0].subject, mine, others=len(found) - 1, room=room),
        )
        for mine in found.values()
    ]


def needs_of_judge(plan: Plan, judge: JudgeModel) -> list[EngineNeed]:
    """Return what the engines of a judge take that grades beside the sampling: one, unless the study says more."""
    assert judge.folder is not None
    engine = plan.study.resources.of_judge(judge.name)
    return [_need(judge.folder, AUTO, engine)] * (engine.serve_replicas or 1)


def judges_with_room(plan: Plan, engines: Sequence[EngineNeed], room: Room) -> list[JudgeModel]:
    """Return the judges on engines of their own that have room beside these engines, and will have something to judge."""
    found: list[JudgeModel] = []
    for judge in judges_of(plan.to_sample):
        if judge.folder is not None and room.beside(engines).holds(needs_of_judge(plan, judge)):
            found.append(judge)
            room = room.beside(needs_of_judge(plan, judge))
    return found


def judge_replicas(folder: Path, engine: EngineResources, *, questions: int, response: float, room: Room | None) -> int:
    """Return how many engines answer for a judge in `folder`, as `replicas_of` does.

    questions: that it is asked. response: tokens of one that it judges.
    """
    if engine.serve_replicas is not None or room is None:
        return engine.serve_replicas or 1
    seconds = answering_seconds(
        folder, AUTO, engine, count=questions, prompt=JUDGE_PROMPT_TOKENS + response, answer=JUDGE_ANSWER_TOKENS
    )
    return _with_room(worth(seconds, start_seconds(folder, AUTO, engine)), _need(folder, AUTO, engine), 0, room)


def _need(folder: Path, precision: str, engine: EngineResources) -> EngineNeed:
    shape = Node(engine.serve_cpus, engine.gpus)
    return EngineNeed(shape=shape, bytes=engine_bytes(folder, precision, engine))


def _with_room(most: int, need: EngineNeed, others: int, room: Room) -> int:
    """Return how many of at most so many engines have room, if each of the others takes as much as they do."""
    return next((count for count in range(most, 1, -1) if room.holds([need] * (count * (1 + others)))), 1)
