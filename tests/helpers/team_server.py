"""The team's tracking server as mlflow/ describes it, without containers: a real PostgreSQL, an S3 server, MLflow with a login."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import boto3
import yaml
from doc_pages import ROOT, commands
from environment import BIN, environment
from rank_program import free_port

MLFLOW = ROOT / "mlflow"
ADMIN = "admin-password-of-the-test"
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
"""Where Debian's packages put the programs of PostgreSQL; None if they are not installed."""
PATIENCE_S = 120.0


def wait_until(what: str, done: subprocess.Popen[bytes], is_there: object, log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and done.poll() is None:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            is_there()  # type: ignore[operator]
            return
        time.sleep(0.2)
    raise AssertionError(f"{what} did not start: {log.read_text()[-4000:]}")


@contextlib.contextmanager
def process(command: list[str | Path], log: Path, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A server of the test's own, killed with its children at the end."""
    with log.open("wb") as out:
        running = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, **options)  # type: ignore[call-overload]
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()


@contextlib.contextmanager
def postgres() -> Iterator[dict[str, str]]:
    """Environment variables that lead to the database `mlflow` of a PostgreSQL on loopback, owned by the user `mlflow`."""
    assert POSTGRES is not None
    # PostgreSQL refuses to run as root.
    other = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    port, password = str(free_port()), "password-of-the-database"
    secret = folder / "password"
    secret.write_text(password)
    if other:
        for path in (folder, secret):
            shutil.chown(path, **other)
    data, log = folder / "data", folder / "log"
    try:
        subprocess.run(
            [POSTGRES / "initdb", "-D", data, "-U", "mlflow", "-A", "scram-sha-256", "--pwfile", secret, "--no-sync"],
            check=True,
            capture_output=True,
            cwd=folder,
            **other,
        )
        options = ["-p", port, "-k", str(folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with process([POSTGRES / "postgres", "-D", data, *options], log, cwd=folder, **other) as server:
            leads = {"PGHOST": "127.0.0.1", "PGPORT": port, "PGUSER": "mlflow", "PGPASSWORD": password}
            create = [POSTGRES / "createdb", "mlflow"]
            env = environment(**leads)
            wait_until(
                "PostgreSQL",
                server,
                lambda: subprocess.run(create, check=True, capture_output=True, env=env),
                log,
            )
            yield {**leads, "PGDATABASE": "mlflow"}
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[dict[str, str]]:
    """Environment variables that lead to an S3 server on loopback, without a bucket."""
    address = f"http://127.0.0.1:{free_port()}"
    log = folder / "s3.log"
    command = [BIN / "moto_server", "-H", "127.0.0.1", "-p", address.rpartition(":")[2]]
    with process(command, log, cwd=folder, env=environment()) as server:
        wait_until("the S3 server", server, lambda: urllib.request.urlopen(address, timeout=5).close(), log)
        yield {"MLFLOW_S3_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "mlflow", "AWS_SECRET_ACCESS_KEY": "secret"}


@dataclass
class TeamServer:
    """A running server. environment: its own, which leads to the database and the bucket."""

    address: str
    environment: dict[str, str]
    log: Path

    def as_shown(self, beginning: str, **logins: str) -> subprocess.CompletedProcess[str]:
        """Run the one command of the page that begins so, against this server. logins: user → password, for which curl asks."""
        (line,) = [c.line for c in commands(MLFLOW / "README.md") if c.line.startswith(beginning)]
        words = [word.replace("https://mlflow.example.org", self.address) for word in shlex.split(line)]
        words = [f"{word}:{logins[word]}" if before == "--user" else word for before, word in pairwise(["", *words])]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)

    def login(self, user: str, password: str) -> dict[str, str]:
        """Environment variables of a command that logs in."""
        return {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}

    def objects(self) -> list[str]:
        """The keys in the bucket of the artifacts."""
        client = boto3.client(
            "s3",
            endpoint_url=self.environment["MLFLOW_S3_ENDPOINT_URL"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            region_name=self.environment["AWS_DEFAULT_REGION"],
        )
        return [found["Key"] for found in client.list_objects_v2(Bucket="mlflow").get("Contents", [])]


def settings() -> tuple[list[str], dict[str, str]]:
    """The command and the environment that the image and compose.yaml give the server."""
    image = (MLFLOW / "Dockerfile").read_text()
    command = json.loads(re.findall(r"^CMD (\[.*\])$", image, re.M)[-1])
    (block,) = re.findall(r"^ENV ((?:.*\\\n)*.*)$", image, re.M)
    env = dict(word.split("=", 1) for word in block.replace("\\\n", " ").split())
    env |= yaml.safe_load((MLFLOW / "compose.yaml").read_text())["services"]["server"]["environment"]
    return command, env


@contextlib.contextmanager
def team_server(folder: Path) -> Iterator[TeamServer]:
    """The server, with the settings of mlflow/ apart from addresses and secrets."""
    with postgres() as database, s3(folder) as objects:
        port, log = str(free_port()), folder / "mlflow.log"
        command, env = settings()
        env |= {
            **database,
            **objects,
            "MLFLOW_AUTH_CONFIG_PATH": str(MLFLOW / "basic_auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret-of-the-test",
        }
        # What compose.yaml takes from .env, or from its own defaults.
        env = {
            name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value).replace("${SERVER_NAME:?run make_env.sh}", "localhost")
            for name, value in env.items()
        }
        env = {name: value.replace("${SERVER_NAME}", "localhost") for name, value in env.items()}
        assert not [value for value in env.values() if "$" in value]
        for option, value in (("--host", "127.0.0.1"), ("--port", port), ("--workers", "1")):
            command[command.index(option) + 1] = value
        full = environment(**env)
        subprocess.run([sys.executable, MLFLOW / "make_bucket.py"], env=full, check=True, capture_output=True)
        address = f"http://127.0.0.1:{port}"
        with process([BIN / command[0], *command[1:]], log, cwd=folder, env=full) as server:
            wait_until("MLflow", server, lambda: urllib.request.urlopen(f"{address}/health", timeout=5).close(), log)
            yield TeamServer(address, full, log)
