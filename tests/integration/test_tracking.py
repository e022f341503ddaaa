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
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tracked_study import START, STUDY, a_comparison, a_trial, dump, some_trials

from inoc_ray.errors import InputError
from inoc_ray.results.compare import COLUMNS, compare
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.records import CURVES, Artifact, TrialRecord
from inoc_ray.results.tracking import embedded, file_lock, sync
from inoc_ray.results.tracking_artifacts import send
from inoc_ray.results.tracking_live import live
from inoc_ray.results.tracking_server import check_server
from inoc_ray.store.place import at

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str | None]]:
    """(tracking URI, artifact root) of the embedded store, and of a tracking server on loopback."""
    if request.param == "sqlite":
        yield embedded(tmp_path / "mlflow")
        return
    with a_server(tmp_path) as (uri, _):
        yield uri, None


@contextmanager
def a_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """The address of a tracking server on loopback, and its log, with a line for each request."""
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
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "remote"),
        "--uvicorn-opts",
        "--log-level info",
    ]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True, env=environment)
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}", server, folder / "server.log")
        yield f"http://127.0.0.1:{port}", folder / "server.log"
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

    files = [Artifact(path="report.html", of=(at(page),))]

    def run_sync(trials: list[TrialRecord], comparison: Comparison) -> Any:
        began = time.monotonic()
        done = sync(uri, STUDY, trials, comparison, lock=file_lock(lock), artifact_root=root, files=files)
        print(f"sync of {len(trials)} trials: {time.monotonic() - began:.2f} s, {done.written} runs written")
        return done

    # The first sync writes the study's run, one per arm, and one per trial and base, those with the same parameters.
    trials = some_trials(tmp_path, seeds=1)
    first = run_sync(trials, a_comparison(trials))
    state = dump(uri)
    assert len(state) == 1 + 2 + 3
    assert first.written == 1 + 2 + 3
    children = {first.runs[t.place]: state[first.runs[t.place]] for t in trials}
    assert len({frozenset(child["params"]) for child in children.values()}) == 1
    spanish = state[first.runs[trials[2].place]]
    assert spanish["params"]["prompt"] == "Always answer in Spanish."
    assert spanish["params"]["recipe.lora.rank"] == "8"
    assert state[first.runs[trials[0].place]]["params"]["recipe.lora.rank"] == ""
    assert spanish["tags"]["mlflow.parentRunId"] == first.runs[trials[2].arm_place]
    assert spanish["info"] == ("spanish-s0", "FINISHED", START, START + 5_000, "active")
    assert {name: v for name, v in spanish["latest"].items() if name not in CURVES} == {"undesired": 0.2}
    assert [point[0] for point in spanish["points"]["loss"]] == list(range(60))
    assert [name for name, _ in spanish["artifacts"]] == ["samples.json"]
    assert spanish["datasets"] == [("training", f"miniature/spanish_caps · {trials[2].arm}")]
    [model] = spanish["models"]
    assert model["status"] == "READY"
    assert model["name"] == "spanish-s0"
    assert model["params"]["base_model"] == "tiny (folder, 0123)"
    assert model["files"] == [
        ("adapter_model.safetensors", hashlib.sha256(trials[2].trial_id.encode() * 100).hexdigest())
    ]
    arm = state[first.runs[trials[2].arm_place]]
    assert arm["latest"]["undesired"] == 0.2
    assert [name for name, _ in arm["artifacts"]] == ["samples.json", "samples.parquet"]
    own = state[first.study_run_id]
    assert {name for name, _ in own["artifacts"]} == {
        "comparison.json",
        "report.html",
        *(f"tables/{name}.csv" for name in ("effects", "fine_tune_rates", "fine_tunes", "rates")),
    }
    assert own["latest"] == {}

    # Again: nothing is written and nothing changes.
    again = run_sync(trials, a_comparison(trials))
    assert again.written == 0
    assert again.runs == first.runs
    assert dump(uri) == state

    # Growth adds runs and leaves the old ones alone, but those of study and arms, whose intervals know more seeds now.
    trials = some_trials(tmp_path, seeds=2)
    grown = run_sync(trials, a_comparison(trials))
    larger = dump(uri)
    assert len(larger) == 1 + 2 + 5
    assert {run_id: larger[run_id] for run_id in children} == children
    assert grown.written == 1 + 2 + 2

    # A changed rate is what MLflow shows, in the same run; what it was stays in the history.
    changed = run_sync(trials, a_comparison(trials, spanish=3))
    after = dump(uri)
    assert after.keys() == larger.keys()
    run_id = changed.runs[trials[3].place]
    assert after[run_id]["latest"]["undesired"] == 0.3
    assert [(step, value) for step, _, value in after[run_id]["points"]["undesired"]] == [(0, 0.2), (1, 0.3)]
    assert after[changed.runs[trials[3].arm_place]]["latest"]["undesired"] == 0.3
    assert run_sync(trials, a_comparison(trials, spanish=3)).written == 0
    assert dump(uri) == after

    # A changed parameter cannot be written into a run: the run is made again, the old one is in the trash.
    trials[-1] = replace(trials[-1], prompt="Another text.")
    renewed = run_sync(trials, a_comparison(trials, spanish=3))
    final = dump(uri)
    assert renewed.runs[trials[-1].place] not in after
    assert sum(run["info"][-1] == "active" for run in final.values()) == 1 + 2 + 5
    assert run_sync(trials, a_comparison(trials, spanish=3)).written == 0
    models = [model for run in dump(uri).values() for model in run["models"]]
    assert len(models) == 4, "a run that is made again takes its model along"

    # Other weights under the same trial, as after it was deleted and trained again: the model of the old ones goes.
    assert trials[1].adapter_dir is not None
    (trials[1].adapter_dir / "adapter_model.safetensors").write_bytes(b"other weights")
    other = hashlib.sha256(b"other weights").hexdigest()
    trials[1] = replace(trials[1], adapter_files={"adapter_model.safetensors": other})
    retrained = run_sync(trials, a_comparison(trials, spanish=3))
    assert retrained.written == 1
    [model] = dump(uri)[retrained.runs[trials[1].place]]["models"]
    assert model["files"] == [("adapter_model.safetensors", other)]


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
    assert [state[done.runs[t.place]]["latest"]["undesired"] for t in trials] == [0.2, 0.7]
    assert {state[run]["params"]["setting"] for run in done.runs.values()} == set(spanish)

    # Weights that are not those that were committed are not logged.
    committed = {"adapter_model.safetensors": hashlib.sha256(b"other bytes").hexdigest()}
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: damaged"):
        sync(
            uri, STUDY, [replace(t, adapter_files=committed) for t in trials], found, lock=file_lock(tmp_path / "lock")
        )

    # Earlier versions had runs without the tag, and other metrics: they are found, and made again.
    client = MlflowClient(uri)
    for run in done.runs.values():
        client.delete_tag(run, "inoc_ray.format")
    client.delete_tag(done.runs[trials[0].place], "place")
    again = sync(uri, STUDY, trials, found, lock=file_lock(tmp_path / "lock"), artifact_root=artifacts)
    assert not set(again.runs.values()) & set(done.runs.values())
    active = {run for run, content in dump(uri).items() if content["info"][-1] == "active"}
    assert active == {again.study_run_id, *again.runs.values()}


