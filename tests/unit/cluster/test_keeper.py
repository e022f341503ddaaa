"""What a keeper does while the cluster does not answer it. Ray's own actors and job table are doubles here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import ray
from ray._private import worker

from inoc_ray.cluster import keeper
from inoc_ray.cluster.connect import owns_cluster
from inoc_ray.cluster.keeper import Keeper, kept


class Cluster:
    """A job table that fails as often as told, then says that the job runs, then that it is dead."""

    def __init__(self, fails: int) -> None:
        self.fails, self.asked, self.killed = fails, 0, 0

    def dead_jobs(self) -> set[str]:
        self.asked += 1
        if self.asked == 1:
            return set()
        if self.asked <= 1 + self.fails:
            raise ConnectionError("GCS unavailable")
        return {"01000000"}

    def kill(self, actor: object) -> None:
        self.killed += 1


def watched(monkeypatch: pytest.MonkeyPatch, cluster: Cluster, *chores: Callable[[], object]) -> None:
    """Let a keeper watch until its thread ends."""
    monkeypatch.setattr(keeper, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(keeper, "CHORE_SECONDS", 0.02)
    monkeypatch.setattr(keeper, "dead_jobs", cluster.dead_jobs)
    monkeypatch.setattr(ray, "kill", cluster.kill)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(current_actor="keeper"))
    one = object.__new__(Keeper)
    one._job_id, one._chores = "01000000", chores
    one._watch()


def test_a_keeper_outlives_a_head_that_does_not_answer_for_a_while_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    cluster, done = Cluster(fails=5), []
    with caplog.at_level(logging.WARNING):
        watched(monkeypatch, cluster, lambda: done.append("chore"))
    assert (done, cluster.killed) == (["chore"], 1)
    assert [record.getMessage() for record in caplog.records] == [
        "the cluster does not answer its keeper, which tries again: GCS unavailable"
    ]


def test_a_chore_that_fails_is_tried_again_and_one_that_always_fails_is_logged_and_keeps_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    cluster, done = Cluster(fails=0), []

    def fails_twice() -> None:
        done.append("tried")
        if len(done) < 3:
            raise TimeoutError("Serve is starting")

    watched(monkeypatch, cluster, lambda: 1 / 0, fails_twice)
    assert (done, cluster.killed) == (["tried"] * 3, 1)
    (failed,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert failed.exc_info is not None
    assert failed.exc_info[0] is ZeroDivisionError


def test_a_keeper_whose_question_is_never_answered_ends_without_its_chores(monkeypatch: pytest.MonkeyPatch):
    """The job may live. A keeper that stays would hold up each later command."""
    cluster, done = Cluster(fails=10**9), []
    monkeypatch.setattr(keeper, "PATIENCE_SECONDS", 0.02)
    with pytest.raises(ConnectionError, match="GCS unavailable"):
        watched(monkeypatch, cluster, lambda: done.append("chore"))
    assert (done, cluster.killed) == ([], 1)


@pytest.mark.parametrize(
    ("node", "own"),
    [
        (SimpleNamespace(is_head=lambda: True), True),
        (SimpleNamespace(is_head=lambda: False), False),
        (None, False),
    ],
    ids=["started", "joined", "from outside"],
)
@pytest.mark.parametrize("address", ["", "10.0.0.1:6379"])
def test_a_keeper_is_for_clusters_that_do_not_end_with_the_command_however_they_were_joined(
    monkeypatch: pytest.MonkeyPatch, node: object, own: bool, address: str
):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(worker, "_global_node", node)
    monkeypatch.setattr(keeper, "start", lambda *chores: "keeper")
    released: list[object] = []
    monkeypatch.setattr(keeper, "release", released.append)
    assert owns_cluster() == own
    with kept(print):
        pass
    assert released == ([] if own else ["keeper"])
