"""What ten kills cost a fine-tune (of process, worker, node, command, cluster) at random moments: steps and seconds are printed."""

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from killing import Killed, enough_steps
from ray_nodes import ray_nodes
from tiny_base import make_base

pytestmark = pytest.mark.bench

KILLS = 10
MINUTES = 0.015
SLACK_S = 1.0
"""A step, the snapshot itself, and the looks in between."""


@pytest.mark.timeout(1200)
def test_ten_kills_of_the_process_alone(tmp_path, capsys):
    """The loop without Ray: SIGKILL, and a new process that goes on."""
    changes = {"zero_stage": 2, "precision": "bf16", "lora": {"dropout": 0.1}, "steps": 500}
    runs = {
        "killed": {"workers": 1, "changes": changes, "kills": KILLS, "minutes": 0.02},
        "unbroken": {"workers": 1, "changes": changes},
    }
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    helpers = Path(__file__).parents[1] / "helpers"
    path = os.pathsep.join([str(helpers.parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(helpers / "snapshot_program.py"), make_base(tmp_path / "base"), str(tmp_path)]
    subprocess.run(
        [*command, str(tmp_path / "runs.json")],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    found = json.loads((tmp_path / "results.json").read_text())
    killed, unbroken = found["killed"], found["unbroken"]
    assert "error" not in killed, killed["error"]
    with capsys.disabled():
        print(f"\n{KILLS} × SIGKILL of the process, a snapshot every 1.2 s:")
        for what, unit in (("steps", "steps of work"), ("seconds", "s of work"), ("started", "s until the next step")):
            values = [one[what] for one in killed["kills"]]
            print(f"  {min(values):.1f} to {max(values):.1f} {unit}")
    assert (killed["losses"], killed["weights"]) == (unbroken["losses"], unbroken["weights"])
    assert len(killed["resumed"]) == KILLS


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("what", ["worker", "raylet", "driver", "cluster"])
def test_ten_kills(tmp_path, what, capsys):
    """Each at a random moment of the two intervals after a new snapshot, so that it is the product that bounds what is lost."""
    base = make_base(tmp_path / "base")
    options = {"steps": enough_steps(base, KILLS, MINUTES), "minutes": MINUTES, "max_failures": 1}
    run = Killed(base, tmp_path / "store", options, seed=1, intervals=2.0)
    expected = run.unbroken_curve()
    with contextlib.ExitStack() as stack:
        stack.callback(run.close)
        if what == "raylet":
            # Two nodes of one core: the fine-tune goes on on the other one, and a new one takes the place of the lost.
            run.nodes = stack.enter_context(ray_nodes(1, 1))
        if what == "cluster":
            run.nodes = stack.enter_context(ray_nodes(1))
        run.start()
        for _ in range(KILLS):
            run.kill(what)
        found = run.finish()
    curve = run.store.read_curves(run.trial_id)
    pace = statistics.median(record["tokens"] / record["tokens_per_second"] for record in curve)
    lost = [kill.seconds_lost for kill in run.kills]
    recovery = [kill.seconds_to_recover for kill in run.kills]
    resumed = [one["after_step"] for one in run.store.read_trial(run.trial_id)["training"]["resumed"]]
    said = run.said()
    with capsys.disabled():
        print(f"\n{KILLS} × SIGKILL of the {what}, a snapshot every {60 * MINUTES:g} s, {1000 * pace:.0f} ms a step:")
        print(f"  lost: {min(lost):.1f} to {max(lost):.1f} s of work, at most {max(lost) / pace:.0f} steps")
        print(
            f"  until the next step: {min(recovery):.1f} to {max(recovery):.1f} s, median {statistics.median(recovery):.1f} s"
        )
        print(f"  went on after steps {resumed}; curve equal: {found == expected}")
        print("".join(f"  {line}\n" for line in dict.fromkeys(said)))
    assert found == expected
    assert len(resumed) == KILLS
    # A worker lives on for a moment when its node or command is gone, and may write one more snapshot.
    assert [kill.next_step for kill in run.kills] == [step + 1 for step in resumed]
    assert all(step >= kill.kept for step, kill in zip(resumed, run.kills, strict=True))
    assert max(lost) <= 60 * MINUTES + SLACK_S
    # Ray may notice the end of a node's processes before that of the node.
    how = {
        "worker": r"training: .*: worker 0 died; it",
        "raylet": r"training: .*: (lost node 127\.0\.0\.1|worker 0 died); it",
    }
    lines = [rf"{how.get(what, '.*:')} goes on after step {step}\b.*, from its last snapshot\.?" for step in resumed]
    assert len(said) == KILLS, run.output
    assert all(re.fullmatch(line, one) for line, one in zip(lines, said, strict=True)), said
