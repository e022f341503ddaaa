"""A terminal for tests: runs a program on a pseudo-terminal, and says what stands on its screen and above it."""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from dataclasses import dataclass
from fcntl import ioctl

_PIECE = re.compile(r"\x1b\[(?P<numbers>[0-9;?]*)(?P<command>[A-Za-z])|(?P<text>.)", re.DOTALL)


@dataclass(frozen=True)
class Printed:
    """What a program wrote to its terminal."""

    raw: str
    screen: list[str]
    """The rows at the end, without the blank ones at the bottom."""
    seen: list[list[str]]
    """The rows each time that the cursor went back to overwrite something."""

    @property
    def colours(self) -> set[str]:
        """The codes of foreground colours."""
        codes = {code for found in re.findall(r"\x1b\[([0-9;]*)m", self.raw) for code in found.split(";")}
        return {code for code in codes if re.fullmatch(r"[39][0-7]|38", code)}


def run_on_terminal(program: str, columns: int, environment: Mapping[str, str] | None = None) -> Printed:
    """Run Python code with standard output and error on a terminal of so many columns."""
    head, tail = pty.openpty()
    ioctl(tail, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")}
    env = {**inherited, "TERM": "xterm-256color", **(environment or {})}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=tail, stderr=tail, env=env)
    os.close(tail)
    printed = b""
    while True:
        try:
            printed += os.read(head, 4096)
        except OSError:
            break
    os.close(head)
    assert process.wait() == 0, printed.decode()
    return _played(printed.decode(), columns)


def _played(raw: str, columns: int) -> Printed:
    """Follow the few commands that are used: carriage return, line feed, cursor up, and erasing of lines."""
    rows, seen = [""], []
    y = x = 0

    def snapshot() -> None:
        shown = [row.rstrip() for row in rows]
        while shown and not shown[-1]:
            shown.pop()
        seen.append(shown)

    for piece in _PIECE.finditer(raw):
        text, command = piece["text"], piece["command"]
        if text == "\n":
            y += 1
            rows += [""] * (y + 1 - len(rows))
        elif text == "\r":
            snapshot()
            x = 0
        elif text is not None:
            if x == columns:
                y, x = y + 1, 0
                rows += [""] * (y + 1 - len(rows))
            rows[y] = rows[y].ljust(x)[:x] + text + rows[y][x + 1 :]
            x += 1
        elif command == "A":
            y = max(0, y - int(piece["numbers"] or 1))
        elif command == "K":
            rows[y] = "" if piece["numbers"] == "2" else rows[y][:x]
    snapshot()
    return Printed(raw, seen[-1], seen)
