"""Whether models are evaluated while others train or afterwards, and how many groups train: whichever ends sooner by an estimate.

The estimate need not be exact. Where the two ways are close it does not matter which is taken; where they are not, one has half
as many rounds of training as the other, or the engine's start and the sampling take longer than the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from inoc_ray.cluster.fit import Capacity, Node, concurrent_groups
from inoc_ray.cluster.hardware import GPUS
from inoc_ray.console import duration
from inoc_ray.errors import InputError
from inoc_ray.plan.cells import Cell, judges_of
from inoc_ray.plan.judge_assignment import JudgeModel
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.steps import steps_of
from inoc_ray.plan.trials import Trial
from inoc_ray.serve.deployment import MAX_SEQUENCES
from inoc_ray.serve.memory import AUTO, GIB, HOST_SHARE, attention_of, parameters_of, weight_bytes
from inoc_ray.sizing.engines import ANSWER_SHARE, TEMPLATE_TOKENS
from inoc_ray.sizing.row_lengths import CHARACTERS_PER_TOKEN, TOKENS_PER_MESSAGE
from inoc_ray.sizing.speed import EFFICIENCY, ENGINE_START_S, GROUP_START_S, READ_BYTES, decoding_seconds
from inoc_ray.study.resources import EngineResources
from inoc_ray.train.sweep import waves_of

GPU = GPUS["A100-80G"]
"""The GPU that is reckoned with: which one a cluster has is not asked for this."""
CORE_TRAINS, CORE_SAMPLES = 4e10, 1e10
"""FLOP/s of one core in training and in sampling: the miniature's (about 1M parameters) 10,000 and 5,000 tokens/s."""
CPU_GROUP_START_S, CPU_ENGINE_START_S = 10.0, 20.0
"""Start of a group of workers and of an engine where neither has GPUs; measured on two cores."""
WORKER_BYTES = 1 << 30
"""What a worker on a CPU takes beside weights, gradients and states: libraries and activations of short rows."""
_ROWS = 200
"""Rows whose length is looked at."""
Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How training and evaluation of a study share a cluster."""

    overlap: bool
    capacity: Capacity
    """What the groups of workers may take: the cluster, without the engines that run beside them."""
    why: str
    """One clause for people."""
    judges: tuple[JudgeModel, ...] = ()
    """Judges on engines of their own that grade beside training and sampling, and take the place of no group."""


def schedule_of(plan: Plan, capacity: Capacity, *, host_bytes: int | None = None) -> Schedule:
    """Return how a study is to run on a cluster: as it says, or as the estimate says.

    host_bytes: memory of a node; None where it is not known, and then it is taken to be enough. Raises InputError if the study
    says `overlap` and there is no room for an engine beside a group of workers.
    """
    asked = plan.study.resources.schedule
    cells = shared_engine(plan)
    if asked == "phased" or not plan.to_train or not cells:
        why = "as resources.schedule says" if asked == "phased" else "nothing to evaluate beside the training"
        return Schedule(overlap=False, capacity=capacity, why=why)
    taken = plan.study.resources.of_engine(cells[0].subject.model.name)
    left = _left(plan, taken, capacity)
    if left is None:
        if asked == "overlap":
            raise InputError(
                f"resources.schedule: overlap needs an engine ({taken.serve_cpus:g} CPU and {taken.gpus} GPU) beside one "
                f"group of workers, and the cluster has {capacity.cpus:g} CPU and {capacity.gpus:g} GPU; use phased, or a larger "
                "cluster."
            )
        return Schedule(overlap=False, capacity=capacity, why="no room for an engine beside a group of workers")
    overlap = Schedule(overlap=True, capacity=left, why="as resources.schedule says")
    if asked == "overlap":
        return _with_judges(plan, cells, overlap, host_bytes)
    if host_bytes is not None and _bytes(plan, cells, left) > HOST_SHARE * host_bytes:
        return Schedule(overlap=False, capacity=capacity, why="too little memory for an engine beside the workers")
    trains, trains_beside = _training(plan, capacity), _training(plan, left)
    start, samples = engine_start_seconds(cells[0], plan), sampling_seconds(plan, cells)
    phased = trains + start + samples
    # What the last fine-tunes are asked comes after them.
    last = samples / max(1, len({cell.subject.trial_id for cell in cells}))
    beside = max(trains_beside, start + samples - last) + last
    why = f"about {duration(beside)} with the evaluation beside the training, {duration(phased)} with it afterwards"
    if beside >= phased:
        return Schedule(overlap=False, capacity=capacity, why=why)
    return _with_judges(plan, cells, replace(overlap, why=why), host_bytes)


def _with_judges(plan: Plan, cells: Sequence[Cell], overlap: Schedule, host_bytes: int | None) -> Schedule:
    """Return the schedule with the judges that have room beside training and sampling; cells: of the engine that samples."""
    judges: list[JudgeModel] = []
    need, left = _bytes(plan, cells, overlap.capacity), overlap.capacity
    for judge in judges_of(plan.to_sample):
        if judge.folder is None:
            continue
        taken = plan.study.resources.of_judge(judge.name)
        beside = _left(plan, taken, left)
        bytes_ = (taken.serve_replicas or 1) * engine_bytes(judge.folder, AUTO, taken)
        enough = host_bytes is None or need + bytes_ <= HOST_SHARE * host_bytes
        if enough and beside is not None and _groups(plan, beside) == _groups(plan, overlap.capacity):
            judges.append(judge)
            need, left = need + bytes_, beside
    return replace(overlap, capacity=left, judges=tuple(judges))


def _groups(plan: Plan, capacity: Capacity) -> list[int]:
    """Return how many groups of each wave train at once."""
    return [concurrent_groups(plan.resources_of(wave[0]), capacity, len(wave)) for wave in waves_of(plan)]


def shared_engine(plan: Plan) -> list[Cell]:
    """Return what the engine that runs beside the training will be asked: of a base and its adapters, those with most samples.

    A full fine-tune has an engine of its own, which cannot start before it is trained.
    """
    engines: dict[Key, list[Cell]] = {}
    for cell in plan.to_sample:
        if not cell.subject.is_own_model:
            engines.setdefault((cell.subject.model.hash, cell.subject.precision), []).append(cell)
    return max(engines.values(), key=lambda cells: sum(map(plan.missing, cells)), default=[])


def _left(plan: Plan, taken: EngineResources, capacity: Capacity) -> Capacity | None:
    """Return what an engine leaves, if each kind of group has room in it."""
    lefts = []
    for wave in waves_of(plan):
        of_wave = plan.resources_of(wave[0])
        worker = Node(of_wave.cpus_per_worker, of_wave.gpus_per_worker)
        left: Capacity | None = capacity
        for _ in range(taken.serve_replicas or 1):
            left = left and left.beside(Node(taken.serve_cpus, taken.gpus), worker)
        try:
            concurrent_groups(of_wave, left or Capacity.of((), has_driver_resource=True), len(wave))
        except InputError:
            return None
        assert left is not None
        lefts.append(left)
    return min(lefts, key=lambda one: (one.gpus, one.cpus))


def _bytes(plan: Plan, cells: Sequence[Cell], left: Capacity) -> int:
    """Return the bytes that an engine and workers take of a node's memory at once, those without GPUs: all on one node."""
    subject = cells[0].subject
    engine = plan.study.resources.of_engine(subject.model.name)
    need = (engine.serve_replicas or 1) * engine_bytes(subject.model.path, subject.precision, engine)
    of_waves = [0]
    for wave in waves_of(plan):
        taken, trial = plan.resources_of(wave[0]), wave[0]
        if not taken.gpus_per_worker:
            # Weights, and of a full fine-tune gradients and Adam's moments, too.
            each = (parameters_of(trial.model.path) or 0) * (16 if trial.recipe.method == "full" else 4)
            of_waves.append(concurrent_groups(taken, left, len(wave)) * taken.workers * (WORKER_BYTES + each))
    return need + max(of_waves)


