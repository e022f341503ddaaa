"""What the engines of a study take on a planned cluster: one for each base with its adapters, full fine-tune and judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from inoc_ray.cluster.cluster_file import NodeKind, PlannedCluster
from inoc_ray.cluster.fit import Capacity, check_serving, engines_at_once
from inoc_ray.errors import InputError
from inoc_ray.plan.cells import Cell, stored_once
from inoc_ray.plan.plan import Plan
from inoc_ray.serve.adapters import engine_rank
from inoc_ray.serve.deployment import MAX_SEQUENCES
from inoc_ray.serve.memory import AUTO, HOST_SHARE, attention_of, check_split
from inoc_ray.sizing.model_size import model_size
from inoc_ray.sizing.row_lengths import CHARACTERS_PER_TOKEN
from inoc_ray.sizing.serving import ServingMemory, serving_memory
from inoc_ray.sizing.speed import ENGINE_START_S, READ_BYTES, decoding_seconds
from inoc_ray.sizing.training import BYTES, GIB
from inoc_ray.study.recipe import Lora, Recipe
from inoc_ray.study.resources import EngineResources

CHEAPER = 0.9
"""A better shape is named if it takes at most this share of the GPU-hours."""
ANSWER_SHARE = 0.5
"""Tokens of a mean answer, as a share of `max_tokens`."""
SPLITS = (1, 2, 4, 8)
"""GPUs of a node that an engine is tried on."""
ASKED = 50
"""Questions of an evaluation whose length is looked at."""
TEMPLATE_TOKENS = 40
"""Of a chat template around a prompt, with a default system message."""
JUDGE_PROMPT_TOKENS, JUDGE_ANSWER_TOKENS = 700, 8
"""Of a judge's prompt beside the response, and of its answer: a rubric and a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFit:
    """One engine, or as many as there are full fine-tunes, on a kind of node."""

    label: str
    place: str
    """Where a study sets its resources."""
    kind: NodeKind
    resources: EngineResources
    parameters: int
    memory: ServingMemory | None
    """None on CPUs."""
    engines: int
    """Sets of weights that are served: one, or that of each full fine-tune."""
    replicas: int
    """Engines that answer side by side for each set of weights."""
    side_by_side: int
    """Engines that run at once, over all sets of weights."""
    requests: int
    """Answers to draw, over all of them."""
    at_once: int
    """Requests in one batch of an engine."""
    work: float | None
    """Seconds of all engines together, one after another, with their starts; None on CPUs."""
    cheaper: EngineFit | None = None
    """The same on fewer or more GPUs, if that takes clearly fewer GPU-hours."""
    gpus_that_fit: int | None = None
    """For one on CPUs: the fewest GPUs of a node of the cluster that would hold it."""

    @property
    def seconds(self) -> float | None:
        """From the first start to the last answer; None on CPUs."""
        if self.work is None:
            return None
        started = self.engines * self.replicas
        return math.ceil(started / self.side_by_side) * self.work / started

    @property
    def hours(self) -> float | None:
        """From the first start to the last answer."""
        return None if self.seconds is None else self.seconds / 3600

    @property
    def gpu_hours(self) -> float | None:
        """Of all of them."""
        return None if self.work is None else self.work * self.resources.gpus / 3600

    @property
    def dollars(self) -> float | None:
        """For the GPU-hours: a node's price divided by its GPUs."""
        price = self.kind.dollars_per_hour
        if price is None or self.gpu_hours is None or not self.kind.gpus:
            return None
        return self.gpu_hours * price / self.kind.gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class _Load:
    """What is asked of an engine."""

    label: str
    of: tuple[Literal["models", "judges"], str]
    """Where `resources` has it."""
    folder: Path
    precision: str
    resources: EngineResources
    engines: int
    requests: int
    prompt: float
    answer: float
    window: int
    rank: int
    """Of its adapters; 0 for none."""

    @property
    def place(self) -> str:
        """Where a study sets its resources."""
        return f"resources.{'.'.join(self.of)}"


