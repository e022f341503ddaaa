"""The package as it is on a laptop: a wheel installed without an extra, in an environment that has nothing but what it requires.

The environment's packages are links to those of the running one: exactly what the wheel's requirements name, and what those
require.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from wheel import pip

NOT_ON_A_LAPTOP = ("torch", "vllm", "deepspeed", "peft", "accelerate", "triton")


def install_laptop(wheel: Path, folder: Path) -> Path:
    """Install the wheel and links to what it requires into a new environment; return its programs' folder."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    bin_folder = folder / "bin"
    pip("--python", bin_folder / "python", "install", "--no-deps", "--no-index", wheel)
    (packages,) = folder.glob("lib/python*/site-packages")
    (ours,) = distributions(name="inoc_ray", path=[str(packages)])
    for one in required_by(ours):
        link(one, packages)
    return bin_folder


def required_by(root: Distribution) -> list[Distribution]:
    """What a distribution requires without extras, and what that requires, as it is installed here."""
    found: dict[str, Distribution] = {}
    waiting = [(root, "")]
    seen = set()
    while waiting:
        one, extra = waiting.pop()
        for text in one.requires or ():
            requirement = Requirement(text)
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            name = canonicalize_name(requirement.name)
            found.setdefault(name, distribution(name))
            for wanted in ("", *requirement.extras):
                if (name, wanted) not in seen:
                    seen.add((name, wanted))
                    waiting.append((found[name], wanted))
    return list(found.values())


def link(one: Distribution, packages: Path) -> None:
    """Link the top-level files and folders of a distribution."""
    for name in {file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "__pycache__")}:
        place, there = packages / name, Path(str(one.locate_file(name)))
        if not place.exists() and there.exists():
            place.symlink_to(there)
