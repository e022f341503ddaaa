"""MLflow as a projection of the store: one experiment per study, a parent run, one child run per trial.

The store is the truth (what a trial is, when it ran, what it scored); `sync` makes the tracking server say the same.
Calling it twice changes nothing; a trial that is new is added, a rate that changed is written again.

How that is made idempotent, with MLflow as it is:
* A run is found by its tag `place` (setting, model, arm and seed; the parent by `study_run`), since two settings of a
  study may share a trial. Finding and creating happen under the caller's lock, since MLflow has no unique tags; of two
  runs for one place, the older stays. A run without the tag is of an earlier version: its parameters name its place.
* A point of a curve is a row keyed by all that it holds, so it is written with the store's times, never the clock's,
  and a curve that is there already (tag `curves`, a hash of it) is not sent again.
* A rate is written at step 0; where the stored value differs, at the next step: MLflow shows the newest step, and the
  metric's history says what it was. One that is no longer known becomes NaN.
* A parameter cannot be changed in MLflow: a run whose parameters no longer agree is deleted and made again.
* Artifacts lie at fixed paths; tag `artifacts` (a hash over them) says whether they must be sent again.

Runs of trials that a study no longer names stay: the store keeps those trials, too.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.config.identity import file_hash
from inoc_ray.endpoint.auth import hide_password
from inoc_ray.errors import InputError, TrialError
from inoc_ray.results.records import Run, StudyRecord, TrialRecord, place_of, project_study, project_trials
from inoc_ray.store.lock import exclusive
from inoc_ray.store.store import tracking_files

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

    from inoc_ray.results.comparison import Comparison

__all__ = ["StudyRecord", "Synced", "TrialRecord", "check_database", "check_server", "embedded", "file_lock", "sync"]

_BATCH = 1000  # entities in one call; MLflow's limit
_SMALL_BATCH = 100  # parameters or tags in one call; MLflow's limit
_TABLE = "samples.json"
_TABLE_ROWS = 1000
LOCK_SECONDS = 600.0
"""So long a sync waits for another one of the same storage."""
_DATABASE_SECONDS = 10.0
"""So long a database may take to answer, or to be free of somebody else's lock."""
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
# MLflow's own patience (7 retries of 120 s each) makes a broken server cost minutes at the end of a run. Whoever has set these
# variables is heeded. The first call is answered at once by a server that is well; a later one may carry gigabytes.
_FIRST_CALL = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
_LATER_CALLS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1"}
_QUIET = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True, slots=True)
class Synced:
    """What sync left behind. runs: place (`TrialRecord.place`) → MLflow run id. written: runs in which something was written."""

    experiment_id: str
    parent_run_id: str
    runs: dict[str, str]
    written: int


def embedded(folder: Path) -> tuple[str, str]:
    """Tracking URI and artifact root of the store that needs no server: an SQLite database and artifacts in `folder`."""
    database, artifacts = tracking_files(folder.resolve())
    return f"sqlite:///{database}", artifacts.as_uri()


