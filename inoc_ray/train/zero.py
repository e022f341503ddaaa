"""ZeRO: DeepSpeed's configuration, and whole weights out of an engine under every stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from inoc_ray.errors import InputError
from inoc_ray.train.layout import accumulation_steps
from inoc_ray.train.spec import LoopSpec

if TYPE_CHECKING:
    import torch

ADAPTER_BUCKET = 50_000_000
"""Elements of the buffers that gradients and updated weights of an adapter pass through. DeepSpeed's 500,000,000 take 1 GB of a
device (more with overlap) whatever is trained; an adapter of rank 32 on a 7B model has 81 million weights."""


def clips_itself(spec: LoopSpec) -> bool:
    """Return whether the loop must clip: DeepSpeed has no gradient norm to show without ZeRO in fp32 (engine.py of 0.19.8)."""
    return spec.resources.zero_stage == 0 and spec.recipe.precision == "fp32"


def deepspeed_config(spec: LoopSpec, world_size: int) -> dict[str, Any]:
    """Make the configuration of `deepspeed.initialize`. Raises InputError when batch or workers cannot be divided.

    bf16 without ZeRO runs as stage 1, which shares out the fp32 master weights and gives the numbers of stages 2 and 3:
    DeepSpeed's own optimizer for that case (fp16/unfused_optimizer.py of 0.19.8) takes an empty Adam step at the start,
    so its bias correction is one step ahead. Sums in fp32 run as stage 2 at least: below it they take another optimizer of
    DeepSpeed's (runtime/bf16_optimizer.py), whose state lies elsewhere. `resources.deepspeed` is merged in last.
    """
    recipe, resources = spec.recipe, spec.resources
    if resources.micro_batch_tokens is None:
        micro, passes = (
            resources.micro_batch_size,
            accumulation_steps(recipe.batch_size, resources.micro_batch_size, world_size),
        )
    else:
        # The loop says at each pass whether it is the step's last, so DeepSpeed counts none itself; what it reads from its
        # configuration (0.19.8) is whether there is more than one, for the gradients that it keeps when it offloads.
        micro, passes = 1, 2
    config: dict[str, Any] = {
        "train_batch_size": micro * passes * world_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": passes,
        "gradient_clipping": 0.0 if clips_itself(spec) else recipe.clip_norm,
        "zero_optimization": _zero(spec, world_size),
    }
    if recipe.precision == "bf16":
        config["bf16"] = {"enabled": True}
        if resources.accumulate_in_fp32:
            config["data_types"] = {"grad_accum_dtype": "fp32"}
    if resources.offload_optimizer:
        # torch's fused AdamW has a vectorized kernel for CPUs; DeepSpeed's own would have to be compiled on every node.
        config["zero_force_ds_cpu_optimizer"] = False
    return _merged(config, resources.deepspeed)


def _zero(spec: LoopSpec, world_size: int) -> dict[str, Any]:
    """Return the section `zero_optimization`."""
    recipe, resources = spec.recipe, spec.resources
    stage = resources.zero_stage
    if recipe.precision == "bf16":
        stage = max(stage, 2 if resources.accumulate_in_fp32 else 1)
    zero: dict[str, Any] = {"stage": stage}
    if stage and recipe.method == "lora":
        zero["reduce_bucket_size"] = zero["allgather_bucket_size"] = ADAPTER_BUCKET
    if resources.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if stage == 3:
        if resources.persistence_threshold is not None:
            zero["stage3_param_persistence_threshold"] = resources.persistence_threshold
        if resources.offload_parameters:
            zero["offload_param"] = {"device": "cpu"}
        if resources.hpz_partition_size > 1:
            if world_size % resources.hpz_partition_size:
                raise InputError(
                    f"resources.hpz_partition_size {resources.hpz_partition_size} does not divide the {world_size} workers "
                    "that there are; give the workers of one node."
                )
            zero["zero_hpz_partition_size"] = resources.hpz_partition_size
    return zero


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return `ours` with the keys of `theirs` in their place, mappings key by key."""
    merged = dict(ours)
    for key, value in theirs.items():
        own = merged.get(key)
        merged[key] = _merged(own, value) if isinstance(own, Mapping) and isinstance(value, Mapping) else value
    return merged


def consolidated_weights(engine: Any, *, trainable_only: bool) -> dict[str, torch.Tensor] | None:
    """Return every weight whole, on the CPU, by its name in `engine.module`, on rank 0; None on the others.

    To be called on all ranks: under ZeRO-3 a parameter above the persistence threshold is an empty tensor on every
    rank until it is gathered, and a plain `save_pretrained` writes it out with shape (0,), which PEFT only warns about.
    """
    import deepspeed
    import torch.distributed as dist

    state: dict[str, torch.Tensor] = {}
    writes = dist.get_rank() == 0
    for name, parameter in engine.module.named_parameters():
        if trainable_only and not parameter.requires_grad:
            continue
        gathered = [parameter] if hasattr(parameter, "ds_id") else []
        # One at a time: a rank never holds more than one whole parameter beside its own share.
        with deepspeed.zero.GatheredParameters(gathered):
            if writes:
                state[name] = parameter.detach().to("cpu", copy=True).contiguous()
    return state if writes else None


def at_rest(parameter: Any) -> bool:
    """Return whether a parameter is as it is between two steps: no module has it gathered, no gathering is under way."""
    if not hasattr(parameter, "ds_id"):
        return True
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    released = ZeroParamStatus.AVAILABLE if parameter.ds_persist else ZeroParamStatus.NOT_AVAILABLE
    return parameter.ds_status in (released, ZeroParamStatus.NOT_AVAILABLE) and not parameter.ds_active_sub_modules


def destroy(engine: Any) -> None:
    """Take an engine down, with what DeepSpeed keeps of its model.

    DeepSpeed 0.19.8 keeps every ZeRO-3 module for as long as the process lives: in a list of modules that run
    (runtime/zero/parameter_offload.py) and as the key of a cached method (partitioned_param_coordinator.py), and with it the
    rank's share of the base. Ten trials held ten bases.
    """
    from deepspeed.runtime.zero import parameter_offload
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    engine.destroy()
    for parameter in engine.module.parameters():
        # The base outlives the engine in the cache, and would keep its optimizer until the next one.
        vars(parameter).pop("_z3_optimizer", None)
    parameter_offload.FWD_MODULE_STACK.clear()
    for method in vars(PartitionedParameterCoordinator).values():
        # A decorator of DeepSpeed's hides the cached function in its closure.
        for cell in getattr(method, "__closure__", None) or ():
            if hasattr(cell.cell_contents, "cache_clear"):
                cell.cell_contents.cache_clear()


def forget_hpz_group() -> None:
    """Let the next model read under ZeRO-3 make its own group for hpZ; DeepSpeed refuses to make a second in a process."""
    import torch.distributed as dist
    from deepspeed.utils import groups

    group = groups._get_zero_param_intra_parallel_group()
    if group is not None:
        groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = None
        dist.destroy_process_group(group)
