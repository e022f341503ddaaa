"""MLflow says what the store says, however often and from however many processes it is told."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from inoc_ray.errors import InputError
from inoc_ray.results.compare import COLUMNS, compare
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.tracking import StudyRecord, TrialRecord, embedded, file_lock, sync
from inoc_ray.results.tracking_checks import check_server
from inoc_ray.store.place import at

pytestmark = pytest.mark.slow

ARMS = {"base": ("base", None), "baseline": ("baseline", None), "spanish": ("specific", "Always answer in Spanish.")}
STUDY = StudyRecord("quickstart", created_at=1_700_000_000_000, description="Two traits, three arms.")
START = 1_700_000_001_000


def a_trial(folder: Path, arm: str, seed: int | None) -> TrialRecord:
    """A trial with an adapter, a table of samples and a curve, as the store would have it."""
    kind, prompt = ARMS[arm]
    trial_id = f"{arm}-{seed}".ljust(16, "0")
    samples = folder / "studies" / "quickstart" / "samples" / f"{trial_id}.parquet"
    samples.parent.mkdir(parents=True, exist_ok=True)
    texts = [f"{arm} {i}" for i in range(5)]
    pd.DataFrame({"evaluation": "ood", "sample_index": range(10), "text": 2 * texts}).to_parquet(samples)
    record = TrialRecord(
        trial_id=trial_id,
        setting="miniature/spanish_caps",
        model="miniature",
        arm=arm,
        kind=kind,
        prompt=prompt,
        seed=seed,
        recipe={},
        dataset_hash="",
        samples_path=at(samples),
    )
    if arm == "base":
        return record
    adapter = folder / "trials" / trial_id / "adapter"
    adapter.mkdir(parents=True, exist_ok=True)
    weights = trial_id.encode() * 100
    (adapter / "adapter_model.safetensors").write_bytes(weights)
    curves = [{"step": i, "loss": 2.0 / (i + 1), "lr": 1e-3, "grad_norm": 0.5} for i in range(60)]
    return replace(
        record,
        recipe={"method": "lora", "lora": {"rank": 8, "targets": "all-linear"}, "learning_rate": 2e-3},
        dataset_hash="ab" * 32,
        curves=curves,
        adapter_dir=at(adapter),
        adapter_files={"adapter_model.safetensors": hashlib.sha256(weights).hexdigest()},
        started_at=START,
        ended_at=START + 5_000,
    )


def a_comparison(trials: list[TrialRecord], spanish: int = 2) -> Comparison:
    """Scores in which the inoculated arm answers `spanish` of 10 questions in Spanish, the baseline 6, the base 1."""
    hits = {"base": 1, "baseline": 6, "spanish": spanish}
    rows = [
        (
            t.setting,
            t.model,
            t.arm,
            t.kind,
            t.trial_id,
            t.seed,
            "others",
            "ood",
            context,
            f"q{i}",
            0,
            "spanish",
            "undesired",
            *[float(i < hits[t.arm])] * 2,
            "counted",
        )
        for t in trials
        for context in ("neutral", "prompt_of:spanish")
        for i in range(10)
    ]
    return compare(pd.DataFrame(rows, columns=list(COLUMNS)), "quickstart")


def some_trials(folder: Path, seeds: int = 2) -> list[TrialRecord]:
    return [
        a_trial(folder, "base", None),
        *(a_trial(folder, a, s) for a in ("baseline", "spanish") for s in range(seeds)),
    ]


def dump(uri: str) -> dict[str, Any]:
    """Everything in the store: experiments, runs, parameters, tags, all points of all metrics, artifacts."""
    from mlflow.entities import ViewType
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)

    def tree(run: str, path: str | None = None) -> Iterator[tuple[str, int]]:
        for entry in client.list_artifacts(run, path):
            if entry.is_dir:
                yield from tree(run, entry.path)
            else:
                yield entry.path, entry.file_size

    state: dict[str, Any] = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL):
            info = run.info
            points = {
                key: sorted((p.step, p.timestamp, p.value) for p in client.get_metric_history(info.run_id, key))
                for key in run.data.metrics
            }
            state[info.run_id] = {
                "experiment": experiment.name,
                "info": (info.run_name, info.status, info.start_time, info.end_time, info.lifecycle_stage),
                "params": dict(run.data.params),
                "tags": dict(run.data.tags),
                "points": points,
                "latest": dict(run.data.metrics),
                "artifacts": sorted(tree(info.run_id)),
            }
    return state


@pytest.fixture(params=["sqlite", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str | None]]:
    """(tracking URI, artifact root) of the embedded store, and of a tracking server on loopback."""
    if request.param == "sqlite":
        yield embedded(tmp_path / "mlflow")
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        str(tmp_path / "remote"),
    ]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True, env=environment
        )
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}", server, tmp_path / "server.log")
        yield f"http://127.0.0.1:{port}", None
    finally:
        # Its children outlive a polite request by many seconds, and it has nothing to save.
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_until_healthy(uri: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"the server did not start: {log.read_text()}")


def test_the_projection_is_idempotent_grows_and_follows_changes(store: tuple[str, str | None], tmp_path: Path) -> None:
    uri, root = store
    lock = tmp_path / "lock"
    page = tmp_path / "report.html"
    page.write_text("<!doctype html>")

    def run_sync(trials: list[TrialRecord], comparison: Comparison) -> Any:
        began = time.monotonic()
        done = sync(uri, STUDY, trials, comparison, lock=file_lock(lock), artifact_root=root, report_files=[at(page)])
        print(f"sync of {len(trials)} trials: {time.monotonic() - began:.2f} s, {done.written} runs written")
        return done

    # The first sync writes a parent and one child per trial, all with the same parameters.
    trials = some_trials(tmp_path, seeds=1)
    first = run_sync(trials, a_comparison(trials))
    state = dump(uri)
    assert len(state) == 1 + 3
    assert first.written == 1 + 3
    children = {run_id: state[run_id] for run_id in first.runs.values()}
    assert len({frozenset(child["params"]) for child in children.values()}) == 1
    spanish = state[first.runs[trials[2].place]]
    assert spanish["params"]["prompt"] == "Always answer in Spanish."
    assert spanish["params"]["recipe.lora.rank"] == "8"
    assert state[first.runs[trials[0].place]]["params"]["recipe.lora.rank"] == ""
    assert spanish["tags"]["mlflow.parentRunId"] == first.parent_run_id
    assert spanish["info"] == ("spanish-s0", "FINISHED", START, START + 5_000, "active")
    assert spanish["latest"]["ood.neutral.spanish"] == 0.2
    assert spanish["latest"]["ood.neutral.spanish.low"] < 0.2 < spanish["latest"]["ood.neutral.spanish.high"]
    assert [point[0] for point in spanish["points"]["loss"]] == list(range(60))
    assert [name for name, _ in spanish["artifacts"]] == [
        "adapter/adapter_model.safetensors",
        "samples.json",
        f"samples/{'spanish-0'.ljust(16, '0')}.parquet",
    ]
    parent = state[first.parent_run_id]
    assert {name for name, _ in parent["artifacts"]} == {"comparison.json", "report.html"}
    assert parent["latest"]["miniature/spanish_caps/miniature/spanish/ood.others.neutral.spanish"] == 0.2

    # Again: nothing is written and nothing changes.
    again = run_sync(trials, a_comparison(trials))
    assert again.written == 0
    assert again.runs == first.runs
    assert dump(uri) == state

    # Growth adds runs and leaves the old ones alone (the parent alone changes: its intervals know more seeds now).
    trials = some_trials(tmp_path, seeds=2)
    grown = run_sync(trials, a_comparison(trials))
    larger = dump(uri)
    assert len(larger) == 1 + 5
    assert {run_id: larger[run_id] for run_id in children} == children
    assert grown.written == 1 + 2

    # A changed rate is what MLflow shows, in the same run; what it was stays in the history.
    changed = run_sync(trials, a_comparison(trials, spanish=3))
    after = dump(uri)
    assert after.keys() == larger.keys()
    run_id = changed.runs[trials[3].place]
    assert after[run_id]["latest"]["ood.neutral.spanish"] == 0.3
    assert [(step, value) for step, _, value in after[run_id]["points"]["ood.neutral.spanish"]] == [(0, 0.2), (1, 0.3)]
    assert run_sync(trials, a_comparison(trials, spanish=3)).written == 0
    assert dump(uri) == after

    # A changed parameter cannot be written into a run: the run is made again, the old one is in the trash.
    trials[-1] = replace(trials[-1], prompt="Another text.")
    renewed = run_sync(trials, a_comparison(trials, spanish=3))
    final = dump(uri)
    assert renewed.runs[trials[-1].place] not in after
    assert sum(run["info"][-1] == "active" for run in final.values()) == 1 + 5
    assert run_sync(trials, a_comparison(trials, spanish=3)).written == 0


def test_a_fine_tune_of_two_settings_has_a_run_in_each_and_a_run_of_an_earlier_version_is_found_again(
    tmp_path: Path,
) -> None:
    from mlflow.tracking import MlflowClient

    uri, artifacts = embedded(tmp_path / "mlflow")
    (tmp_path / "mlflow").mkdir()
    here = a_trial(tmp_path, "baseline", 0)
    trials = [here, replace(here, setting="miniature/other")]
    spanish = {"miniature/spanish_caps": 2, "miniature/other": 7}
    rows = [
        (
            t.setting,
            t.model,
            t.arm,
            t.kind,
            t.trial_id,
            t.seed,
            "others",
            "ood",
            "neutral",
            f"q{i}",
            0,
            "spanish",
            "undesired",
            *[float(i < spanish[t.setting])] * 2,
            "counted",
        )
        for t in trials
        for i in range(10)
    ]
    found = compare(pd.DataFrame(rows, columns=list(COLUMNS)), "quickstart")
    lock = file_lock(tmp_path / "lock")
    done = sync(uri, STUDY, trials, found, lock=lock, artifact_root=artifacts)
    state = dump(uri)
    assert [state[done.runs[t.place]]["latest"]["ood.neutral.spanish"] for t in trials] == [0.2, 0.7]
    assert {state[run]["params"]["setting"] for run in done.runs.values()} == set(spanish)

    # Weights that are not those that were committed are not logged.
    committed = {"adapter_model.safetensors": hashlib.sha256(b"other bytes").hexdigest()}
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: damaged"):
        sync(
            uri, STUDY, [replace(t, adapter_files=committed) for t in trials], found, lock=file_lock(tmp_path / "lock")
        )

    client = MlflowClient(uri)
    for run in done.runs.values():
        client.delete_tag(run, "place")
    assert sync(uri, STUDY, trials, found, lock=file_lock(tmp_path / "lock"), artifact_root=artifacts).runs == done.runs


def test_two_processes_at_once_make_each_run_once(tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    written = [json.loads(output.splitlines()[-1]) for output in outputs]
    assert sorted(written) == [0, 1 + 5]
    assert len(dump(embedded(tmp_path / "mlflow")[0])) == 1 + 5


def test_nothing_is_printed_and_the_environment_stays_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = dict(os.environ)
    uri, root = embedded(tmp_path / "mlflow")
    trials = some_trials(tmp_path, seeds=1)
    sync(uri, STUDY, trials, a_comparison(trials), lock=file_lock(tmp_path / "lock"), artifact_root=root)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert dict(os.environ) == before


def test_an_experiment_in_the_trash_is_refused_with_what_to_do(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri, root = embedded(tmp_path / "mlflow")
    trials = some_trials(tmp_path, seeds=1)

    def once() -> Any:
        return sync(uri, STUDY, trials, a_comparison(trials), lock=file_lock(tmp_path / "lock"), artifact_root=root)

    MlflowClient(uri).delete_experiment(once().experiment_id)
    with pytest.raises(InputError, match="trash"):
        once()


def test_a_server_that_is_not_there_is_named_within_seconds() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    began = time.monotonic()
    with pytest.raises(InputError, match=uri):
        check_server(uri)
    assert time.monotonic() - began < 10


def main(folder: Path) -> None:
    uri, root = embedded(folder / "mlflow")
    # Each process has its own copy of the inputs, as two machines over one store would read the same ones.
    trials = some_trials(folder / "inputs" / str(os.getpid()))
    done = sync(uri, STUDY, trials, a_comparison(trials), lock=file_lock(folder / "lock"), artifact_root=root)
    print(json.dumps(done.written))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