@contextmanager
def file_lock(path: Path, timeout: float = LOCK_SECONDS) -> Iterator[None]:
    """Wait for, then hold, an exclusive lock on `path` (created); a process that dies lets go of it.

    Raises TrialError after `timeout` seconds of waiting.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(exclusive(path, timeout))
        except TimeoutError as error:
            raise TrialError(
                f"{path}: another process has been writing to MLflow for {timeout:.0f} s; run `inoc-ray sync` later."
            ) from error
        yield


def check_server(tracking_uri: str, timeout: float = 5.0) -> None:
    """Raise InputError when `tracking_uri` is an HTTP address at which nothing answers within `timeout` seconds.

    MLflow's own client would try for minutes. Any answer counts, a refusal too: only the client can log in.
    """
    if not tracking_uri.startswith(("http://", "https://")):
        return
    import http.client

    try:
        _status(tracking_uri, "/health", None, timeout)
    except (OSError, ValueError, http.client.HTTPException) as error:
        shown = hide_password(tracking_uri)
        raise InputError(
            f"no MLflow tracking server answers at {shown} ({error}); start it, or correct the tracking URI"
        ) from None


def _status(tracking_uri: str, path: str, data: bytes | None, timeout: float) -> tuple[int, str]:
    """(status, reason) of a request to a tracking server, refusals too. Name and password in the URI are sent as such."""
    import base64
    import urllib.error
    import urllib.request
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(tracking_uri.strip())
    login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    headers = {"Content-Type": "application/json"}
    if login != ":":
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(address + path, data=data, headers=headers), timeout=timeout
        ) as answer:
            return int(answer.status), str(answer.reason)
    except urllib.error.HTTPError as error:
        return error.code, str(error.reason)


def check_tracking_uri(tracking_uri: str) -> None:
    """Raise InputError for a URI that MLflow could not write to: of a kind that is not supported, or where no server answers as
    MLflow does; TrialError for a database that is broken. Each is known in seconds, and no message shows a password."""
    scheme, separator, _ = tracking_uri.strip().partition("://")
    kind = scheme.partition("+")[0]
    if not separator or kind not in ("http", "https", *_DATABASES):
        databases = ", ".join(f"{name}://" for name in _DATABASES)
        raise InputError(
            f"tracking_uri: {hide_password(tracking_uri)!r} is nothing that runs can be written to; give the address of a "
            f"tracking server (http://HOST:5000) or a database ({databases}…), or leave it out for an SQLite file in the storage."
        )
    if kind in _DATABASES:
        check_database(tracking_uri)
        return
    check_server(tracking_uri)
    _check_api(tracking_uri)


def _check_api(tracking_uri: str, timeout: float = 10.0) -> None:
    """Raise InputError when the server does not answer a search for experiments: one may be up and have a broken database."""
    import http.client

    shown = hide_password(tracking_uri)
    try:
        status, reason = _status(tracking_uri, "/api/2.0/mlflow/experiments/search", b'{"max_results": 1}', timeout)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise InputError(f"tracking_uri: {shown} does not answer a search for experiments ({error}).") from None
    # Of those that turn us away only MLflow's own client knows how to log in.
    if status not in (200, 401, 403):
        raise InputError(
            f"tracking_uri: {shown} does not answer as an MLflow tracking server does ({status} {reason}); look at its log, or "
            "correct the address."
        )


def check_database(tracking_uri: str, timeout: float = _DATABASE_SECONDS) -> None:
    """Raise TrialError when `tracking_uri` names a database that is locked, damaged or not to be reached.

    MLflow's own client would try ten times, for minutes, and end with a traceback of its database library.
    """
    if "://" not in tracking_uri or tracking_uri.startswith(("http://", "https://", "file://")):
        return
    import sqlalchemy
    from sqlalchemy.engine import make_url

    shown = hide_password(tracking_uri)
    try:
        url = make_url(tracking_uri)
        if url.get_backend_name() == "sqlite":
            _check_sqlite(Path(url.database or ""), timeout)
            return
        found: list[BaseException | None] = []
        waiting = threading.Thread(target=lambda: found.append(_connect(tracking_uri)), daemon=True)
        waiting.start()
        waiting.join(timeout)
    except (sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise TrialError(f"MLflow's database {shown}: {_first_line(error)}") from error
    if not found:
        raise TrialError(f"MLflow's database {shown} does not answer within {timeout:.0f} s.")
    if isinstance(found[0], ModuleNotFoundError):
        raise TrialError(f"MLflow's database {shown}: {found[0]}; install the database's driver.") from found[0]
    if found[0] is not None:
        raise TrialError(f"MLflow's database {shown}: {_first_line(found[0])}") from found[0]


def _connect(uri: str) -> BaseException | None:
    """Return what keeps a connection from being made; None when one was."""
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(uri)
        engine.connect().close()
        engine.dispose()
    except Exception as error:  # noqa: BLE001 - a driver's own errors, and the driver that is not installed
        return error
    return None


def _check_sqlite(path: Path, timeout: float) -> None:
    """Raise sqlite3.Error or OSError when the file is there and cannot be written as a database."""
    if not path.exists():
        # MLflow makes the folders that are missing.
        there = next(folder for folder in path.absolute().parents if folder.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise NotADirectoryError(f"{there} is not a folder that can be written to")
        return
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    with closing(sqlite3.connect(path, timeout=timeout, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        [found] = database.execute("PRAGMA quick_check(1)").fetchone()
        database.execute("ROLLBACK")
    if found != "ok":
        raise sqlite3.DatabaseError(f"the file is damaged ({found})")


def _first_line(error: BaseException) -> str:
    return hide_password((str(error).strip().splitlines() or [type(error).__name__])[0])


def sync(
    tracking_uri: str,
    study: StudyRecord,
    trials: Sequence[TrialRecord],
    comparison: Comparison,
    *,
    lock: AbstractContextManager[Any],
    artifact_root: str | None = None,
    report_files: Sequence[Path] = (),
) -> Synced:
    """Make the experiment `study.name` on `tracking_uri` agree with what is handed in.

    lock: entered for the whole of it; must keep out every other sync of this study (see file_lock). artifact_root:
    URI under which the experiment's artifacts are put when it is created here; None leaves it to the server.
    report_files: logged to the parent run, beside comparison.json. Raises InputError when no server is at the address or the
    experiment is in MLflow's trash, TrialError when the server or its database fails or refuses a call; one that is broken from
    the start is given up within a minute.
    """
    check_server(tracking_uri)
    with lock, _quiet(), _environment(_LATER_CALLS), _refusals(tracking_uri):
        check_database(tracking_uri)
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri)
        with _environment(_FIRST_CALL):
            experiment = _experiment(client, study.name, artifact_root)
        bases: dict[tuple[str, str], str] = {}
        for trial in trials:
            if trial.kind == "base":
                bases.setdefault((trial.setting, trial.trial_id), trial.place)
        known = _known_runs(client, experiment, bases)
        with tempfile.TemporaryDirectory() as scratch:
            summary = Path(scratch) / "comparison.json"
            summary.write_text(json.dumps(comparison.to_json(), indent=1), encoding="utf-8")
            parent = project_study(study, trials, comparison, [summary, *report_files])
            parent_id, changed = _write(client, experiment, known.get(("study_run", study.name)), parent, {})
            written = int(changed)
        runs: dict[str, str] = {}
        for run in project_trials(study, trials, comparison):
            tags = {"mlflow.parentRunId": parent_id}
            runs[run.identity[1]], changed = _write(client, experiment, known.get(run.identity), run, tags)
            written += changed
    return Synced(experiment, parent_id, runs, written)


def _experiment(client: MlflowClient, name: str, artifact_root: str | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        location = f"{artifact_root.rstrip('/')}/{name}" if artifact_root is not None else None
        # Without it the UI opens the experiment as one about prompts and traces, with the runs out of sight.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(name, artifact_location=location, tags=kind))
    if found.lifecycle_stage != "active":
        raise InputError(
            f"the MLflow experiment {name!r} is in the trash: restore it, or remove it for good (mlflow gc)"
        )
    return str(found.experiment_id)


def _known_runs(
    client: MlflowClient, experiment: str, bases: Mapping[tuple[str, str], str]
) -> dict[tuple[str, str], MlflowRun]:
    """Return the study's runs by identity; of several for one identity (an older race) the oldest, the others deleted."""
    runs: list[MlflowRun] = []
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        runs += page
        token = page.token
        if not token:
            break
    known: dict[tuple[str, str], MlflowRun] = {}
    for run in sorted(runs, key=lambda r: (r.info.start_time, r.info.run_id)):
        for name, value in (("place", _place(run, bases)), ("study_run", run.data.tags.get("study_run"))):
            if value is not None and (name, value) in known:
                client.delete_run(run.info.run_id)
            elif value is not None:
                known[name, value] = run
    return known


