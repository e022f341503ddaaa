"""A database of MLflow is there whole or not at all, whenever the process that makes it is killed."""

import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress

from inoc_ray.results.tracking import embedded
from inoc_ray.results.tracking_database import make_database

PROGRAM = "import sys; from inoc_ray.results.tracking_database import make_database; make_database(sys.argv[1])"


def tables(path):
    with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return set()


def test_a_kill_among_the_migrations_leaves_no_database(tmp_path):
    from mlflow.tracking import MlflowClient

    path = tmp_path / "mlflow" / "mlflow.db"
    uri = f"sqlite:///{path}"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, uri], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not (made := [new for new in tmp_path.glob("mlflow/.mlflow.db-*/mlflow.db") if len(tables(new)) > 3]):
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < end
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert made
    assert not path.exists()
    make_database(uri)
    client = MlflowClient(uri)
    experiment = client.create_experiment("study")
    make_database(uri)
    assert [found.experiment_id for found in client.search_experiments(filter_string="name = 'study'")] == [experiment]


def test_another_kind_of_address_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for uri in ("http://127.0.0.1:1", "postgresql://host/db", "sqlite://"):
        make_database(uri)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_any_name_has_its_database_inside(tmp_path):
    """A name with `%20` or `?` had it elsewhere, where two storages could share one."""
    from mlflow.tracking import MlflowClient

    folder = tmp_path / "100%20 of a#b?c"
    folder.mkdir()
    uri, _ = embedded(folder)
    make_database(uri)
    experiment = MlflowClient(uri).create_experiment("study")
    # MLflow makes an empty folder of the quoted name beside it.
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [folder / "mlflow.db"]
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        assert connection.execute("SELECT name FROM experiments WHERE experiment_id = ?", (experiment,)).fetchall()
