"""A trial whose worker, command and cluster are killed and stopped at random moments ends with the curve of an unbroken one."""

import contextlib

import pytest
from killing import Killed, enough_steps
from ray_nodes import ray_nodes
from tiny_base import make_base

pytestmark = pytest.mark.slow

MINUTES = 0.015
SLACK_S = 1.5
"""A step, the snapshot itself, and the looks in between, on a machine that does other things too."""


def test_a_killed_worker_command_and_cluster_and_a_stop_cost_at_most_the_interval_and_a_line_each(tmp_path):
    """A lost node is in test_lost_nodes.py; ten of each in tests/benchmarks.

    With the cluster everything is gone but the storage: head, worker node, workers and command.
    """
    base = make_base(tmp_path / "base")
    steps = enough_steps(base, 4, MINUTES)
    run = Killed(base, tmp_path / "store", {"steps": steps, "minutes": MINUTES})
    expected = run.unbroken_curve()
    with contextlib.ExitStack() as stack:
        stack.callback(run.close)
        run.start()
        run.kill("worker")
        run.kill("driver", go_on=False)
        # The command that follows the killed one has no Ray of its own, but two nodes. While they start nothing trains.
        run.nodes = stack.enter_context(ray_nodes(1))
        run.go_on()
        run.kill("cluster")
        run.kill("stop", go_on=False)
    for kill in run.kills:
        assert kill.seconds_lost <= 60 * MINUTES + SLACK_S, kill
    of_worker, of_driver, of_cluster, *_ = run.said()
    assert "worker 0 died; it goes on after step" in of_worker, run.output
    assert "goes on after step" in of_driver, run.output
    assert "goes on after step" in of_cluster, run.output
    assert run.output.count("goes on after step") == 3
    assert "1 of 1 trials in training took a snapshot just now" in run.output
    # The rest in this process: that a command goes on has been seen.
    records, result = run.go_on_here()
    assert [record.step for record in records] == list(range(1, steps + 1))
    assert [record.loss for record in records] == expected
    assert [one.after_step for one in result.resumed] == sorted(one.after_step for one in result.resumed)
    assert len(result.resumed) == 4