def _place(run: MlflowRun, bases: Mapping[tuple[str, str], str]) -> str | None:
    """bases: (setting, trial id) → place of a base now. An earlier version listed one of several recipes under the first."""
    tags, params = run.data.tags, run.data.params
    if "place" in tags or "trial_id" not in tags:
        return tags.get("place")
    if params.get("kind") == "base" and (found := bases.get((params.get("setting", ""), tags["trial_id"]))):
        return found
    try:
        return place_of(params["setting"], params["model"], params["arm"], params["seed"])
    except KeyError:
        return None


def _write(
    client: MlflowClient, experiment: str, known: MlflowRun | None, run: Run, extra_tags: dict[str, str]
) -> tuple[str, bool]:
    """Brings one MLflow run in line with `run`; returns its id and whether anything was written."""
    from mlflow.entities import Metric, Param, RunTag

    params = known.data.params if known is not None else {}
    if known is not None and any(key in params and params[key] != value for key, value in run.params.items()):
        client.delete_run(known.info.run_id)
        known, params = None, {}
    tags = {run.identity[0]: run.identity[1], "mlflow.runName": run.name, **run.tags, **extra_tags}
    if known is None:
        known = client.create_run(experiment, start_time=run.started_at, tags=tags, run_name=run.name)
        fresh = True
    else:
        fresh = False
    run_id, old_tags = known.info.run_id, known.data.tags
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
    _log(client, run_id, new_params, metrics, new_tags)
    # A trial that was lost has no times in the store any more; no run ends before it started.
    end = None if run.ended_at is None else max(run.ended_at, known.info.start_time)
    ended = (known.info.status, known.info.end_time) != (run.status, end)
    if run.status == "RUNNING":
        if known.info.status != "RUNNING":
            client.update_run(run_id, status="RUNNING")
    elif ended:
        client.set_terminated(run_id, run.status, end)
    return run_id, bool(fresh or new_params or metrics or new_tags or send or ended)


