"""A trial whose worker and whose command are killed at random moments ends with the curve of one that never was."""

import threading
import time

import psutil
import pytest
from killing import Killed
from tiny_base import chat_rows, make_base, make_spec

from inoc_ray.cluster.connect import connected
from inoc_ray.store import snapshots
from inoc_ray.store.store import Store
from inoc_ray.study.resources import Resources
from inoc_ray.train.group import train_group
from inoc_ray.train.job import TrialJob

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
    assert run.output.count("goes on after step") == 3
    assert "1 of 1 trials in training took a snapshot just now" in run.output
    assert not run.store.snapshots(run.trial_id).exists()


def runs(actor: str) -> bool:
    """Whether an actor of that class has started: Ray starts none on a node that is drained."""
    return any(f"ray::{actor}" in "".join(p.cmdline()[:1]) for p in psutil.Process().children(recursive=True))


def drain_this_node() -> None:
    """Tell Ray that the node is lost in ten minutes, as an autoscaler does for one that is preempted."""
    import ray
    from ray.core.generated import autoscaler_pb2

    accepted, why = ray._raylet.GcsClient(address=ray.get_runtime_context().gcs_address).drain_node(
        ray.get_runtime_context().get_node_id(),
        autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "the test says so",
        int(1000 * (time.time() + 600)),
    )
    assert accepted, why


def test_on_notice_that_its_node_is_drained_a_fine_tune_takes_a_snapshot_and_goes_on(tmp_path):
    store = Store(tmp_path / "store")
    # Sixteen passes a step make a fine-tune that lasts long enough without being large.
    spec = make_spec(make_base(tmp_path / "base"), steps=250, micro_batch_size=1, snapshot_minutes=1000.0)
    job = TrialJob(trial_id="a", label="a", spec=spec, rows=[row.to_dict() for row in chat_rows()])
    taken: list[int] = []

    def notice() -> None:
        while not ((store.attempts("run") / "a").exists() and runs("PreemptionWatcher")):
            time.sleep(0.1)
        drain_this_node()
        while not taken:
            taken.extend(snapshots.read(place).about["step"] for place in snapshots.committed(store.snapshots("a")))
            time.sleep(0.1)

    with connected():
        threading.Thread(target=notice, daemon=True).start()
        outcomes = train_group([job], Resources(micro_batch_size=1), str(store.root), run_name="run")
    assert [outcome.status for outcome in outcomes] == ["trained"]
    assert len(taken) == 1
    assert 0 < taken[0] < 250
    assert [record["step"] for record in store.read_curves("a")] == list(range(1, 251))
    assert store.read_trial("a")["training"]["resumed"] == []