def engines_of(plan: Plan, cluster: PlannedCluster, kinds: list[NodeKind]) -> Iterator[EngineFit]:
    """Yield the engines of the study, each on the first kind of node that holds it.

    Raises InputError, with the arithmetic and what would fit, for one that fits nowhere.
    """
    for load in _loads(plan, plan.to_sample, plan.missing):
        check_split(load.label, load.folder, load.resources.gpus)
        tried = [(kind, _memory(load, kind, load.resources.gpus)) for kind in kinds if _holds(kind, load)]
        found = next(((kind, memory) for kind, memory in tried if memory is None or memory.fits), None)
        if found is None:
            raise InputError(_refusal(load, cluster, kinds, tried))
        kind, memory = found
        check_serving(load.resources, cluster.only(kind))
        fit = _fit(load, kind, memory, cluster.only(kind))
        if not load.resources.gpus:
            fit = replace(fit, gpus_that_fit=min((gpus for _, gpus, _ in _on_gpus(load, kinds)), default=None))
        yield replace(fit, cheaper=_cheaper(load, fit, cluster, kinds))


def with_engine_gpus(plan: Plan, cluster: PlannedCluster) -> Plan:
    """Return the plan with the GPUs of each engine that its study leaves open, by the memory of the cluster's GPUs.

    As many of one node as hold all engines of the model, or that of the judge, and as take the fewest GPU-hours for all that the
    study asks of them; the same whatever is done already. One that fits nowhere stays at one GPU, and is refused with the
    arithmetic where engines are checked.
    """
    resources = plan.study.resources
    open_: dict[tuple[Literal["models", "judges"], str], list[_Load]] = {}
    for load in _loads(plan, stored_once(plan.cells), lambda cell: cell.samples) if resources.trains_on_gpus else ():
        if resources.leaves_gpus_open(*load.of):
            open_.setdefault(load.of, []).append(load)
    found = {of: gpus for of, loads in open_.items() if (gpus := _fewest_hours(loads, cluster)) is not None}
    if not found:
        return plan
    models, judges = ({name: gpus for (of, name), gpus in found.items() if of == kind} for kind in ("models", "judges"))
    chosen = resources.with_engine_gpus(models=models, judges=judges)
    return replace(plan, study=plan.study.model_copy(update={"resources": chosen}))


def _fewest_hours(loads: Sequence[_Load], cluster: PlannedCluster) -> int | None:
    """Return how many GPUs of a node hold each of the engines and take the fewest GPU-hours for all; None if no number does."""
    kinds = list(cluster.kinds)
    costs: dict[int, list[tuple[float, float]]] = {}
    for load in loads:
        found: dict[int, tuple[float, float]] = {}
        for kind, gpus, memory in _on_gpus(load, kinds):
            taken = replace(load, resources=load.resources.model_copy(update={"serve_gpus": gpus}))
            fit = _fit(taken, kind, memory, cluster.only(kind))
            found[gpus] = min(found.get(gpus, (math.inf, math.inf)), (fit.gpu_hours or 0.0, fit.seconds or 0.0))
        for gpus, cost in found.items():
            costs.setdefault(gpus, []).append(cost)
    fits_all = {gpus: found for gpus, found in costs.items() if len(found) == len(loads)}
    return min(fits_all, key=lambda gpus: tuple(map(sum, zip(*fits_all[gpus], strict=True))), default=None)


def _cheaper(load: _Load, fit: EngineFit, cluster: PlannedCluster, kinds: list[NodeKind]) -> EngineFit | None:
    """Return the number of GPUs that takes the fewest GPU-hours, if those are clearly fewer than the study's."""
    if not fit.gpu_hours:
        return None
    others = [
        _fit(replace(load, resources=taken), kind, memory, cluster.only(kind))
        for kind, gpus, memory in _on_gpus(load, kinds)
        for taken in [load.resources.model_copy(update={"serve_gpus": gpus})]
        if engines_at_once(taken, cluster.only(kind)) >= (taken.serve_replicas or 1)
    ]
    best = min(others, key=lambda other: (other.gpu_hours or 0.0, other.seconds or 0.0), default=None)
    return best if best is not None and (best.gpu_hours or 0.0) <= CHEAPER * fit.gpu_hours else None


def _holds(kind: NodeKind, load: _Load) -> bool:
    enough = kind.gpus >= load.resources.gpus and kind.cpus >= load.resources.serve_cpus
    return enough and (load.resources.gpus > 0 or _on_cpus(load) <= HOST_SHARE * kind.memory_gib * GIB)


def _on_cpus(load: _Load) -> int:
    """Return the bytes of an engine without GPUs: weights, and the cache of the longest request."""
    attention = attention_of(load.folder)
    cache = attention.cache_bytes(load.window, load.precision) if attention else 0
    return _weights(load) + max(cache, load.resources.serve_kv_cache_gib * GIB)


