"""Which keys of DeepSpeed's configuration a study may set: those that leave the weights as they are, beyond rounding.

The names are those of DeepSpeed 0.19.8 (runtime/config.py, runtime/zero/config.py). Its top level takes any key in silence, so
a list of what is allowed also finds a misspelt one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inoc_ray.config.base import nearest
from inoc_ray.config.identity import canonical_json

ZERO = "zero_optimization"

_ALLOWED: Mapping[str, type] = {
    ZERO: dict,
    "communication_data_type": str,
    "comms_logger": dict,
    "disable_python_gc": bool,
    "dump_state": bool,
    "flops_profiler": dict,
    "memory_breakdown": bool,
    "steps_per_print": int,
    "timers": dict,
    "wall_clock_breakdown": bool,
}

_ALLOWED_OF_ZERO: Mapping[str, type] = {
    "allgather_bucket_size": int,
    "allgather_partitions": bool,
    "contiguous_gradients": bool,
    "enable_sanity_checks": bool,
    "leaf_module": dict,
    "log_trace_cache_warnings": bool,
    "memory_efficient_linear": bool,
    "offload_optimizer": dict,
    "offload_param": dict,
    "override_module_apply": bool,
    "overlap_comm": bool,
    "parameter_alignment": bool,
    "reduce_bucket_size": int,
    "reduce_scatter": bool,
    "round_robin_gradients": bool,
    "stage3_allgather_sequential": bool,
    "stage3_max_live_parameters": int,
    "stage3_max_reuse_distance": int,
    "stage3_model_persistence_threshold": int,
    "stage3_module_granularity_threshold": int,
    "stage3_prefetch_bucket_size": int,
    "stage3_use_all_reduce_for_fetch_params": bool,
    "sub_group_size": int,
    "use_multi_rank_bucket_allreduce": bool,
}

_ALLOWED_OF_OFFLOAD: Mapping[str, type] = {
    "device": str,
    "fast_init": bool,
    "pin_memory": bool,
}

_ELSEWHERE: Mapping[str, str] = {
    "amp": "recipe.precision sets it",
    "bf16": "recipe.precision sets it",
    "data_types": "resources.accumulate_in_fp32 sets it",
    "fp16": "recipe.precision sets it",
    "gradient_accumulation_steps": "it follows from recipe.batch_size, resources.micro_batch_size and the workers",
    "gradient_clipping": "recipe.clip_norm sets it",
    "optimizer": "the recipe sets it (learning_rate, weight_decay)",
    "scheduler": "recipe.schedule and recipe.warmup_steps set it",
    "torch_autocast": "recipe.precision sets it",
    "train_batch_size": "recipe.batch_size sets it",
    "train_micro_batch_size_per_gpu": "resources.micro_batch_size sets it",
    "zero_force_ds_cpu_optimizer": "resources.offload_optimizer sets it",
}

_ELSEWHERE_OF_ZERO: Mapping[str, str] = {
    "cpu_offload": "resources.offload_optimizer sets it",
    "cpu_offload_param": "resources.offload_parameters sets it",
    "stage": "resources.zero_stage sets it",
    "stage3_param_persistence_threshold": "resources.persistence_threshold sets it",
    "zero_hpz_partition_size": "resources.hpz_partition_size sets it",
    "zero_quantized_gradients": "gradients of 8 bit change the weights",
    "zero_quantized_nontrainable_weights": "a base of 8 bit is not the one that is served",
    "zero_quantized_weights": "weights of 8 bit change the result",
}

_ELSEWHERE_OF_OFFLOAD: Mapping[str, str] = {
    "ratio": "a part of the optimizer can be on the GPU only with DeepSpeed's own Adam, and torch's is used here",
}


def check_deepspeed_keys(value: Mapping[str, Any]) -> None:
    """Raise ValueError for the first key that may not be set, with what to set in its place, and for a value of another type."""
    try:
        canonical_json(value)
    except TypeError as error:
        raise ValueError("holds a value that JSON has no form for") from error
    _check("", value, _ALLOWED, _ELSEWHERE)
    if value.get("communication_data_type", "fp32") != "fp32":
        raise ValueError(
            "communication_data_type: only fp32 can be asked for; a shorter type changes the gradients, and the recipe's "
            "precision is the default"
        )
    zero = value.get(ZERO, {})
    _check(f"{ZERO}.", zero, _ALLOWED_OF_ZERO, _ELSEWHERE_OF_ZERO)
    for part in ("offload_optimizer", "offload_param"):
        _check(f"{ZERO}.{part}.", zero.get(part, {}), _ALLOWED_OF_OFFLOAD, _ELSEWHERE_OF_OFFLOAD)
        if zero.get(part, {}).get("device", "cpu") not in ("cpu", "none"):
            raise ValueError(f"{ZERO}.{part}.device must be cpu or none: snapshots do not read what lies on a disk")


def _check(where: str, found: Mapping[str, Any], allowed: Mapping[str, type], elsewhere: Mapping[str, str]) -> None:
    for key, value in found.items():
        if key not in allowed:
            why = elsewhere.get(key)
            told = (
                f": {why}"
                if why
                else f" is none of the keys that leave the weights as they are{nearest(key, [*allowed])}"
            )
            raise ValueError(f"{where}{key}{told}")
        kind = allowed[key]
        fits = isinstance(value, kind)
        if not fits or (kind is not bool and isinstance(value, bool)):
            raise ValueError(f"{where}{key} must be of the type {kind.__name__}, found {value!r}")
