"""Where and how wide a study runs: nothing here changes a result beyond rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import field_validator

from inoc_ray.config.base import Config
from inoc_ray.config.identity import runtime
from inoc_ray.errors import InputError
from inoc_ray.study.deepspeed_keys import ZERO, check_deepspeed_keys

SMALLEST_SHARE = 1e-4
"""The smallest part of a CPU or GPU that Ray gives away (its resources are counted in ten-thousandths)."""


class TrialResources(Config):
    """How one trial runs on its workers: what a fine-tune needs of a study's resources.

    Declare a new option here; the module that acts on it (train/zero.py, train/model.py, …) reads it from
    `LoopSpec.resources`, and nothing in between names it.
    """

    workers: int = runtime(1, ge=1)
    """Worker processes (ranks) of one fine-tune. Default: 1; with GPUs, as many as take the fewest GPU-hours by the arithmetic of
    `plan`, and of nearly equal numbers the smallest. `zero_stage`, `micro_batch_size` and offloading are then chosen as
    well, where they are left out."""
    cpus_per_worker: float = runtime(1.0, ge=SMALLEST_SHARE)
    """CPU cores that Ray reserves for each rank, and threads that it computes with."""
    gpus_per_worker: float = runtime(0.0, ge=0)
    """GPUs that Ray reserves for each rank."""
    micro_batch_size: int = runtime(8, ge=1)
    """Rows per forward pass and worker; batch_size / (workers × micro_batch_size) passes are accumulated."""
    micro_batch_tokens: int | None = runtime(None, ge=1)
    """Tokens per forward pass and worker, at most, padding included, instead of rows: as many passes are accumulated as it
    takes, and memory no longer depends on which rows meet. At least as large as the longest row."""
    layout: Literal["auto", "padded", "packed"] = runtime("auto")
    """How the rows of a forward pass stand in memory. padded: under each other, filled up to the longest. packed: one after
    another, kept apart by the attention. auto: what takes less time by the arithmetic of the trial's own batches; the trial's
    record says which, and why."""
    zero_stage: Literal[0, 1, 2, 3] = runtime(0)
    """What the workers of a fine-tune partition among them (DeepSpeed ZeRO). 0: nothing; 1: the optimizer's state; 2:
    gradients, too; 3: parameters, too."""
    persistence_threshold: int | None = runtime(None, ge=0)
    """With `zero_stage: 3`, parameters of at most this many elements stay whole on every worker. Default: DeepSpeed's
    100,000."""
    accumulate_in_fp32: bool = runtime(False)
    """With `precision: bf16`, add up the gradients of the micro batches in fp32: 4 bytes for each trained parameter in
    place of 2. Worth it for adapters, and where many micro batches make one step. The gradients are then partitioned, as with
    `zero_stage: 2`."""
    offload_optimizer: bool = runtime(False)
    """With `zero_stage: 1` and up, keep the optimizer's state and the fp32 master weights (12 bytes for each trained parameter)
    in the host's memory and take the optimizer's step there."""
    offload_parameters: bool = runtime(False)
    """With `zero_stage: 3`, keep the shares of the parameters in the host's memory, too, and fetch them module by module."""
    hpz_partition_size: int = runtime(1, ge=1)
    """With `zero_stage: 3`, so many workers hold a second copy of the parameters among them and gather from it in the backward
    pass. Give the workers of one node where a fine-tune spans several: half of the traffic then stays inside a node."""
    deepspeed: dict[str, object] = runtime({})
    """Keys of DeepSpeed's configuration that no field here has, merged into ours last, such as
    `{zero_optimization: {reduce_bucket_size: 50000000}}`. What would change the weights is refused."""
    gradient_checkpointing: bool | None = runtime(None)
    """Compute activations again in the backward pass: a small part of the memory, about a third more time, the same
    numbers. Default: yes where workers have GPUs."""
    logits_chunk: int | None = runtime(None, ge=1)
    """Target tokens whose logits are in memory at once, in a forward and backward pass. Default: as many as have 2^28 logits
    on a GPU (1,766 at a vocabulary of 152,000), 2^26 on a CPU."""

    snapshot_minutes: float | None = runtime(10.0, gt=0)
    """Minutes between two snapshots of a fine-tune, which is resumed from its last one when a worker, a node or the command is
    lost: at most so much work is done again, by any number of workers and under any `zero_stage`. A snapshot has 12 bytes for
    each trained parameter (LoRA of rank 32 on 7B: 1 GB; all of 7B: 91 GB); the storage folder holds up to three of a trial
    until it is done. `null` takes none."""
    checkpoints: tuple[int | float | Literal["..."], ...] = runtime(())
    """When a fine-tune's weights are kept beside its final ones: numbers of steps (`[1, 2, 4, "..."]` goes on with the ratio of
    the last two) or fractions of all steps (`[0.1, 0.5]`); steps from the last on are left out. Each is an adapter (of a full
    fine-tune a model) in the trial's folder, and served as `MODEL:TRIAL@STEP`. Trials that are done are not trained again
    for it."""

    @field_validator("gpus_per_worker")
    @classmethod
    def _as_ray_gives_them(cls, value: float) -> float:
        if 0 < value < SMALLEST_SHARE:
            raise ValueError(f"Ray gives away nothing smaller than {SMALLEST_SHARE:g}, found {value:g}; 0 takes no GPU")
        if value > 1 and value != int(value):
            raise ValueError(f"Ray gives away a part of one GPU or whole GPUs, and {value:g} is neither")
        return value

    @field_validator("checkpoints", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        for one in value if isinstance(value, list | tuple) else ():
            if isinstance(one, bool):
                raise ValueError(f"{one!r} is neither a step from 1 on nor a fraction between 0 and 1")
        return value

    @field_validator("checkpoints")
    @classmethod
    def _when(cls, value: tuple[int | float | str, ...]) -> tuple[int | float | str, ...]:
        numbers = [one for one in value if not isinstance(one, str)]
        for one in numbers:
            if one <= 0 or (isinstance(one, float) and one >= 1):
                raise ValueError(f"{one!r} is neither a step from 1 on nor a fraction between 0 and 1")
        if "..." in value:
            last = [one for one in value[-3:-1] if isinstance(one, int)]
            if value.index("...") != len(value) - 1 or len(last) < 2:
                raise ValueError('"..." stands at the end, behind two steps')
            if last[0] >= last[1]:
                raise ValueError(
                    f'"..." goes on with the ratio of the last two steps, and {last[1]} is not above {last[0]}'
                )
        return value

    def checkpoint_steps(self, steps: int) -> tuple[int, ...]:
        """Return the steps of `steps` after which weights are kept, in order, without the last one."""
        numbers = [one for one in self.checkpoints if not isinstance(one, str)]
        found = {one if isinstance(one, int) else max(1, round(one * steps)) for one in numbers}
        if "..." in self.checkpoints:
            first, second = (int(one) for one in self.checkpoints[-3:-1])
            power = 1
            while (step := round(second * (second / first) ** power)) < steps:
                found.add(step)
                power += 1
        return tuple(sorted(step for step in found if step < steps))

    @field_validator("deepspeed")
    @classmethod
    def _allowed(cls, value: dict[str, object]) -> dict[str, object]:
        check_deepspeed_keys(value)
        return value

    def check_together(self) -> None:
        """Raise InputError for what the ZeRO stage has not; DeepSpeed would ignore it, or fail in the worker.

        Not a validator: a part of a study that replaces some of its resources need not repeat the stage.
        """
        needs = (
            ("offload_optimizer", self.offload_optimizer, 1, "the optimizer's state is partitioned from stage 1 on"),
            ("offload_parameters", self.offload_parameters, 3, "the parameters are partitioned in stage 3 alone"),
            ("hpz_partition_size", self.hpz_partition_size > 1, 3, "the parameters are partitioned in stage 3 alone"),
        )
        for name, asked, stage, why in needs:
            if asked and self.zero_stage < stage:
                raise InputError(
                    f"resources.{name} needs zero_stage {stage}{'' if stage == 3 else ' or more'}, found {self.zero_stage}: {why}."
                )
        if self.workers % self.hpz_partition_size:
            raise InputError(
                f"resources.hpz_partition_size {self.hpz_partition_size} does not divide the {self.workers} workers; give the "
                "workers of one node."
            )
        zero = self.deepspeed.get(ZERO)
        for key, name, on in (
            ("offload_optimizer", "offload_optimizer", self.offload_optimizer),
            ("offload_param", "offload_parameters", self.offload_parameters),
        ):
            if isinstance(zero, dict) and key in zero and not on:
                raise InputError(
                    f"resources.deepspeed.{ZERO}.{key} only adds to {name}; set resources.{name}: true as well."
                )

    @property
    def checkpoints_gradients(self) -> bool:
        """Whether activations are computed again in the backward pass."""
        return self.gpus_per_worker > 0 if self.gradient_checkpointing is None else self.gradient_checkpointing


class GroupResources(TrialResources):
    """How fine-tunes run on their group of workers; what is left out is as `resources` has it."""

    trials_per_group: int | None = runtime(None, ge=1)
    """The most fine-tunes that one group of workers trains one after another without a new start. Default: as many as it takes
    so that no group has to start after the first ones, since a start takes longer than many fine-tunes do."""
    max_concurrent_groups: int | None = runtime(None, ge=1)
    """The most groups of workers that train at once. Default: as many as the cluster holds."""
    min_workers: int | None = runtime(None, ge=1)
    """The fewest workers with which a fine-tune goes on while there is no room for `workers`, because a node is gone; it grows
    back when there is room. Default: `workers`, so it waits."""
    max_failures: int = runtime(1, ge=0)
    """How often a group of workers may be lost in a row without getting further: each time but the last it is started again."""
    wait_minutes: float = runtime(30.0, gt=0)
    """How long a group waits for room on the cluster while no fine-tune of the command goes on; then its fine-tunes fail."""


class EngineResources(Config):
    """What an engine runs on; what is left out is as `resources` has it."""

    serve_cpus: float = runtime(1.0, ge=SMALLEST_SHARE)
    """CPU cores that Ray reserves for the engine."""
    serve_gpus: int | None = runtime(None, ge=0)
    """GPUs of a node that the engine spreads a model over (tensor parallel); 0 serves on CPUs. Default: where fine-tunes take
    GPUs, as many as hold weights, adapters and the longest request and take the fewest GPU-hours; elsewhere 0."""
    serve_replicas: int | None = runtime(None, ge=1)
    """Engines that answer for a model side by side, each with `serve_cpus` and `serve_gpus` of its own. Default: as many as the
    cluster has room for, and as have at least as long to answer as they take to start."""
    serve_gpu_share: float = runtime(0.92, gt=0, le=1)
    """Share of each GPU's memory that an engine takes."""
    serve_kv_cache_gib: int = runtime(1, ge=1)
    """Memory in GiB for the keys and values of an engine without GPUs, at least; it takes more if the longest request needs
    more. On GPUs vLLM takes what is left."""
    serve_loras: int = runtime(4, ge=1)
    """The most adapters in one batch of the engine."""

    @property
    def gpus(self) -> int:
        """The GPUs of the engine."""
        return self.serve_gpus or 0


class ModelResources(EngineResources, GroupResources):
    """What the fine-tunes and the engine of one model run on; what is left out is as `resources` has it."""

    recipes: dict[str, GroupResources] = runtime({})
    """By recipe: what the model's fine-tunes with that recipe take. It goes before all other values."""


class Resources(EngineResources, GroupResources):
    """How wide a study runs: each fine-tune, all of them together, and the engines.

    The values hold for the whole study; `models`, `recipes` and `judges` replace them where something needs others.
    """

    schedule: Literal["auto", "overlap", "phased"] = runtime("auto")
    """When models are evaluated. overlap: an engine runs beside the training, and each fine-tune is sampled as soon as it is
    done; the engine takes the place of some of the groups. phased: when all are trained, on the devices that they leave.
    auto: whichever ends sooner, by an estimate that the run states. The samples are the same."""
    models: dict[str, ModelResources] = runtime({})
    """By the name of a model: what its fine-tunes and its engine take in place of the study's values."""
    recipes: dict[str, GroupResources] = runtime({})
    """By the name of a recipe: what its fine-tunes take in place of the study's values. Where a model says otherwise, say
    which holds under `resources.models.NAME.recipes`."""
    judges: dict[str, EngineResources] = runtime({})
    """By the name of a judge with a `path`: what its engine takes in place of the study's values."""

    def of_fine_tune(self, model: str, recipe: str | None) -> GroupResources:
        """Return what the fine-tunes of a model with a recipe run on; recipe: None for one without a name (a prior stage's).

        Raises InputError if model and recipe give a field two values and nothing says which holds, or if fields do not go
        together.
        """
        of_model = self.models.get(model, ModelResources())
        of_recipe = self.recipes.get(recipe or "", GroupResources())
        of_both = of_model.recipes.get(recipe or "", GroupResources())
        given = _given(GroupResources, self)
        by_model, by_recipe, by_both = (_given(GroupResources, one) for one in (of_model, of_recipe, of_both))
        for field in by_model.keys() & by_recipe.keys() - by_both.keys():
            if by_model[field] != by_recipe[field]:
                raise InputError(
                    f"resources: {field} is {by_model[field]} under models.{model} and {by_recipe[field]} under recipes.{recipe}; "
                    f"say which holds: resources.models.{model}.recipes.{recipe}.{field}."
                )
        levels = (given, by_model | by_recipe, by_both)
        merged = GroupResources(**given | by_model | by_recipe | by_both)
        merged.check_together()
        if "min_workers" in by_model | by_recipe | by_both or not self._leaves_workers_to_parts(levels):
            _check_fewest(merged, levels)
        return merged

    def given_to_fine_tune(self, model: str, recipe: str | None) -> frozenset[str]:
        """Return the fields that the study gives for the fine-tunes of a model with a recipe, at any of their places."""
        of_model = self.models.get(model, ModelResources())
        places = (self, of_model, self.recipes.get(recipe or ""), of_model.recipes.get(recipe or ""))
        return frozenset(_given(GroupResources, *places))

    def _leaves_workers_to_parts(self, levels: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether a fine-tune has one worker because only other parts of the study say how many they have."""
        of_models = [one for model in self.models.values() for one in (model, *model.recipes.values())]
        said = any("workers" in _given(GroupResources, one) for one in (*of_models, *self.recipes.values()))
        return said and not any("workers" in level for level in levels)

    def of_engine(self, model: str) -> EngineResources:
        """Return what the engine of a model runs on: that of its base and adapters, and those of its full fine-tunes."""
        return self._engine(self.models.get(model))

    def of_judge(self, judge: str) -> EngineResources:
        """Return what the engine of a judge runs on."""
        return self._engine(self.judges.get(judge))

    def _engine(self, own: EngineResources | None) -> EngineResources:
        taken = EngineResources(**_given(EngineResources, self, own))
        # As many as it takes are known where the memory of the GPUs is (`with_engine_gpus`).
        open_ = self.trains_on_gpus and taken.serve_gpus is None
        return taken.model_copy(update={"serve_gpus": 1}) if open_ else taken

    @property
    def trains_on_gpus(self) -> bool:
        """Whether any fine-tune of the study takes GPUs."""
        of_models = [one for model in self.models.values() for one in (model, *model.recipes.values())]
        return any(one.gpus_per_worker > 0 for one in (self, *self.recipes.values(), *of_models))

    def leaves_gpus_open(self, of: Literal["models", "judges"], name: str) -> bool:
        """Return whether it is left open how many GPUs the engine of that model, or of that judge, takes."""
        own = self.models.get(name) if of == "models" else self.judges.get(name)
        return self.trains_on_gpus and _given(EngineResources, self, own).get("serve_gpus") is None

    def with_engine_gpus(self, *, models: Mapping[str, int], judges: Mapping[str, int]) -> Resources:
        """Return the resources with the GPUs of these engines, by the names of models and judges."""
        of_models = {name: _with_gpus(self.models.get(name, ModelResources()), gpus) for name, gpus in models.items()}
        of_judges = {name: _with_gpus(self.judges.get(name, EngineResources()), gpus) for name, gpus in judges.items()}
        return self.model_copy(update={"models": {**self.models, **of_models}, "judges": {**self.judges, **of_judges}})


def _check_fewest(merged: GroupResources, levels: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError for more `min_workers` than `workers`, unless a narrower part of the study lowers `workers` alone."""
    level = {
        name: max((number for number, one in enumerate(levels) if name in one), default=0)
        for name in ("workers", "min_workers")
    }
    fewest = merged.min_workers
    if fewest is not None and fewest > merged.workers and level["min_workers"] >= level["workers"]:
        raise InputError(
            f"resources.min_workers {fewest} is more than the {merged.workers} workers of a fine-tune; give the fewest with which "
            "it may go on, or raise resources.workers."
        )


E = TypeVar("E", bound=EngineResources)


def _with_gpus(taken: E, gpus: int) -> E:
    return taken.model_copy(update={"serve_gpus": gpus})


def _given(cls: type[Config], *sources: Config | None) -> dict[str, Any]:
    """Return the fields of `cls` that the sources were given, those of a later one in place of an earlier one's."""
    return {
        field: getattr(source, field)
        for source in sources
        if source is not None
        for field in source.model_fields_set & cls.model_fields.keys()
    }