def engine_bytes(folder: Path, precision: str, engine: EngineResources) -> int:
    """Return the bytes of a node that an engine takes: two processes with their libraries, weights and cache; 0 on GPUs."""
    if engine.gpus:
        return 0
    weights = weight_bytes(folder, precision) or 0
    return 2 * WORKER_BYTES + weights + engine.serve_kv_cache_gib * GIB


def _training(plan: Plan, capacity: Capacity) -> float:
    """Return the seconds until all is trained."""
    total = 0.0
    for wave in waves_of(plan):
        taken = plan.resources_of(wave[0])
        rounds = -(-len(wave) // concurrent_groups(taken, capacity, len(wave)))
        longest = max(
            _trial_seconds(plan, trial) for trial in {(t.dataset_hash, t.recipe_name): t for t in wave}.values()
        )
        start = GROUP_START_S if taken.gpus_per_worker else CPU_GROUP_START_S
        starts = -(-rounds // (taken.trials_per_group or rounds))
        total += rounds * longest + starts * start
    return total


def _trial_seconds(plan: Plan, trial: Trial) -> float:
    taken, rows = plan.resources_of(trial), plan.rows[trial.dataset_hash][:_ROWS]
    tokens = sum(
        sum(len(message.content) for message in row.messages) / CHARACTERS_PER_TOKEN
        + TOKENS_PER_MESSAGE * len(row.messages)
        for row in rows
    ) / max(1, len(rows))
    parameters = parameters_of(trial.model.path) or 0
    flops = (6.0 if trial.recipe.method == "full" else 4.0) * parameters
    flops *= min(tokens, trial.recipe.max_length) * trial.recipe.batch_size * steps_of(plan, trial)
    speed = EFFICIENCY * GPU.flops * taken.gpus_per_worker or CORE_TRAINS * taken.cpus_per_worker
    return flops / (speed * taken.workers)


def engine_start_seconds(cell: Cell, plan: Plan) -> float:
    """Return the seconds from the start of the engine that the cell is asked of to its first answer."""
    subject = cell.subject
    return start_seconds(subject.model.path, subject.precision, plan.study.resources.of_engine(subject.model.name))


def start_seconds(folder: Path, precision: str, engine: EngineResources) -> float:
    """Return the seconds from the start of an engine to its first answer."""
    if not engine.gpus:
        return CPU_ENGINE_START_S
    return ENGINE_START_S + (weight_bytes(folder, precision) or 0) / READ_BYTES


def sampling_seconds(plan: Plan, cells: Sequence[Cell]) -> float:
    """Return the seconds in which the engine draws the missing samples of the cells."""
    subject = cells[0].subject
    engine = plan.study.resources.of_engine(subject.model.name)
    count = sum(map(plan.missing, cells))
    prompt = sum(plan.missing(cell) * len(cell.system or "") for cell in cells) / count / CHARACTERS_PER_TOKEN
    prompt += 2 * TEMPLATE_TOKENS
    answers = (1.0 if cell.evaluation.choices else ANSWER_SHARE * cell.evaluation.max_tokens for cell in cells)
    answer = sum(plan.missing(cell) * one for cell, one in zip(cells, answers, strict=True)) / count
    return answering_seconds(subject.model.path, subject.precision, engine, count=count, prompt=prompt, answer=answer)


def answering_seconds(
    folder: Path, precision: str, engine: EngineResources, *, count: int, prompt: float, answer: float
) -> float:
    """Return the seconds in which an engine draws `count` answers of so many tokens each."""
    parameters = parameters_of(folder) or 0
    if not engine.gpus:
        return count * answer * 2 * parameters / (CORE_SAMPLES * engine.serve_cpus)
    attention = attention_of(folder)
    return decoding_seconds(
        GPU,
        gpus=engine.gpus,
        weights=float(weight_bytes(folder, precision) or 0),
        cache=float(attention.cache_bytes(1, precision)) if attention else 0.0,
        parameters=parameters,
        prompt=prompt,
        answer=answer,
        at_once=min(MAX_SEQUENCES, count),
        count=count,
    )
