"""Which keys of DeepSpeed's configuration a study may set: those that leave the weights as they are, beyond rounding.

The names are those of DeepSpeed 0.19.8 (runtime/config.py, runtime/zero/config.py). Its top level takes any key in silence, so
a list of what is allowed also finds a misspelt one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inoc_ray.config.base import nearest
from inoc_ray.config.identity import canonical_json
from inoc_ray.errors import shown

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

_INSIDE: Mapping[str, Mapping[str, type]] = {
    "comms_logger": {"debug": bool, "enabled": bool, "prof_all": bool, "prof_ops": list, "verbose": bool},
    "flops_profiler": {
        "detailed": bool,
        "enabled": bool,
        "module_depth": int,
        "output_file": str,
        "profile_step": int,
        "recompute_fwd_factor": float,
        "top_modules": int,
    },
    "timers": {"throughput": dict},
    "timers.throughput": {"enabled": bool, "synchronized": bool},
    f"{ZERO}.leaf_module": {"classes": list, "name_suffixes": list, "names": list},
    f"{ZERO}.offload_optimizer": _ALLOWED_OF_OFFLOAD,
    f"{ZERO}.offload_param": _ALLOWED_OF_OFFLOAD,
}
"""What stands in the mappings of these names (utils, comm and profiling/config.py, runtime/zero/leaf_module_config.py)."""
_AT_LEAST: Mapping[str, int] = {
    "module_depth": -1,
    "profile_step": 1,
    "steps_per_print": 1,
    "top_modules": 1,
    "allgather_bucket_size": 1,
    "reduce_bucket_size": 1,
}
"""Integers below which DeepSpeed divides by zero or refuses; the others may be 0."""
_MAY_BE_NULL = ("output_file",)
"""Keys that DeepSpeed's documentation shows with null, its default."""
_IN_WORDS = {
    bool: "true or false",
    dict: "a mapping",
    float: "a number",
    int: "an integer",
    list: "a list of texts",
    str: "a text",
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
    """Raise ValueError for the first key that may not be set, with what to set in its place, and for a value that cannot be."""
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
    for place, allowed in _INSIDE.items():
        inner: Any = value
        for part in place.split("."):
            inner = inner.get(part, {})
        _check(f"{place}.", inner, allowed, _ELSEWHERE_OF_OFFLOAD if allowed is _ALLOWED_OF_OFFLOAD else {})
    if zero.get("allgather_bucket_size", 0) % 2:
        raise ValueError(f"{ZERO}.allgather_bucket_size must be even (DeepSpeed aligns it to 4 bytes)")
    for part in ("offload_optimizer", "offload_param"):
        if zero.get(part, {}).get("device", "cpu") not in ("cpu", "none"):
            raise ValueError(f"{ZERO}.{part}.device must be cpu or none: snapshots do not read what lies on a disk")


def _check(where: str, found: Mapping[Any, Any], allowed: Mapping[str, type], elsewhere: Mapping[str, str]) -> None:
    for key, value in found.items():
        if key not in allowed:
            why = elsewhere.get(key)
            told = (
                f": {why}"
                if why
                else f" is none of the keys that leave the weights as they are{nearest(str(key), [*allowed])}"
            )
            raise ValueError(f"{where}{key}{told}")
        if value is None and key in _MAY_BE_NULL:
            continue
        if not _fits(value, allowed[key]):
            raise ValueError(
                f"{where}{key} must be {_IN_WORDS[allowed[key]]}, found {shown(value)}{_advice(value, allowed[key])}"
            )
        least = _AT_LEAST.get(key, 0)
        if allowed[key] in (int, float) and value < least:
            raise ValueError(f"{where}{key} must be at least {least}, found {shown(value)}")


def _fits(value: Any, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is list:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    return isinstance(value, (int, float) if kind is float else kind)


def _advice(value: Any, kind: type) -> str:
    """Return how to write the integer that is meant by `5e8`, which YAML reads as a text, and by `auto` of other programs."""
    if kind is not int or isinstance(value, bool) or not isinstance(value, str | float):
        return ""
    if value == "auto":
        return "; leave it out for DeepSpeed's own value"
    try:
        number = float(value)
    except ValueError:
        return ""
    return f"; write {int(number)}" if number.is_integer() else ""
