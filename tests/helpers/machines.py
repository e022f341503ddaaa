"""Empty machines made of Linux namespaces: each with its own network, processes, /home and /tmp, on one cable. Needs root."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
HOME = "/home/ubuntu"
_NETWORK = "10.77.0"


def why_not() -> str:
    """Why there can be none here; empty if there can."""
    if os.getuid() != 0:
        return "network namespaces need root"
    trial = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--mount", "--mount-proc", "ip", "link", "set", "lo", "up"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"namespaces: {trial.stderr.strip()}" if trial.returncode else ""


class Machine:
    """One machine. What runs on it ends with it."""

    def __init__(self, number: int) -> None:
        self.ip = f"{_NETWORK}.{number}"
        self.name = f"node{number}"
        empty = "mount -t tmpfs tmpfs /tmp && mount -t tmpfs tmpfs /home"
        if ROOT.is_relative_to("/tmp") or ROOT.is_relative_to("/home"):
            # The checkout stays where it is; it has the environment.
            aside = "/run/inoc-ray-checkout"
            put_aside = f"mkdir -p {aside} && mount --bind {ROOT} {aside}"
            empty = f"{put_aside} && {empty} && mkdir -p {ROOT} && mount --bind {aside} {ROOT}"
        home = f"mkdir -p {HOME} && cp /etc/skel/.bashrc {HOME}"
        # The shell stays the first process, and so clears away what others leave behind.
        script = f"hostname {self.name} && ip link set lo up && {empty} && {home} && while sleep 3600; do :; done"
        spaces = ["--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--uts"]
        # A test that is killed leaves none behind.
        words = ["setpriv", "--pdeathsig", "KILL", "unshare", *spaces, "bash", "-c", script]
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        self.pid = self._first_process()
        self.until(f"test -d {HOME}")

    def _first_process(self) -> int:
        while not (children := psutil.Process(self._process.pid).children()):
            time.sleep(0.01)
        return children[0].pid

    def until(self, command: str, seconds: float = 30.0) -> None:
        """Wait until a command succeeds. Raises AssertionError with what it says if it does not."""
        end = time.monotonic() + seconds
        while (done := self.run(command, check=False)).returncode:
            assert time.monotonic() < end, f"{self.name}: {command}: {done.stdout}{done.stderr}"
            time.sleep(0.2)

    def inside(self, *words: str, network_only: bool = False) -> list[str]:
        """The command that runs `words` on this machine."""
        spaces = ["--net"] if network_only else ["--net", "--pid", "--mount", "--uts"]
        return ["nsenter", "--target", str(self.pid), *spaces, "--", *words]

    def run(self, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command as Ray runs one over SSH: in an interactive login shell with an empty environment."""
        from ray.autoscaler._private.command_runner import _with_interactive

        words = shlex.split(" ".join(_with_interactive(command)))
        return self._run(self.inside(*_EMPTY, *words), check=check)

    def start(self, *words: str, **environment: str) -> None:
        """Start a program in the background; it ends with the machine."""
        pairs = [f"{key}={value}" for key, value in environment.items()]
        subprocess.Popen(self.inside(*_EMPTY, *pairs, *words), stdin=subprocess.DEVNULL)

    def write(self, path: str, text: str) -> None:
        """Write a file; the path is absolute, or below the home folder."""
        place = shlex.quote(str(Path(HOME) / path))
        self._run(self.inside("bash", "-c", f"mkdir -p $(dirname {place}) && cat > {place}"), text=text)

    def copy_checkout(self, venv: str = "inoc_ray/.venv") -> None:
        """Put the files of this checkout where `file_mounts` puts them, and this process's environment into the folder `venv`."""
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
        names = b"\0".join(
            name for name in listed.split(b"\0") if name not in (b"", b".venv") and (ROOT / name.decode()).exists()
        )
        packed = subprocess.run(
            ["tar", "-c", "--null", "-T", "-"], cwd=ROOT, input=names, capture_output=True, check=True
        )
        there = f"{HOME}/inoc_ray"
        # Links that lead nowhere stay behind: `ray up` refuses them.
        environment = f"find {sys.prefix}/ -mindepth 1 -maxdepth 1 ! -xtype l -exec ln -s -t {HOME}/{venv} {{}} +"
        unpack = f"mkdir -p {there} {HOME}/{venv} && tar -x -C {there} && {environment}"
        subprocess.run(self.inside("bash", "-c", unpack), input=packed.stdout, check=True)

    def _run(
        self, words: list[str], *, check: bool = True, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        source = {"stdin": subprocess.DEVNULL} if text is None else {"input": text}
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, **source)
        assert not check or done.returncode == 0, f"{self.name}: {words[-1]}:\n{done.stdout}{done.stderr}"
        return done

    def close(self) -> None:
        """End everything that runs there."""
        self._process.kill()
        self._process.wait()


_EMPTY = (
    "env",
    "-i",
    "-C",
    HOME,
    f"HOME={HOME}",
    "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/bin",
    "USER=root",
    "TERM=dumb",
)


@contextlib.contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Two machines that see each other and nobody else."""
    with contextlib.ExitStack() as stack:
        machines = []
        for number in (1, 2):
            machines.append(Machine(number))
            stack.callback(machines[-1].close)
        one, other = machines
        cable = ["ip", "link", "add", "cable0", "type", "veth", "peer", "name", "cable0", "netns", str(other.pid)]
        subprocess.run(one.inside(*cable, network_only=True), check=True)
        for machine in machines:
            # A way out, which leads nowhere: Ray finds its own address by asking for one.
            for words in (
                f"addr add {machine.ip}/24 dev cable0",
                "link set cable0 up",
                f"route add default dev cable0 src {machine.ip}",
            ):
                subprocess.run(machine.inside("ip", *words.split(), network_only=True), check=True)
        yield one, other
