"""What is missing or failed of a study is said by every command that shows its results, from the store alone."""

from __future__ import annotations

import errno
import http.server
import json
import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from finished_study import SAMPLES, finish, plan_of, write_study
from stub_api import Stub

from inoc_ray.errors import TrialError
from inoc_ray.plan.failure_keys import cell_key, trial_key
from inoc_ray.results import tracking_checks
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.table import comparison_text
from inoc_ray.results.tracking import embedded
from inoc_ray.run.load import load_study
from inoc_ray.run.outcome import StudyOutcome
from inoc_ray.run.pipeline import lost_during_run, run_study
from inoc_ray.run.planned_and_stored import failures_of, planned_of
from inoc_ray.store.failures import MLFLOW, REPORT, Failure, keep_failures, read_failures, still_failed
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import NEUTRAL_PROMPT

Run = Callable[..., tuple[int, str, str]]


def without_cells(path: Path) -> None:
    """Takes away both evaluations of the second seed of the inoculated arm, as in the store of a run that broke off."""
    plan, store = finish(path)
    [trial] = [t for t in plan.trials if (t.arm.name, t.seed) == ("specific_spanish", 1)]
    shutil.rmtree(store.root / "evaluations" / trial.trial_id)


def test_a_finished_study_is_complete(tmp_path: Path, inoc_ray: Run) -> None:
    path = write_study(tmp_path)
    finish(path)
    code, out, _ = inoc_ray("compare", path, "--json")
    found = json.loads(out)
    assert (code, found["complete"], found["missing"], found["failures"]) == (0, True, [], [])
    assert {r["seeds_planned"] for r in found["rows"]} == {1, 2}
    text = inoc_ray("compare", path)[1]
    assert "INCOMPLETE" not in text
    # Rules have no threshold that a profile could move.
    assert "thresholds" not in text


def test_every_command_reports_lost_cells(tmp_path: Path, inoc_ray: Run) -> None:
    path = write_study(tmp_path)
    without_cells(path)
    found = json.loads(inoc_ray("compare", path, "--json")[1])
    assert found["complete"] is False
    short = [r for r in found["rows"] if not r["complete"]]
    assert {(r["arm"], r["seeds"], r["seeds_planned"], r["samples"], r["samples_planned"]) for r in short} == {
        ("specific_spanish", 1, 2, SAMPLES, 2 * SAMPLES)
    }
    assert not any(e["complete"] or e["p"] for e in found["effects"] if e["arm"] == "specific_spanish")
    code, text, _ = inoc_ray("compare", path)
    assert code == 0
    assert f"specific_spanish seed 1: 0 of {2 * SAMPLES} samples" in text
    assert re.search(r"specific_spanish +spanish +1 of 2 ", text)
    assert not re.search(r"specific_spanish .*\] \*", text)
    assert inoc_ray("report", path)[0] == 0
    page = (Store(tmp_path / "runs").study("finished") / "report.html").read_text()
    assert "This study is incomplete" in page
    assert "no statement, the arm is incomplete (1 of 2 seeds" in page


def test_a_rule_with_a_gate_has_judged_nothing_before_the_gate(tmp_path: Path, inoc_ray: Run) -> None:
    evaluation = {"samples": SAMPLES, "contexts": ["neutral"], "rules_given": ["coherence"]}
    judges = {"gpt": {"endpoint": "http://127.0.0.1:9/v1", "served_model": "judge", "method": "sample"}}
    path = write_study(tmp_path, judges=judges, evaluation=evaluation)
    plan, store = finish(path)
    things = (("judge", "gpt"),)
    keep_failures(store, "finished", [], [Failure("judge gpt", "no answer", "/x.log", things)])
    planned = planned_of(plan, store, failures_of(plan, store))
    assert {tuple(sorted(judged.items())) for c in planned.cells for judged in c.judged.values()} == {
        (("gpt", 0), ("rules", 0))
    }
    text = " ".join(inoc_ray("compare", path)[1].split())
    assert f"caps by gpt: 0 of {SAMPLES * 5} responses judged (no answer)" in text
    inoc_ray("report", path)
    assert "Who judged" not in (store.study("finished") / "report.html").read_text()


