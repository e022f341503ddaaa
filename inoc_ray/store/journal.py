"""An append-only journal of finished work: what a killed process leaves to the next one.

A line is JSON with its seal (see `seal`). It goes to the operating system as soon as it is added, so that a killed process loses
only what was under way; to a bucket, where a request for every line would hold up the work, once in GATHER_SECONDS. (A machine
that loses power may lose the last seconds: lines are not synced one by one.)

Repair follows one rule: a torn or damaged line is skipped, so that its work is done again; and what is added starts a new line,
so that it never becomes the end of a torn one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, BinaryIO, Self

from inoc_ray.store import seal
from inoc_ray.store.place import Place


GATHER_SECONDS = 1.0
"""How long lines may wait for a write to a bucket; the next line that is added, and `close`, end the wait."""


class Journal:
    """An append-only file with one writer, created with its first line. Close it, or use it in a `with` block."""

    def __init__(self, path: Place) -> None:
        self.path = path
        self._stream: BinaryIO | None = None
        self._gather = GATHER_SECONDS if path.filesystem.is_bucket else 0.0
        self._written = -math.inf

    def lines(self) -> tuple[list[Any], int]:
        """Return the values of all intact lines in order, and the number of torn or damaged lines.

        A line without a seal is from an earlier version, and intact if it is JSON.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return [], 0
        found: list[Any] = []
        damaged = 0
        for line in data.split(b"\n"):
            if not line:
                continue
            try:
                found.append(seal.read_line(line))
            except (ValueError, RecursionError):
                damaged += 1
        return found, damaged

    def add(self, values: Iterable[Any]) -> None:
        """Append a line for each value. When this returns, they survive the death of this process, but for a bucket's last second."""
        lines = b"".join(seal.sealed_line(value) for value in values)
        if self._stream is None:
            torn = self._is_torn()
            self._stream = self.path.append()
            lines = b"\n" + lines if torn else lines
        self._stream.write(lines)
        if time.monotonic() - self._written >= self._gather:
            self._stream.flush()
            self._written = time.monotonic()

    def _is_torn(self) -> bool:
        """Return True if the last line lacks its line break."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return False
        return bool(data) and not data.endswith(b"\n")

    def rewrite(self, values: Iterable[Any]) -> None:
        """Replace the content of the file by these lines, atomically; delete the file if there are none."""
        self.close()
        lines = b"".join(seal.sealed_line(value) for value in values)
        if lines:
            self.path.write_bytes(lines)
        else:
            self.remove()

    def remove(self) -> None:
        """Delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; `add` opens it again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
