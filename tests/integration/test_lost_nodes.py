"""Nodes that go and come while a fine-tune runs: it goes on with fewer workers, grows back, and says so in one line each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import sweep_program
from ray_nodes import Nodes, ray_nodes
from sweep_program import plan_of
from tiny_base import make_base

pytestmark = pytest.mark.slow

STEPS = 1500
ELASTIC = {"workers": 2, "min_workers": 1, "micro_batch_size": 4, "zero_stage": 2, "snapshot_minutes": 0.02}


@pytest.fixture
def cluster() -> Iterator[Nodes]:
    """Two nodes of one core."""
    with ray_nodes(1, 1) as nodes:
        yield nodes


def until(what: Callable[[], object], seconds: float = 120.0) -> object:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s"
        time.sleep(0.1)
    return found


def workers_below(raylet: int) -> list[psutil.Process]:
    """The ranks that run on a node."""
    return [p for p in psutil.Process(raylet).children(recursive=True) if "RayTrainWorker" in "".join(p.cmdline()[:1])]


def test_a_fine_tune_goes_on_with_the_nodes_that_are_there_to_the_losses_of_an_unbroken_one(
    cluster: Nodes, tmp_path: Path
):
    base = make_base(tmp_path / "base")
    command = [sys.executable, sweep_program.__file__, base, str(tmp_path), json.dumps(ELASTIC), str(STEPS)]
    plan, store = plan_of(base, tmp_path, ELASTIC, STEPS)
    (trial,) = plan.trials
    with (tmp_path / "console").open("w") as console:
        run = subprocess.Popen(command, stdout=console, stderr=subprocess.STDOUT, env={**os.environ, "NO_COLOR": "1"})
        snapshots = store.snapshots(trial.trial_id)
        until(lambda: list(snapshots.glob("*")))
        cluster.kill(cluster.workers[0])
        says = tmp_path / "console"
        until(lambda: "goes on with 1 of 2 workers" in says.read_text())
        (raylet,) = (p.process.pid for p in cluster.workers[1].all_processes["raylet"])
        until(lambda: workers_below(raylet))
        cluster.add(1)
        until(lambda: "goes on with 2 of 2 workers" in says.read_text())
        assert run.wait(120) == 0
    lines = (tmp_path / "console").read_text().splitlines()
    (outcome,) = json.loads((tmp_path / "outcomes.json").read_text())
    assert (outcome["status"], outcome["error"]) == ("trained", None), lines
    assert sum("it starts again" in line for line in lines) == 1
    assert all(line.startswith("training") for line in lines if line), lines
