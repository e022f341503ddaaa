"""Where and how wide a study runs: nothing here changes a result beyond rounding."""

from __future__ import annotations

from typing import Literal

from inoc_ray.config.base import Config
from inoc_ray.config.identity import runtime


class TrialResources(Config):
    """How one trial runs on its workers: what a fine-tune needs of a study's resources.

    A new option stands here, and the module that acts on it (train/zero.py, train/model.py, …) reads it from
    `LoopSpec.resources`. Nothing in between names it.
    """

    workers: int = runtime(1, ge=1)
    """Ranks of one trial."""
    cpus_per_worker: float = runtime(1.0, gt=0)
    """CPU cores that Ray reserves for each rank, and threads that it computes with."""
    gpus_per_worker: float = runtime(0.0, ge=0)
    """GPUs that Ray reserves for each rank."""
    micro_batch_size: int = runtime(8, ge=1)
    """Rows per forward pass and worker; batch_size / (workers × micro_batch_size) passes are accumulated."""
    zero_stage: Literal[0, 1, 2, 3] = runtime(0)
    """How much of a trial its workers share out: nothing; the optimizer's state; gradients too; the parameters too."""
    persistence_threshold: int | None = runtime(None, ge=0)
    """ZeRO-3: parameters of at most this many elements stay whole on every worker; default: DeepSpeed's 100,000."""
    gradient_checkpointing: bool | None = runtime(None)
    """Compute activations again in the backward pass: a small part of the memory, about a third more time, the same
    numbers. Default: where workers have GPUs, whose memory a 7B model's activations do not fit."""

    @property
    def checkpoints_gradients(self) -> bool:
        """Whether activations are computed again in the backward pass."""
        return self.gpus_per_worker > 0 if self.gradient_checkpointing is None else self.gradient_checkpointing


class Resources(TrialResources):
    """Where and how wide a study runs: each trial, all of them together, and the engine that serves what they yield."""

    trials_per_group: int = runtime(1, ge=1)
    """Trials that one warm worker group trains one after another; more than 1 where starting costs as much as training."""
    max_concurrent_groups: int | None = runtime(None, ge=1)
    """Worker groups that train at once, at most. Default: as many as the cluster holds."""
    max_failures: int = runtime(1, ge=0)
    """How often a lost worker group is started again."""
    serve_cpus: float = runtime(1.0, gt=0)
    """CPU cores that Ray reserves for the engine."""
    serve_gpus: int = runtime(0, ge=0)
    """GPUs of the engine (tensor parallel)."""
    serve_kv_cache_gib: int = runtime(1, ge=1)
    """Memory for the keys and values of an engine without GPUs, at least; it takes more where the longest request needs more.
    On GPUs vLLM takes what is left."""
    serve_loras: int = runtime(4, ge=1)
    """Adapters that the engine can compute with in one batch."""
