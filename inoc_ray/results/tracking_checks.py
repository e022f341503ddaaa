"""Whether MLflow can write to a tracking URI, a server's or a database's: known within seconds, before anything starts."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from inoc_ray.endpoint.auth import hide_password
from inoc_ray.errors import InputError, TrialError
from inoc_ray.results.tracking_server import check_access

if TYPE_CHECKING:
    from inoc_ray.results.records import StudyRecord

_DATABASE_SECONDS = 10.0
"""How long a database may take to answer, or to be free of another process's lock."""
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def check_tracking_uri(tracking_uri: str, experiment: str | None = None, study: StudyRecord | None = None) -> None:
    """Check within seconds that MLflow can write to a URI. No message shows a password.

    experiment: the name of the one that a server must let this login write to. study: must be the one whose runs are there, if
    any are. Raises `InputError` if the kind of URI is not supported, no MLflow server answers there, it refuses the login or has
    another storage's study of that name, and `TrialError` if a database is broken.
    """
    scheme, separator, _ = tracking_uri.strip().partition("://")
    kind = scheme.partition("+")[0]
    if not separator or kind not in ("http", "https", *_DATABASES):
        databases = ", ".join(f"{name}://" for name in _DATABASES)
        raise InputError(
            f"tracking_uri: {hide_password(tracking_uri)!r} cannot store MLflow runs; give the address of a "
            f"tracking server (http://HOST:5000) or a database ({databases}…), or leave it out for an SQLite file in the storage."
        )
    if kind in _DATABASES:
        check_database(tracking_uri)
        return
    check_access(tracking_uri, experiment, study)


def check_database(tracking_uri: str, timeout: float = _DATABASE_SECONDS) -> None:
    """Check a database that `tracking_uri` names. Raises `TrialError` if it is locked, damaged or unreachable.

    MLflow's own client would try ten times, for minutes, and end with a traceback from its database library.
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
        raise TrialError(f"MLflow's database {shown}: {first_line(error)}") from error
    if not found:
        raise TrialError(f"MLflow's database {shown} does not answer within {timeout:.0f} s.")
    if isinstance(found[0], ModuleNotFoundError):
        raise TrialError(f"MLflow's database {shown}: {found[0]}; install the database's driver.") from found[0]
    if found[0] is not None:
        raise TrialError(f"MLflow's database {shown}: {first_line(found[0])}") from found[0]


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
