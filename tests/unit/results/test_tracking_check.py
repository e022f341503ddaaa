"""Where the results are to go is looked at before anything starts, in seconds, and no message shows a password."""

import contextlib
import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from inoc_ray.errors import InputError, TrialError, hide_password, hide_passwords
from inoc_ray.evaluate.score_table import empty_score_table
from inoc_ray.results import tracking_checks
from inoc_ray.results.compare import compare
from inoc_ray.results.records import FIRST_RUN, StudyRecord
from inoc_ray.results.tracking import sync
from inoc_ray.results.tracking_checks import check_database, check_tracking_uri
from inoc_ray.results.tracking_server import check_server

PASSWORD = "very-secret"


@dataclass
class Answers:
    """What a tracking server answers: status and body by the end of the path; 200 and an experiment for what is not named."""

    by_path: dict[str, tuple[int, str]] = field(default_factory=dict)
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    """(path, header with the login, body) of each request."""


FOUND = json.dumps(
    {
        "experiment": {
            "experiment_id": "7",
            "lifecycle_stage": "active",
            "tags": [{"key": "mlflow.experimentKind", "value": "x"}],
        }
    }
)
UNKNOWN = (404, '{"error_code": "RESOURCE_DOES_NOT_EXIST"}')


@contextmanager
def server(**by_path: tuple[int, str]) -> Iterator[tuple[str, Answers]]:
    """A tracking server on loopback: its address, and what it answers and saw."""
    answers = Answers({name.replace("_", "-"): answer for name, answer in by_path.items()})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            answers.seen.append((path, self.headers.get("Authorization", ""), sent))
            status, body = answers.by_path.get(path.rpartition("/")[2], (200, FOUND))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_port}", answers
    finally:
        running.shutdown()
        running.server_close()


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


@pytest.mark.parametrize("uri", ["nonsense://x", "   ", "", "file:///tmp/runs", "runs", "databricks", "http:/x"])
def test_what_runs_cannot_be_written_to_is_refused(uri):
    with pytest.raises(InputError, match="cannot store MLflow runs"):
        check_tracking_uri(uri)


@pytest.mark.parametrize("status", [500, 502, 404])
def test_a_server_that_is_up_and_broken_is_refused(status):
    with (
        server(get_by_name=(status, "<html>")) as (uri, _),
        pytest.raises(InputError, match=f"not answer like .*{status}"),
    ):
        check_tracking_uri(uri, "mine")
    with (
        server(search=(status, "")) as (uri, _),
        pytest.raises(InputError, match=f"not answer like an MLflow .*{status}"),
    ):
        check_tracking_uri(uri)


def test_an_answer_that_is_no_experiment_is_not_taken_for_one():
    for body in ("[]", "{}", '{"experiment": 3}', "hello"):
        with server(get_by_name=(200, body)) as (uri, _), pytest.raises(InputError, match="does not answer like"):
            check_tracking_uri(uri, "mine")


def test_the_permission_to_write_is_tried_with_what_is_there_already():
    with server() as (uri, answers):
        check_tracking_uri(uri, "mine")
    (path, _, sent) = answers.seen[-1]
    assert path.endswith("experiments/set-experiment-tag")
    assert json.loads(sent) == {"experiment_id": "7", "key": "mlflow.experimentKind", "value": "x"}


def test_an_experiment_that_is_not_there_yet_is_not_made():
    with server(get_by_name=UNKNOWN, create=(400, "")) as (uri, answers):
        check_tracking_uri(uri, "mine")
    assert json.loads(answers.seen[-1][2]) == {"name": ""}
    with (
        server(get_by_name=UNKNOWN, create=(403, "")) as (uri, _),
        pytest.raises(InputError, match="may not create experiments"),
    ):
        check_tracking_uri(uri, "mine")


LOGINS = [
    ({}, "wants a login", ""),
    ({"USERNAME": "ann"}, "wants a login", ""),
    ({"USERNAME": "ann", "PASSWORD": PASSWORD}, "refuses the user 'ann'", "Basic "),
    ({"TOKEN": PASSWORD}, "refuses the token", "Bearer "),
]


@pytest.mark.parametrize(("login", "said", "sent"), LOGINS)
def test_a_login_that_is_missing_or_wrong_is_named_and_not_shown(login, said, sent, monkeypatch):
    for name, value in login.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    with server(get_by_name=(401, "")) as (uri, answers), pytest.raises(InputError, match="401") as caught:
        check_tracking_uri(uri, "mine")
    assert said in str(caught.value)
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert answers.seen[-1][1].startswith(sent)


