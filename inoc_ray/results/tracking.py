"""Sync of a study to MLflow: one experiment per study, with a parent run and one child run per trial.

The store is the truth (what a trial is, when it ran, its scores); `sync` makes the tracking server agree with it. A second call
changes nothing; new trials are added, and rates that changed are written again.

How `sync` is idempotent:
* A run is found by its tag `place` (setting, model, arm and seed; the parent by `study_run`), since two settings of a
  study may share a trial. Finding and creating happen under the caller's lock, since MLflow has no unique tags; of two
  runs for one place, the older is kept. A run without the tag is from an earlier version: its parameters give its place.
* MLflow stores a point of a curve again if any of its fields differs, so points have the store's times, never the clock's. Those
  that were sent while the trial trained (`tracking_live`) are the same, and stay as they are. A curve that is there as a whole
  (tag `curves`, a hash of it) is not sent again.
* A rate is written at step 0, and at the next step if MLflow's value differs: MLflow shows the newest step, and the metric's
  history has the earlier values. A rate that is no longer known becomes NaN.
* A parameter cannot be changed in MLflow: a run whose parameters no longer agree is deleted and made again.
* Artifacts have fixed paths; tag `artifacts` (a hash over them) shows whether they must be sent again.

Runs of trials that a study no longer names are kept, as the store keeps those trials.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.config.identity import file_hash
from inoc_ray.endpoint.auth import hide_password
from inoc_ray.errors import InputError, TrialError
from inoc_ray.results.records import RunRecord, StudyRecord, TrialRecord, study_run, trial_runs
from inoc_ray.results.tracking_checks import check_database, first_line
from inoc_ray.results.tracking_client import FIRST_CALL, LATER_CALLS, environment, quiet
from inoc_ray.results.tracking_database import make_database
from inoc_ray.results.tracking_runs import all_tags, find_experiment, known_runs, open_run
from inoc_ray.results.tracking_server import check_server
from inoc_ray.store.place import Place, at
from inoc_ray.store.store import tracking_files

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

    from inoc_ray.results.comparison import Comparison
__all__ = [
    "StudyRecord",
    "SyncResult",
    "TrialRecord",
    "check_database",
    "check_server",
    "embedded",
    "file_lock",
    "sync",
]
_BATCH = 1000  # entities in one call; MLflow's limit
_SMALL_BATCH = 100  # parameters or tags in one call; MLflow's limit
_TABLE = "samples.json"
_TABLE_ROWS = 1000
LOCK_SECONDS = 600.0
"""How long a sync waits for another one of the same storage."""


@dataclass(frozen=True, slots=True)
class SyncResult:
    """The state after a sync. runs: place (`TrialRecord.place`) → MLflow run id. written: number of runs that changed."""

    experiment_id: str
    parent_run_id: str
    runs: dict[str, str]
    written: int


def embedded(folder: Path) -> tuple[str, str]:
    """Return tracking URI and artifact root of MLflow without a server: an SQLite database and artifacts in `folder`."""
    database, artifacts = tracking_files(folder.resolve())
    return f"sqlite:///{database}", artifacts.as_uri()


@contextmanager
def file_lock(path: Place | Path, timeout: float = LOCK_SECONDS) -> Iterator[None]:
    """Wait for, then hold, an exclusive lock on `path`, which is created; the death of the process releases it.

    Raises `TrialError` after `timeout` seconds.
    """
    place = at(path)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(place.exclusive(timeout))
        except TimeoutError as error:
            raise TrialError(
                f"{place}: another process has been writing to MLflow for {timeout:.0f} s; run `inoc-ray sync` later."
            ) from error
        yield


def sync(
    tracking_uri: str,
    study: StudyRecord,
    trials: Sequence[TrialRecord],
    comparison: Comparison,
    *,
    lock: AbstractContextManager[Any],
    artifact_root: str | None = None,
    report_files: Sequence[Place] = (),
) -> SyncResult:
    """Make the experiment `study.name` on `tracking_uri` agree with the study, its trials and their comparison.

    lock: held throughout; must exclude every other sync of this study (see `file_lock`). artifact_root: URI for the artifacts of
    a new experiment; None leaves it to the server. report_files: logged to the parent run, beside comparison.json. Raises
    `InputError` if there is no server at the address, the experiment is in MLflow's trash or is another storage's (unless
    `artifact_root` is given, as for MLflow inside the storage), and `TrialError` if the server or its database fails or refuses
    a call; within a minute, if it is broken from the start.
    """
    check_server(tracking_uri)
    with lock, quiet(), environment(LATER_CALLS), _refusals(tracking_uri):
        check_database(tracking_uri)
        from mlflow.tracking import MlflowClient

        make_database(tracking_uri)
        client = MlflowClient(tracking_uri)
        with environment(FIRST_CALL):
            experiment = find_experiment(client, study.name, artifact_root)
        # MLflow inside the storage is that storage's, whatever its address was when the runs were made.
        known = known_runs(client, experiment, trials, study if artifact_root is None else None)
        with tempfile.TemporaryDirectory() as scratch:
            summary = Path(scratch) / "comparison.json"
            summary.write_text(json.dumps(comparison.to_json(), indent=1), encoding="utf-8")
            parent = study_run(study, trials, comparison, [at(summary), *report_files])
            found = known.get(("study_run", study.name))
            parent_id, changed = _write(client, experiment, parent, known=found)
            written = int(changed)
        runs: dict[str, str] = {}
        for run in trial_runs(study, trials, comparison):
            tags = {"mlflow.parentRunId": parent_id}
            runs[run.identity[1]], changed = _write(
                client, experiment, run, known=known.get(run.identity), extra_tags=tags
            )
            written += changed
    return SyncResult(experiment, parent_id, runs, written)


def _write(
    client: MlflowClient,
    experiment: str,
    run: RunRecord,
    *,
    known: MlflowRun | None,
    extra_tags: Mapping[str, str] | None = None,
) -> tuple[str, bool]:
    """Make one MLflow run agree with `run`; return its id, and whether anything was written."""
    from mlflow.entities import Metric, Param, RunTag

    tags = all_tags(run, extra_tags)
    known, fresh = open_run(client, experiment, run, known=known, tags=tags)
    run_id, params, old_tags = known.info.run_id, known.data.params, known.data.tags
    new_params = [Param(key, value) for key, value in run.params.items() if key not in params]
    new_tags = [RunTag(key, value) for key, value in tags.items() if old_tags.get(key) != value]
    metrics = list(_changed_metrics(client, known, run))
    curves, artifacts = run.curves_hash(), run.artifacts_hash()
    if old_tags.get("curves") != curves:
        metrics += [Metric(p.key, p.value, p.timestamp, p.step) for p in run.curves]
        new_tags.append(RunTag("curves", curves))
    send = old_tags.get("artifacts") != artifacts
    if send:
        _send_artifacts(client, run_id, run)
        new_tags.append(RunTag("artifacts", artifacts))
        if run.table is not None:
            new_tags.append(RunTag("mlflow.loggedArtifacts", json.dumps([{"path": _TABLE, "type": "table"}])))
    _log(client, run_id, params=new_params, metrics=metrics, tags=new_tags)
    # A lost trial has no times in the store, and a run cannot end before its start.
    end = None if run.ended_at is None else max(run.ended_at, known.info.start_time)
    ended = (known.info.status, known.info.end_time) != (run.status, end)
    if run.status == "RUNNING":
        if known.info.status != "RUNNING":
            client.update_run(run_id, status="RUNNING")
    elif ended:
        client.set_terminated(run_id, run.status, end)
    return run_id, bool(fresh or new_params or metrics or new_tags or send or ended)


def _changed_metrics(client: MlflowClient, known: MlflowRun, run: RunRecord) -> Iterator[Any]:
    """Yield the rates that MLflow lacks or has with another value; metrics of curves and of the system are ignored."""
    from mlflow.entities import Metric

    stored = known.data.metrics
    curves = {point.key for point in run.curves}
    others = curves | {key for key in stored if key.startswith("system/")}
    gone = {key: math.nan for key in stored if key not in run.metrics and key not in others}
    for key, value in {**run.metrics, **gone}.items():
        if key not in stored:
            yield Metric(key, value, run.started_at, 0)
        elif stored[key] != value and not (math.isnan(stored[key]) and math.isnan(value)):
            step = max(point.step for point in client.get_metric_history(known.info.run_id, key)) + 1
            yield Metric(key, value, run.started_at, step)


def _log(client: MlflowClient, run_id: str, *, params: list[Any], metrics: list[Any], tags: list[Any]) -> None:
    """Log everything in as few calls as the limits allow. Tags come last, since they state that the rest was written."""
    while params or len(metrics) > _BATCH - _SMALL_BATCH:
        room = _BATCH - min(len(params), _SMALL_BATCH)
        client.log_batch(run_id, metrics=metrics[:room], params=params[:_SMALL_BATCH])
        metrics, params = metrics[room:], params[_SMALL_BATCH:]
    while metrics or tags:
        client.log_batch(run_id, metrics=metrics, tags=tags[:_SMALL_BATCH])
        metrics, tags = [], tags[_SMALL_BATCH:]


def _send_artifacts(client: MlflowClient, run_id: str, run: RunRecord) -> None:
    for place, folder in run.artifacts:
        path = place.fetch()
        if place in run.committed and file_hash(path) != run.committed[place]:
            raise InputError(f"{place}: damaged, its content is not what was committed; run the study again.")
        client.log_artifact(run_id, str(path), folder or None)
    if run.table is not None:
        with tempfile.TemporaryDirectory() as scratch:
            table = Path(scratch) / _TABLE
            table.write_text(_table_json(run.table.fetch()), encoding="utf-8")
            client.log_artifact(run_id, str(table))


def _table_json(path: Path) -> str:
    """Return the first samples in MLflow's format for a logged table (pandas' "split")."""
    import pandas as pd

    return str(pd.read_parquet(path).head(_TABLE_ROWS).to_json(orient="split", index=False))


@contextmanager
def _refusals(tracking_uri: str) -> Iterator[None]:
    """Turn errors of MLflow, its database and the network into `TrialError`."""
    import requests
    import sqlalchemy
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (
        MlflowException,
        sqlalchemy.exc.SQLAlchemyError,
        sqlite3.Error,
        requests.RequestException,
        OSError,
    ) as error:
        raise TrialError(f"MLflow at {hide_password(tracking_uri)}: {first_line(error)}") from error
