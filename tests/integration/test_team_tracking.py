"""A team's tracking server: PostgreSQL, artifacts in an object store, a login; studies are let in, and show how far they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from doc_pages import commands
from environment import BIN, environment
from finished_study import finish, write_study
from team_server import ADMIN, MLFLOW, POSTGRES, TeamServer, team_server

from inoc_ray.errors import InputError
from inoc_ray.results.tracking_checks import check_tracking_uri

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(POSTGRES is None, reason="PostgreSQL is not installed (Debian: apt install postgresql)"),
]
ANN, BOB = "at-least-12-characters", "another-password-of-bob"
SECRETS = (ANN, BOB, ADMIN)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServer]:
    with team_server(tmp_path_factory.mktemp("team")) as running:
        made = running.as_shown(
            "curl --fail --user admin https://mlflow.example.org/api/2.0/mlflow/users/create", admin=ADMIN
        )
        assert made.returncode == 0, (made.stderr, running.log.read_text()[-3000:])
        bob = {"username": "bob", "password": BOB}
        address = f"{running.address}/api/2.0/mlflow/users/create"
        requests.post(address, json=bob, auth=("admin", ADMIN), timeout=30).raise_for_status()
        yield running


class as_user:
    """The environment of this process has a login while a `with` block runs."""

    def __init__(self, server: TeamServer, user: str, password: str) -> None:
        self.login = server.login(user, password)

    def __enter__(self) -> None:
        os.environ.update(self.login)

    def __exit__(self, *_: object) -> None:
        for name in self.login:
            os.environ.pop(name, None)


def inoc_ray(*words: str | Path, login: dict[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [BIN / "inoc-ray", *words], capture_output=True, text=True, env=environment(**login), check=False, timeout=300
    )
    assert not [secret for secret in SECRETS if secret in done.stdout + done.stderr]
    return done


def client(server: TeamServer) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(server.address)


def runs_of(server: TeamServer, experiment: str) -> dict[str, Any]:
    """Run name → run."""
    found = client(server).get_experiment_by_name(experiment)
    if found is None:
        return {}
    return {run.info.run_name: run for run in client(server).search_runs([found.experiment_id])}


def test_a_study_without_a_login_or_without_the_permission_is_refused_before_it_starts(
    server: TeamServer, tmp_path: Path
) -> None:
    study = write_study(tmp_path, name="shared", tracking_uri=server.address)
    refused = inoc_ray("run", study, login={})
    assert refused.returncode == 2, refused.stderr
    said = "wants a login (401): export MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    assert said in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "runs").exists()
    with as_user(server, "ann", "wrong-password"), pytest.raises(InputError, match=r"refuses the user 'ann' \(401\)"):
        check_tracking_uri(server.address, "shared")

    # The experiment is Bob's until he lets somebody in; everybody may make one of another name.
    with as_user(server, "bob", BOB):
        experiment = client(server).create_experiment("shared")
        check_tracking_uri(server.address, "shared")
    ann = server.login("ann", ANN)
    refused = inoc_ray("run", study, login=ann)
    assert refused.returncode == 2, refused.stderr
    said = " ".join(refused.stderr.split())
    assert "the user 'ann' may not write to the experiment 'shared'" in said
    assert "(403): have an administrator grant EDIT" in said
    assert not (tmp_path / "runs").exists()
    with as_user(server, "ann", ANN):
        check_tracking_uri(server.address, "another")
        with pytest.raises(InputError, match="may not write"):
            check_tracking_uri(server.address, "shared")
        assert client(server).get_experiment_by_name("another") is None
        # As the page shows it, with this experiment's id.
        granted = server.as_shown(
            "curl --fail --user admin https://mlflow.example.org/api/3.0/mlflow/users/permissions/grant", admin=ADMIN
        )
        assert (granted.returncode, experiment) == (0, "1"), granted.stderr
        check_tracking_uri(server.address, "shared")
        with as_user(server, "admin", ADMIN):
            client(server).delete_experiment(experiment)
    with as_user(server, "ann", ANN), pytest.raises(InputError, match="in the trash"):
        check_tracking_uri(server.address, "shared")


def test_a_finished_study_is_there_with_its_artifacts_in_the_bucket_and_a_second_sync_changes_nothing(
    server: TeamServer, tmp_path: Path
) -> None:
    plan, store = finish(study := write_study(tmp_path, name="finished", tracking_uri=server.address))
    ann = server.login("ann", ANN)
    done = inoc_ray("sync", study, "--json", login=ann)
    assert done.returncode == 0, done.stderr
    with as_user(server, "ann", ANN):
        first = {name: run.to_dictionary() for name, run in runs_of(server, "finished").items()}
    assert len(first) == 1 + 2 + len(plan.subjects)
    assert {run["info"]["status"] for run in first.values()} == {"FINISHED"}
    keys = server.objects()
    assert sum(key.endswith("artifacts/adapter_model.safetensors") for key in keys) == len(plan.trials)
    assert any(key.endswith("comparison.json") for key in keys)
    again = inoc_ray("sync", study, login=ann)
    assert again.returncode == 0, again.stderr
    with as_user(server, "bob", BOB):
        # Bob may read it.
        assert {name: run.to_dictionary() for name, run in runs_of(server, "finished").items()} == first
    assert not [path for path in Path(store.address).rglob("*") if path.is_file() and ANN.encode() in path.read_bytes()]


def test_a_trials_curve_grows_while_it_trains_and_a_study_that_is_stopped_says_killed(
    server: TeamServer, tmp_path: Path
) -> None:
    study = write_study(
        tmp_path,
        name="live",
        tracking_uri=server.address,
        arms=["baseline"],
        seeds=[0],
        recipes={"lora": {"learning_rate": 1e-3, "steps": 2000}},
    )
    log = tmp_path / "log"
    with log.open("wb") as out:
        command = subprocess.Popen(
            [BIN / "inoc-ray", "run", study],
            stdout=out,
            stderr=out,
            env=environment(**server.login("ann", ANN), OMP_NUM_THREADS="1"),
            start_new_session=True,
        )
    try:
        with as_user(server, "ann", ANN):
            points: list[Any] = []
            end = time.monotonic() + 150
            while len({point.step for point in points}) < 3 and command.poll() is None and time.monotonic() < end:
                time.sleep(1)
                runs = runs_of(server, "live")
                if trial := runs.get("baseline-s0"):
                    points = client(server).get_metric_history(trial.info.run_id, "loss")
            assert len({point.step for point in points}) >= 3, log.read_text()[-3000:]
            assert {name: run.info.status for name, run in runs.items()} == {
                "live": "RUNNING",
                "baseline": "RUNNING",
                "baseline-s0": "RUNNING",
            }
            assert runs["baseline-s0"].data.tags["mlflow.parentRunId"] == runs["baseline"].info.run_id
            assert all(point.value > 0 and abs(point.timestamp / 1000 - time.time()) < 300 for point in points)

            command.send_signal(signal.SIGTERM)
            stopped = time.monotonic()
            command.wait(60)
            print(f"stopped after {time.monotonic() - stopped:.1f} s with {command.returncode}")
            assert command.returncode != 0
            statuses = {name: run.info.status for name, run in runs_of(server, "live").items()}
            assert statuses == {"live": "KILLED", "baseline": "KILLED", "baseline-s0": "KILLED"}, log.read_text()[
                -3000:
            ]
    finally:
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGKILL)
            command.wait()
    assert not [secret for secret in SECRETS if secret in log.read_text()]


def test_the_database_is_dumped_and_restored_and_its_schemas_are_brought_up_to_date(
    server: TeamServer, tmp_path: Path
) -> None:
    assert POSTGRES is not None
    env = {**server.environment, "PATH": f"{POSTGRES}:{os.environ['PATH']}"}

    def run(*words: str | Path, **more: str) -> str:
        done = subprocess.run(words, env={**env, **more}, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    old = tmp_path / "mlflow-20200101T000000Z.dump"
    old.touch()
    os.utime(old, (0, 0))
    dump = Path(run(MLFLOW / "backup.sh", tmp_path).strip())
    assert [path.name for path in tmp_path.iterdir()] == [dump.name]
    assert dump.stat().st_mode & 0o077 == 0
    run("createdb", "restored")
    run("pg_restore", "--dbname", "restored", "--clean", "--if-exists", dump)
    users = run(
        "psql",
        "--tuples-only",
        "--no-align",
        "--command",
        "select username from users order by 1",
        PGDATABASE="restored",
    )
    assert users.split() == ["admin", "ann", "bob"]
    shown = [c.line.partition("server ")[2] for c in commands(MLFLOW / "README.md") if "db upgrade" in c.line]
    assert len(shown) == 2
    for line in shown:
        words = line.replace("/mlflow", "/restored").split()
        run(sys.executable, *(["-m", "mlflow", *words[1:]] if words[0] == "mlflow" else words[1:]))
