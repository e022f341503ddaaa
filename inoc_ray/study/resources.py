"""Where and how wide a study runs: nothing here changes a result beyond rounding."""

from __future__ import annotations

from typing import Literal

from inoc_ray.config.base import Config
from inoc_ray.config.identity import runtime


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
    gradient_checkpointing: bool | None = runtime(None)
    """Compute activations again in the backward pass: a small part of the memory, about a third more time, the same
    numbers. Default: yes where workers have GPUs."""
    logits_chunk: int | None = runtime(None, ge=1)
    """Target tokens whose logits are in memory at once, in a forward and backward pass. Default: as many as have 2^28 logits
    on a GPU (1,766 at a vocabulary of 152,000), 2^25 on a CPU."""

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
