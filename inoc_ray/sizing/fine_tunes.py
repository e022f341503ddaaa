"""What the fine-tunes of a model with a recipe take on a kind of node, and the shapes that would fit or be cheaper."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import Any

from inoc_ray.cluster.cluster_file import NodeKind
from inoc_ray.cluster.fit import Capacity, concurrent_groups
from inoc_ray.errors import InputError
from inoc_ray.plan.trials import ResolvedModel
from inoc_ray.sizing.model_size import ModelSize, model_size
from inoc_ray.sizing.row_lengths import RowLengths
from inoc_ray.sizing.speed import StepWork, group_start_seconds, offload_seconds, step_seconds
from inoc_ray.sizing.training import BYTES, GIB, TrainingMemory, training_memory
from inoc_ray.study.recipe import Recipe
from inoc_ray.study.resources import SMALLEST_SHARE, GroupResources
from inoc_ray.train.layout import Layout
from inoc_ray.train.spec import LoopSpec

HOST_SHARE = 0.9
"""Share of a node's memory that workers may take; the rest is Ray's and the page cache's."""
SAMPLED_BATCHES = 8
"""Batches of which the padding is counted."""
ROOMY = 0.9
"""Share of a device up to which a shape is proposed, and above which a study's own gets a note: estimates are not exact."""
NARROW_ENOUGH = 1.03
"""A narrower shape is preferred if it takes at most this many times the GPU-hours of the cheapest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTunes:
    """The fine-tunes of a study that share a model and a recipe."""

    model: ResolvedModel
    recipe_name: str | None
    recipe: Recipe
    resources: GroupResources
    steps: int
    """Optimizer steps of all of them that are to be trained."""
    trials: int
    """How many are to be trained."""
    rows: RowLengths
    known: dict[str, TrainingMemory] = field(default_factory=dict, compare=False, repr=False)
    """Memory that was computed before, by the resources: the same shape is tried on many kinds of nodes."""

    @property
    def label(self) -> str:
        """What tables call them."""
        return f"{self.model.name} · {self.recipe_name or 'prior stage'}"

    @property
    def place(self) -> str:
        """Where a study sets their resources."""
        under = f".recipes.{self.recipe_name}" if self.recipe_name else ""
        return f"resources.models.{self.model.name}{under}"

    @property
    def size(self) -> ModelSize:
        """The model's and the adapter's."""
        return model_size(self.model.path, self.recipe)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Fine-tunes on a kind of node, with some resources."""

    of: FineTunes
    kind: NodeKind
    resources: GroupResources
    memory: TrainingMemory
    at_once: int
    """Groups that train at once on all nodes of the kind."""
    seconds: float | None
    """Of one fine-tune; None where the speed is not known (on CPUs)."""

    @property
    def gpus(self) -> float:
        """GPUs of a group."""
        return self.resources.workers * self.resources.gpus_per_worker

    @property
    def tight(self) -> bool:
        """Whether little of the device is left."""
        return self.memory.total > ROOMY * limit(self.kind, self.resources)

    @property
    def host(self) -> HostUse:
        """What is offloaded to the node on which most workers are."""
        return offloaded(self.memory, self.kind, self.resources, groups=self.at_once)

    @property
    def gpu_hours(self) -> float | None:
        """Of all fine-tunes."""
        return None if self.seconds is None else self.seconds * self.gpus * self.of.trials / 3600

    @property
    def hours(self) -> float | None:
        """Until all fine-tunes are trained, if nothing else runs on the nodes."""
        if self.seconds is None:
            return None
        return math.ceil(self.of.trials / self.at_once) * self.seconds / 3600

    @property
    def dollars(self) -> float | None:
        """For the GPU-hours: a node's price divided by its GPUs."""
        price = self.kind.dollars_per_hour
        if price is None or self.gpu_hours is None or not self.kind.gpus:
            return None
        return self.gpu_hours * price / self.kind.gpus

    def changes(self) -> dict[str, Any]:
        """Return the fields of the resources that say how it runs, where they differ from those of the study."""
        names = (
            "workers",
            "gpus_per_worker",
            "zero_stage",
            "micro_batch_size",
            *OFFLOADS,
            "max_concurrent_groups",
        )
        wanted = {n: getattr(self.resources, n) for n in names}
        given = {n: getattr(self.of.resources, n) for n in wanted}
        return {n: v for n, v in wanted.items() if v != given[n] or n == "workers"}


