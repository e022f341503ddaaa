"""The quickstart's study from start to end beside two rivals that do the same work: ratios of wall time on an idle machine.

Its fine-tunes take 60 steps here, three times the quickstart's, as in all measurements so far.

The rivals are in `tests/helpers/rivals.py`: the best single process, and the usual script with a process and an engine for each
fine-tune, of which two fine-tunes and the base are measured and the others taken to be as long.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from core_seconds import measured
from environment import BIN, environment

from inoc_ray.store.store import Store

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "jobs" / "studies" / "quickstart.yaml"
RIVALS = ROOT / "tests" / "helpers" / "rivals.py"
MOST_SECONDS, MOST_OF_BEST, MOST_OF_USUAL = 90.0, 1.0, 0.24
AGAIN_SECONDS = 3.0
WARM_SECONDS, FIRST_SECONDS = 0.5, 4.0
"""What a fine-tune takes beside its steps: rows, model, export, commit; the first of a group imports the libraries, too."""


def study(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.yaml"
    quickstart = yaml.safe_load(QUICKSTART.read_text())
    recipes = {"lora": {**quickstart["recipes"]["lora"], "learning_rate": 5e-3, "steps": 60}}
    value = {**quickstart, "recipes": recipes, "storage": str(folder / "runs"), **changes}
    path.write_text(yaml.safe_dump(value))
    return path


def seconds_of(folder: Path, *arguments: object, threads: int = 1) -> float:
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    env = {
        **environment(),
        "RIVAL_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(RIVALS.parent)]),
    }
    with (folder / "rival.log").open("a") as log:
        subprocess.run([sys.executable, RIVALS, *map(str, arguments)], check=True, env=env, stdout=log, stderr=log)
    return time.monotonic() - began


def run(path: Path) -> tuple[float, dict[str, float]]:
    """Seconds of the command from its start to its exit, and core-seconds by kind of process."""
    with (path.parent / "run.log").open("w") as log:
        seconds, kinds, code = measured(
            [str(BIN / "inoc-ray"), "run", str(path)], env=environment(), stdout=log, stderr=log
        )
    assert code == 0, (path.parent / "run.log").read_text()[-4000:]
    return seconds, kinds


def texts(folder: Path) -> list[str]:
    parts = sorted((folder / "runs" / "evaluations").rglob("samples-*.parquet"))
    return sorted(text for part in parts for text in pd.read_parquet(part)["text"])


def beside_their_steps(folder: Path) -> list[float]:
    """Seconds that each fine-tune took beside its optimizer steps, in the order in which they were committed."""
    store = Store(folder / "runs")
    records = [store.read_trial(path.name) for path in (folder / "runs" / "trials").iterdir()]
    records.sort(key=lambda record: record["committed_at"])
    return [record["training"]["seconds_total"] - record["training"]["seconds_training"] for record in records]


def test_the_quickstart_beside_the_best_single_process_and_the_usual_script(tmp_path: Path):
    path = study(tmp_path / "ours")
    ours, kinds = run(path)
    again, _ = run(path)
    print(f"\nthe study {ours:.1f} s, {sum(kinds.values()):.0f} core-s:")
    for kind, spent in kinds.items():
        print(f"  {spent:6.1f} {spent / sum(kinds.values()):5.1%}  {kind}")
    print(f"finished and resubmitted {again:.1f} s")
    first, *warm = beside_their_steps(tmp_path / "ours")
    print(
        f"beside its steps the first fine-tune takes {first:.2f} s, the others {statistics.median(warm):.2f} s (median)"
    )
    best = {n: seconds_of(tmp_path / f"best-{n}", "best", path, tmp_path / f"best-{n}", threads=n) for n in (1, 2)}
    print(f"best single process: {best[1]:.1f} s on one core, {best[2]:.1f} s on two")
    # The rival does the same work: most of its answers are ours to the letter (threads and batches change last bits).
    theirs = sorted(json.loads((tmp_path / "best-1" / "answers-all.json").read_text()))
    same = len(set(theirs) & set(texts(tmp_path / "ours"))) / len(set(theirs))
    print(f"answers of the rival that are ours, too: {same:.1%} of {len(theirs)}")
    assert same > 0.9
    usual_folder = tmp_path / "usual"
    steps = [(way, number) for number in (0, 3) for way in ("train", "ask")]
    each = sum(seconds_of(usual_folder, way, path, usual_folder, number, threads=2) for way, number in steps) / 2
    base = seconds_of(usual_folder, "ask", path, usual_folder, "base", threads=2)
    usual = 8 * each + base
    print(f"usual script: {each:.1f} s a fine-tune, {base:.1f} s the base, {usual:.0f} s in all")
    ratios = ours / min(best.values()), ours / usual
    print(f"ours ÷ best single process {ratios[0]:.2f}, ÷ usual script {ratios[1]:.2f}")
    assert ours <= MOST_SECONDS
    assert ratios[0] <= MOST_OF_BEST
    assert ratios[1] <= MOST_OF_USUAL
    assert again <= AGAIN_SECONDS
    assert first <= FIRST_SECONDS
    assert statistics.median(warm) <= WARM_SECONDS


def test_overlap_and_phased_take_their_time_and_give_the_same_samples(tmp_path: Path):
    found = {}
    for schedule in ("overlap", "phased"):
        resources = {**yaml.safe_load(QUICKSTART.read_text())["resources"], "schedule": schedule}
        seconds, kinds = run(study(tmp_path / schedule, resources=resources))
        found[schedule] = texts(tmp_path / schedule)
        print(f"\n{schedule}: {seconds:.1f} s, {sum(kinds.values()):.0f} core-s", end="")
    print()
    assert found["overlap"] == found["phased"]
