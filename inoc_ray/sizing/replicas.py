"""How many engines answer for one model side by side, and which engines a cluster holds at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inoc_ray.cluster.fit import Capacity, Node, hold_together
from inoc_ray.plan.cells import Cell
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import Subject
from inoc_ray.serve.memory import HOST_SHARE
from inoc_ray.sizing.engines import worth
from inoc_ray.sizing.schedule import engine_bytes, engine_start_seconds, sampling_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What engines may take."""

    capacity: Capacity
    host_bytes: int | None = None
    """Memory of a node; None for enough. What an engine on GPUs takes of it does not count."""

    def holds(self, engines: Sequence[EngineNeed]) -> bool:
        """Return whether the engines have room at once."""
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
    taken = plan.study.resources.of_engine(subject.model.name)
    return EngineNeed(
        shape=Node(taken.serve_cpus, taken.serve_gpus), bytes=0 if taken.serve_gpus else engine_bytes(plan, subject)
    )


def replicas_of(plan: Plan, subject: Subject, cells: Sequence[Cell], *, others: int, room: Room | None) -> int:
    """Return how many engines answer for a model: as the study says, or as many as are worth their start and have room.

    cells: what they are asked. others: engines of other models that are to have room, too. room: None where it is not known, and
    then there is one.
    """
    asked = plan.study.resources.of_engine(subject.model.name).serve_replicas
    if asked is not None or room is None or not cells:
        return asked or 1
    most = worth(sampling_seconds(plan, cells), engine_start_seconds(cells[0], plan))
    need = need_of(plan, subject)
    while most > 1 and not room.holds([need] * (most * (1 + others))):
        most -= 1
    return most