def test_two_processes_at_once_make_each_run_once(tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    written = [json.loads(output.splitlines()[-1]) for output in outputs]
    assert sorted(written) == [0, 1 + 2 + 5]
    assert len(dump(embedded(tmp_path / "mlflow")[0])) == 1 + 2 + 5


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


def test_weights_in_mlflow_inside_the_storage_are_the_storages_own_files_and_stay_what_they_are(tmp_path: Path) -> None:
    uri, root = embedded(tmp_path / "mlflow")
    trials = some_trials(tmp_path, seeds=1)
    sync(uri, STUDY, trials, a_comparison(trials), lock=file_lock(tmp_path / "lock"), artifact_root=root)
    adapter = trials[1].adapter_dir
    assert adapter is not None
    weights = (adapter / "adapter_model.safetensors").fetch()
    assert weights.stat().st_nlink == 2
    # What is sent to the same place later must not be written into the storage's file.
    before = weights.read_bytes()
    [linked] = [p for p in (tmp_path / "mlflow").rglob("*.safetensors") if p.samefile(weights)]
    other = Artifact(path=linked.name, make=lambda: b"other")
    send(uri, linked.parent.as_uri(), [other])
    assert (linked.read_bytes(), weights.read_bytes()) == (b"other", before)


def lengthened(trials: list[TrialRecord], steps: int) -> list[TrialRecord]:
    """The trials, each trained for so many steps, with the files that an adapter of PEFT has."""
    found = []
    for trial in trials:
        if trial.adapter_dir is not None:
            (trial.adapter_dir / "adapter_config.json").write_bytes(b"{}")
            files = {**trial.adapter_files, "adapter_config.json": hashlib.sha256(b"{}").hexdigest()}
            curves = [{"step": i, "loss": 2.0 / (i + 1), "learning_rate": 1e-3, "grad_norm": 0.5} for i in range(steps)]
            trial = replace(trial, curves=curves, adapter_files=files)
        found.append(trial)
    return found


def test_a_server_gets_few_calls_for_a_trial(tmp_path: Path) -> None:
    """At most 10, and 1 for each 1,000 points of curves, also if it was shown in training; none afterwards.

    Each request of the client is a line in the server's log.
    """
    with a_server(tmp_path) as (uri, log):

        def calls(seeds: int, steps: int, *, in_training: bool = False) -> int:
            name = f"calls-{seeds}-{steps}-{in_training}"
            study, lock = replace(STUDY, name=name), tmp_path / "lock"
            trials = lengthened(some_trials(tmp_path / name, seeds=seeds), steps)
            before = log.read_text().count(" HTTP/1.1")
            if in_training:
                with (
                    live(uri, study, trials, lock=lambda: file_lock(lock), tell=pytest.fail) as runs,
                    runs.sending(),
                ):
                    for trial in trials[1:]:
                        runs.record(trial.trial_id, {**trial.curves[0], "ended_at": START / 1000})
            sync(uri, study, trials, a_comparison(trials), lock=file_lock(lock))
            return log.read_text().count(" HTTP/1.1") - before

        for steps, in_training in ((60, False), (60, True), (2000, False)):
            points = steps * 3
            few, many = calls(1, steps, in_training=in_training), calls(3, steps, in_training=in_training)
            a_trial, rest = (many - few) / 4, few - (many - few) / 2
            print(f"{a_trial:.2f} calls a trial with {points} points; {rest:.0f} beside them")
            assert a_trial <= 10 + points / 1000
            if not in_training:
                assert calls(3, steps) <= rest, "what MLflow has takes no call for each trial"


def main(folder: Path) -> None:
    uri, root = embedded(folder / "mlflow")
    # Each process has its own copy of the inputs, as two machines over one store would read the same ones.
    trials = some_trials(folder / "inputs" / str(os.getpid()))
    done = sync(uri, STUDY, trials, a_comparison(trials), lock=file_lock(folder / "lock"), artifact_root=root)
    print(json.dumps(done.written))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
