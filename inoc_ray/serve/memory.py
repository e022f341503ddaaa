"""Whether an engine fits into memory: weights, and the cache of keys and values for one request.

An engine that cannot hold one request of its whole window does not start. This is computed before anything starts, from
config.json and the headers of the weights. Activations and whatever else an engine keeps are left out: what is refused here
cannot work, and what passes nearly always works.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inoc_ray.cluster.checks import host_memory
from inoc_ray.cluster.gpus import seen_gpus
from inoc_ray.errors import InputError
from inoc_ray.models.config import parts
from inoc_ray.models.weights import Tensor, read_header
from inoc_ray.study.resources import EngineResources

GIB = 1 << 30
HOST_SHARE = 0.9
"""The share of a machine's memory that an engine on the CPU may take; the rest is for the driver and Ray."""
CPU_CACHE_GIB = 1
"""The cache of an engine on the CPU, unless one request needs more."""
BYTES = {"fp32": 4, "bf16": 2}
_FLOATS = ("F64", "F32", "F16", "BF16")
AUTO = "bf16"
"""The precision that vLLM chooses with `dtype: auto`: two bytes, even if the files have four."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """What the size of a model's cache depends on."""

    full: int
    """Layers that attend to the whole window."""
    sliding: int
    """Layers that attend to the last `span` tokens."""
    span: int
    heads: int
    kv_heads: int
    head_dim: int

    def splits_over(self, gpus: int) -> bool:
        """Return whether vLLM can spread the model over so many GPUs: each has as many heads, whose keys it has or shares."""
        return self.heads % gpus == 0 and (self.kv_heads % gpus == 0 or gpus % self.kv_heads == 0)

    def cache_bytes(self, tokens: int, precision: str) -> int:
        """Return the bytes of keys and values of one request: 2 × layers × heads × head_dim × tokens × bytes of a number."""
        seen = self.full * tokens + self.sliding * min(tokens, self.span)
        return 2 * self.kv_heads * self.head_dim * BYTES[precision] * seen

    def in_words(self, tokens: int, precision: str) -> str:
        """Return the arithmetic of `cache_bytes` as text."""
        layers = f"{self.full + self.sliding} layers"
        if self.sliding:
            layers += f" ({self.sliding} of them over {self.span} tokens)"
        return (
            f"2 × {layers} × {self.kv_heads} heads × {self.head_dim} × {tokens:,} tokens × {BYTES[precision]} bytes = "
            f"{gib(self.cache_bytes(tokens, precision))}"
        )


def gib(size: float) -> str:
    """Return bytes as `5.6 GiB`, with two decimals below one."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / GIB:.2f} GiB"


def attention_of(folder: Path) -> Attention | None:
    """Read the attention of a model from its config.json.

    None if the file does not say, or if the model caches something other than keys and values.
    """
    try:
        whole: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config: Any = next((part for part in parts(whole) if part.keys() & {"num_hidden_layers", "n_layer"}), whole)
        if config.get("kv_lora_rank"):
            return None
        layers = int(config.get("num_hidden_layers") or config["n_layer"])
        heads = int(config.get("num_attention_heads") or config["n_head"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
        head_dim = int(config.get("head_dim") or (config.get("hidden_size") or config["n_embd"]) // heads)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return None
    kinds = config.get("layer_types")
    span = config.get("sliding_window")
    if not isinstance(kinds, list) or not isinstance(span, int):
        kinds, span = ["full_attention"] * layers, 0
    if set(kinds) - {"full_attention", "sliding_attention"}:
        return None
    sliding = kinds.count("sliding_attention")
    return Attention(
        full=len(kinds) - sliding, sliding=sliding, span=span, heads=heads, kv_heads=kv_heads, head_dim=head_dim
    )


def parameters_of(folder: Path) -> int | None:
    """Return how many numbers the safetensors files hold, by their headers; None if one cannot be read."""
    tensors = _tensors(folder)
    return None if tensors is None else sum(math.prod(tensor.shape) for tensor in tensors)


def weight_bytes(folder: Path, precision: str) -> int | None:
    """Return the bytes of the weights in an engine, by the headers of the safetensors files; None if one cannot be read.

    An engine turns floating-point numbers into its precision. What is quantised (integers that hold several weights, 8-bit floats)
    stays as it is: a judge may be.
    """
    tensors = _tensors(folder)
    if tensors is None:
        return None
    return sum(
        BYTES[precision] * math.prod(tensor.shape) if tensor.dtype in _FLOATS else tensor.stop - tensor.start
        for tensor in tensors
    )


def _tensors(folder: Path) -> list[Tensor] | None:
    # The second copy of the weights that some publishers put beside the first is left out.
    files = [path for path in folder.glob("*.safetensors") if not path.name.startswith("consolidated")]
    try:
        return [tensor for path in files for tensor in read_header(path)] or None
    except (OSError, InputError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What there is on the machines that an engine may come to lie on; None where that is unknown."""

    gpu: int | None
    """Bytes of one GPU, the smallest."""
    host: int | None
    """Bytes of the machine's memory, the smallest."""