def test_a_response_in_several_cells_is_counted_once(tmp_path: Path, inoc_ray: Run) -> None:
    """A base is shown beside each recipe, and two contexts of one text share what is asked."""
    steps = {"learning_rate": 1e-3, "steps": 10}
    again = {"name": "again", "system": NEUTRAL_PROMPT}
    path = write_study(
        tmp_path,
        recipes={"lora": steps, "long": {**steps, "steps": 20}},
        judges={"gpt": {"endpoint": "http://127.0.0.1:9/v1", "served_model": "judge", "method": "sample"}},
        evaluation={"samples": SAMPLES, "contexts": ["neutral", again], "judged_by": ["gpt"]},
    )
    plan, store = finish(path)
    lost_during_run = next(t for t in plan.trials if t.arm.name == "specific_spanish")
    shutil.rmtree(store.root / "evaluations" / lost_during_run.trial_id)
    keep_failures(store, "finished", [], [Failure("judge gpt", "no answer", "/x.log", (("judge", "gpt"),))])
    text = " ".join(inoc_ray("compare", path)[1].split())
    # A base and eight fine-tunes, two evaluations.
    assert f"{2 * SAMPLES * 8} of {2 * SAMPLES * 9} samples are there" in text
    assert f"specific_spanish seed {lost_during_run.seed}: 0 of {2 * SAMPLES} samples" in text
    # Of one recipe the base and three or four fine-tunes.
    judged = re.findall(r"caps by gpt: 0 of (\d+) responses judged", text)
    assert {int(number) for number in judged} == {SAMPLES * 4, SAMPLES * 5}


def test_a_lost_fine_tune_is_missing_although_its_responses_are_stored(tmp_path: Path, inoc_ray: Run) -> None:
    path = write_study(tmp_path)
    plan, store = finish(path)
    assert inoc_ray("sync", path)[0] == 0
    before = mlflow_runs(store)
    assert set(before.values()) == {("FINISHED", "true")}
    trial = next(t for t in plan.trials if t.arm.name == "specific_spanish" and t.seed == 1)
    shutil.rmtree(store.trial(trial.trial_id).fetch())

    found = json.loads(inoc_ray("compare", path, "--json")[1])
    assert found["complete"] is False
    [lost] = found["missing"]
    assert (lost["arm"], lost["seed"], lost["there"], lost["unit"], lost["why"]) == (
        "specific_spanish",
        1,
        0,
        "fine-tunes",
        "not trained",
    )
    assert {(r["arm"], r["trained"]) for r in found["rows"] if not r["complete"]} == {("specific_spanish", False)}
    assert not any(e["complete"] or e["p"] for e in found["effects"])
    text = inoc_ray("compare", path)[1]
    assert "specific_spanish seed 1: 0 of 1 fine-tunes (not trained)" in " ".join(text.split())
    assert "(not all trained)" in text
    assert inoc_ray("sync", path)[0] == 0
    killed = ("KILLED", "false")
    assert mlflow_runs(store) == {
        **before,
        **dict.fromkeys(["finished", "specific_spanish", "specific_spanish-s1"], killed),
    }

    # Nothing else is left of it either.
    shutil.rmtree(store.root / "evaluations" / trial.trial_id)
    assert inoc_ray("sync", path)[0] == 0
    assert mlflow_runs(store) == {
        **before,
        **dict.fromkeys(["finished", "specific_spanish", "specific_spanish-s1"], killed),
    }


