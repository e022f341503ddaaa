"""Where the results are to go is looked at before anything starts, in seconds, and no message shows a password."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from inoc_ray.endpoint.auth import hide_passwords
from inoc_ray.errors import InputError, TrialError
from inoc_ray.results import tracking
from inoc_ray.results.tracking import check_database, check_server, check_tracking_uri

PASSWORD = "very-secret"


@contextmanager
def server(search: int, seen: list[str] | None = None) -> Iterator[str]:
    """A tracking server that is up, and answers a search for experiments with this status."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, status: int) -> None:
            if seen is not None:
                seen.append(self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def do_GET(self) -> None:
            self._answer(200)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(search)

        def log_message(self, *_: object) -> None: ...

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        running.server_close()


@pytest.mark.parametrize("uri", ["nonsense://x", "   ", "", "file:///tmp/runs", "runs", "databricks", "http:/x"])
def test_what_runs_cannot_be_written_to_is_refused(uri):
    with pytest.raises(InputError, match="nothing that runs can be written to"):
        check_tracking_uri(uri)


@pytest.mark.parametrize("status", [500, 502, 404])
def test_a_server_that_is_up_and_broken_is_refused(status):
    with server(status) as host, pytest.raises(InputError, match=f"does not answer as an MLflow .*{status}"):
        check_tracking_uri(f"http://{host}")


@pytest.mark.parametrize("status", [200, 401, 403])
def test_a_server_that_answers_or_wants_a_login_is_right(status):
    with server(status) as host:
        check_tracking_uri(f"http://{host}")


def test_a_login_in_the_address_is_sent_and_never_shown():
    seen: list[str] = []
    with server(200, seen) as host:
        check_tracking_uri(f"http://me:{PASSWORD}@{host}")
    assert seen
    assert all(header.startswith("Basic ") for header in seen)
    for uri in (
        f"http://me:p@{PASSWORD}@127.0.0.1:9",
        f"http://me:{PASSWORD}@127.0.0.1:9",
        f"http://me:{PASSWORD}@127.0.0.1:x/",
        f"https://me:{PASSWORD}@[::1",
    ):
        with pytest.raises(InputError) as caught:
            check_server(uri)
        assert PASSWORD not in str(caught.value)
        assert "me:***@" in str(caught.value)


def test_a_database_without_its_driver_is_named_without_the_password():
    with pytest.raises(TrialError, match=r"No module named 'psycopg.*install the database's driver") as caught:
        check_tracking_uri(f"postgresql://me:{PASSWORD}@127.0.0.1:9/db")
    assert PASSWORD not in str(caught.value)


def broken(path: Path, how: str) -> None:
    if how == "a folder":
        path.mkdir()
    elif how == "cut":
        with sqlite3.connect(path) as database:
            database.execute("create table t (x)")
            database.executemany("insert into t values (?)", [("x" * 1000,)] * 100)
        path.write_bytes(path.read_bytes()[:20_000])
    elif how == "another file":
        path.write_bytes(b"not a database" * 100)


@pytest.mark.parametrize("how", ["a folder", "cut", "another file"])
def test_a_broken_sqlite_file_is_named(how, tmp_path):
    path = tmp_path / "mlflow.db"
    broken(path, how)
    with pytest.raises(TrialError, match="MLflow's database sqlite"):
        check_tracking_uri(f"sqlite:///{path}")


def test_a_file_in_a_folder_that_is_not_there_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TrialError, match="file is not a folder that can be written to"):
        check_tracking_uri(f"sqlite:///{tmp_path / 'file' / 'deeper' / 'mlflow.db'}")
    # MLflow makes the folders; a look makes nothing.
    check_tracking_uri(f"sqlite:///{tmp_path / 'new' / 'deeper' / 'mlflow.db'}")
    assert not (tmp_path / "new").exists()
    check_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_a_locked_sqlite_file_is_waited_for_in_bounded_time(tmp_path, monkeypatch):
    path = tmp_path / "mlflow.db"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("create table t (x)")
    holder.execute("begin exclusive")
    began = time.monotonic()
    with pytest.raises(TrialError, match="locked"):
        check_database(f"sqlite:///{path}", timeout=0.3)
    assert time.monotonic() - began < 10
    holder.close()
    assert tracking._DATABASE_SECONDS <= 20


def test_no_address_of_a_study_is_kept_with_its_password():
    judges = {"j": {"endpoint": f"https://u:{PASSWORD}@h/v1", "samples": 1}}
    kept = hide_passwords({"tracking_uri": f"postgresql://me:{PASSWORD}@h/db", "judges": judges, "n": [1, None]})
    assert kept["tracking_uri"] == "postgresql://me:***@h/db"
    assert kept["judges"] == {"j": {"endpoint": "https://u:***@h/v1", "samples": 1}}
    assert kept["n"] == [1, None]
