"""A finished study that is run again writes its report and MLflow runs only if they would change or were touched."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from finished_study import finish, write_study

from inoc_ray.run.load import load_study
from inoc_ray.run.outcome import StudyOutcome
from inoc_ray.run.pipeline import run_study
from inoc_ray.store.store import Store

pytestmark = pytest.mark.timeout(240)


def again(path: Path) -> StudyOutcome:
    study = load_study(path)
    return run_study(study, Store(study.storage))


def wrote(outcome: StudyOutcome) -> bool:
    return {"report", "MLflow"} <= set(outcome.seconds)


def test_results_are_written_again_only_when_that_changes_something(tmp_path):
    path = write_study(tmp_path)
    _, store = finish(path)
    first = again(path)
    assert first.failed == []
    assert wrote(first)
    second = again(path)
    assert not wrote(second)
    assert (second.report, second.tracking_uri) == (first.report, first.tracking_uri)
    assert second.comparison is not None
    # Somebody touched the page.
    store.report("finished").write_text("mine")
    third = again(path)
    assert wrote(third)
    assert store.report("finished").read_text() != "mine"
    # Somebody touched MLflow, in its pages or otherwise.
    with sqlite3.connect(store.mlflow() / "mlflow.db") as database:
        database.execute("UPDATE runs SET name = 'renamed'")
    assert wrote(again(path))
    # The study asks for less now.
    write_study(tmp_path, seeds=[0])
    assert wrote(again(path))
    assert not wrote(again(path))
