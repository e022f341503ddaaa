"""Curves are in MLflow while trials train; what is slow, dead or refused there neither stops nor slows them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tracked_study import STUDY, a_comparison, dump, some_trials

from inoc_ray.results import tracking_live
from inoc_ray.results.records import CURVES
from inoc_ray.results.tracking import embedded, file_lock, sync
from inoc_ray.results.tracking_live import LiveRuns, live

pytestmark = pytest.mark.slow


def timed(trials: list[Any]) -> list[Any]:
    """The trials with the time of each step, as training records it."""
    return [
        replace(t, curves=[{**row, "ended_at": 1_700_000_001.0 + 0.07 * row["step"]} for row in t.curves])
        for t in trials
    ]


@contextmanager
def following(uri: str, trials: list[Any], lock: Path, said: list[str] | None = None) -> Iterator[LiveRuns]:
    _, root = embedded(lock.parent)
    told = [] if said is None else said
    root = root if uri.startswith("sqlite") else None
    with (
        live(uri, STUDY, trials, lock=lambda: file_lock(lock, 5), artifact_root=root, tell=told.append) as runs,
        runs.sending(),
    ):
        yield runs


def wait_for(what: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_was_sent_live_is_part_of_what_a_sync_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_live, "FLUSH_SECONDS", 0.2)
    trials = timed(some_trials(tmp_path, seeds=1))
    uri, root = embedded(tmp_path / "mlflow")
    (tmp_path / "mlflow").mkdir()
    lock = tmp_path / "mlflow" / "lock"
    new = [replace(t, curves=(), started_at=None, ended_at=None, adapter_dir=None, samples_path=None) for t in trials]
    with following(uri, new, lock) as runs:
        for row in trials[1].curves[:40:10]:
            runs.record(trials[1].trial_id, row)
        wait_for(lambda: any(r["points"].get("loss") for r in dump(uri).values()))
        state = {run["info"][0]: run for run in dump(uri).values()}
        assert {name: run["info"][1] for name, run in state.items()} == {
            "quickstart": "RUNNING",
            "baseline": "RUNNING",
            "baseline-s0": "RUNNING",
        }
        assert [step for step, _, _ in state["baseline-s0"]["points"]["loss"]] == [0, 10, 20, 30]
        assert state["baseline-s0"]["params"]["seed"] == "0"
        runs.record(trials[2].trial_id, trials[2].curves[5])

    def once() -> Any:
        return sync(uri, STUDY, trials, a_comparison(trials), lock=file_lock(lock), artifact_root=root)

    between = dump(uri)
    assert {run["info"][1] for run in between.values()} == {"RUNNING"}
    assert len(between) == 1 + 2 + 2, "the last trial's run is made at the end"
    done = once()
    after = dump(uri)
    # The runs are the same ones, and hold what a sync without anything live before it writes, point by point; but for what the
    # machine did meanwhile, which the study's run alone has.
    system = {run["info"][0]: [k for k in run["points"] if k.startswith("system/")] for run in after.values()}
    assert "system/system_memory_usage_percentage" in system.pop("quickstart")
    assert not any(system.values())
    assert set(between) <= set(after)
    assert {run["info"][1] for run in after.values()} == {"FINISHED"}
    other, other_root = embedded(tmp_path / "other")
    (tmp_path / "other").mkdir()
    sync(other, STUDY, trials, a_comparison(trials), lock=file_lock(tmp_path / "other" / "l"), artifact_root=other_root)

    def content(uri: str) -> dict[str, Any]:
        tags = ("mlflow.parentRunId", "mlflow.user")
        return {
            run["info"][0]: {
                "params": run["params"],
                "points": {
                    k: [(s, t, v) if k in CURVES else (s, v) for s, t, v in p]
                    for k, p in run["points"].items()
                    if not k.startswith("system/")
                },
                "tags": {k: v for k, v in run["tags"].items() if k not in tags},
            }
            for run in dump(uri).values()
        }

    assert content(uri) == content(other)
    assert once().written == 0
    assert dump(uri) == after
    assert done.written == 1 + 2 + len(trials)


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), "KILLED"), (SystemExit(15), "KILLED"), (ValueError(), "FAILED")]
)
def test_a_command_that_does_not_reach_its_end_says_so(
    error: BaseException, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_live, "FLUSH_SECONDS", 0.2)
    trials = timed(some_trials(tmp_path, seeds=1))
    uri, _ = embedded(tmp_path / "mlflow")
    (tmp_path / "mlflow").mkdir()
    began = 0.0

    def command() -> None:
        nonlocal began
        with following(uri, trials, tmp_path / "mlflow" / "lock") as runs:
            runs.record(trials[1].trial_id, trials[1].curves[0])
            wait_for(lambda: len(dump(uri)) == 3)
            began = time.monotonic()
            raise error

    with pytest.raises(type(error)):
        command()
    assert time.monotonic() - began < tracking_live.STOP_SECONDS + 1
    wait_for(lambda: {run["info"][1] for run in dump(uri).values()} == {status})


def test_a_command_that_is_stopped_within_the_first_pause_leaves_what_it_knows_of_its_trial(tmp_path: Path) -> None:
    trials = timed(some_trials(tmp_path, seeds=1))
    uri, _ = embedded(tmp_path / "mlflow")
    (tmp_path / "mlflow").mkdir()

    def command() -> None:
        with following(uri, trials, tmp_path / "mlflow" / "lock") as runs:
            runs.record(trials[1].trial_id, trials[1].curves[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        command()
    # The command does not wait for longer than STOP_SECONDS; a machine that is slow gets there a little later.
    wait_for(lambda: any(r["info"][0] == "baseline-s0" and r["info"][1] == "KILLED" for r in dump(uri).values()))
    run = next(run for run in dump(uri).values() if run["info"][0] == "baseline-s0")
    assert run["params"]["seed"] == "0"
    assert len(run["points"]["loss"]) == 1


@pytest.mark.parametrize("call", ["log_batch", "set_terminated"])
def test_a_call_that_fails_at_the_end_does_not_leave_the_other_runs_running(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setattr(tracking_live, "FLUSH_SECONDS", 0.2)
    trials = timed(some_trials(tmp_path, seeds=1))
    uri, _ = embedded(tmp_path / "mlflow")
    (tmp_path / "mlflow").mkdir()
    whole, refused = getattr(MlflowClient, call), []

    def refuse_once(*given: Any, **named: Any) -> Any:
        if refused:
            return whole(*given, **named)
        refused.append(given)
        raise OSError("not now")

    def command() -> None:
        with following(uri, trials, tmp_path / "mlflow" / "lock") as runs:
            runs.record(trials[1].trial_id, trials[1].curves[0])
            wait_for(lambda: any(r["points"].get("loss") for r in dump(uri).values()))
            monkeypatch.setattr(tracking_live, "FLUSH_SECONDS", 60.0)
            time.sleep(0.5)
            runs.record(trials[1].trial_id, trials[1].curves[1])
            monkeypatch.setattr(MlflowClient, call, refuse_once)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        command()
    wait_for(lambda: {run["info"][1] for run in dump(uri).values()} == {"KILLED"})
    assert refused


def test_a_server_that_is_gone_or_never_answers_costs_a_line_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_live, "FLUSH_SECONDS", 0.2)
    monkeypatch.setattr(tracking_live, "RETRY_SECONDS", 0.4)
    trials = timed(some_trials(tmp_path, seeds=1))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        hanging = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            gone = f"http://127.0.0.1:{probe.getsockname()[1]}"
        for uri, first_word in ((gone, 5.0), (hanging, tracking_live.CALL_SECONDS + 5.0)):
            said: list[str] = []
            with following(uri, trials, tmp_path / "lock", said) as runs:
                slowest = 0.0
                wait_for(lambda said=said: bool(said), first_word + 20)
                for number in range(10_000):
                    began = time.perf_counter()
                    runs.record(trials[1 + number % 2].trial_id, trials[1].curves[number % 60])
                    slowest = max(slowest, time.perf_counter() - began)
                time.sleep(1.0)
                began = time.monotonic()
            # Not more than one call that was under way.
            assert time.monotonic() - began < 2 * tracking_live.CALL_SECONDS + 1
            assert slowest < 0.5
            assert len(said) == 1
            assert said[0].startswith("MLflow: ")
            assert sum(map(len, runs._steps.values())) <= 2 * tracking_live.STEPS_KEPT


def test_the_longer_a_command_trains_the_less_often_it_calls() -> None:
    def sendings(seconds: float) -> int:
        passed, count = 0.0, 0
        while passed < seconds:
            passed, count = passed + tracking_live.pause(passed), count + 1
        return count

    assert sendings(200) == 20
    assert sendings(6 * 3600) < 6 * 120 + 30
    # What waits for two of the longest pauses, as a trial's first steps may, is sent, at a report every 2.5 s.
    assert tracking_live.STEPS_KEPT > 2 * tracking_live.MOST_FLUSH_SECONDS / 2.5


def test_a_command_that_is_stopped_after_the_sending_says_so(tmp_path: Path) -> None:
    trials = timed(some_trials(tmp_path, seeds=1))
    uri, root = embedded(tmp_path / "mlflow")
    (tmp_path / "mlflow").mkdir()

    def command() -> None:
        lock = tmp_path / "mlflow" / "lock"
        with live(uri, STUDY, trials, lock=lambda: file_lock(lock, 5), artifact_root=root, tell=print) as runs:
            with runs.sending():
                runs.record(trials[1].trial_id, trials[1].curves[0])
            state = dump(uri).values()
            assert {run["info"][1] for run in state} == {"RUNNING"}
            assert not any(run["points"].get("loss") for run in state), "they wait for the sync"
            raise KeyboardInterrupt

    before = dict(os.environ)
    with pytest.raises(KeyboardInterrupt):
        command()
    assert {run["info"][0]: run["info"][1] for run in dump(uri).values()} == {
        "quickstart": "KILLED",
        "baseline": "KILLED",
        "baseline-s0": "KILLED",
    }
    run = next(run for run in dump(uri).values() if run["info"][0] == "baseline-s0")
    assert (run["params"]["seed"], len(run["points"]["loss"])) == ("0", 1)
    assert dict(os.environ) == before
