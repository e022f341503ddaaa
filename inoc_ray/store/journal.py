"""An append-only journal of finished work: what a killed process leaves to the next one.

A line is JSON with its seal (see `seal`). It goes to the operating system as soon as it is added, so that a killed process loses
only what was under way; to a bucket, where a request for every line would hold up the work, once in GATHER_SECONDS. (A machine
that loses power may lose the last seconds: lines are not synced one by one.)

Repair follows one rule: a torn or damaged line is skipped, so that its work is done again; and what is added starts a new line,
so that it never becomes the end of a torn one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any, BinaryIO, Self

from inoc_ray.errors import StorageError
from inoc_ray.store import seal
from inoc_ray.store.place import Place

GATHER_SECONDS = 1.0
"""How long lines may wait for a write to a bucket."""


class Journal:
    """An append-only file with one writer, created with its first line. Close it, or use it in a `with` block."""

    def __init__(self, path: Place) -> None:
        self.path = path
        self._stream: BinaryIO | None = None
        self._gather = GATHER_SECONDS if path.filesystem.is_bucket else 0.0
        # Of the stream: in a bucket another thread flushes it.
        self._writing = threading.Lock()
        self._flushing: threading.Timer | None = None
        self._failed = False

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
        """Append a line for each value. They survive the death of this process: at once, in a bucket after GATHER_SECONDS.

        Raises `StorageError` if the bucket did not take them, or earlier ones; they are tried again with the next.
        """
        lines = b"".join(seal.sealed_line(value) for value in values)
        with self._writing:
            if self._stream is None:
                torn = self._is_torn()
                self._stream = self.path.append()
                lines = b"\n" + lines if torn else lines
            self._stream.write(lines)
            if not self._gather or self._failed:
                self._stream.flush()
                self._failed = False
            elif self._flushing is None:
                self._flushing = threading.Timer(self._gather, self._flush)
                self._flushing.daemon = True
                self._flushing.start()

    def _flush(self) -> None:
        with self._writing:
            self._flushing = None
            if self._stream is not None:
                try:
                    self._stream.flush()
                except (StorageError, OSError):
                    # Whoever adds or closes next tries again, and gets the error.
                    self._failed = True

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
        """Write what waits, and close the file; `add` opens it again."""
        with self._writing:
            if self._flushing is not None:
                self._flushing.cancel()
                self._flushing = None
            stream, self._stream = self._stream, None
            if stream is not None:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