def _weights(load: _Load) -> int:
    size = model_size(load.folder, Recipe(learning_rate=1.0, steps=1, method="full"))
    return BYTES[load.precision] * size.parameters


def _on_gpus(load: _Load, kinds: list[NodeKind]) -> list[tuple[NodeKind, int, ServingMemory]]:
    """Return the nodes and the numbers of GPUs that hold the engine."""
    attention = attention_of(load.folder)
    return [
        (kind, gpus, memory)
        for kind in kinds
        if kind.cpus >= load.resources.serve_cpus
        for gpus in SPLITS
        if gpus <= kind.gpus and (attention is None or attention.splits_over(gpus))
        if (memory := _memory(load, kind, gpus)) is not None and memory.fits
    ]


def _memory(load: _Load, kind: NodeKind, gpus: int) -> ServingMemory | None:
    if not gpus or kind.gpu is None:
        return None
    recipe = Recipe(learning_rate=1.0, steps=1, lora=Lora(rank=engine_rank(load.rank)) if load.rank else Lora())
    size = model_size(load.folder, recipe)
    return serving_memory(
        load.folder,
        parameters=size.parameters,
        precision=load.precision,
        gpu=kind.gpu,
        gpus=gpus,
        share=load.resources.serve_gpu_share,
        window=load.window,
        adapters=load.resources.serve_loras * size.trained if load.rank else 0,
    )


