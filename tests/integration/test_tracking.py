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
from tracked_study import START, STUDY, a_comparison, a_trial, dump, some_trials

from inoc_ray.errors import InputError
from inoc_ray.results.compare import COLUMNS, compare
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.tracking import TrialRecord, embedded, file_lock, sync
from inoc_ray.results.tracking_server import check_server
from inoc_ray.store.place import at

pytestmark = pytest.mark.slow


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
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env) for _ in range(2)]
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
