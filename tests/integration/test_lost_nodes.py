"""Nodes that go and come while a fine-tune runs: it goes on with fewer workers, grows back, and says so in one line each."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import sweep_program
from ray_nodes import Nodes, autoscaled, ray_nodes
from sweep_program import plan_of
from tiny_base import chat_rows, make_base, make_spec

from inoc_ray.cluster.connect import connected
from inoc_ray.cluster.fit import Node, concurrent_groups
from inoc_ray.data.tokenize import encode_rows, load_tokenizer
from inoc_ray.errors import InputError
from inoc_ray.plan.plan import Plan
from inoc_ray.serve.owner import reclaim
from inoc_ray.store import snapshots
from inoc_ray.store.store import Store
from inoc_ray.study.resources import GroupResources, Resources
from inoc_ray.train import room
from inoc_ray.train.group import train_group
from inoc_ray.train.job import TrialJob
from inoc_ray.train.loop import train
from inoc_ray.train.process import set_threads
from inoc_ray.train.room import NoRoom, Patience, give_up, wait_for_room
from inoc_ray.train.spec import StepRecord
from inoc_ray.train.sweep import job_of
from inoc_ray.train.worker import read_rows

pytestmark = pytest.mark.slow

STEPS = 300
ELASTIC = {"workers": 2, "min_workers": 1, "micro_batch_size": 4, "zero_stage": 2, "snapshot_minutes": 0.02}


SERVES = """
import sys, time
from ray import serve
from inoc_ray.cluster.connect import connected
from inoc_ray.serve.owner import note_engine

@serve.deployment
class Engine:
    pass

with connected():
    note_engine("left")
    serve.start(proxy_location="Disabled")
    if sys.argv[1] == "deployed":
        serve.run(Engine.options(ray_actor_options={"num_cpus": 1}).bind(), name="left", route_prefix=None)
    print("serves", flush=True)
    time.sleep(600)
"""
"""A command that serves until it is killed; an application that needs no vLLM, noted as `serve.app` notes an engine."""


@pytest.fixture(scope="module")
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


def losses_alone(plan: Plan, store: Store, steps: int) -> list[float]:
    """The first losses of the plan's fine-tune, trained here on one rank and never broken off."""
    job = job_of(plan, store, plan.trials[0])
    recipe = job.spec.recipe
    rows = encode_rows(
        load_tokenizer(job.spec.model), read_rows(job, store), max_length=recipe.max_length, label="rows"
    )
    losses: list[float] = []

    class Enough(Exception):
        pass

    def on_step(record: StepRecord) -> None:
        losses.append(record.loss)
        if len(losses) == steps:
            raise Enough

    set_threads(1)
    with pytest.raises(Enough):
        train(job.spec, rows, on_step, out=None)
    return losses