def worth(answering: float, start: float) -> int:
    """Return how many engines share the answers of one model: as many as have at least as long to answer as to start.

    answering: seconds of one engine for all of them. start: of one engine. Further ones would save less than they cost.
    """
    return max(1, int(answering // start))


def _fit(load: _Load, kind: NodeKind, memory: ServingMemory | None, capacity: Capacity) -> EngineFit:
    size = model_size(load.folder, Recipe(learning_rate=1.0, steps=1, method="full"))
    work, at_once, replicas = None, 0, load.resources.serve_replicas or 1
    held = max(1, engines_at_once(load.resources, capacity))
    if memory is not None and kind.gpu is not None:
        room = memory.cache / max(1.0, memory.cache_per_token * (load.prompt + load.answer))
        at_once = max(1, min(MAX_SEQUENCES, int(room), load.requests))
        weights = float(BYTES[load.precision] * size.parameters)
        start = ENGINE_START_S + weights / READ_BYTES
        answering = decoding_seconds(
            kind.gpu,
            gpus=load.resources.gpus,
            weights=weights,
            cache=memory.cache_per_token * load.resources.gpus,
            parameters=size.parameters,
            prompt=load.prompt,
            answer=load.answer,
            at_once=at_once,
            count=load.requests,
        )
        replicas = load.resources.serve_replicas or min(held, worth(answering / load.engines, start))
        work = load.engines * replicas * start + answering
    return EngineFit(
        label=load.label,
        place=load.place,
        kind=kind,
        resources=load.resources,
        parameters=size.parameters,
        memory=memory,
        engines=load.engines,
        replicas=replicas,
        side_by_side=min(load.engines * replicas, held),
        requests=load.requests,
        at_once=at_once,
        work=work,
    )


def _refusal(
    load: _Load, cluster: PlannedCluster, kinds: list[NodeKind], tried: list[tuple[NodeKind, ServingMemory | None]]
) -> str:
    gpus = load.resources.gpus
    where = f"{load.label} does not fit on {cluster.file}"
    fits = [
        f"{load.place}.serve_gpus: {more} on {kind.machine}: {memory.total / GIB:.1f} of {kind.gpu.memory_gib:g} GiB on each"
        for kind, more, memory in _on_gpus(load, kinds)
        if kind.gpu is not None
    ][:2]
    advice = f" What fits: {'; '.join(fits)}." if fits else " Use nodes with more or larger GPUs."
    full = [(kind, memory) for kind, memory in tried if memory is not None]
    if not gpus and (large := [kind for kind in kinds if kind.cpus >= load.resources.serve_cpus]):
        most = max(kind.memory_gib for kind in large)
        need, weights = _on_cpus(load) / GIB, _weights(load) / GIB
        return (
            f"{where}: on CPUs weights {weights:.1f} + cache {need - weights:.1f} = {need:.1f} GiB, and an engine may take "
            f"{HOST_SHARE} of a node's memory, which is at most {most:g} GiB.{advice}"
        )
    if not full:
        return f"{where}: no node has {load.resources.serve_cpus:g} CPU and {gpus} GPU.{advice}"
    kind, memory = max(full, key=lambda one: one[1].cache)
    assert kind.gpu is not None
    return (
        f"{where}: on each of {gpus} × {kind.gpu.name} weights {memory.weights / GIB:.1f} + adapters {memory.adapters / GIB:.1f} + "
        f"work {memory.work / GIB:.1f} + the cache of one request of {load.window:,} tokens {memory.needed / GIB:.1f} = "
        f"{memory.total / GIB:.1f} GiB, and it takes {load.resources.serve_gpu_share:g} of {kind.gpu.memory_gib:g} GiB.{advice}"
    )


def _loads(plan: Plan, cells: Sequence[Cell], count: Callable[[Cell], int]) -> list[_Load]:
    """Return what engines are asked for the cells; count: the samples of a cell that are asked for."""
    return [*_of_models(plan, cells, count), *_of_judges(plan, cells, count)]


def _of_models(plan: Plan, asked: Sequence[Cell], count: Callable[[Cell], int]) -> Iterator[_Load]:
    """Yield what is asked of the bases with their adapters, and of the full fine-tunes of each model."""
    groups: dict[tuple[str, str, bool], list[Cell]] = {}
    for cell in asked:
        subject = cell.subject
        groups.setdefault((subject.model.hash, subject.precision, subject.is_own_model), []).append(cell)
    ranks = [recipe.lora.rank for recipe in plan.study.recipes.values() if recipe.method == "lora"]
    for (_, precision, full), cells in groups.items():
        model = cells[0].subject.model
        lengths = [_prompt_and_answer(cell) for cell in cells]
        counts = [count(cell) for cell in cells]
        total = sum(counts)
        yield _Load(
            label=f"engine of {model.name}{' · full fine-tunes' if full else ''}",
            of=("models", model.name),
            folder=model.path,
            precision=precision,
            resources=plan.study.resources.of_engine(model.name),
            engines=len({cell.subject.trial_id for cell in cells}) if full else 1,
            requests=total,
            prompt=sum(n * prompt for n, (prompt, _, _) in zip(counts, lengths, strict=True)) / total,
            answer=sum(n * answer for n, (_, answer, _) in zip(counts, lengths, strict=True)) / total,
            window=max(window for _, _, window in lengths),
            rank=0 if full or not ranks else max(ranks),
        )


def _prompt_and_answer(cell: Cell) -> tuple[float, float, int]:
    """Return the tokens of a mean prompt and a mean answer, and of the longest request with its answer, by characters."""
    system = len(cell.system or "")
    questions = cell.evaluation.questions(min(ASKED, cell.samples))
    sizes = [system + sum(len(message.content) for message in question.messages) for question in questions]
    prompts = [size / CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS for size in sizes]
    answer = 1.0 if cell.evaluation.choices else ANSWER_SHARE * cell.evaluation.max_tokens
    return sum(prompts) / len(prompts), answer, int(max(prompts)) + cell.evaluation.max_tokens


def _of_judges(plan: Plan, cells: Sequence[Cell], count: Callable[[Cell], int]) -> Iterator[_Load]:
    """Yield what is asked of the judges that run on the cluster."""
    found: dict[str, tuple[Path, int, float]] = {}
    for cell in cells:
        _, answer, _ = _prompt_and_answer(cell)
        for name, grading in cell.judges.gradings.items():
            if grading.judge.folder is not None:
                folder, calls, longest = found.get(name, (grading.judge.folder, 0, 0.0))
                asked = count(cell) * len(grading.rubrics)
                found[name] = (folder, calls + asked, max(longest, answer / ANSWER_SHARE))
    for name, (folder, calls, longest) in found.items():
        yield _Load(
            label=f"judge {name}",
            of=("judges", name),
            folder=folder,
            precision=AUTO,
            resources=plan.study.resources.of_judge(name),
            engines=1,
            requests=calls,
            prompt=JUDGE_PROMPT_TOKENS + ANSWER_SHARE * longest,
            answer=JUDGE_ANSWER_TOKENS,
            window=int(JUDGE_PROMPT_TOKENS + longest + JUDGE_ANSWER_TOKENS),
            rank=0,
        )
