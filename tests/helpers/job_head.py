"""A head with a job server and token authentication on the loopback address, as a user starts one."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from environment import BIN, environment
from rank_program import free_port


@dataclass(frozen=True)
class Head:
    """A running head: the address of its job server, the token that it asks for, and where its processes have temporary files."""

    address: str
    token: Path
    temporary: Path

    def env(self, **more: str) -> dict[str, str]:
        """Return the environment of somebody who may use it."""
        return environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(self.token), **more)


@contextlib.contextmanager
def job_head(folder: Path, *, cpus: int = 2, **env: str) -> Iterator[Head]:
    """Start a head whose jobs have `env` in their environment, and wait until its job server answers.

    It is started by the path of `ray`, as a head is whose user did not activate the environment: the first `python` on its PATH is
    another one, which only says so.
    """
    decoy = folder / "decoy"
    decoy.mkdir()
    for name in ("python", "python3", "inoc-ray"):
        (decoy / name).write_text("#!/bin/sh\necho the python that happens to be first on PATH; exit 97\n")
        (decoy / name).chmod(0o755)
    others = [part for part in os.environ["PATH"].split(os.pathsep) if Path(part).resolve() != BIN.resolve()]
    token = folder / "token"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    # Short: Ray's Unix sockets lie below it.
    temp = Path("/tmp") / f"ir-{os.getpid()}"
    # One that the system gives lies outside 10002 to 19999, which a head keeps for its workers.
    port = free_port()
    head = Head(f"http://127.0.0.1:{port}", token, temp / "t")
    head.temporary.mkdir(parents=True)
    command = [
        BIN / "ray",
        "start",
        "--head",
        "--block",
        "--node-ip-address=127.0.0.1",
        "--port=0",
        f"--num-cpus={cpus}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={port}",
        "--dashboard-agent-listen-port=0",
        f"--temp-dir={temp}",
        "--object-store-memory=200000000",
    ]
    started_with = head.env(
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="0",
        PATH=os.pathsep.join([str(decoy), *others]),
        # Ray's workers let every other process of the machine go first, and seconds are promised here.
        RAY_worker_niceness="0",
        TMPDIR=str(head.temporary),
        # What torch has compiled is no temporary file: a process that starts anew would take 20 s for it.
        TORCHINDUCTOR_CACHE_DIR=str(Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"),
        **env,
    )
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            command, env=started_with, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait_for(f"{head.address}/api/version", 90)
            yield head
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            shutil.rmtree(temp, ignore_errors=True)


def _wait_for(url: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            urlopen(url, timeout=2).close()
        except HTTPError:
            # It asks for the token.
            return
        except OSError:
            time.sleep(0.5)
            continue
        return
    raise TimeoutError(url)
