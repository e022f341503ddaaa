"""Whether MLflow can write to a tracking URI, a server's or a database's: known within seconds, before anything starts."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from inoc_ray.errors import InputError, TrialError, hide_password
from inoc_ray.results.tracking_client import quiet
from inoc_ray.results.tracking_server import IN_THE_TRASH, check_access, check_storage_of_run
from inoc_ray.store.connection import SCHEMES
from inoc_ray.study.tracking_uri import DATABASES, check_kind, kind_of

if TYPE_CHECKING:
    from inoc_ray.results.records import StudyRecord

DATABASE_SECONDS = 10.0
"""How long a database may take to answer, or to be free of another process's lock."""
_CLIENTS = {"s3": "boto3", "gs": "google.cloud.storage"}
"""Scheme of a bucket → the package by which MLflow writes to it; it does not know the addresses of the others."""


def is_database(tracking_uri: str) -> bool:
    """Return whether a URI names a database rather than a server."""
    return kind_of(tracking_uri) in DATABASES


def check_tracking_uri(
    tracking_uri: str, experiment: str | None = None, study: StudyRecord | None = None, artifact_root: str | None = None
) -> None:
    """Check within seconds that MLflow can write to a URI. No message shows a password.

    experiment: the name of the one that is to be written to. study: must be the one whose runs are there, if any are.
    artifact_root: where the files of a new experiment go, if that is a database's. Raises `InputError` if the kind of URI is not
    supported, no MLflow server answers there, it refuses the login, or the experiment is in the trash, another storage's or has its
    artifacts out of reach, and `TrialError` if a database is broken.
    """
    try:
        check_kind(tracking_uri)
    except ValueError as error:
        raise InputError(f"tracking_uri: {error}.") from None
    if is_database(tracking_uri):
        check_database(tracking_uri)
        if experiment is not None:
            _check_experiment(tracking_uri, experiment, study, artifact_root)
        return
    check_access(tracking_uri, experiment, study)


def check_database(tracking_uri: str, timeout: float | None = None) -> None:
    """Check a database that `tracking_uri` names. Raises `TrialError` if it is locked, damaged or unreachable.

    timeout: seconds; by default DATABASE_SECONDS.

    MLflow's own client would try ten times, for minutes, and end with a traceback from its database library.
    """
    if "://" not in tracking_uri or tracking_uri.startswith(("http://", "https://", "file://")):
        return
    import sqlalchemy
    from sqlalchemy.engine import make_url

    timeout = DATABASE_SECONDS if timeout is None else timeout
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
        raise TrialError(f"MLflow's database {shown}: {first_line(error)}") from error
    if not found:
        raise TrialError(f"MLflow's database {shown} does not answer within {timeout:.0f} s.")
    if isinstance(found[0], ModuleNotFoundError):
        raise TrialError(f"MLflow's database {shown}: {found[0]}; install the database's driver.") from found[0]
    if found[0] is not None:
        raise TrialError(f"MLflow's database {shown}: {first_line(found[0])}") from found[0]


def _check_experiment(tracking_uri: str, name: str, study: StudyRecord | None, artifact_root: str | None) -> None:
    """Check what a sync would find in a database: an experiment that is in use, of this storage, with artifacts in reach."""
    if not _is_mlflows(tracking_uri):
        _check_bucket(artifact_root or "")
        return
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    with quiet():
        try:
            client = MlflowClient(tracking_uri)
            found = client.get_experiment_by_name(name)
            runs = [] if found is None else client.search_runs([found.experiment_id], f"tags.study_run = '{name}'")
        except MlflowException as error:
            raise TrialError(f"MLflow's database {hide_password(tracking_uri)}: {first_line(error)}") from error
    if found is None:
        _check_bucket(artifact_root or "")
        return
    if found.lifecycle_stage != "active":
        raise InputError(IN_THE_TRASH.format(name=name))
    for run in runs:
        if study is not None:
            check_storage_of_run(study, run.data.tags, run.info.start_time)
    # A database has no artifacts: clients write them to a place of the machine on which the experiment was made.
    _check_artifacts(name, found.artifact_location, sent=any("artifacts" in run.data.tags for run in runs))
    _check_bucket(found.artifact_location)


def _check_bucket(location: str) -> None:
    """Raise InputError for a bucket that MLflow cannot write to from this process. Whether it may is not asked."""
    scheme = location.partition("://")[0]
    if scheme not in SCHEMES or (scheme in _CLIENTS and _is_installed(_CLIENTS[scheme])):
        return
    package = f"install the package {_CLIENTS[scheme]} where the command runs, or " if scheme in _CLIENTS else ""
    raise InputError(
        f"tracking_uri: a database keeps runs but no files, and MLflow cannot write those to {location} from here; {package}give "
        "the address of a tracking server (http://HOST:5000)."
    )


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _check_artifacts(name: str, location: str, *, sent: bool) -> None:
    """Raise InputError for a folder that is on another machine. sent: whether something was written to it."""
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    if not is_local_uri(location):
        return
    folder = Path(local_file_uri_to_path(location)).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if (sent and there != folder) or not (there.is_dir() and os.access(there, os.W_OK)):
        raise InputError(
            f"tracking_uri: the MLflow experiment {name!r} has its artifacts in the folder {folder}, which this machine cannot "
            "write to or does not have; run the command where that is, or give the address of a tracking server."
        )


def _is_mlflows(tracking_uri: str) -> bool:
    """Return whether a database has MLflow's tables; nothing is made."""
    import sqlalchemy

    url = sqlalchemy.make_url(tracking_uri)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        return False
    engine = sqlalchemy.create_engine(url)
    try:
        return sqlalchemy.inspect(engine).has_table("experiments")
    finally:
        engine.dispose()


def _connect(uri: str) -> BaseException | None:
    """Return the error of an attempt to connect; None if it succeeded."""
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(uri)
        engine.connect().close()
        engine.dispose()
    except Exception as error:  # noqa: BLE001 - a driver's own errors, and the driver that is not installed
        return error
    return None


def _check_sqlite(path: Path, timeout: float) -> None:
    """Raise `sqlite3.Error` or `OSError` if the file exists but cannot be written as a database, or cannot be created."""
    if not path.exists():
        # MLflow creates missing folders.
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


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without passwords; the name of its class if it has no message."""
    return hide_password((str(error).strip().splitlines() or [type(error).__name__])[0])
