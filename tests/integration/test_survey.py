"""Every node of a cluster is asked before anything starts, from wherever the command runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ray_nodes import Nodes, ray_nodes

from inoc_ray.cluster import nodes
from inoc_ray.cluster.checks import Needs
from inoc_ray.cluster.connect import connected
from inoc_ray.cluster.fit import Node
from inoc_ray.cluster.survey import survey
from inoc_ray.cluster.versions import versions
from inoc_ray.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """A head and two nodes of one core."""
    with ray_nodes(1, 1) as nodes:
        yield nodes


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def needs(storage: Path, **changes: Any) -> Needs:
    return Needs(**{"storage": str(storage), "versions": versions(), "workers": (Node(1, 0),), **changes})


def test_nodes_that_have_everything_report_and_leave_nothing(cluster: Nodes, storage: Path):
    with connected():
        reports = survey(needs(storage))
        assert sorted(node.cpus for node, _ in reports) == [0, 1, 1]
        assert all(report.faults == () and report.host_bytes > 1 << 30 for _, report in reports)
        assert list(storage.iterdir()) == []


def test_each_node_that_fails_has_one_line_and_nodes_without_work_need_no_models(
    cluster: Nodes, storage: Path, tmp_path: Path
):
    missing = {str(tmp_path / "model"): {"config.json": "hash 00"}}
    with connected(), pytest.raises(InputError) as caught:
        survey(needs(storage, versions={**versions(), "torch": "1.0"}, models=missing))
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("node 127.0.0.1 (") and "torch 2.13.0, and 1.0 where" in line for line in lines)
    # The head has no CPU to give away.
    assert sum("no model folder" in line for line in lines) == 2
    assert list(storage.iterdir()) == []


def test_a_node_that_does_not_answer_costs_no_more_than_the_limit(cluster: Nodes, storage: Path):
    asleep = cluster.workers[0]
    (process,) = asleep.all_processes["raylet"]
    with connected():
        (name,) = (n["NodeID"] for n in ray.nodes() if n["NodeID"] == asleep.node_id)
        os.kill(process.process.pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            with pytest.raises(InputError, match=rf"^node 127.0.0.1 \({name[:8]}\): no answer within 6 s: [^\n]*$"):
                survey(needs(storage), seconds=6)
        finally:
            os.kill(process.process.pid, signal.SIGCONT)
        assert time.monotonic() - began < 12
    assert list(storage.iterdir()) == []


def test_what_the_head_alone_has_is_asked_there_from_any_node(cluster: Nodes):
    """Run on a node that is not the head, as the driver of a job with resources of its own is."""

    def there(head: str) -> tuple[bool, bool]:
        from inoc_ray.cluster import nodes

        return nodes.on_head(), nodes.ask_head(nodes.on_head)

    with connected():
        assert nodes.on_head()
        head = nodes.head_node()
        assert head is not None
        other = next(node["NodeID"] for node in nodes.alive() if node["NodeID"] != head["NodeID"])
        task = ray.remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(other, soft=False))(there)
        assert ray.get(task.remote(head["NodeID"]), timeout=60) == (False, True)


def test_an_endpoint_that_is_started_from_another_node_is_reached_there_and_has_a_key(cluster: Nodes):
    def there() -> tuple[str, str | None, int, int]:
        import urllib.request

        from ray import serve

        from inoc_ray.serve import app
        from inoc_ray.serve.spec import ServeSpec

        spec = app._reachable(ServeSpec(model=Path("m"), model_id="m"), "127.0.0.1")
        app._start_serve(spec)

        @serve.deployment(ray_actor_options={"num_cpus": 0})
        class Answers:
            def __call__(self, request: Any) -> str:
                return "here"

        try:
            serve.run(Answers.bind(), name="answers", route_prefix="/")
            port = app.serve_client().http_config.port
            with urllib.request.urlopen(f"http://{app._host(spec.host)}:{port}/", timeout=20) as answer:
                return spec.host, spec.api_key, answer.status, port
        finally:
            serve.shutdown()

    with connected():
        head = nodes.head_node()
        assert head is not None
        other = next(node["NodeID"] for node in nodes.alive() if node["NodeID"] != head["NodeID"])
        task = ray.remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(other, soft=False))(there)
        host, key, status, _ = ray.get(task.remote(), timeout=120)
    assert (host, status) == (head["NodeManagerAddress"], 200)
    assert key is not None
    assert len(key) > 30


def test_a_run_that_a_node_cannot_serve_ends_with_2_before_anything_starts(cluster: Nodes, tmp_path: Path):
    """Ray was told of a GPU that is not there."""
    told = cluster.add(1, gpus=1)
    study = {
        "name": "gpu",
        "settings": ["miniature/spanish_caps"],
        "arms": ["baseline"],
        "seeds": [0],
        "recipes": {"lora": {"learning_rate": 2e-3, "steps": 2, "batch_size": 16}},
        "resources": {"gpus_per_worker": 1},
        "storage": str(tmp_path / "runs"),
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "inoc_ray.cli", "run", str(tmp_path / "study.yaml")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    finally:
        cluster.kill(told)
    assert done.returncode == 2, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "node 127.0.0.1" in line)
    assert f"node 127.0.0.1 ({told.node_id[:8]}): torch's build is for CPUs" in line
    assert not (tmp_path / "runs" / "trials").exists()
    assert not [path for path in (tmp_path / "runs").iterdir() if path.name.startswith(".probe")]
