"""How long fine-tunes and engines take on a kind of node: arithmetic with stated constants, to be replaced by measurements.

A step takes as long as its FLOPs at a share of the GPU's peak, or as long as the traffic between the workers if that is
longer; the two overlap. The trial's record has the real share (`hfu`), and a cluster file may give it (`efficiency`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from inoc_ray.cluster.cluster_file import NodeKind
from inoc_ray.cluster.hardware import Gpu
from inoc_ray.sizing.model_size import ModelSize
from inoc_ray.sizing.training import BYTES
from inoc_ray.study.resources import GroupResources

EFFICIENCY = 0.35
"""Share of the peak at which a fine-tune computes, recomputation included. Published for compiled and fused code: 0.52 to 0.58 of
an A100 (torchtitan's performance page, Llama 3 8B and 70B under FSDP2), 0.46 of a TPU v4 (PaLM, Chowdhery et al. 2022); this
loop compiles nothing."""
FP32_SHARE = 1 / 16
"""fp32 without tensor cores against bf16 with them: 19.5 of 312 TFLOP/s on an A100."""
LINK_SHARE = 0.6
"""Share of a link's or a network's nominal speed that collectives reach."""
READ_BYTES = 1.0e9
"""Bytes/s at which weights are read from shared storage."""
HOST_LINK, HOST_BANDWIDTH = 25e9, 100e9
"""Bytes/s between a GPU and the host's memory (PCIe 4.0 x16 reaches 25 of its 32 GB/s), and of the host's memory as the
optimizer on its cores uses it, for all workers of a node together. Assumptions."""
GROUP_START_S = 60.0
"""Start of a group of workers: processes, imports, NCCL."""
ENGINE_START_S = 180.0
"""Start of an engine on GPUs, beside reading its weights: processes, compilation, CUDA graphs."""
DECODE_SHARE = 0.6
"""Share of a GPU's memory bandwidth that decoding reaches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """What one optimizer step computes, over all ranks."""

    tokens: float
    """That go through the layers, padding included."""
    squares: float
    """Σ length² of the rows, padding included, in tokens²."""
    targets: float
    """That go through the output layer."""
    passes: int
    """Forward passes of a rank."""


def step_flops(size: ModelSize, work: StepWork, *, checkpointed: bool) -> float:
    """Return the FLOPs of a step, recomputation included, counted as `train/flops.py` counts them.

    A multiplied parameter is 2 a token forward, 2 for the gradient of its input, 2 for its own if it is trained, 2 more if its
    layer is computed again; the output layer counts at target tokens alone; attention is 12 · layers · width · length.
    """
    full = size.trained == size.parameters
    table = size.vocabulary * size.hidden
    layers = size.multiplied - table
    # Adapters are multiplied, too, and trained.
    adapters = 0 if full else size.trained
    per_token = (6 if full else 4) * layers + 6 * adapters + (2 * (layers + adapters) if checkpointed else 0)
    per_target = (8 if full else 4) * table
    per_square = 12 * size.layers * size.heads_width * (4 / 3 if checkpointed else 1)
    return per_token * work.tokens + per_square * work.squares + per_target * work.targets


def step_seconds(
    size: ModelSize, work: StepWork, kind: NodeKind, *, workers: int, stage: int, checkpointed: bool, efficiency: float
) -> float:
    """Return the seconds of a step on `workers` GPUs of that kind of node."""
    assert kind.gpu is not None
    speed = kind.gpu.flops * efficiency * (1 if size.dtype == "bf16" else FP32_SHARE)
    compute = step_flops(size, work, checkpointed=checkpointed) / (workers * speed)
    if workers == 1:
        return compute
    width = BYTES[size.dtype]
    # Gradients are summed once a step; ZeRO-3 gathers the parameters in each pass, forward and backward.
    moved = 2.0 * width * size.trained
    if stage == 3:
        moved += 2.0 * width * size.parameters * work.passes
    spans = workers > kind.gpus
    speed_of_link = kind.network if spans else kind.gpu.link
    return max(compute, moved * (workers - 1) / workers / (LINK_SHARE * speed_of_link))


def offload_seconds(size: ModelSize, kind: NodeKind, resources: GroupResources, *, passes: int) -> float:
    """Return what a step takes longer because states or weights are in the host's memory."""
    width, workers = BYTES[size.dtype], resources.workers
    there = min(workers, max(1, int(kind.gpus / resources.gpus_per_worker)))
    seconds = 0.0
    if resources.offload_optimizer:
        share = size.trained / workers
        # The gradient comes down, the weight goes up; Adam reads and writes 28 bytes of a parameter.
        seconds += 2 * width * share / HOST_LINK + 28 * share * there / HOST_BANDWIDTH
    if resources.offload_parameters:
        seconds += 2 * passes * width * size.parameters / workers / HOST_LINK
    return seconds


def group_start_seconds(size: ModelSize) -> float:
    """Return the seconds from the start of a group of workers to its first step."""
    return GROUP_START_S + BYTES[size.dtype] * size.parameters / READ_BYTES


def decoding_seconds(
    gpu: Gpu,
    *,
    gpus: int,
    weights: float,
    cache: float,
    parameters: int,
    prompt: float,
    answer: float,
    at_once: int,
    count: int,
) -> float:
    """Return the seconds in which an engine draws `count` answers, `at_once` at a time.

    Each token of an answer reads the weights once for all requests, and each request's cache (`cache` bytes a token); a prompt
    costs 2 FLOPs a parameter and token. weights: bytes.
    """
    per_step = (weights + at_once * cache * (prompt + answer / 2)) / (gpus * gpu.bandwidth * DECODE_SHARE)
    per_step += 2.0 * parameters * at_once / (gpus * gpu.flops * EFFICIENCY)
    rounds = math.ceil(count / at_once)
    prefill = 2.0 * parameters * prompt * count / (gpus * gpu.flops * EFFICIENCY)
    return rounds * answer * per_step + prefill
