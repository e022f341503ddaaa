"""Where and how wide a study runs: nothing here changes a result beyond rounding."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import JsonValue, field_validator, model_validator

from inoc_ray.config.base import Config
from inoc_ray.config.identity import runtime
from inoc_ray.study.deepspeed_keys import ZERO, check_deepspeed_keys


class TrialResources(Config):
    """How one trial runs on its workers: what a fine-tune needs of a study's resources.

    Declare a new option here; the module that acts on it (train/zero.py, train/model.py, …) reads it from
    `LoopSpec.resources`, and nothing in between names it.
    """

    workers: int = runtime(1, ge=1)
    """Worker processes (ranks) of one fine-tune."""
    cpus_per_worker: float = runtime(1.0, gt=0)
    """CPU cores that Ray reserves for each rank, and threads that it computes with."""
    gpus_per_worker: float = runtime(0.0, ge=0)
    """GPUs that Ray reserves for each rank."""
    micro_batch_size: int = runtime(8, ge=1)
    """Rows per forward pass and worker; batch_size / (workers × micro_batch_size) passes are accumulated."""
    zero_stage: Literal[0, 1, 2, 3] = runtime(0)
    """What the workers of a fine-tune partition among them (DeepSpeed ZeRO). 0: nothing; 1: the optimizer's state; 2:
    gradients, too; 3: parameters, too."""
    persistence_threshold: int | None = runtime(None, ge=0)
    """With `zero_stage: 3`, parameters of at most this many elements stay whole on every worker. Default: DeepSpeed's
    100,000."""
    accumulate_in_fp32: bool = runtime(False)
    """With `precision: bf16`, add up the gradients of the micro batches in fp32: 4 bytes for each trained parameter (of its
    share, with ZeRO 2 and 3) in place of 2. Worth it for adapters, and where many micro batches make one step."""
    offload_optimizer: bool = runtime(False)
    """With `zero_stage: 1` and up, keep the optimizer's state and the fp32 master weights (12 bytes for each trained parameter)
    in the host's memory and take the optimizer's step there."""
    offload_parameters: bool = runtime(False)
    """With `zero_stage: 3`, keep the shares of the parameters in the host's memory, too, and fetch them module by module."""
    hpz_partition_size: int = runtime(1, ge=1)
    """With `zero_stage: 3`, so many workers hold a second copy of the parameters among them and gather from it in the backward
    pass. Give the workers of one node where a fine-tune spans several: half of the traffic then stays inside a node."""
    deepspeed: dict[str, JsonValue] = runtime({})
    """Keys of DeepSpeed's configuration that no field here has, merged into ours last, such as
    `{zero_optimization: {reduce_bucket_size: 50000000}}`. What would change the weights is refused."""
    gradient_checkpointing: bool | None = runtime(None)
    """Compute activations again in the backward pass: a small part of the memory, about a third more time, the same
    numbers. Default: yes where workers have GPUs."""

    @field_validator("deepspeed")
    @classmethod
    def _allowed(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        check_deepspeed_keys(value)
        return value

    @model_validator(mode="after")
    def _stage_has_it(self) -> Self:
        """Refuse what the ZeRO stage has not; DeepSpeed would ignore it or fail in the worker."""
        needs = (
            ("offload_optimizer", self.offload_optimizer, 1, "the optimizer's state is partitioned from stage 1 on"),
            ("offload_parameters", self.offload_parameters, 3, "the parameters are partitioned in stage 3 alone"),
            ("hpz_partition_size", self.hpz_partition_size > 1, 3, "the parameters are partitioned in stage 3 alone"),
        )
        for name, asked, stage, why in needs:
            if asked and self.zero_stage < stage:
                raise ValueError(f"{name} needs zero_stage {stage}{'' if stage == 3 else ' or more'}: {why}")
        if self.workers % self.hpz_partition_size:
            raise ValueError(
                f"hpz_partition_size {self.hpz_partition_size} does not divide the {self.workers} workers; give the workers of "
                "one node"
            )
        zero = self.deepspeed.get(ZERO)
        for key, name, on in (
            ("offload_optimizer", "offload_optimizer", self.offload_optimizer),
            ("offload_param", "offload_parameters", self.offload_parameters),
        ):
            if isinstance(zero, dict) and key in zero and not on:
                raise ValueError(f"deepspeed.{ZERO}.{key} only adds to {name}; set {name}: true as well")
        return self

    @property
    def checkpoints_gradients(self) -> bool:
        """Whether activations are computed again in the backward pass."""
        return self.gpus_per_worker > 0 if self.gradient_checkpointing is None else self.gradient_checkpointing


class Resources(TrialResources):
    """How wide a study runs: each fine-tune, all of them together, and the engine that serves the results."""

    trials_per_group: int = runtime(1, ge=1)
    """Fine-tunes that one group of workers trains one after another without a new start. Raise it where starting takes as
    long as training."""
    max_concurrent_groups: int | None = runtime(None, ge=1)
    """The most groups of workers that train at once. Default: as many as the cluster holds."""
    max_failures: int = runtime(1, ge=0)
    """How often a lost group of workers is started again."""
    serve_cpus: float = runtime(1.0, gt=0)
    """CPU cores that Ray reserves for the engine."""
    serve_gpus: int = runtime(0, ge=0)
    """GPUs that the engine spreads a model over (tensor parallel); 0 serves on CPUs."""
    serve_kv_cache_gib: int = runtime(1, ge=1)
    """Memory in GiB for the keys and values of an engine without GPUs, at least; it takes more if the longest request needs
    more. On GPUs vLLM takes what is left."""
    serve_loras: int = runtime(4, ge=1)
    """The most adapters in one batch of the engine."""