OFFLOADS = ("offload_optimizer", "offload_parameters")
"""Fields that move something to the host's memory."""


def spec_of(tunes: FineTunes, resources: GroupResources) -> LoopSpec:
    """Return the fine-tunes as the loop would get them."""
    return LoopSpec(model=str(tunes.model.path), seed=0, recipe=tunes.recipe, resources=resources)


def memory_of(tunes: FineTunes, resources: GroupResources) -> TrainingMemory:
    """Return the memory of a rank at its peak: of a pass in which the longest rows meet."""
    key = resources.model_dump_json()
    if key not in tunes.known:
        rows, tokens = resources.micro_batch_size, resources.micro_batch_tokens
        tunes.known[key] = training_memory(
            spec_of(tunes, resources),
            resources.workers,
            tokens=tokens or rows * tunes.rows.longest,
            targets=tokens or rows * tunes.rows.most_targets,
            device="cuda" if resources.gpus_per_worker else "cpu",
        )
    return tunes.known[key]


def work_of(tunes: FineTunes, resources: GroupResources) -> StepWork:
    """Return what an optimizer step computes, padding included, by the layout of some batches."""
    lengths, targets = tunes.rows.lengths, tunes.rows.targets
    batch = tunes.recipe.batch_size
    # On a GPU packed rows cost nothing more, so that is what `auto` comes to.
    packed = resources.layout == "packed" or (resources.layout == "auto" and resources.gpus_per_worker > 0)
    layout = Layout(
        packed=packed,
        world_size=resources.workers,
        rows=resources.micro_batch_size,
        tokens=resources.micro_batch_tokens,
    )
    tokens = squares = wanted = passes = 0.0
    batches = max(1, min(SAMPLED_BATCHES, len(lengths) // batch))
    for number in range(batches):
        rows = [(number * batch + at) % len(lengths) for at in range(batch)]
        wanted += sum(targets[row] for row in rows)
        of_batch = layout.passes(rows, lengths)
        passes += len(of_batch)
        for part in (part for ranks in of_batch for part in ranks):
            positions = layout.positions(part, lengths)
            tokens += positions
            squares += sum(lengths[row] ** 2 for row in part) if packed else positions**2 / max(1, len(part))
    return StepWork(
        tokens=tokens / batches, squares=squares / batches, targets=wanted / batches, passes=math.ceil(passes / batches)
    )


def limit(kind: NodeKind, resources: GroupResources) -> int:
    """Return the bytes that a rank may take on its device."""
    if not resources.gpus_per_worker:
        return int(HOST_SHARE * kind.memory_gib * GIB * resources.cpus_per_worker / kind.cpus)
    assert kind.gpu is not None
    return int(kind.gpu.memory_gib * GIB * min(1.0, resources.gpus_per_worker))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostUse:
    """What the workers on GPUs take of the memory of the node on which most of them are."""

    workers: int
    each: int
    """Bytes of a worker."""

    @property
    def total(self) -> int:
        """Bytes of all of them."""
        return self.workers * self.each


def host_limit(kind: NodeKind) -> int:
    """Return the bytes of a node's memory that all workers on it may take together."""
    return int(HOST_SHARE * kind.memory_gib * GIB)


def offloaded(memory: TrainingMemory, kind: NodeKind, resources: GroupResources, *, groups: int) -> HostUse:
    """Return what is offloaded to a node when `groups` groups train at once: of as many workers as the node holds."""
    holds = max(1, kind.node.holds(resources.cpus_per_worker, resources.gpus_per_worker))
    return HostUse(workers=min(holds, resources.workers * groups), each=memory.host)


def host_use(
    memory: TrainingMemory, size: ModelSize, kind: NodeKind, resources: GroupResources, *, groups: int
) -> HostUse:
    """Return what is offloaded to a node, or the weights while the workers of one group read them, if that is more."""
    width = 0 if resources.zero_stage == 3 else BYTES[size.dtype]
    reading = HostUse(
        workers=offloaded(memory, kind, resources, groups=1).workers,
        each=width * size.parameters,
    )
    return max(offloaded(memory, kind, resources, groups=groups), reading, key=lambda use: use.total)


def _groups(tunes: FineTunes, resources: GroupResources) -> int:
    """Return how many groups there are to train, at most."""
    return max(1, math.ceil(tunes.trials / (resources.trials_per_group or 1)))


def why_not(tunes: FineTunes, kind: NodeKind, resources: GroupResources, *, capacity: Capacity) -> str | None:
    """Return why the fine-tunes do not run on the nodes of a kind, with the arithmetic; None if they do."""
    if resources.gpus_per_worker and kind.gpu is None:
        return f"{kind.machine} has no GPU"
    try:
        groups = concurrent_groups(resources, capacity, _groups(tunes, resources))
    except InputError as error:
        return str(error).rstrip(".")
    memory = memory_of(tunes, resources)
    if memory.total > limit(kind, resources):
        return f"{arithmetic(tunes, memory)}; {_device(kind, resources)} has {limit(kind, resources) / GIB:.1f} GiB"
    if not resources.gpus_per_worker:
        return None
    use = host_use(memory, tunes.size, kind, resources, groups=groups)
    if use.total <= host_limit(kind):
        return None
    fewer = fitting_groups(memory, kind, resources)
    way_out = (
        f"; with max_concurrent_groups: {fewer} it has enough" if use.each == memory.host and fewer < groups else ""
    )
    workers = f"{use.workers} workers on a node take" if use.workers > 1 else "1 worker on a node takes"
    return (
        f"{workers} {use.workers} × {use.each / GIB:.1f} = "
        f"{use.total / GIB:.1f} GiB of its memory, and {kind.machine} has {host_limit(kind) / GIB:.1f} GiB for them"
        f"{way_out if fewer else ''}"
    )


def fitting_groups(memory: TrainingMemory, kind: NodeKind, resources: GroupResources) -> int:
    """Return how many groups may train at once so that what they offload fits, even if they meet on one node."""
    if not memory.host:
        return sys.maxsize
    workers = host_limit(kind) // memory.host
    if workers >= kind.node.holds(resources.cpus_per_worker, resources.gpus_per_worker):
        return sys.maxsize
    return workers // resources.workers


def _device(kind: NodeKind, resources: GroupResources) -> str:
    if not resources.gpus_per_worker:
        return "a worker's part of the node"
    assert kind.gpu is not None
    return f"{'a part of ' if resources.gpus_per_worker < 1 else ''}one {kind.gpu.name}"


def arithmetic(tunes: FineTunes, memory: TrainingMemory) -> str:
    """Return what the bytes of a rank consist of: "weights 61.5 + states 3.0 + … = 72.3 GiB on each GPU"."""
    parts = {
        "weights": memory.weights,
        "optimizer states": memory.states,
        "gradients": memory.gradients,
        "activations": memory.activations,
        "output layer": memory.head,
        "buffers": memory.buffers,
        "CUDA and fragmentation": memory.runtime,
    }
    terms = " + ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items() if size >= 0.05 * GIB)
    return f"{tunes.size.parameters / 1e9:.2f}B parameters: {terms} = {memory.total / GIB:.1f} GiB for each worker"


def fit_of(
    tunes: FineTunes, kind: NodeKind, resources: GroupResources, *, capacity: Capacity, efficiency: float
) -> Fit | None:
    """Return the fine-tunes on the nodes of a kind, or None if they do not fit there (`why_not` says why)."""
    if why_not(tunes, kind, resources, capacity=capacity) is not None:
        return None
    seconds = None
    if resources.gpus_per_worker:
        checkpointed, work = resources.checkpoints_gradients, work_of(tunes, resources)
        each = step_seconds(
            tunes.size,
            work,
            kind,
            workers=resources.workers,
            stage=resources.zero_stage,
            checkpointed=checkpointed,
            efficiency=efficiency,
        )
        each += offload_seconds(tunes.size, kind, resources, passes=work.passes)
        # A GPU that several workers share is as fast as its share.
        each /= min(1.0, resources.gpus_per_worker)
        each_group = resources.trials_per_group or math.ceil(
            tunes.trials / concurrent_groups(resources, capacity, _groups(tunes, resources))
        )
        start = group_start_seconds(tunes.size) / min(each_group, max(1, tunes.trials))
        seconds = each * tunes.steps / max(1, tunes.trials) + start
    return Fit(
        of=tunes,
        kind=kind,
        resources=resources,
        memory=memory_of(tunes, resources),
        at_once=concurrent_groups(resources, capacity, _groups(tunes, resources)),
        seconds=seconds,
    )


def shapes(tunes: FineTunes, kind: NodeKind, keep: Set[str] = frozenset()) -> Iterator[GroupResources]:
    """Yield resources worth a look on the nodes of a kind, each worker on one GPU. keep: fields that stay as they are given."""
    seen: set[str] = set()
    for one in _shapes(tunes, kind, keep):
        key = one.model_dump_json()
        with contextlib.suppress(InputError):
            one.check_together()
            if key not in seen:
                yield one
        seen.add(key)


def _shapes(tunes: FineTunes, kind: NodeKind, keep: Set[str]) -> Iterator[GroupResources]:
    """Yield the shapes, some of them more than once or with fields that do not go together."""
    batch, given = tunes.recipe.batch_size, tunes.resources
    cpus = min(given.cpus_per_worker, kind.cpus / max(1, kind.gpus))
    if cpus < SMALLEST_SHARE:
        # A node that gives away no CPU, as heads often do, holds no worker.
        return
    offloads: list[dict[str, bool]] = [{}]
    if tunes.recipe.method == "full":
        offloads += [{"offload_optimizer": True}, {"offload_optimizer": True, "offload_parameters": True}]
    workers = 1
    while workers <= kind.gpus * kind.count and workers <= batch:
        for stage, offload in _stages(workers, offloads):
            sizes = {given.micro_batch_size} if "micro_batch_size" in keep else {1, 2, 4, 8, 16}
            by_tokens = "micro_batch_tokens" in keep and given.micro_batch_tokens is not None
            for micro in sorted({m for m in sizes if by_tokens or batch % (m * workers) == 0}, reverse=True):
                change = {
                    "workers": workers,
                    "min_workers": None,
                    "gpus_per_worker": 1.0,
                    "cpus_per_worker": cpus,
                    "zero_stage": stage,
                    "hpz_partition_size": 1,
                    "micro_batch_size": micro,
                    "micro_batch_tokens": None,
                    "gradient_checkpointing": None,
                    "offload_optimizer": False,
                    "offload_parameters": False,
                    **offload,
                }
                kept = {name: getattr(given, name) for name in change.keys() & keep}
                yield GroupResources.model_validate({**given.model_dump(), **change, **kept})
        workers *= 2


def _capped(tunes: FineTunes, kind: NodeKind, resources: GroupResources) -> GroupResources:
    """Return the resources with as few groups at once as the memory of a node has room for, where it is too little for all."""
    if not (resources.offload_optimizer or resources.offload_parameters):
        return resources
    fewer = fitting_groups(memory_of(tunes, resources), kind, resources)
    if not 0 < fewer < min(_groups(tunes, resources), resources.max_concurrent_groups or sys.maxsize):
        return resources
    return resources.model_copy(update={"max_concurrent_groups": fewer})


def _stages(workers: int, offloads: list[dict[str, bool]]) -> Iterator[tuple[int, dict[str, bool]]]:
    """Yield ZeRO stages for a group of that width, each with what it can offload."""
    for offload in offloads:
        if "offload_parameters" in offload:
            yield 3, offload
        elif workers == 1:
            yield (2 if offload else 0), offload
        else:
            yield from ((stage, offload) for stage in (2, 3))


def best_fits(
    tunes: FineTunes, kind: NodeKind, *, capacity: Capacity, efficiency: float, keep: Set[str] = frozenset()
) -> list[Fit]:
    """Return what fits on the nodes of a kind, the best first: few GPU-hours, and of nearly equal ones the narrowest.

    Many narrow groups train as much as few wide ones and wait less for each other. What is offloaded comes last: how fast a
    host's memory is varies most. keep: fields of the resources that stay as the study gives them.
    """
    if kind.gpu is None:
        return []
    found = [
        fit_of(tunes, kind, _capped(tunes, kind, one), capacity=capacity, efficiency=efficiency)
        for one in shapes(tunes, kind, keep)
    ]
    fits = [fit for fit in found if fit is not None and not fit.tight]
    if not fits:
        return []
    plain = [fit for fit in fits if not fit.memory.host] or fits
    least = min(fit.gpu_hours or 0.0 for fit in plain)

    def rank(fit: Fit) -> tuple[float, ...]:
        hours = fit.gpu_hours or 0.0
        near = hours <= NARROW_ENOUGH * least
        return (fit.memory.host > 0, not near, fit.gpus if near else 0, hours)

    return sorted(fits, key=rank)
