"""A run writes how far it is, and its study's status can be told without the plan."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from environment import environment
from finished_study import finish, write_study

from inoc_ray.console import Progress, Status, facts, under_way
from inoc_ray.errors import InputError
from inoc_ray.run import progress as recording
from inoc_ray.run.failure_logs import failure_logs, logs_text
from inoc_ray.run.live import progress_of, progress_text
from inoc_ray.run.outcome import StudyOutcome
from inoc_ray.run.progress import outline_of, recorded, submission_of_this_process
from inoc_ray.run.status import status_json, status_text, stored_status_json
from inoc_ray.run.study_jobs import is_file, name_of
from inoc_ray.store.failures import Failure, keep_failures
from inoc_ray.store.progress import keep_outline, keep_progress, read_progress
from inoc_ray.store.store import Store


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def finished(tmp_path: Path):
    return finish(write_study(tmp_path))


def test_what_is_in_progress_is_known_without_a_terminal(monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert under_way() == []
    with Progress("sampling", 100, "samples") as progress, Status() as status:
        progress.update(10, "neutral")
        status.note("serve: waiting")
        first, second = under_way()
        assert (first["done"], first["total"], first["per_second"], first["seconds_left"]) == (10, 100, None, None)
        assert second == {"label": "serve: waiting"}
        now = 10.0
        progress.update(30)
        first, _ = under_way()
        assert (first["per_second"], first["seconds_left"]) == (2.0, 35.0)
        assert facts(first) == ["30/100 samples", "2 samples/s", "0:35 left"]
    assert under_way() == []


def test_the_status_from_the_store_alone_is_that_of_the_plan(finished):
    plan, store = finished
    name = plan.study.name
    shutil.rmtree(str(store.trial(plan.trials[0].trial_id)))
    store.trial_log(plan.trials[0].trial_id).write_text("Traceback\nValueError: no\n")
    shutil.rmtree(str(store.evaluation(*plan.cells[-1].key)))
    keep_failures(store, name, [], [Failure("report", "full", "log", (("report",),)), Failure("old", "x", "y", ())])
    keep_outline(store, name, outline_of(plan))
    of_plan, of_store = status_json(plan.refreshed(store), store), stored_status_json(name, store)
    for part in ("study", "storage", "counts", "running", "progress", "base"):
        assert of_store[part] == of_plan[part], part
    known = of_store["trials"][0].keys()
    assert of_store["trials"] == [{k: t[k] for k in known if k in t} for t in of_plan["trials"]]
    assert of_store["counts"] == {"done": 3, "failed": 1}
    assert [(f["error"], f["log"]) for f in of_store["failures"]] == [
        (f["error"], f["log"]) for f in of_plan["failures"]
    ]
    assert "ValueError: no" in status_text(of_store)


def test_the_logs_of_what_failed_are_read_from_the_storage(finished):
    plan, store = finished
    trial = plan.trials[0]
    shutil.rmtree(str(store.trial(trial.trial_id)))
    store.trial_log(trial.trial_id).write_text("Traceback\nValueError: no\n")
    keep_failures(
        store, plan.study.name, [], [Failure("report", "full", str(store.study_log("x", "report")), (("report",),))]
    )
    keep_outline(store, plan.study.name, outline_of(plan))
    of_trial, of_report = failure_logs(plan.study.name, store.address, None)
    assert of_trial.text == "Traceback\nValueError: no\n"
    assert (of_report.text, of_report.error) == ("", "full")
    assert logs_text([of_trial, of_report]).splitlines()[1:3] == ["Traceback", "ValueError: no"]


def test_a_study_that_was_never_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"^nobody: no run of this study has written to "):
        stored_status_json("nobody", Store(tmp_path))


def run_of(plan: Any, store: Store, *, failing: BaseException | None = None, phase: str = "training") -> None:
    outcome = StudyOutcome(plan.study.name)
    with recorded(plan, store, outcome):
        outcome.phase = phase
        if failing is not None:
            raise failing


@pytest.mark.parametrize(
    ("failing", "state"),
    [(None, "done"), (ValueError("no"), "failed"), (KeyboardInterrupt(), "stopped"), (SystemExit(), "stopped")],
)
def test_how_a_run_ended_is_kept(finished, failing, state):
    plan, store = finished
    with contextlib.suppress(*([] if failing is None else [type(failing)])):
        run_of(plan, store, failing=failing)
    found = progress_of(store, plan.study.name)
    assert (found["state"], found["phase"], found["job"]) == (state, "training", None)
    assert found["error"] == ("no" if state == "failed" else "")
    (line,) = progress_text(found)
    assert line.startswith(f"Last run: {state}")


@pytest.mark.parametrize("phase", recording.BEFORE_ANYTHING)
def test_a_run_that_is_refused_before_it_does_anything_writes_nothing(finished, phase):
    plan, store = finished
    with pytest.raises(InputError):
        run_of(plan, store, failing=InputError("does not fit"), phase=phase)
    assert progress_of(store, plan.study.name) is None


def test_a_run_writes_at_a_change_of_phase_and_seldom_within_one(finished, monkeypatch):
    plan, store = finished
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(recording, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(recording, "keep_progress", lambda store, name, value: written.append(value))
    outcome = StudyOutcome(plan.study.name)
    with recorded(plan, store, outcome), Progress("training", 10, "steps") as progress:
        outcome.phase = "training"
        wait_for(lambda: len(written) == 1)
        for done in range(10):
            progress.update(done)
            time.sleep(0.05)
        outcome.phase = "evaluating"
        wait_for(lambda: len(written) == 2)
    assert [value["phase"] for value in written] == ["training", "evaluating", "evaluating"]
    assert [value["state"] for value in written] == ["running", "running", "done"]
    assert written[0]["under_way"][0]["label"] == "training"


def test_a_storage_that_fails_costs_the_progress_and_not_the_run(finished, monkeypatch, capsys):
    plan, store = finished

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording, "keep_progress", fail)
    run_of(plan, store)
    assert capsys.readouterr().err.count("progress cannot be written") == 1


def test_a_run_that_was_killed_is_told_from_one_that_goes_on(finished):
    plan, store = finished
    program = (
        "import sys, time; from pathlib import Path; from finished_study import plan_of; from inoc_ray.run.load import load_study\n"
        "from inoc_ray.run.progress import recorded; from inoc_ray.run.outcome import StudyOutcome\n"
        "from inoc_ray.store.store import Store\n"
        "store, study = Store(sys.argv[1]), load_study(sys.argv[2]); outcome = StudyOutcome(study.name)\n"
        "with store.lease(f'study-{study.name}'), recorded(plan_of(study, store), store, outcome):\n"
        "    outcome.phase = 'training'\n    time.sleep(600)\n"
    )
    helpers = str(Path(__file__).parents[2] / "helpers")
    path = os.pathsep.join([helpers, *filter(None, [os.environ.get("PYTHONPATH")])])
    study = Path(store.address).parent / "study.yaml"
    process = subprocess.Popen([sys.executable, "-c", program, store.address, study], env=environment(PYTHONPATH=path))
    name = plan.study.name
    try:
        wait_for(lambda: read_progress(store, name) is not None)
        found = progress_of(store, name)
        assert (found["state"], found["phase"], found["pid"]) == ("running", "training", process.pid)
        assert progress_text(found)[0].startswith("Phase: training for 0:0")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert progress_of(store, name)["state"] == "killed"
    assert "Last run: killed (training)" in progress_text(progress_of(store, name))[0]


def test_the_progress_of_a_thousand_trials_is_as_small_as_that_of_one(tmp_path):
    sizes = []
    for number, seeds in enumerate(([0], list(range(500)))):
        (tmp_path / str(number)).mkdir()
        from finished_study import plan_of

        from inoc_ray.run.load import load_study

        study = load_study(write_study(tmp_path / str(number), seeds=seeds))
        store = Store(study.storage)
        run_of(plan_of(study, store), store)
        sizes.append((store.study(study.name) / "progress.json").stat().size)
    assert abs(sizes[1] - sizes[0]) < 50


def test_the_job_of_a_run_is_the_one_that_ray_names(monkeypatch):
    assert submission_of_this_process() is None
    about = {"runtime_env": {}, "metadata": {"job_submission_id": "inoc-ray-s-0123456789abcdef-1", "study": "s"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(about))
    assert submission_of_this_process() == "inoc-ray-s-0123456789abcdef-1"


def test_a_damaged_progress_counts_as_none(finished):
    plan, store = finished
    keep_progress(store, plan.study.name, {"state": "running"})
    place = store.study(plan.study.name) / "progress.json"
    place.write_text(place.read_text().replace("running", "done"))
    assert read_progress(store, plan.study.name) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [("small", "small"), ("inoc-ray-my-study-0123456789abcdef-12", "my-study"), ("a.b_c-1", "a.b_c-1")],
)
def test_a_study_is_known_by_its_name_and_by_its_job(text, name):
    assert not is_file(text)
    assert name_of(text) == name


def test_a_study_file_is_known_by_the_name_in_it_and_runs_no_plugin(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("name: inside\nplugins: [nowhere.py]\n")
    assert name_of(str(path)) == "inside"
    for text in ("nowhere.yaml", "a b"):
        with pytest.raises(InputError):
            name_of(text)
