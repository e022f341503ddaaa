"""`make gpu-check` runs with what it says that it needs and nothing else, and sees a curve that is off."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
NEEDS = ("torch", "transformers", "peft", "deepspeed")


@pytest.fixture
def check(monkeypatch):
    """The command's module."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "gpu"))
    import check

    return check


def closure(names: tuple[str, ...]) -> set[str]:
    """The distributions that these ask for, with what those ask for."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            asked = [Requirement(line) for line in importlib.metadata.requires(name) or ()]
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        waiting += [canonicalize_name(r.name) for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def link_packages(names: set[str], folder: Path) -> None:
    """Put links to these distributions alone into the folder: what an import finds there is what the user would have."""
    for name in names:
        files = importlib.metadata.distribution(name).files or ()
        for top in {path.parts[0] for path in files if path.parts[0] not in ("..", "__pycache__")}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(importlib.metadata.distribution(name).locate_file(top)))


@pytest.mark.slow
def test_it_runs_with_these_four_packages_alone_outside_any_environment(check, tmp_path):
    packages = tmp_path / "packages"
    packages.mkdir()
    link_packages(closure(NEEDS), packages)
    # -S: the interpreter under the environment has packages of its own on some machines.
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.base_prefix}/bin/python3 -S "$@"\n')
    python.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(packages)}
    out = tmp_path / "table.md"
    done = subprocess.run(
        ["make", "gpu-check", f"GPU_PYTHON={python}", f"TABLE={out}"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = out.read_text()
    assert text in done.stdout
    assert "No GPU: small models stand in" in text
    assert len(re.findall(r"^\| Qwen2\.5-(?:7B|32B)", text, re.MULTILINE)) == len(check.CASES)
    assert "FAILED" not in text
    assert len(re.findall(r"^- packed \(.+?\), as resources.layout says", text, re.MULTILINE)) == 1


@pytest.mark.slow
def test_the_configurations_are_those_of_the_named_models(check):
    from run_cases import parameters_of

    assert parameters_of(check.CASES[0].model.config) == 7_615_616_512
    assert check.CASES[0].model.name == "Qwen2.5-7B"
    from cases import QWEN_32B

    assert parameters_of(QWEN_32B) == 32_763_876_352


def test_a_curve_that_is_off_or_missing_fails_the_check(check):
    curve = check.CURVES[0]
    expected = {curve.recipe["method"]: [2.0, 1.5]}
    assert check.curve_table([curve], [[2.0, 1.5 + curve.tolerance / 2]], expected)[1]
    for got in ([2.0, 1.5 + 2 * curve.tolerance], [2.0], []):
        text, good = check.curve_table([curve], [got], expected)
        assert not good
        assert "FAILED" in text


def test_a_fine_tune_that_does_not_fit_is_a_line_and_the_straight_line_needs_both_points(check):
    case = check.CASES[0]
    assert "OutOfMemoryError: 3 GiB" in check.speed_table([case], [{"error": "OutOfMemoryError: 3 GiB"}])
    wide = [c for c in check.CASES if c.model.name.startswith("Qwen2.5-32B")]
    found = [{"seconds_per_token": 2e-5, "peak": 4 * check.GIB}, {"seconds_per_token": 3e-5, "peak": 5 * check.GIB}]
    # 2e-5 + 63 × 1e-5 s a token; 4 + 63 × 1 GiB
    assert "1,538 tokens/s, 67.0 GiB" in check.scaled(wide, found)
    assert check.scaled(wide, [{"error": "…"}, found[1]]) is None