def test_a_wait_says_what_it_waits_for_takes_fewer_where_it_may_and_ends(
    cluster: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(room, "FIRST_LINE_SECONDS", 1.0)
    monkeypatch.setattr(room, "NARROWER_AFTER_SECONDS", 2.0)
    told: list[str] = []
    with connected():
        held = ray.util.placement_group([{"CPU": 1}])
        assert held.wait(30)
        with pytest.raises(
            NoRoom, match=r"no room for 2 workers of 1 CPU each for 0.1 minutes \(free: 1 CPU; up: 2 nodes of 1"
        ):
            wait_for_room([2], Node(1, 0), patience=Patience(0.1), tell=told.append)
        assert len(told) == 1
        assert told[0].startswith(
            "waiting for room for 2 workers of 1 CPU each (free: 1 CPU; up: 2 nodes of 1 CPU, 1 node of"
        )
        assert wait_for_room([2, 1], Node(1, 0), patience=Patience(1), tell=told.append) == 1
        # What a driver left that died with its node, and what the next one gives up.
        left = Store(tmp_path).room_of("run")
        left.write_text(held.id.hex())
        give_up(left)
        assert not left.exists()
        assert wait_for_room([2, 1], Node(1, 0), patience=Patience(1), tell=told.append) == 2


def test_a_cluster_of_a_head_alone_is_enough_if_its_autoscaler_may_start_the_nodes(tmp_path: Path):
    with autoscaled(tmp_path, cpus=2, at_most=1), connected() as capacity:
        assert concurrent_groups(GroupResources(workers=2), capacity, 4) == 1
        with pytest.raises(InputError, match="3 workers × 1 CPU = 3 CPU, and the cluster has 2"):
            concurrent_groups(GroupResources(workers=3), capacity, 1)
        assert wait_for_room([2], Node(1, 0), patience=Patience(2), tell=print) == 2


@pytest.mark.parametrize("killed", ["deployed", "before the first engine"])
def test_an_engine_is_left_alone_while_its_command_lives_and_taken_down_when_it_is_gone(cluster: Nodes, killed: str):
    with subprocess.Popen([sys.executable, "-c", SERVES, killed], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        try:
            assert command.stdout.readline() == "serves\n"
            with connected():
                assert reclaim() == []
                assert ray.available_resources()["CPU"] == (1 if killed == "deployed" else 2)
                assert ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
                command.kill()
                assert until(reclaim) == ["left"]
                until(lambda: ray.available_resources().get("CPU") == 2)
                with pytest.raises(ValueError, match="Failed to look up actor"):
                    ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
                assert [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)] == []
                assert reclaim() == []
        finally:
            command.kill()


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
        cluster.add(1)
        until(lambda: "goes on with 2 of 2 workers" in says.read_text())
        assert run.wait(400) == 0
    lines = (tmp_path / "console").read_text().splitlines()
    (outcome,) = json.loads((tmp_path / "outcomes.json").read_text())
    assert (outcome["status"], outcome["error"]) == ("trained", None), lines
    assert sum("it goes on after step" in line for line in lines) == 1, lines
    assert all(line.startswith("training") for line in lines if line), lines
    resumed = store.read_trial(trial.trial_id)["training"]["resumed"]
    assert [r["world_size"] for r in resumed] == [1, 2]
    curve = store.read_curves(trial.trial_id)
    assert [r["step"] for r in curve] == list(range(1, STEPS + 1))
    compared = resumed[1]["after_step"] + 20
    # Sums in another order, as in test_train_loop.py.
    assert [r["loss"] for r in curve[:compared]] == pytest.approx(losses_alone(plan, store, compared), abs=2e-5)


def runs(actor: str) -> bool:
    """Whether an actor of that class has started: Ray starts none on a node that is drained."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if f"ray::{actor}" in "".join(process.cmdline()[:1]):
                return True
    return False


def drain(node: Any) -> None:
    """Tell Ray that the node is lost in ten minutes, as an autoscaler does for one that is preempted."""
    from ray.core.generated import autoscaler_pb2

    accepted, why = ray._raylet.GcsClient(address=ray.get_runtime_context().gcs_address).drain_node(
        node.node_id,
        autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "the test says so",
        int(1000 * (time.time() + 600)),
    )
    assert accepted, why


def slowly(worker: psutil.Process, seen: Callable[[], bool]) -> None:
    """Give a process a fifth of the time until something is seen: what it does takes long enough, however fast the machine is."""
    while not seen():
        worker.suspend()
        try:
            time.sleep(0.2)
        finally:
            worker.resume()
        time.sleep(0.05)


def test_a_node_that_is_going_to_be_lost_costs_no_step(cluster: Nodes, tmp_path: Path):
    """A group is told, on a cluster whose head has the drivers' resource as a team's has: it takes a snapshot, and goes on.

    Ray starts nothing on the node from then on, so this is the last test on this cluster.
    """
    store = Store(tmp_path / "store")
    spec = make_spec(make_base(tmp_path / "base"), steps=120, micro_batch_size=4, snapshot_minutes=1000.0)
    job = TrialJob(trial_id="c", label="setting/c", spec=spec, rows=[row.to_dict() for row in chat_rows()])
    taken: list[int] = []

    def seen() -> bool:
        taken.extend(snapshots.read(p).about["step"] for p in snapshots.committed(store.snapshots("c")))
        return bool(taken)

    def drain_it() -> None:
        mark = store.attempts("drained") / "c"
        until(mark.exists, 400)
        worker = int(mark.read_text())
        slowly(psutil.Process(worker), lambda: runs("PreemptionWatcher"))
        drain(cluster.of(worker))
        slowly(psutil.Process(worker), seen)

    with connected():
        threading.Thread(target=drain_it, daemon=True).start()
        resources = Resources(workers=1, micro_batch_size=4)
        (outcome,) = train_group([job], resources, str(store.root), run_name="drained")
    assert outcome.status == "trained"
    assert len(taken) == 1
    assert 0 < taken[0] < 120
    assert [record["step"] for record in store.read_curves("c")] == list(range(1, 121))
    assert store.read_trial("c")["training"]["resumed"] == []
