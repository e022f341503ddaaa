"""The locks against the package index itself: the resolver, handed the pins, has nothing to change and nothing to add."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REQUIREMENTS = Path(__file__).parents[2] / "requirements"
PURE = ("deepspeed", "rouge-score", "sqlitedict", "word2number")
"""Published without a wheel, in Python alone; everything else has a wheel for each Python."""
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def resolve(*args: object, python: str = "3.11", glibc: str = "2_28") -> "subprocess.CompletedProcess[str]":
    """`uv pip compile` for Linux on x86-64, which asks the index alone: no local wheels, no settings of this machine."""
    own = ("UV_FIND_LINKS", "UV_TORCH_BACKEND", "UV_CONFIG_FILE")
    assert UV is not None
    return subprocess.run(
        [
            UV,
            "pip",
            "compile",
            "--no-config",
            "--python-version",
            python,
            "--python-platform",
            f"x86_64-manylinux_{glibc}",
            "--no-header",
            "--no-annotate",
            "-q",
            *map(str, args),
        ],
        env={k: v for k, v in os.environ.items() if k not in own},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> None:
    """Skips where no index answers: then nothing can be said about the locks."""
    if UV is None:
        pytest.skip("uv is not installed; run `make setup`")
    one = tmp_path_factory.mktemp("index") / "one.in"
    one.write_text("iniconfig\n")
    answer = resolve(one)
    if answer.returncode:
        pytest.skip(f"no package index answers here: {answer.stderr.strip().splitlines()[-1]}")


def lines(*locks: str) -> list[str]:
    return sorted(line for lock in locks for line in (REQUIREMENTS / f"{lock}.txt").read_text().splitlines())


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_gpu_lock_satisfies_itself(index, tmp_path, python):
    """With the development lock, as `make setup LOCK=gpu` installs both."""
    answer = resolve(REQUIREMENTS / "gpu.txt", REQUIREMENTS / "dev.txt", python=python)
    assert answer.returncode == 0, answer.stderr
    assert sorted(answer.stdout.split()) == lines("gpu", "dev")


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_index_has_everything_of_the_cpu_lock_but_torch(index, tmp_path, python):
    """Torch's CPU build comes from elsewhere; what the others ask for is checked by what is installed (test_locks.py)."""
    wheels = ["--only-binary", ":all:", *(option for name in PURE for option in ("--no-binary", name))]
    rest = [line for line in lines("cpu", "dev") if not line.startswith("torch==")]
    (tmp_path / "rest.in").write_text("\n".join(rest))
    answer = resolve("--no-deps", *wheels, tmp_path / "rest.in", python=python, glibc="2_35")
    assert answer.returncode == 0, answer.stderr
    assert sorted(answer.stdout.split()) == sorted(rest)
