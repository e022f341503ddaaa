"""The GPUs of this machine, as its driver reports them."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

_SECONDS = 20
"""How long the driver may take to answer: it wakes sleeping GPUs first."""
LEAST_DRIVER = {13: 580, 12: 525}
"""CUDA's major version → the oldest driver that runs it: NVIDIA's "CUDA Toolkit Release Notes", table 2, "CUDA Toolkit and Minimum
Required Driver Version for CUDA Minor Version Compatibility"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenGpu:
    """A GPU that the driver reports."""

    memory: int
    """In bytes."""
    driver: str
    """The version of the driver: "580.95.05"."""


def seen_gpus() -> list[SeenGpu]:
    """Return the GPUs of this machine, by nvidia-smi; none without it, or if it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
        lines = [line.split(",") for line in output.splitlines() if line.strip()]
        return [SeenGpu(memory=int(memory) << 20, driver=driver.strip()) for memory, driver in lines]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def gpu_faults(wanted: int, cuda: str | None) -> list[str]:
    """Return what keeps this machine from computing on as many GPUs as Ray gives away on it.

    cuda: the CUDA version that torch was built for; None for a CPU build.
    """
    if not wanted:
        return []
    if cuda is None:
        return ["torch's build is for CPUs, and the study takes GPUs here; install requirements/gpu.txt"]
    gpus = seen_gpus()
    if len(gpus) < wanted:
        return [
            f"Ray gives away {wanted} GPUs, and nvidia-smi reports {len(gpus)}; install the driver, or start the container with "
            "its GPUs"
        ]
    least = LEAST_DRIVER.get(int(cuda.partition(".")[0]), 0)
    driver = gpus[0].driver
    if int(driver.partition(".")[0]) < least:
        return [f"NVIDIA's driver {driver} is too old for CUDA {cuda}; install {least} or later"]
    return []