def _changed_metrics(client: MlflowClient, known: MlflowRun, run: Run) -> Iterator[Any]:
    """Rates that are not in MLflow yet, or otherwise; the curves' metrics are not looked at."""
    from mlflow.entities import Metric

    stored = known.data.metrics
    curves = {point.key for point in run.curves}
    gone = {key: math.nan for key in stored if key not in run.metrics and key not in curves}
    for key, value in {**run.metrics, **gone}.items():
        if key not in stored:
            yield Metric(key, value, run.started_at, 0)
        elif stored[key] != value and not (math.isnan(stored[key]) and math.isnan(value)):
            step = max(point.step for point in client.get_metric_history(known.info.run_id, key)) + 1
            yield Metric(key, value, run.started_at, step)


def _log(client: MlflowClient, run_id: str, params: list[Any], metrics: list[Any], tags: list[Any]) -> None:
    """As few calls as the limits allow. Tags come last: they say that what they stand for has been written."""
    while params or len(metrics) > _BATCH - _SMALL_BATCH:
        room = _BATCH - min(len(params), _SMALL_BATCH)
        client.log_batch(run_id, metrics=metrics[:room], params=params[:_SMALL_BATCH])
        metrics, params = metrics[room:], params[_SMALL_BATCH:]
    while metrics or tags:
        client.log_batch(run_id, metrics=metrics, tags=tags[:_SMALL_BATCH])
        metrics, tags = [], tags[_SMALL_BATCH:]


def _send_artifacts(client: MlflowClient, run_id: str, run: Run) -> None:
    for path, folder in run.artifacts:
        if path in run.committed and file_hash(path) != run.committed[path]:
            raise InputError(f"{path}: damaged, it does not have the bytes that were committed; run the study again.")
        client.log_artifact(run_id, str(path), folder or None)
    if run.table is not None:
        with tempfile.TemporaryDirectory() as scratch:
            table = Path(scratch) / _TABLE
            table.write_text(_table_json(run.table), encoding="utf-8")
            client.log_artifact(run_id, str(table))


def _table_json(path: Path) -> str:
    """Return the first samples in the form in which MLflow keeps a logged table (pandas' "split"), for the UI."""
    import pandas as pd

    return str(pd.read_parquet(path).head(_TABLE_ROWS).to_json(orient="split", index=False))


@contextmanager
def _refusals(tracking_uri: str) -> Iterator[None]:
    """Raise TrialError for what MLflow, its database or the network refuse: a kind of URI, a login, an error of the server."""
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
        raise TrialError(f"MLflow at {hide_password(tracking_uri)}: {_first_line(error)}") from error


@contextmanager
def _environment(values: Mapping[str, str], *, over: bool = False) -> Iterator[None]:
    """Environment variables for the length of a `with` block; those that are set already stay unless `over`."""
    wanted = {name: value for name, value in values.items() if over or name not in os.environ}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow without progress bars, printed links, telemetry and reports of migrations; undone at the end."""
    with _environment(_QUIET, over=True):
        loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
        levels = [logger.level for logger in loggers]
        # MLflow sets its level when it is imported, so it has to be imported before it is made quiet.
        import mlflow  # noqa: F401

        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
