"""ZeRO: DeepSpeed's configuration, and whole weights out of an engine under every stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inoc_ray.train.layout import accumulation_steps
from inoc_ray.train.spec import LoopSpec

if TYPE_CHECKING:
    import torch


def clips_itself(spec: LoopSpec) -> bool:
    """Return whether the loop must clip: DeepSpeed has no gradient norm to show without ZeRO in fp32 (engine.py of 0.19.8)."""
    return spec.resources.zero_stage == 0 and spec.recipe.precision == "fp32"


def deepspeed_config(spec: LoopSpec, world_size: int) -> dict[str, Any]:
    """Make the configuration of `deepspeed.initialize`. Raises InputError when the batch cannot be divided.

    bf16 without ZeRO runs as stage 1, which shares out the fp32 master weights and gives the numbers of stages 2 and 3:
    DeepSpeed's own optimizer for that case (fp16/unfused_optimizer.py of 0.19.8) takes an empty Adam step at the start,
    so its bias correction is one step ahead.
    """
    recipe, resources = spec.recipe, spec.resources
    stage = max(resources.zero_stage, 1) if recipe.precision == "bf16" else resources.zero_stage
    zero: dict[str, Any] = {"stage": stage}
    if stage == 3 and resources.persistence_threshold is not None:
        zero["stage3_param_persistence_threshold"] = resources.persistence_threshold
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
        "zero_optimization": zero,
    }
    if recipe.precision == "bf16":
        config["bf16"] = {"enabled": True}
    return config


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
