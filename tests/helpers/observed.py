"""A command that is watched: what it says and when, how it ends after a signal, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
from environment import BIN

MARK = "INOC_RAY_TEST_COMMAND"


class Observed:
    """`PROGRAM ARGUMENTS` in a session and with a folder for temporary files of its own."""

    def __init__(
        self, folder: Path, arguments: Sequence[object], env: Mapping[str, str], program: Path | str = BIN / "inoc-ray"
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.scratch = folder / f"tmp-{self.mark[:8]}"
        self.scratch.mkdir(parents=True)
        self.said: list[str] = []
        self.private: set[Path] = set()
        """The folders of its private Ray, which are not below $TMPDIR."""
        self.process = subprocess.Popen(
            [program, *map(str, arguments)],
            env={**env, MARK: self.mark, "TMPDIR": str(self.scratch)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.said.extend(line for line in self.process.stdout)

    @property
    def text(self) -> str:
        return "".join(self.said)

    def wait_for(self, text: str, seconds: float = 120.0) -> None:
        """Wait until the command has said something."""
        end = time.monotonic() + seconds
        while text not in self.text:
            assert self.process.poll() is None, f"it ended before it said {text!r}:\n{self.text}"
            assert time.monotonic() < end, f"it did not say {text!r} in {seconds:.0f} s:\n{self.text}"
            time.sleep(0.02)

    def stop(self, signum: int) -> float:
        """Send a signal, and return how many seconds the command took to end; Ctrl-C as a terminal does, to the whole group."""
        for process in processes_of(self.mark):
            token = Path(process.environ().get("RAY_AUTH_TOKEN_PATH", ""))
            self.private |= {token.parent} if token.parent.name.startswith("inoc-ray-") else set()
        began = time.monotonic()
        if signum == signal.SIGINT:
            os.killpg(self.process.pid, signum)
        else:
            self.process.send_signal(signum)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"it did not end in 30 s:\n{self.text}") from None
        took = time.monotonic() - began
        self._reader.join(10)
        return took

    def finish(self, seconds: float = 300.0) -> int:
        """Wait for the end; return the exit status."""
        code = self.process.wait(seconds)
        self._reader.join(10)
        return code

    def left(self) -> list[str]:
        """Return what is left of the command: processes that inherited its mark, and temporary folders."""
        found = [f"{p.pid} {' '.join(p.cmdline())[:200]}" for p in processes_of(self.mark)]
        return found + [str(path) for path in (*self.scratch.iterdir(), *self.private) if path.exists()]

    def end(self) -> None:
        """Kill whatever is left."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for process in processes_of(self.mark):
            process.kill()


def processes_of(mark: str) -> list[psutil.Process]:
    """The processes that have the mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def nothing_left(command: Observed, seconds: float) -> None:
    """Wait until nothing is left of a command."""
    end = time.monotonic() + seconds
    while left := command.left():
        assert time.monotonic() < end, f"left after {seconds:.0f} s: {left}\n{command.text}"
        time.sleep(0.2)
