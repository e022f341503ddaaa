"""What a trial costs the driver, of few and of ten times as many: `pytest -m bench -s tests/benchmarks/test_bench_many_trials.py`.

Real Ray Tune, a real store, a simulated autoscaler that starts the nodes; the training is a stub.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray_nodes import autoscaled
from tiny_base import make_base

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

MOST = 1.1
"""CPU seconds of the driver per trial, of many ÷ of few."""
KIB_A_TRIAL = 150
"""What a trial may add to the driver's memory."""
CPUS, NODES = 4, 2


def measured(trials: int, per_group: int, base: str, folder: Path) -> dict[str, Any]:
    """In a fresh process, on a fresh cluster of a head alone."""
    helpers = Path(__file__).parents[1] / "helpers"
    folder.mkdir()
    with autoscaled(folder, cpus=CPUS, at_most=NODES):
        path = os.pathsep.join([str(helpers.parents[1]), str(helpers)])
        command = [sys.executable, str(helpers / "many_trials.py"), str(trials), str(per_group), base, str(folder)]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=True
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    each = {step: round(1000 * seconds / trials, 2) for step, seconds in found["steps"].items()}
    print(
        f"\n{trials} trials: {1000 * found['cpu'] / trials:.1f} ms of CPU each, {found['wall']:.0f} s in all, "
        f"{found['mib']:.0f} MiB ({found['mib_before']:.0f} before); ms a trial: {each}"
    )
    return found


@pytest.mark.parametrize(
    ("few", "many", "per_group"),
    [
        pytest.param(100, 1000, 0, id="groups-as-the-product-makes-them"),
        # As many groups as trials: each is a trial of Ray Tune.
        pytest.param(30, 300, 1, id="a-group-a-trial"),
    ],
)
def test_a_trial_costs_the_driver_the_same_among_ten_times_as_many(tmp_path: Path, few: int, many: int, per_group: int):
    base = make_base(tmp_path / "base")
    found = {trials: measured(trials, per_group, base, tmp_path / str(trials)) for trials in (few, many)}
    ratio = (found[many]["cpu"] / many) / (found[few]["cpu"] / few)
    grown = 1024 * (found[many]["mib"] - found[many]["mib_before"]) / many
    print(f"{many} ÷ {few}: {ratio:.2f}; {grown:.0f} KiB a trial")
    assert ratio <= MOST
    assert grown <= KIB_A_TRIAL
