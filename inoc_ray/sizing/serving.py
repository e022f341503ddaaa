"""Bytes of an engine on each of its GPUs: weights, adapters, working memory, and what is left for keys and values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inoc_ray.cluster.hardware import Gpu
from inoc_ray.serve.memory import attention_of
from inoc_ray.sizing.training import BYTES, GIB

WORK_GIB = 2.0
"""What vLLM takes beside weights and cache: activations of a profiled batch of 8,192 tokens, logits of 256 requests, CUDA graphs.
An assumption for 7B to 32B, to be replaced by a measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingMemory:
    """Bytes on each GPU of an engine."""

    weights: int
    adapters: int
    """Slots of `serve_loras` adapters."""
    work: int
    cache: int
    """What is left for keys and values, out of the share of the GPU that vLLM takes; negative if the rest does not fit."""
    needed: int
    """Of the cache, for one request of the longest length."""
    cache_per_token: float
    """Bytes on each GPU of one token of one request."""

    @property
    def fits(self) -> bool:
        """Whether the engine starts and can answer the longest request."""
        return self.cache >= self.needed

    @property
    def total(self) -> int:
        """What it takes at least."""
        return self.weights + self.adapters + self.work + self.needed

    def to_json(self) -> dict[str, Any]:
        """Return the parts, for `--json`."""
        return {**asdict(self), "total": self.total, "fits": self.fits}


def serving_memory(
    folder: Path, *, parameters: int, precision: str, gpu: Gpu, gpus: int, share: float, window: int, adapters: int
) -> ServingMemory:
    """Return the memory of an engine that spreads the model in `folder` over `gpus` GPUs.

    share: of each GPU's memory, that the engine takes. window: tokens of the longest request with its answer. adapters: the
    numbers in all slots for adapters.
    """
    attention = attention_of(folder)
    width = BYTES[precision]
    cache = attention.cache_bytes(window, precision) if attention else 0
    # The keys of a head are on one GPU; with more GPUs than heads, heads are copied.
    shared = min(gpus, attention.kv_heads) if attention else gpus
    weights, slots, work = width * parameters // gpus, width * adapters // gpus, int(WORK_GIB * GIB)
    left = int(share * gpu.memory_gib * GIB) - weights - slots - work
    return ServingMemory(
        weights=weights,
        adapters=slots,
        work=work,
        cache=left,
        needed=cache // shared,
        cache_per_token=cache / shared / max(1, window),
    )
