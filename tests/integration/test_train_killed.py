"""A trial whose worker and whose command are killed at random moments ends with the curve of one that never was."""

import pytest
from killing import Killed
from tiny_base import make_base

pytestmark = pytest.mark.slow

MINUTES = 0.03
SLACK_S = 1.5
"""A step, the snapshot itself, and the looks in between, on a machine that does other things too."""


def test_a_killed_worker_a_killed_command_and_a_stopped_one_cost_at_most_the_interval_and_no_step(tmp_path):
    run = Killed(
        make_base(tmp_path / "base"), tmp_path / "store", {"steps": 400, "minutes": MINUTES, "max_failures": 2}
    )
    expected = run.unbroken_curve()
    run.start()
    for what in ("worker", "driver", "stop"):
        run.kill(what)
    assert run.finish() == expected
    for kill in run.kills:
        assert kill.seconds_lost <= 60 * MINUTES + SLACK_S, kill
    trial = run.store.read_trial(run.trial_id)["training"]
    assert len(trial["resumed"]) == 3
    steps = [one["after_step"] for one in trial["resumed"]]
    assert steps == sorted(steps)
    assert trial["steps"] == 400
    assert run.output.count("it goes on from its snapshot after step") == 1
    assert run.output.count("goes on after step") == 2
    assert "1 of 1 trials in training took a snapshot just now" in run.output
    assert not run.store.snapshots(run.trial_id).exists()