def mlflow_runs(store: Store) -> dict[str, tuple[str, str]]:
    """Name of each run of the storage's MLflow → its status and its tag `complete`."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(embedded(store.mlflow())[0])
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert len({run.info.run_name for run in runs}) == len(runs)
    assert all(run.info.end_time >= run.info.start_time for run in runs)
    return {run.info.run_name: (run.info.status, run.data.tags["complete"]) for run in runs}


def test_failures_are_kept_until_what_failed_is_done(tmp_path: Path, inoc_ray: Run) -> None:
    path = write_study(tmp_path)
    plan, store = finish(path)
    trial = next(t for t in plan.trials if t.arm.name == "specific_spanish")
    cells = [c for c in plan.cells if c.subject is trial]
    kept = shutil.copytree(store.root / "evaluations" / trial.trial_id, tmp_path / "kept")
    shutil.rmtree(store.root / "evaluations" / trial.trial_id)
    failure = Failure("evaluation on miniature", "the endpoint refused", "/x.log", tuple(cell_key(c) for c in cells))
    keep_failures(store, "finished", [], [failure])

    for command in ("compare", "status"):
        assert "evaluation on miniature: the endpoint refused (log: /x.log)" in inoc_ray(command, path)[1]
        [found] = json.loads(inoc_ray(command, path, "--json")[1])["failures"]
        assert found == {"label": failure.label, "error": failure.error, "log": failure.log}
    assert "the endpoint refused" in inoc_ray("compare", path)[1].split("missing:")[1]
    inoc_ray("report", path)
    assert "the endpoint refused" in (store.study("finished") / "report.html").read_text()

    # Half of it is done: the failure still stands for the other half.
    first, second = (cell.evaluation_id for cell in cells)
    shutil.copytree(kept / first, store.evaluation(trial.trial_id, first).fetch())
    assert failures_of(plan_of(plan.study, store), store) == [failure]
    shutil.copytree(kept / second, store.evaluation(trial.trial_id, second).fetch())
    assert failures_of(plan_of(plan.study, store), store) == []
    assert "refused" not in inoc_ray("status", path)[1]
    assert json.loads(inoc_ray("compare", path, "--json")[1])["complete"] is True


def test_a_failed_trial_is_explained_by_its_log_alone(tmp_path: Path, inoc_ray: Run) -> None:
    path = write_study(tmp_path)
    plan, store = finish(path)
    trial = plan.trials[-1]
    shutil.rmtree(store.trial(trial.trial_id).fetch())
    shutil.rmtree(store.root / "evaluations" / trial.trial_id)
    store.trial_log(trial.trial_id).write_text("Traceback\n  …\nInputError: loss is nan\n\n")
    text = " ".join(inoc_ray("compare", path)[1].split())
    assert f"0 of {2 * SAMPLES} samples (training failed: InputError: loss is nan)" in text
    assert f"{trial.label}: InputError: loss is nan" in inoc_ray("status", path)[1]


def test_a_study_with_nothing_but_failures_reports_them(tmp_path: Path, inoc_ray: Run) -> None:
    path = write_study(tmp_path)
    code, _, err = inoc_ray("compare", path)
    assert code == 2
    assert "nothing is evaluated yet" in err.lower()
    plan, store = finish(path)
    shutil.rmtree(store.root / "evaluations")
    things = tuple(cell_key(cell) for cell in plan.cells)
    keep_failures(store, "finished", [], [Failure("evaluation on miniature", "no memory", "/x.log", things)])
    code, text, _ = inoc_ray("compare", path)
    assert code == 0
    assert f"0 of {2 * SAMPLES * 5:,} samples are there" in text
    assert "no memory" in text
    assert inoc_ray("report", path)[0] == 0


def test_trying_again_replaces_only_earlier_failures_of_the_same_work(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = Failure("engine", "old", "x", (("cell", "a", "1"), ("cell", "b", "1")))
    judge = Failure("judge gpt", "old", "x", (("judge", "gpt"),))
    keep_failures(store, "s", [], [old, judge])
    keep_failures(store, "s", [("cell", "a", "1")], [])
    assert [f.of for f in read_failures(store, "s")] == [(("cell", "b", "1"),), (("judge", "gpt"),)]
    again = Failure("engine", "new", "x", (("cell", "b", "1"),))
    keep_failures(store, "s", [("cell", "b", "1")], [again])
    assert read_failures(store, "s") == [judge, again]
    assert still_failed(read_failures(store, "s"), {("judge", "gpt")}) == [judge]
    keep_failures(store, "s", [("judge", "gpt"), ("cell", "b", "1")], [])
    assert read_failures(store, "s") == []


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"failures": 3}', b'{"failures": [{}]}', b"\xff"])
def test_a_damaged_file_of_failures_is_ignored(tmp_path: Path, damage: bytes) -> None:
    store = Store(tmp_path)
    keep_failures(store, "s", [], [Failure("a", "b", "c", (("judge", "gpt"),))])
    (store.study("s") / "failures.json").write_bytes(damage)
    assert read_failures(store, "s") == []


# -- a storage folder that fails in the middle of a run ------------------------------------------------------------


def test_results_lost_during_a_run_are_a_failure_of_that_run(tmp_path: Path, inoc_ray: Run) -> None:
    """A judge at work, and somebody who deletes weights meanwhile."""
    with Stub(tmp_path, latency=0.02) as stub:
        judge = {"endpoint": stub.url, "served_model": "judge", "method": "sample"}
        evaluation = {"samples": SAMPLES, "contexts": ["neutral"], "judged_by": ["stub"], "max_unparsed": 1.0}
        path = write_study(tmp_path, judges={"stub": judge}, evaluation=evaluation)
        plan, store = finish(path)
        trial = plan.trials[0]

        def delete() -> None:
            # The first few are preflight's.
            while stub.asked("judge").total() < 40:
                time.sleep(0.01)
            shutil.rmtree(store.trial(trial.trial_id).fetch())

        deleting = threading.Thread(target=delete, daemon=True)
        deleting.start()
        outcome = run_study(plan.study, store, train=False)
        deleting.join()
    assert [failure.label for failure in outcome.failed] == ["storage"]
    assert "disappeared from the storage folder during the run (1 trial)" in outcome.failure_text()
    assert "disappeared from the storage folder during the run (1 trial)" in inoc_ray("status", path)[1]


def test_what_was_neither_stored_nor_tried_is_not_lost() -> None:
    trial, cell, judge = ("trial", "a"), ("cell", "a", "1"), ("judge", "gpt")
    before = {trial, cell, judge, MLFLOW, REPORT}
    failure = Failure("judge gpt", "x", "y", (judge,))
    assert lost_during_run(before, before, set(), []) == set()
    assert lost_during_run(before, before, {judge}, [failure]) == set()
    assert lost_during_run(before, before, {judge}, []) == {judge}
    assert lost_during_run(before - {trial}, before, set(), []) == {trial}
    assert lost_during_run(before, set(), {judge}, []) == set()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_failing_disk_is_not_reported_as_wrong_input(tmp_path: Path, number: int) -> None:
    path = write_study(tmp_path)
    plan, store = finish(path)

    def fail(comparison: Comparison) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(TrialError, match=f"{os.strerror(number)}.*What was committed is kept"):
        run_study(plan.study, store, train=False, show=fail)


def test_an_error_outside_the_storage_folder_keeps_its_traceback(tmp_path: Path) -> None:
    plan, store = finish(write_study(tmp_path))

    def fail(comparison: Comparison) -> None:
        raise FileNotFoundError(errno.ENOENT, "none", "/elsewhere")

    with pytest.raises(FileNotFoundError):
        run_study(plan.study, store, train=False, show=fail)


# -- a tracking store that fails -----------------------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("BEGIN EXCLUSIVE")
        yield


@contextmanager
def corrupt(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE t (x)")
        database.executemany("INSERT INTO t VALUES (?)", [("x" * 500,) for _ in range(100)])
        database.commit()
    data = bytearray(path.read_bytes())
    data[4096:12000] = b"\xa5" * (12000 - 4096)
    path.write_bytes(data)
    yield


@contextmanager
def no_database(path: Path) -> Iterator[None]:
    path.write_bytes(b"this is no database\n" * 200)
    yield


@contextmanager
def folder(path: Path) -> Iterator[None]:
    path.mkdir()
    yield


DATABASES = {"locked": locked, "corrupt": corrupt, "no database": no_database, "a folder": folder}


def run_until_shown(path: Path, breaks: Callable[[], None]) -> tuple[StudyOutcome, str, float]:
    """Runs a study whose tracking store `breaks` when the comparison is shown: before, preflight would have refused it.

    Returns the outcome, what was shown, and the seconds that the command took from there.
    """
    shown: list[str] = []
    began: list[float] = []

    def show(comparison: Comparison) -> None:
        shown.append(comparison_text(comparison))
        breaks()
        began.append(time.monotonic())

    study = load_study(path)
    outcome = run_study(study, Store(study.storage), train=False, show=show)
    return outcome, shown[0], time.monotonic() - began[0]


@pytest.mark.parametrize("kind", DATABASES)
def test_a_database_that_fails_costs_neither_the_table_nor_minutes(
    tmp_path: Path, inoc_ray: Run, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    # Ten seconds by default, in case whoever has it gives it back.
    monkeypatch.setattr(tracking_checks, "DATABASE_SECONDS", 1.0)
    path = write_study(tmp_path)
    plan, store = finish(path)
    database = store.mlflow() / "mlflow.db"
    database.parent.mkdir(parents=True)
    with ExitStack() as stack:
        outcome, shown, seconds = run_until_shown(path, lambda: stack.enter_context(DATABASES[kind](database)))
        assert seconds < 60
        assert "suppression" in shown
        assert outcome.report is not None
        assert outcome.comparison is not None
        assert [failure.label for failure in outcome.failed] == ["MLflow"]
        assert "MLflow's database" in outcome.failure_text()
        assert "MLflow: MLflow's database" in inoc_ray("status", path)[1]
    if kind == "no database":
        # The results are whole all the same, and once the file is out of the way MLflow has them, too.
        assert json.loads(inoc_ray("compare", path, "--json")[1])["complete"] is True
        code, _, err = inoc_ray("sync", path)
        assert code == 1
        assert "MLflow's database" in err
        database.unlink()
        assert inoc_ray("sync", path)[0] == 0
        assert failures_of(plan_of(plan.study, store), store) == []


class Tracking(http.server.BaseHTTPRequestHandler):
    """A tracking server that is well until it is `broken`; then it answers 500, or nothing while it `hangs`."""

    broken: threading.Event
    hangs: threading.Event | None

    def do_GET(self) -> None:
        broken = self.broken.is_set()
        if broken and self.hangs is not None and self.path != "/health":
            self.hangs.wait()
        body = b'{"experiment": {"experiment_id": "1", "tags": []}}'
        self.send_response(500 if broken and self.path != "/health" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.mark.parametrize("hangs", [False, True])
def test_a_server_that_fails_costs_neither_the_table_nor_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    if hangs:
        # Without it a minute, since a server that is well may need 20 s.
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    broken, answered = threading.Event(), threading.Event()
    handler = type("Handler", (Tracking,), {"broken": broken, "hangs": answered if hangs else None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "user")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
        path = write_study(tmp_path, tracking_uri=f"http://127.0.0.1:{server.server_port}")
        finish(path)
        outcome, shown, seconds = run_until_shown(path, broken.set)
        answered.set()
        server.shutdown()
    assert seconds < 40
    assert "suppression" in shown
    assert [failure.label for failure in outcome.failed] == ["MLflow"]
    log = Path(outcome.failed[0].log).read_text()
    said = outcome.failure_text() + outcome.to_text() + json.dumps(outcome.to_json()) + log
    assert "secret" not in said
    assert ("timed out" if hangs else "500") in said


def test_an_uncommitted_trial_has_its_own_failure_key(tmp_path: Path) -> None:
    plan, _ = finish(write_study(tmp_path))
    assert len({trial_key(t) for t in plan.trials} | {cell_key(c) for c in plan.cells}) == 4 + 10