@pytest.mark.parametrize("refused", ["get_by_name", "set_experiment_tag"])
def test_a_user_who_may_not_write_is_told_what_to_ask_for(refused, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    said = r"the user 'ann' may not (read|write to) the experiment 'mine' .*\(403\): have an administrator grant EDIT"
    with server(**{refused: (403, "Permission denied")}) as (uri, _), pytest.raises(InputError, match=said) as caught:
        check_tracking_uri(uri, "mine")
    assert PASSWORD not in str(caught.value)


def test_a_server_that_is_asked_by_another_name_than_its_own_says_so():
    refusal = (403, "Invalid Host header - possible DNS rebinding attack detected")
    with server(get_by_name=refusal) as (uri, _), pytest.raises(InputError, match="--allowed-hosts"):
        check_tracking_uri(uri, "mine")


def test_an_experiment_in_the_trash_is_refused_before_the_start():
    with (
        server(get_by_name=(200, FOUND.replace("active", "deleted"))) as (uri, _),
        pytest.raises(InputError, match="trash"),
    ):
        check_tracking_uri(uri, "mine")


def of(storage: str, *, created_at: int = 5) -> StudyRecord:
    return StudyRecord("mine", created_at, tags={"storage": storage, FIRST_RUN: str(created_at)})


@pytest.mark.parametrize(
    ("tags", "start", "refused"),
    [
        ({"storage": "s3://b/theirs", FIRST_RUN: "6"}, 5, True),
        ({"storage": "s3://b/theirs"}, 6, True),
        ({"storage": "s3://b/mine", FIRST_RUN: "6"}, 6, False),
        ({"storage": "s3://b/moved", FIRST_RUN: "5"}, 6, False),
        ({"storage": "s3://b/moved"}, 5, False),
        ({}, 6, False),
    ],
)
def test_the_experiment_of_another_storages_study_is_refused_before_the_start(tags, start, refused):
    run = {"info": {"start_time": start}, "data": {"tags": [{"key": k, "value": v} for k, v in tags.items()]}}
    with server(search=(200, json.dumps({"runs": [run]}))) as (uri, answers):
        if refused:
            with pytest.raises(InputError, match=r"in s3://b/theirs: rename one of them.*set the tag `storage`"):
                check_tracking_uri(uri, "mine", of("s3://b/mine"))
        else:
            check_tracking_uri(uri, "mine", of("s3://b/mine"))
    assert json.loads(answers.seen[-1][2])["filter"] == "tags.study_run = 'mine'"


def test_a_sync_never_touches_the_runs_of_another_storages_study(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'shared.db'}"

    def bring(study: StudyRecord, *, inside: bool = False) -> str:
        found = compare(empty_score_table(), "mine")
        return sync(uri, study, [], found, lock=nullcontext(), inside=inside).study_run_id

    theirs = bring(of("s3://b/theirs", created_at=6))
    client = MlflowClient(uri)
    # What an interrupted sync may leave: of two runs of one study the newer would be deleted.
    experiment = client.get_experiment_by_name("mine").experiment_id
    client.create_run(experiment, tags={"study_run": "mine", "storage": "s3://b/theirs"})
    with pytest.raises(InputError, match="rename one of them"):
        bring(of("s3://b/mine"))
    assert len(client.search_runs([experiment])) == 2
    # A storage that was moved, and MLflow inside the storage.
    assert bring(of("s3://b/theirs", created_at=6)) == theirs
    assert bring(of("s3://b/moved", created_at=6)) == theirs
    assert bring(of("/elsewhere"), inside=True) == theirs


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database that has a study of s3://b/theirs, and its artifacts beside it."""
    folder = tmp_path_factory.mktemp("theirs")
    with contextlib.chdir(folder):
        found = compare(empty_score_table(), "mine")
        sync(f"sqlite:///{folder / 'shared.db'}", of("s3://b/theirs"), [], found, lock=nullcontext())
    return folder


def test_a_database_is_asked_before_the_start_what_a_sync_would_find_in_it(synced: Path, tmp_path: Path):
    uri = f"sqlite:///{synced / 'shared.db'}"
    before = (synced / "shared.db").read_bytes()
    check_tracking_uri(uri, "mine", of("s3://b/theirs"))
    check_tracking_uri(uri, "another", of("s3://b/mine"))
    with pytest.raises(InputError, match=r"in s3://b/theirs: rename one of them"):
        check_tracking_uri(uri, "mine", of("s3://b/mine", created_at=6))
    # The same database, as another machine has it.
    (synced / "mlruns").rename(synced / "elsewhere")
    try:
        with pytest.raises(
            InputError, match=rf"'mine' has its artifacts in the folder {synced}/mlruns/1, which this machine"
        ):
            check_tracking_uri(uri, "mine", of("s3://b/theirs"))
    finally:
        (synced / "elsewhere").rename(synced / "mlruns")
    assert (synced / "shared.db").read_bytes() == before
    check_tracking_uri(f"sqlite:///{tmp_path / 'new.db'}", "mine", of("s3://b/mine"))
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_in_a_databases_trash_is_refused_before_the_start(synced: Path, tmp_path: Path):
    from mlflow.tracking import MlflowClient

    shutil.copy(synced / "shared.db", tmp_path / "copy.db")
    uri = f"sqlite:///{tmp_path / 'copy.db'}"
    client = MlflowClient(uri)
    client.delete_experiment(client.get_experiment_by_name("mine").experiment_id)
    with pytest.raises(InputError, match="trash"):
        check_tracking_uri(uri, "mine", of("s3://b/theirs"))


def test_a_server_that_is_not_there_is_named_with_the_systems_reason():
    with pytest.raises(InputError, match=r"no MLflow tracking server answers at http://127.0.0.1:9 \(.*refused\)"):
        check_tracking_uri("http://127.0.0.1:9", "mine")


def test_a_login_in_the_address_is_refused_and_never_shown():
    for uri in (
        f"http://me:p@{PASSWORD}@127.0.0.1:9",
        f"http://me:{PASSWORD}@127.0.0.1:9",
        f"http://me:{PASSWORD}@127.0.0.1:x/",
        f"https://me:{PASSWORD}@[::1",
    ):
        for check in (check_server, check_tracking_uri):
            with pytest.raises(InputError) as caught:
                check(uri)
            assert PASSWORD not in str(caught.value)
            assert "me:***@" in str(caught.value)


def test_a_database_without_its_driver_is_named_without_the_password():
    with pytest.raises(TrialError, match=r"No module named '.*install the database's driver") as caught:
        check_tracking_uri(f"mssql+pymssql://me:{PASSWORD}@127.0.0.1:9/db")
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
    assert tracking_checks.DATABASE_SECONDS <= 20


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"https://{PASSWORD}@host/x", "https://***@host/x"),
        (f'see "HTTPS://{PASSWORD}@host:80", a@b', 'see "HTTPS://***@host:80", a@b'),
        (f"https://me:{PASSWORD}@x@host", "https://me:***@host"),
        (f"postgresql://h/db?user=me&password={PASSWORD}&x=1", "postgresql://h/db?user=me&password=***&x=1"),
        (f"postgresql://me:a/{PASSWORD}@h/db", "postgresql://me:***@h/db"),
        (f"no folder /home/https:/me:{PASSWORD}@host/x", "no folder /home/https:/me:***@host/x"),
        (f"https://h/v1?api-key={PASSWORD}", "https://h/v1?api-key=***"),
        (f"https://h/v1?sv=1&sig={PASSWORD}&key={PASSWORD}", "https://h/v1?sv=1&sig=***&key=***"),
        ("postgresql://h/db?sslkey=/client.key", "postgresql://h/db?sslkey=/client.key"),
        ("http://localhost:5000/a/me@host", "http://localhost:5000/a/me@host"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("hf://OWNER/NAME@0123 s3://bucket/a@b", "hf://OWNER/NAME@0123 s3://bucket/a@b"),
        ("http://localhost:80 me@host", "http://localhost:80 me@host"),
        ("http://localhost/me@host", "http://localhost/me@host"),
    ],
)
def test_what_is_secret_in_an_address_is_hidden_and_nothing_else(text, shown):
    assert hide_password(text) == shown


def test_no_address_of_a_study_is_kept_with_its_password():
    judges = {"j": {"endpoint": f"https://u:{PASSWORD}@h/v1", "samples": 1}}
    kept = hide_passwords({"tracking_uri": f"postgresql://me:{PASSWORD}@h/db", "judges": judges, "n": [1, None]})
    assert kept["tracking_uri"] == "postgresql://me:***@h/db"
    assert kept["judges"] == {"j": {"endpoint": "https://u:***@h/v1", "samples": 1}}
    assert kept["n"] == [1, None]
