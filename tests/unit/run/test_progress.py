"""The live bar stays one line on any terminal, and the time left is not that of the start."""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl

import pytest

from inoc_ray.console import Progress

_PROGRAM = """
import time
from inoc_ray.console import Progress
with Progress("sampling (a judge with quite a long name of its own)", 4000, "samples") as progress:
    for done in range(0, 4001, 800):
        progress.update(done, "miniature/spanish_caps · Qwen2.5-7B-Instruct · specific_spanish seed 1")
        time.sleep(0.25)
"""


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_bar_is_one_line_of_the_terminal(columns: int) -> None:
    head, tail = pty.openpty()
    ioctl(tail, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", _PROGRAM], stderr=tail, stdout=subprocess.DEVNULL)
    os.close(tail)
    printed = b""
    while True:
        try:
            printed += os.read(head, 4096)
        except OSError:
            break
    process.wait()
    os.close(head)
    text = printed.decode()
    assert text.count("\n") == 1
    updates = [re.sub(r"\x1b\[K", "", part) for part in text.strip().split("\r") if part]
    assert len(updates) >= 5
    assert max(map(len, updates)) < columns
    # Each update clears what a longer one before it left behind.
    assert text.count("\x1b[K") == len(updates)


def test_the_rate_counts_from_the_first_that_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress("training", 480, "steps")
    now = 60.0
    progress.update(1)
    assert "left" not in progress.line()
    now = 61.0
    progress.update(11)
    assert "10 steps/s · 0:47 left" in progress.line()
    now = 110.0
    progress.update(480)
    assert "took 1:50" in progress.line()


def test_elsewhere_a_line_is_printed_whole(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress("sampling", 10, "samples") as progress:
        progress.update(10, "x" * 200)
    assert [line.startswith("sampling ") for line in capfd.readouterr().err.splitlines()] == [True, True]
