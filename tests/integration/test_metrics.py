"""What Prometheus finds on a node of a cluster while a study runs there: our numbers, vLLM's and Ray's."""

import os
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import httpx
import pytest
from dashboard import GPUS_ALONE, metrics_of, queries
from finished_study import write_study
from rank_program import free_port

from inoc_ray.cluster.connect import LOCAL_OBJECT_STORE_BYTES, connected
from inoc_ray.console import Progress
from inoc_ray.miniature import weights_path
from inoc_ray.plan.build import build_plan
from inoc_ray.run.load import load_with_store
from inoc_ray.run.metrics import exported
from inoc_ray.run.outcome import StudyOutcome
from inoc_ray.serve.app import serving
from inoc_ray.serve.spec import ServeSpec

# Opt-in until it has been seen to hold to its end.
pytestmark = [pytest.mark.slow, pytest.mark.bench, pytest.mark.timeout(240)]

NOT_HERE = {"ray_vllm_num_preemptions_total"}
"""A counter of what does not happen here, which may be left out until it does."""
WAIT = 60.0
"""Ray passes metrics on every 10 s, from a process to its node's exporter, which looks at the node every 5 s."""


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the exporter of a cluster of one node, which commands of ours join."""
    from ray.cluster_utils import Cluster

    port = free_port()
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "node_ip_address": "127.0.0.1",
            "num_cpus": 2,
            "include_dashboard": False,
            "object_store_memory": LOCAL_OBJECT_STORE_BYTES,
            "metrics_export_port": port,
        },
    )
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        yield f"http://127.0.0.1:{port}/metrics"
    finally:
        cluster.shutdown()


class Scrapes:
    """What an exporter has had at any time, as a Prometheus that asks every two seconds knows it.

    Ray's exporter forgets a gauge that nobody sets again, so one look would show what happened to be set just before it.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.lines: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *rest: object) -> None:
        self._over.set()
        self._thread.join(15)

    def _look(self) -> None:
        while not self._over.wait(2):
            # A busy node may answer the next time.
            with suppress(OSError), urllib.request.urlopen(self.address, timeout=10) as answer:
                self.lines |= set(answer.read().decode().splitlines())

    def names(self) -> set[str]:
        return {line.partition("{")[0] for line in list(self.lines) if re.match(r"\w+\{", line)}


def test_every_query_of_the_dashboard_finds_something(exporter: str, tmp_path: Path):
    plan = build_plan(*load_with_store(write_study(tmp_path), None))
    trial = plan.trials[0]
    wanted = set().union(*map(metrics_of, queries())) - GPUS_ALONE - NOT_HERE
    told: list[str] = []
    with (
        connected(),
        Scrapes(exporter) as scrapes,
        exported(plan, StudyOutcome("finished"), lambda trial_id, step: told.append(trial_id)) as watch,
    ):
        watch(trial.trial_id, {"step": 3, "loss": 0.5, "tokens_per_second": 1000.0})
        assert told == [trial.trial_id]
        spec = ServeSpec(model=weights_path(), model_id="miniature", dtype="float32", max_model_len=128, name="metrics")
        with Progress("sampling", 10, "samples") as progress, serving(spec) as endpoint:
            progress.update(4)
            answer = httpx.post(
                f"{endpoint.base_url}/completions",
                json={"model": "miniature", "prompt": "Tell me", "max_tokens": 8},
                headers={"Authorization": f"Bearer {endpoint.api_key}"},
                timeout=60,
            )
            assert answer.status_code == 200
            end = time.monotonic() + WAIT
            while wanted - scrapes.names() and time.monotonic() < end:
                time.sleep(2)
    assert wanted - scrapes.names() == set()
    lines = [line for line in scrapes.lines if line.startswith("ray_inoc_ray_trial_loss{")]
    assert len(lines) == 1
    assert f'arm="{trial.arm.name}"' in lines[0]
    assert f'trial="{trial.trial_id}"' in lines[0]
    assert lines[0].endswith(" 0.5")
    done = r'ray_inoc_ray_work_done\{[^}]*work="sampling"[^}]*\} 4'
    assert any(re.match(done, line) for line in scrapes.lines)
    assert os.environ["RAY_ADDRESS"]
