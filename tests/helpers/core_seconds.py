"""`python core_seconds.py COMMAND …`: runs a command and says how many core-seconds each kind of its processes took.

Wherever Ray puts them: a process belongs to the command if it inherited a mark in its environment. What a process takes within
the last POLL_SECONDS of its life is not seen.
"""

from __future__ import annotations

import collections
import os
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path

POLL_SECONDS = 0.2
_MARK = "INOC_RAY_TEST_CORE_SECONDS"
_TICKS = os.sysconf("SC_CLK_TCK")


def measured(command: list[str], **options: object) -> tuple[float, dict[str, float], int]:
    """Run a command to its end; return its seconds, core-seconds by kind of process, and its exit code."""
    mark = uuid.uuid4().hex
    env = {**os.environ, **dict(options.pop("env", {})), _MARK: mark}
    taken: dict[int, tuple[str, float]] = {}
    known: dict[int, bool] = {}
    began = time.monotonic()
    process = subprocess.Popen(command, env=env, **options)
    while process.poll() is None:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                _look(entry, mark, known, taken)
        time.sleep(POLL_SECONDS)
    seconds = time.monotonic() - began
    kinds: dict[str, float] = collections.defaultdict(float)
    for name, spent in taken.values():
        kinds[name] += spent
    return seconds, dict(sorted(kinds.items(), key=lambda one: -one[1])), process.returncode


def _look(entry: Path, mark: str, known: dict[int, bool], taken: dict[int, tuple[str, float]]) -> None:
    pid = int(entry.name)
    try:
        if pid not in known:
            known[pid] = f"{_MARK}={mark}".encode() in (entry / "environ").read_bytes()
        if known[pid]:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            taken[pid] = (_kind(entry), (int(fields[11]) + int(fields[12])) / _TICKS)
    except (OSError, IndexError):
        return


def _kind(entry: Path) -> str:
    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    if found := re.match(r"ray::([\w:.]+)", line):
        return found[1]
    for word in ("gcs_server", "raylet/raylet", "default_worker", "multiprocessing", "agent", "VLLM"):
        if word in line:
            return word
    return line[:60] or entry.joinpath("comm").read_text().strip()


if __name__ == "__main__":
    seconds, kinds, code = measured(sys.argv[1:])
    print(f"{seconds:.1f} s, {sum(kinds.values()):.1f} core-s, exit {code}")
    for name, spent in kinds.items():
        print(f"  {spent:6.1f}  {name}")