def of_this_machine(*, gpus: bool) -> Memory:
    """Return the memory here. gpus: whether to ask for that of the GPUs, which takes a moment."""
    return Memory(gpu=min((gpu.memory for gpu in seen_gpus()), default=None) if gpus else None, host=host_memory())


def cache_gib(folder: Path, tokens: int | None, precision: str) -> int:
    """Return the whole GiB of cache that an engine on the CPU needs for one request of `tokens`."""
    attention = attention_of(folder)
    if attention is None or tokens is None:
        return CPU_CACHE_GIB
    # An engine divides its cache into blocks, and the last block of a request is not full.
    return max(CPU_CACHE_GIB, math.ceil(1.02 * attention.cache_bytes(tokens, precision) / GIB))


def _in_words(folder: Path, precision: str) -> str:
    parameters = parameters_of(folder) or 0
    if weight_bytes(folder, precision) != parameters * BYTES[precision]:
        return "quantised weights"
    return f"{parameters / 1e9:.2f}B weights in {precision}"


def check_split(where: str, folder: Path, gpus: int) -> None:
    """Raise `InputError` if an engine cannot spread the model over so many GPUs. where: what the message names."""
    attention = attention_of(folder)
    if gpus and attention is not None and not attention.splits_over(gpus):
        numbers = ", ".join(str(number) for number in range(1, 9) if attention.splits_over(number))
        raise InputError(
            f"{where}: {attention.heads} attention heads with {attention.kv_heads} of keys and values cannot be divided among "
            f"{gpus} GPUs (resources.serve_gpus); use one of {numbers}."
        )


def check_fits(
    where: str, folder: Path, tokens: int, precision: str, *, resources: EngineResources, memory: Memory
) -> None:
    """Check that the weights and the cache of one request fit. Raises `InputError`, with the arithmetic, if they do not.

    where: what the message names. tokens: the longest request. Nothing is checked where the memory is unknown.
    """
    attention, weights = attention_of(folder), weight_bytes(folder, precision)
    gpus = resources.gpus
    check_split(where, folder, gpus)
    there_is = memory.gpu if gpus else memory.host
    if attention is None or weights is None or there_is is None:
        return
    cache = attention.cache_bytes(tokens, precision)
    if gpus:
        # The keys of a head are on one GPU; with more GPUs than heads, heads are copied.
        shared = min(gpus, attention.kv_heads)
        need, there = weights / gpus + cache / shared, resources.serve_gpu_share * there_is
        available = f"{there_is / GIB:.0f} GiB × {resources.serve_gpu_share:g} = {gib(there)}"
        each = f" on each of {gpus} GPUs" if gpus > 1 else " on one GPU"
        remedy = f"raise resources.serve_gpus (now {gpus})"
    else:
        need, there = weights + cache, HOST_SHARE * there_is
        available, each, remedy = f"{gib(there_is)} of memory × {HOST_SHARE}", "", "use a machine with more memory"
    if need <= there:
        return
    raise InputError(
        f"{where}: the engine needs {gib(weights)} for {_in_words(folder, precision)} and "
        f"{attention.in_words(tokens, precision)} for the cache of one request: {gib(need)}{each}, but there are {available}; "
        f"{remedy}{', or ask for shorter answers (evaluation.max_tokens)' if cache > 0.1 * need else ''}."
    )
