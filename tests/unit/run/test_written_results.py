"""A finished study that is run again writes its report and MLflow runs only if they would change or were touched."""

from __future__ import annotations

import io
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from finished_study import finish, write_study

from inoc_ray.plan.build import build_plan
from inoc_ray.run.load import load_study
from inoc_ray.run.mlflow_records import trial_records
from inoc_ray.run.outcome import StudyOutcome
from inoc_ray.run.pipeline import run_study
from inoc_ray.run.publish import compare_study
from inoc_ray.store.store import Store

pytestmark = pytest.mark.timeout(240)


def again(path: Path) -> tuple[StudyOutcome, set[str]]:
    """Runs the study once more; returns its outcome, and which of its results were written."""
    study = load_study(path)
    store = Store(study.storage)
    files = {"report": store.report(study.name).fetch(), "MLflow": store.mlflow() / "mlflow.db"}
    before = {name: file.stat().st_mtime_ns for name, file in files.items() if file.exists()}
    outcome = run_study(study, store)
    assert outcome.failed == []
    return outcome, {name for name, file in files.items() if file.stat().st_mtime_ns != before.get(name)}


BOTH = {"report", "MLflow"}


def test_results_are_written_again_only_when_that_changes_something(tmp_path):
    path = write_study(tmp_path)
    plan, store = finish(path)
    first, written = again(path)
    assert written == BOTH
    second, written = again(path)
    assert written == set()
    assert (second.report, second.tracking_uri) == (first.report, first.tracking_uri)
    assert second.comparison is not None
    # Somebody touched the page, which MLflow has as it was.
    page = store.report("finished").read_text()
    store.report("finished").write_text("mine")
    _, written = again(path)
    assert written == {"report"}
    assert store.report("finished").read_text() == page
    # Somebody touched MLflow, in its pages or otherwise.
    with sqlite3.connect(store.mlflow() / "mlflow.db") as database:
        database.execute("UPDATE tags SET value = 'false' WHERE key = 'complete'")
    assert again(path)[1] == {"MLflow"}
    with sqlite3.connect(store.mlflow() / "mlflow.db") as database:
        assert set(database.execute("SELECT value FROM tags WHERE key = 'complete'")) == {("true",)}
    # A fine-tune was lost and made again, with the same responses.
    shutil.rmtree(store.trial(plan.trials[0].trial_id).fetch())
    finish(path)
    assert again(path)[1] == BOTH
    # The study asks for less now.
    write_study(tmp_path, seeds=[0])
    assert again(path)[1] == BOTH
    assert again(path)[1] == set()


def test_tables_of_samples_are_made_again_only_when_what_they_are_made_of_changes(tmp_path):
    path = write_study(tmp_path)
    plan, store = finish(path)
    compare_study(plan, store)
    [table, *others] = [one.samples_path for one in trial_records(plan, store)]
    made = table.read_bytes()
    # Nothing is read that would need pandas.
    again = (
        "import sys; from inoc_ray.run.load import load_study; from inoc_ray.plan.build import build_plan\n"
        "from inoc_ray.run.mlflow_records import trial_records; from inoc_ray.store.store import Store\n"
        f"study = load_study({str(path)!r}); store = Store(study.storage)\n"
        "trial_records(build_plan(study, store), store); sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", again], check=False).returncode == 0
    # Somebody edited one, another is gone.
    table.write_bytes(b"mine")
    others[0].unlink()
    trial_records(plan, store)
    assert table.read_bytes() == made
    assert others[0].is_file()
    # The study asks for less, and for what it withholds otherwise.
    fewer = build_plan(load_study(write_study(tmp_path, evaluation={"samples": 6, "contexts": ["neutral"]})), store)
    assert len(pd.read_parquet(trial_records(fewer, store)[0].samples_path.fetch())) * 2 == len(
        pd.read_parquet(io.BytesIO(made))
    )


def test_a_sync_that_changes_nothing_does_without_mlflow(tmp_path):
    path = write_study(tmp_path)
    finish(path)
    sync = (
        "import sys; sys.argv[1:] = ['sync', sys.argv[1]]; from inoc_ray.cli import cli\n"
        "cli(standalone_mode=False); sys.exit(3 if 'mlflow' in sys.modules else 0)"
    )
    codes = [subprocess.run([sys.executable, "-c", sync, path], check=False).returncode for _ in range(2)]
    assert codes == [3, 0]
