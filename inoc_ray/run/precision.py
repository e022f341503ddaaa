"""Whether this machine's processor multiplies bf16 numbers itself, and what that means for the recipes of a study.

Products of matrices with torch 2.13 on one core of an AMD EPYC with avx512_bf16: 89 GFLOP/s in fp32, 185 in bf16; with oneDNN kept
from those instructions (ONEDNN_MAX_CPU_ISA) bf16 makes 36 (AVX512_CORE_VNNI) and 19 (AVX2). No precision is chosen here: it changes
the weights, so that ids would depend on the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from inoc_ray.cluster.connect import expected_capacity
from inoc_ray.plan.plan import Plan
from inoc_ray.run.preflight import one_of_each, place_of
from inoc_ray.serve.memory import parameters_of

CPUINFO = Path("/proc/cpuinfo")
"""Linux's description of the processors; every core has a line `flags` of its own, and the first stands for all."""
INSTRUCTIONS = ("amx_bf16", "avx512_bf16")
"""Flags of x86-64 processors that multiply bf16 numbers, and that torch's library (oneDNN) has kernels for."""
LARGE = 50_000_000
"""Weights from which the products of matrices decide how long a step takes."""


def bf16_instructions(cpuinfo: Path = CPUINFO) -> tuple[str, ...] | None:
    """Return the flags of `INSTRUCTIONS` that the processor has; None where it does not say what it has."""
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as lines:
            flags = next((line for line in lines if line.partition(":")[0].strip() == "flags"), None)
    except OSError:
        return None
    return None if flags is None else tuple(name for name in INSTRUCTIONS if name in flags.partition(":")[2].split())


def precision_notes(plan: Plan, cpuinfo: Path = CPUINFO, *, large: int = LARGE) -> Iterator[str]:
    """Yield a note, without a full stop, for each recipe whose precision this processor is slow in.

    Nothing for fine-tunes on GPUs or on another cluster, for models of fewer than `large` weights, and where the processor does
    not say what it has.
    """
    found = bf16_instructions(cpuinfo)
    if found is None or expected_capacity() is None:
        return
    for trial in one_of_each(plan.to_train):
        if plan.resources_of(trial).gpus_per_worker or (parameters_of(trial.model.path) or 0) < large:
            continue
        if trial.recipe.precision == "fp32" and found:
            yield (
                f"{place_of(trial)}.precision: this processor multiplies bf16 numbers itself ({found[0]}), and trains "
                f"{trial.model.name} about twice as fast with `bf16` as with `fp32`; the results have ids of their own"
            )
        elif trial.recipe.precision == "bf16" and not found:
            yield (
                f"{place_of(trial)}.precision: this processor has no instructions for bf16 ({' or '.join(INSTRUCTIONS)}), so "
                f"{trial.model.name} trains several times faster with `fp32` than with `bf16`; the results have ids of their own"
            )
