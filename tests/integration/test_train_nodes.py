"""One fine-tune over several nodes: the losses of one node, whatever is partitioned and whatever is trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import PreemptionError
from ray.train.v2.api.preemption import PreemptionInfo
from ray_nodes import Nodes, ray_nodes
from tiny_base import chat_rows, make_base, make_spec, run

from inoc_ray.cluster import nodes
from inoc_ray.cluster.checks import Needs, fingerprint
from inoc_ray.cluster.connect import connected
from inoc_ray.cluster.versions import versions
from inoc_ray.store.store import Store
from inoc_ray.study.resources import Resources
from inoc_ray.train.failure import loss_of
from inoc_ray.train.group import train_group
from inoc_ray.train.job import TrialJob
from inoc_ray.train.process import set_threads

pytestmark = pytest.mark.slow

ROWS = [row.to_dict() for row in chat_rows()]
CASES = [(2, "full"), (3, "lora"), (3, "full")]
"""ZeRO stage, method. Adapters under stage 2 are in test_lost_nodes.py."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """Two nodes of one core: two workers always lie on two nodes."""
    with ray_nodes(1, 1) as nodes, connected():
        yield nodes


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(cluster: Nodes, base: str, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, tuple[Any, Any]]:
    """The outcome and the curve of every case, one after another on one pair of workers."""
    store = Store(tmp_path_factory.mktemp("store"))
    jobs = {
        (stage, method): TrialJob(
            trial_id=f"zero{stage}-{method}",
            label=f"setting/zero{stage}-{method}",
            spec=make_spec(
                base,
                method=method,
                zero_stage=stage,
                micro_batch_size=4,
                persistence_threshold=0,
                gradient_checkpointing=stage == 3,
            ),
            rows=ROWS,
        )
        for stage, method in CASES
    }
    resources = Resources(workers=2, micro_batch_size=4, max_failures=0)
    needs = Needs(storage=str(store.root), versions=versions(), models={base: fingerprint(Path(base))})
    outcomes = train_group(list(jobs.values()), resources, str(store.root), run_name="zero", needs=needs)
    return {
        case: (outcome, store.read_curves(job.trial_id) if outcome.status == "trained" else [])
        for (case, job), outcome in zip(jobs.items(), outcomes, strict=True)
    }


@pytest.mark.parametrize(("stage", "method"), CASES)
def test_two_workers_on_two_nodes_train_to_the_losses_of_one_worker(trained: Any, base: str, stage: int, method: str):
    outcome, curve = trained[stage, method]
    assert (outcome.status, outcome.error) == ("trained", None)
    set_threads(1)
    alone = [record.loss for record in run(base, None, method=method)[0]]
    # The tolerance of test_train_loop.py: sums in another order.
    assert [record["loss"] for record in curve] == pytest.approx(alone, abs=2e-5)


LONG = "The actor died unexpectedly before finishing this task.\n" + "\n".join(f"raylet state {n}" for n in range(60))
TAKEN = PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"a": [1]})


@pytest.mark.parametrize(
    ("error", "there", "cause"),
    [
        (WorkerGroupError(LONG, {0: ActorDiedError(), 1: ValueError("gloo")}), {"a", "b"}, "worker 0 died"),
        (WorkerGroupError(LONG, {1: ActorDiedError()}), {"a"}, "lost node 10.0.0.2"),
        (
            WorkerGroupError(LONG, {1: ValueError("line\nno")}),
            {"a", "b"},
            "worker 1 failed: no",
        ),
        (PreemptionError(TAKEN), {"a", "b"}, "a node of it was preempted"),
        (
            ControllerError(WorkerGroupStartupFailedError("One died:\nwhy")),
            {"a", "b"},
            "its workers did not start (why)",
        ),
        (ControllerError(WorkerGroupStartupTimeoutError(2)), {"a", "b"}, "the room for its workers was taken"),
    ],
)
def test_a_loss_is_told_in_one_short_line(
    error: Exception, there: set[str], cause: str, monkeypatch: pytest.MonkeyPatch
):
    up = {"a": "10.0.0.1", "b": "10.0.0.2"}
    monkeypatch.setattr(nodes, "addresses", lambda: {node: up[node] for node in there})
    loss = loss_of(error, up)
    assert loss.cause == cause
    assert "\n" not in loss.cause
    assert loss.is_late == ("taken" in cause)


def test_out_of_memory_is_said_where_ray_knows_it_and_not_where_it_guesses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nodes, "addresses", dict)
    killed = OutOfMemoryError("worker(s) were killed due to the node running low on memory.")
    assert loss_of(WorkerGroupError("", {3: killed}), {}).cause == "worker 3 died: out of memory"
    dead: Any = ActorDiedError()
    dead.error_msg = "There are some potential root causes. (1) The process is killed by SIGKILL by OOM killer."
    assert loss_of(WorkerGroupError("", {3: dead}), {}).cause == "worker 3 died"
