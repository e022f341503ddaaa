"""Bytes on each worker's device while a fine-tune trains: what stays, and what comes and goes with the phases of a step.

Sources: Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054) for what each stage shares out; DeepSpeed 0.19.8 for its buffers
(runtime/zero/stage_1_and_2.py, stage3.py, config.py); activations and output layer are counted (`model_size`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from inoc_ray.sizing.model_size import ModelSize, PassSize, model_size, pass_size
from inoc_ray.train.head import chunk_rows
from inoc_ray.train.spec import LoopSpec
from inoc_ray.train.zero import deepspeed_config

GIB = 1 << 30
BYTES = {"fp32": 4, "bf16": 2}
MASTER, MOMENTS, FP32_GRADIENT = 4, 8, 4
"""Bytes of a trained parameter: the fp32 master copy, Adam's two moments, and the gradient as the optimizer takes it."""
REDUCE_BUCKET, LIVE_PARAMETERS, SUB_GROUP = 500_000_000, 1_000_000_000, 1_000_000_000
"""Defaults of DeepSpeed in elements: `reduce_bucket_size`, `stage3_max_live_parameters`, `sub_group_size`."""
RUNTIME_GIB = 1.0
"""What CUDA's context, cuBLAS, NCCL and the kernels take of a GPU before the first tensor: about 0.5 GiB for the context and its
kernels, 0.5 for workspaces and NCCL's channels. An assumption, to be replaced by a measurement (docs/gpu.md)."""
FRAGMENTATION = 0.06
"""Share of what comes and goes that torch's caching allocator holds without use. An assumption, likewise."""

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMemory:
    """Bytes of one rank at the peak of a step, by what they are for. `host` bytes are beside them, in the node's memory."""

    weights: int
    """The base and the adapter, or a rank's share of them, with what ZeRO-3 has gathered."""
    states: int
    """fp32 master weights and Adam's moments."""
    gradients: int
    """Of what is trained, as they are accumulated, and in fp32 for the optimizer."""
    activations: int
    """What the layers keep for the backward pass, and the work of one."""
    head: int
    """Logits of a chunk and what comes of them."""
    buffers: int
    """DeepSpeed's buckets."""
    runtime: int
    """CUDA, NCCL and fragmentation; nothing on a CPU."""
    phase: Literal["forward", "backward", "step"]
    """The phase of a step in which the peak is."""
    host: int
    """What is offloaded, in the host's memory."""

    @property
    def total(self) -> int:
        """All bytes on the device at the peak."""
        parts = (self.weights, self.states, self.gradients, self.activations, self.head, self.buffers, self.runtime)
        return sum(parts)

    def to_json(self) -> dict[str, Any]:
        """Return the parts and their total, for `--json`."""
        return {**asdict(self), "total": self.total}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """What DeepSpeed's configuration says about memory."""

    stage: int
    world_size: int
    gradient_bytes: int
    """Of an accumulated gradient."""
    reduce_bucket: int
    """Elements."""
    buckets: int
    """How many buffers of that size there are."""
    live_parameters: int
    """Elements that ZeRO-3 gathers at most."""
    sub_group: int
    """Elements that ZeRO-3's optimizer takes at once."""
    offload_optimizer: bool
    offload_parameters: bool
    hpz: int
    """Ranks that hold a second copy of the parameters among them; 1 without."""


def sharding_of(config: Mapping[str, Any], world_size: int, precision: str) -> Sharding:
    """Read DeepSpeed's configuration as `zero.deepspeed_config` makes it."""
    zero = config["zero_optimization"]
    fp32_sums = config.get("data_types", {}).get("grad_accum_dtype") == "fp32"
    return Sharding(
        stage=zero["stage"],
        world_size=world_size,
        gradient_bytes=4 if fp32_sums else BYTES[precision],
        reduce_bucket=int(zero.get("reduce_bucket_size", REDUCE_BUCKET)),
        # With overlap, one bucket is reduced while the next is filled. DeepSpeed's default: under stage 3.
        buckets=2 if zero.get("overlap_comm", zero["stage"] == 3) else 1,
        live_parameters=int(zero.get("stage3_max_live_parameters", LIVE_PARAMETERS)),
        sub_group=int(zero.get("sub_group_size", SUB_GROUP)),
        offload_optimizer=_offloads(zero, "offload_optimizer"),
        offload_parameters=_offloads(zero, "offload_param"),
        hpz=int(zero.get("zero_hpz_partition_size", 1)),
    )


def _offloads(zero: Mapping[str, Any], key: str) -> bool:
    return zero.get(key, {}).get("device", "none") != "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStates:
    """Weights, optimizer states and gradients of one rank: what grows with the model and not with the batch."""

    weights: int
    states: int
    accumulated: int
    """Gradients from the backward pass to the step."""
    step: int
    """The gradients' fp32 copy that the optimizer takes, besides `accumulated`."""
    gathered: int
    """Whole parameters, and the gradient of one, that ZeRO-3 holds for a moment."""
    host: int


