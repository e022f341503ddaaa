"""Raylets that share nothing but the network: each with temporary files and a home of its own, as machines have.

Where the system lets us, each lives in namespaces of its own, as in a container: it sees its own processes alone, and its /tmp is a
folder that the others do not see, so that a path that one node sends to another leads nowhere there. Elsewhere each has a folder of
its own in TMPDIR and HOME.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from environment import BIN, environment
from rank_program import free_port

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "0123456789abcdef" * 4


_ALL_UP = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="warning")
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(0.2)
"""
UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")


@functools.cache
def has_namespaces() -> bool:
    """Whether this process may make namespaces and bind folders in them."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        bind = [*UNSHARE, "mount", "--bind", folder, "/tmp"]
        return subprocess.run(bind, capture_output=True, check=False).returncode == 0


class PrivateNode:
    """A machine: its /tmp, its processes, what it says."""

    def __init__(self, root: Path, env: Mapping[str, str], ip: str = "127.0.0.1") -> None:
        self.ip = ip
        self.root = root
        """Its /tmp, as this process sees it."""
        for name in ("home", "work"):
            (root / name).mkdir(parents=True)
        self.tmp = Path("/tmp") if has_namespaces() else root
        """Its /tmp, as its own processes see it."""
        self.env = {**env, "TMPDIR": str(self.tmp), "HOME": str(self.tmp / "home")}
        for name in [name for name in self.env if name.startswith("XDG_") or name == "INOC_RAY_CACHE"]:
            del self.env[name]
        # The namespaces live as long as their first process, and whatever is in them dies with it.
        command = ["sleep", "infinity"]
        if has_namespaces():
            # A checkout below /tmp stays where it is.
            below = ROOT.is_relative_to("/tmp")
            seen = shlex.quote(str(root / ROOT.relative_to("/tmp"))) if below else ""
            keep = f"mkdir -p {seen} && mount --bind {shlex.quote(str(ROOT))} {seen} && " if below else ""
            bind = f"{keep}mount --rbind {shlex.quote(str(root))} /tmp && touch /tmp/up && exec sleep infinity"
            command = [*UNSHARE, "sh", "-c", bind]
        self._anchor = subprocess.Popen(command)
        self._first = 0
        while has_namespaces() and not (root / "up").exists():
            time.sleep(0.02)
        if has_namespaces():
            children = Path(f"/proc/{self._anchor.pid}/task/{self._anchor.pid}/children")
            self._first = int(children.read_text().split()[0])
        self._raylet: subprocess.Popen[bytes] | None = None

    def command(self, *args: object) -> list[str]:
        """Return the command line that runs a command on this machine, in its folder `work`."""
        words = shlex.join(map(str, args))
        inside = f"cd {shlex.quote(str(self.tmp / 'work'))} && exec {words}"
        enter = ["nsenter", "--mount", "--pid", "--target", str(self._first)] if has_namespaces() else []
        return [*enter, "sh", "-c", inside]

    def start(self, *options: str) -> None:
        """Start a raylet."""
        common = ("--block", f"--node-ip-address={self.ip}", "--object-store-memory=200000000", "--min-worker-port=0")
        quiet = ("--max-worker-port=0", "--dashboard-agent-listen-port=0", f"--temp-dir={self.tmp}/ray")
        log = (self.root / "raylet.log").open("w")
        self._raylet = subprocess.Popen(
            self.command(BIN / "ray", "start", *common, *quiet, *options),
            env=self.env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def ended(self) -> bool:
        """Whether its raylet was started and is gone."""
        return self._raylet is not None and self._raylet.poll() is not None

    def close(self) -> None:
        """End its raylet, then itself."""
        if self._raylet is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._raylet.pid, signal.SIGTERM)
            try:
                self._raylet.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self._raylet.pid, signal.SIGKILL)
                self._raylet.wait()
        self._anchor.kill()
        self._anchor.wait()


@contextlib.contextmanager
def private_nodes(
    folder: Path, workers: Sequence[int], env: Mapping[str, str]
) -> Iterator[tuple[str, list[PrivateNode]]]:
    """Start a head without CPUs and a node with so many CPUs for each of `workers`; yield RAY_ADDRESS and the nodes, head first.

    The head has no place for the drivers of groups either, so that those run on other nodes than the command. Every call needs the
    token. env: further variables of every node, such as the storage's credentials.
    """
    port = free_port()
    address = f"127.0.0.2:{port}"
    variables = environment(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=TOKEN,
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="1",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="0",
        **env,
    )
    with contextlib.ExitStack() as stack:
        nodes = []
        for number in range(1 + len(workers)):
            # Ray would take 127.0.0.1 for the machine's address in the network.
            node = PrivateNode(folder / f"node-{number}", variables, f"127.0.0.{2 + number}")
            stack.callback(node.close)
            nodes.append(node)
        head, *others = nodes
        head.start(
            "--head",
            f"--port={port}",
            "--num-cpus=0",
            "--include-dashboard=false",
        )
        _until_it_listens(head, port)
        joining = {
            node: (f"--address={address}", f"--num-cpus={cpus}") for node, cpus in zip(others, workers, strict=True)
        }
        for node, options in joining.items():
            node.start(*options)
        up = [BIN / "python", "-c", _ALL_UP, address, len(nodes)]
        with subprocess.Popen(head.command(*up), env=head.env) as waiting:
            end = time.monotonic() + 240
            while waiting.poll() is None:
                for node, options in joining.items():
                    # `ray start` gives up after 30 s, on a machine that is busy with other tests as well.
                    if node.ended():
                        node.start(*options)
                if time.monotonic() > end:
                    waiting.kill()
                time.sleep(0.2)
        assert waiting.returncode == 0, [(node.root / "raylet.log").read_text() for node in nodes]
        yield address, nodes


def _until_it_listens(head: PrivateNode, port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((head.ip, port), timeout=1):
            return
        time.sleep(0.2)
    raise AssertionError(f"the head did not start: {(head.root / 'raylet.log').read_text()}")
