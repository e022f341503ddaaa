"""Sync of a study to MLflow: an experiment with the study's run, one for each arm and base, and below an arm one for each seed.

The store is the truth (what a trial is, when it ran, its scores); `sync` makes the tracking server agree with it. A second call
changes nothing; new trials are added, and rates that changed are written again.

How `sync` is idempotent:
* A run is found by its tag `place` (setting, model, arm and seed; an arm's by `arm`, the study's by `study_run`), since two
  settings of a study may share a trial. Finding and creating happen under the caller's lock, since MLflow has no unique tags;
  of two runs for one place, the older is kept. A run of an earlier version, whose metrics had other names, is made again.
* MLflow stores a point of a curve again if any of its fields differs, so points have the store's times, never the clock's. Those
  that were sent while the trial trained (`tracking_live`) are the same, and stay as they are. A curve that is there as a whole
  (tag `curves`, a hash of it) is not sent again.
* A rate is written at step 0, and at the next step if MLflow's value differs: MLflow shows the newest step, and the metric's
  history has the earlier values. A rate that is no longer known becomes NaN.
* A parameter cannot be changed in MLflow: a run whose parameters no longer agree is deleted and made again.
* Artifacts have fixed paths; tag `artifacts` (a hash over them) shows whether they must be sent again.
* A logged model names the content of its weights; one that was not finished, or is of other weights, is deleted and made again.

Runs of trials that a study no longer names are kept, as the store keeps those trials.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.errors import TrialError, hide_password
from inoc_ray.results.records import Artifact, RunRecord, StudyRecord, TrialRecord
from inoc_ray.results.study_runs import all_runs
from inoc_ray.results.tracking_artifacts import LoggedModels, send
from inoc_ray.results.tracking_checks import check_database, first_line
from inoc_ray.results.tracking_client import FIRST_CALL, LATER_CALLS, quiet
from inoc_ray.results.tracking_database import database_uri, make_database
from inoc_ray.results.tracking_page import describe
from inoc_ray.results.tracking_runs import all_tags, find_experiment, known_runs, log, open_run, parent_tag
from inoc_ray.results.tracking_server import check_server
from inoc_ray.store.place import Place, at
from inoc_ray.store.store import tracking_files
from inoc_ray.variables import environment

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
    "what_is_told",
]
LOCK_SECONDS = 600.0
"""How long a sync waits for another one of the same storage."""


@dataclass(frozen=True, slots=True)
class SyncResult:
    """The state after a sync. runs: place (`TrialRecord.place`, of an arm `arm_place`) → MLflow run id.

    written: number of runs that changed.
    """

    experiment_id: str
    study_run_id: str
    runs: dict[str, str]
    written: int


def embedded(folder: Path) -> tuple[str, str]:
    """Return tracking URI and artifact root of MLflow without a server: an SQLite database and artifacts in `folder`."""
    database, artifacts = tracking_files(folder.resolve())
    return database_uri(database), artifacts.as_uri()


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
    inside: bool = False,
    files: Sequence[Artifact] = (),
) -> SyncResult:
    """Make the experiment `study.name` on `tracking_uri` agree with the study, its trials and their comparison.

    lock: held throughout; must exclude every other sync of this study (see `file_lock`). artifact_root: URI for the artifacts of
    a new experiment; None leaves it to the server. inside: whether this is MLflow inside the storage, where no other storage's
    studies are. files: logged to the study's run, beside its tables. Raises `InputError` if there is no server at the address,
    the experiment is in MLflow's trash or is another storage's, and `TrialError` if the server or its database fails or refuses
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
        known = known_runs(client, experiment.experiment_id, trials, None if inside else study)
        describe(client, experiment, study, comparison)
        write = _Writer(client, tracking_uri, experiment.experiment_id, known)
        own, *others = all_runs(study, trials, comparison, files)
        study_id = write.run(own)
        runs = {run.identity[1]: write.run(run) for run in others}
    return SyncResult(experiment.experiment_id, study_id, runs, write.written)


def what_is_told(
    study: StudyRecord, trials: Sequence[TrialRecord], comparison: Comparison, files: Sequence[Artifact] = ()
) -> str:
    """Return a hash over everything that `sync` would write of the study; without MLflow."""
    runs = [run.state() for run in all_runs(study, trials, comparison, files)]
    # The rest is the experiment's description, which is made of the comparison.
    whole = [study.description, comparison.to_json(), runs]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


class _Writer:
    """Makes runs agree with their records, and counts those that changed; a run's parent comes before it."""

    def __init__(
        self, client: MlflowClient, tracking_uri: str, experiment: str, known: Mapping[tuple[str, str], MlflowRun]
    ) -> None:
        self.client, self.tracking_uri, self.experiment, self.known = client, tracking_uri, experiment, known
        self.models = LoggedModels(client, tracking_uri, experiment)
        self.ids: dict[tuple[str, str], str] = {}
        self.written = 0

    def run(self, run: RunRecord) -> str:
        """Make one MLflow run agree with `run`; return its id."""
        from mlflow.entities import Metric, Param, RunTag

        tags = all_tags(run, parent_tag(run, self.ids))
        before = self.known.get(run.identity)
        known, fresh = open_run(self.client, self.experiment, run, known=before, tags=tags)
        if fresh and before is not None:
            self.models.keep(before.info.run_id, None)
        run_id, params, old_tags = known.info.run_id, known.data.params, known.data.tags
        self.ids[run.identity] = run_id
        new_params = [Param(key, value) for key, value in run.params.items() if key not in params]
        new_tags = [RunTag(key, value) for key, value in tags.items() if old_tags.get(key) != value]
        metrics = list(_changed_metrics(self.client, known, run))
        curves, artifacts = run.curves_hash(), run.artifacts_hash()
        if run.curves and old_tags.get("curves") != curves:
            metrics += [Metric(p.key, p.value, p.timestamp, p.step) for p in run.curves]
            new_tags.append(RunTag("curves", curves))
        if run.artifacts and old_tags.get("artifacts") != artifacts:
            send(self.tracking_uri, known.info.artifact_uri, run.artifacts)
            new_tags.append(RunTag("artifacts", artifacts))
            tables = [{"path": a.path, "type": "table"} for a in run.artifacts if a.table]
            if tables:
                new_tags.append(RunTag("mlflow.loggedArtifacts", json.dumps(tables)))
        changed = self.models.keep(run_id, run.model) + _log_dataset(self.client, known, run)
        # Tags are written last, since they state that the rest was.
        log(self.client, run_id, params=new_params, metrics=metrics, tags=new_tags)
        # A lost trial has no times in the store, and a run cannot end before its start.
        end = None if run.ended_at is None else max(run.ended_at, known.info.start_time)
        ended = (known.info.status, known.info.end_time) != (run.status, end)
        if run.status == "RUNNING":
            if known.info.status != "RUNNING":
                self.client.update_run(run_id, status="RUNNING")
        elif ended:
            self.client.set_terminated(run_id, run.status, end)
        self.written += bool(fresh or new_params or metrics or new_tags or changed or ended)
        return run_id


def _log_dataset(client: MlflowClient, known: MlflowRun, run: RunRecord) -> int:
    """Name the rows that a run was trained on, unless MLflow has them; return how much was written."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    logged = {one.dataset.digest for one in (known.inputs.dataset_inputs if known.inputs else ())}
    if run.dataset is None or run.dataset.digest in logged:
        return 0
    rows = Dataset(run.dataset.name, run.dataset.digest, "local", run.dataset.source)
    client.log_inputs(known.info.run_id, [DatasetInput(rows, [InputTag("mlflow.data.context", "training")])])
    return 1


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