def model_states(size: ModelSize, sharding: Sharding) -> ModelStates:
    """Return the bytes of weights, states and gradients on one rank.

    ZeRO 1 shares the states out among the ranks, 2 the gradients, 3 the parameters. Weights under bf16 have fp32 masters, as
    those under fp32 have from stage 1 on, where DeepSpeed copies its share.
    """
    width, ranks = BYTES[size.dtype], sharding.world_size
    lora = size.trained != size.parameters
    parameters = size.parameters + (size.trained if lora else 0)
    share_of_states = ranks if sharding.stage >= 1 else 1
    share_of_gradients = ranks if sharding.stage >= 2 else 1
    masters = MASTER if sharding.stage >= 1 else 0
    states = (masters + MOMENTS) * size.trained // share_of_states
    accumulated = sharding.gradient_bytes * size.trained // share_of_gradients
    # Without ZeRO, and where they are summed in fp32, the optimizer takes the gradients as they are.
    share = size.trained // share_of_states
    at_once = min(share, sharding.sub_group) if sharding.stage == 3 else share
    step = FP32_GRADIENT * at_once if sharding.stage >= 1 and sharding.gradient_bytes < 4 else 0
    weights, gathered = width * parameters, 0
    if sharding.stage == 3:
        cut = parameters - size.persistent
        weights = width * (cut // ranks + size.persistent)
        if sharding.hpz > 1:
            weights += width * cut // sharding.hpz
        gathered = width * (min(cut, max(size.largest, sharding.live_parameters)) if ranks > 1 else size.largest)
    if sharding.stage >= 2:
        gathered += width * size.largest_trained
    host = 0
    if sharding.offload_optimizer:
        host += states + FP32_GRADIENT * size.trained // share_of_states
        states = step = 0
        if sharding.stage >= 2:
            # Each share of a gradient goes to the host as soon as it is reduced.
            host, accumulated = host + accumulated, 0
    if sharding.offload_parameters:
        host, weights = host + weights, width * size.persistent
    return ModelStates(weights=weights, states=states, accumulated=accumulated, step=step, gathered=gathered, host=host)


@functools.lru_cache(maxsize=256)
def head_bytes(size: ModelSize, targets: int, rows: int) -> int:
    """Return the peak of the output layer and its loss over `targets` positions, at most `rows` at a time, counted on meta.

    Forward and backward, as `train/head.py` does it: a frozen layer keeps nothing of a chunk, a trained one computes each
    chunk again and adds up the gradient of its weight.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    from inoc_ray.sizing.live_bytes import LiveBytes

    def nll(part: Any, wanted: Any) -> Any:
        logits = torch.nn.functional.linear(part, weight)
        return torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="sum")

    pieces = math.ceil(targets / rows)
    kind = torch.bfloat16 if size.dtype == "bf16" else torch.float32
    trains = size.trained == size.parameters
    weight = torch.empty(size.vocabulary, size.hidden, dtype=kind, device="meta", requires_grad=trains)
    hidden = torch.empty(targets if trains else math.ceil(targets / pieces), size.hidden, dtype=kind, device="meta")
    hidden.requires_grad_()
    wanted = torch.empty(len(hidden), dtype=torch.long, device="meta")
    with LiveBytes([weight, hidden, wanted]) as live:
        if trains and pieces > 1:
            chunks = zip(hidden.tensor_split(pieces), wanted.tensor_split(pieces), strict=True)
            losses = [checkpoint(nll, h, t, use_reentrant=False, preserve_rng_state=False) for h, t in chunks]
            torch.stack(losses).sum().backward()
        else:
            nll(hidden, wanted).backward()
    return live.peak


def training_memory(
    spec: LoopSpec, world_size: int, *, tokens: int, targets: int, device: Device = "cuda"
) -> TrainingMemory:
    """Return the memory of a rank at the peak of a step.

    tokens: the most of a forward pass, padding included; targets: the most of them that carry loss. Only config.json is read.
    Raises InputError as `model_size` and `pass_size` do, and for a batch that the workers cannot divide.
    """
    folder, recipe, resources = Path(spec.model), spec.recipe, spec.resources
    size = model_size(folder, recipe)
    passed = pass_size(folder, recipe, tokens=tokens, checkpointed=resources.checkpoints_gradients)
    config = deepspeed_config(spec, world_size)
    sharding = sharding_of(config, world_size, recipe.precision)
    accumulates = config["gradient_accumulation_steps"] > 1
    head = head_bytes(size, max(targets, 1), resources.logits_chunk or chunk_rows(size.vocabulary, device))
    return peak_of(size, sharding, passed, head=head, accumulates=accumulates, device=device)


def peak_of(
    size: ModelSize, sharding: Sharding, passed: PassSize, *, head: int, accumulates: bool, device: Device = "cuda"
) -> TrainingMemory:
    """Return the largest of a step's three phases: the loss, the end of the backward pass, and the update.

    accumulates: whether gradients of earlier micro batches are there already.
    """
    states = model_states(size, sharding)
    width = BYTES[size.dtype]
    bucket = sharding.reduce_bucket if sharding.stage >= 1 else 0
    if device == "cpu":
        # A page of memory that nobody writes to takes none.
        bucket = min(bucket, size.trained)
    buffers = width * bucket * (sharding.buckets if device == "cuda" else 1)
    if sharding.world_size == 1 and sharding.stage < 2:
        buffers = 0
    phases: dict[Literal["forward", "backward", "step"], dict[str, int]] = {
        "forward": {
            "activations": passed.kept + passed.forward,
            "head": head,
            "gradients": states.accumulated if accumulates else 0,
        },
        "backward": {
            "activations": passed.kept + passed.layer,
            "gradients": states.accumulated + width * size.largest_trained * (2 if size.tied else 1),
        },
        "step": {"gradients": states.accumulated + states.step},
    }
    always = {"weights": states.weights + states.gathered, "states": states.states, "buffers": buffers}
    name = max(phases, key=lambda phase: sum(phases[phase].values()))
    parts = {"gradients": 0, "activations": 0, "head": 0, **always, **phases[name]}
    moving = sum(phases[name].values()) + states.gathered
    runtime = 0 if device == "cpu" else int(RUNTIME_GIB * GIB + FRAGMENTATION * moving)
    return TrainingMemory(phase=name, host=states.host, runtime=runtime, **parts)
