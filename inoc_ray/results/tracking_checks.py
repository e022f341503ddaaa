"""Whether an MLflow tracking server or database can be written to: known within seconds, before anything starts."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

from inoc_ray.endpoint.auth import hide_password
from inoc_ray.errors import InputError, TrialError

_DATABASE_SECONDS = 10.0
"""How long a database may take to answer, or to be free of another process's lock."""
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def check_server(tracking_uri: str, timeout: float = 5.0) -> None:
    """Check that a server answers within `timeout` seconds, if `tracking_uri` is an HTTP address. Raises `InputError` if not.

    MLflow's own client would try for minutes. Any answer counts, even a refusal: only the client can log in.
    """
    if not tracking_uri.startswith(("http://", "https://")):
        return
    import http.client

    try:
        _request(tracking_uri, "/health", None, timeout)
    except (OSError, ValueError, http.client.HTTPException) as error:
        shown = hide_password(tracking_uri)
        raise InputError(
            f"no MLflow tracking server answers at {shown} ({error}); start it, or correct the tracking URI"
        ) from None


def _request(tracking_uri: str, path: str, data: bytes | None, timeout: float) -> tuple[int, str]:
    """Return status and reason of a request to a tracking server, also for a refusal; log in with the URI's credentials."""
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
    """Check within seconds that MLflow can write to a URI. No message shows a password.

    Raises `InputError` if the kind of URI is not supported or no MLflow server answers there, and `TrialError` if a database is
    broken.
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
    check_server(tracking_uri)
    _check_api(tracking_uri)


def _check_api(tracking_uri: str, timeout: float = 10.0) -> None:
    """Check that the server answers a search for experiments: it may be up with a broken database. Raises `InputError`."""
    import http.client

    shown = hide_password(tracking_uri)
    try:
        status, reason = _request(tracking_uri, "/api/2.0/mlflow/experiments/search", b'{"max_results": 1}', timeout)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise InputError(f"tracking_uri: {shown} does not answer a search for experiments ({error}).") from None
    # If the server requires a login, only MLflow's own client knows how.
    if status not in (200, 401, 403):
        raise InputError(
            f"tracking_uri: {shown} does not answer like an MLflow tracking server ({status} {reason}); check its log, or "
            "correct the address."
        )


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
