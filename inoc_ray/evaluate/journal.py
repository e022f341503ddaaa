"""Samples that are there but whose cell is not complete yet: what a killed evaluation goes on from.

One file per study, beside its results and held by the study's lease, so that one process writes it. A line is given to the
operating system as soon as its sample is there, with its seal at the end; what a kill has cut off, and what is damaged, is asked
again. At the end the file holds what no cell holds (other cells than those that were asked, cells that failed), or goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inoc_ray.config.identity import as_text
from inoc_ray.endpoint.completions import SampleResult
from inoc_ray.store import seal
from inoc_ray.store.store import write_atomically

Key = tuple[str, str, int]
"""trial_id, evaluation_id, sample_index."""


class SampleJournal:
    """The samples of one study that no cell holds yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept: dict[Key, SampleResult] = {}
        self._stale = False
        self._read()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("ab")

    def _read(self) -> None:
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        for line in data.splitlines(keepends=True):
            try:
                value = seal.read_line(line)
                trial, evaluation, index = value.pop("of")
                result = SampleResult(key="", **{**value, "text": as_text(value["text"])})
                self.kept[str(trial), str(evaluation), int(index)] = result
            except (ValueError, TypeError, KeyError, AttributeError):
                # Torn by a kill, or damaged: the sample is asked again.
                self._stale = True
        if data and not data.endswith(b"\n"):
            # A line that is added must not become the end of a torn one.
            with self.path.open("ab") as stream:
                stream.write(b"\n")

    def add(self, samples: Iterable[tuple[Key, SampleResult]]) -> None:
        """Keeps samples; they are safe from the death of this process when this returns."""
        lines = []
        for key, result in samples:
            self.kept[key] = result
            lines.append(_line(key, result))
        self._stream.write(b"".join(lines))
        self._stream.flush()

    def forget(self, gone: Callable[[Key], bool]) -> None:
        """Drops samples that a cell holds by now, or that nobody wants any more; from the file at the end."""
        keys = [key for key in self.kept if gone(key)]
        for key in keys:
            del self.kept[key]
        self._stale |= bool(keys)

    def close(self) -> None:
        """Ends writing and leaves in the file what is still kept; without any the file goes."""
        self._stream.close()
        if not self.kept:
            self.path.unlink(missing_ok=True)
        elif self._stale:
            write_atomically(self.path, b"".join(_line(key, result) for key, result in self.kept.items()))


def _line(key: Key, result: SampleResult) -> bytes:
    value: dict[str, Any] = {name: v for name, v in asdict(result).items() if name != "key"}
    return seal.sealed_line({"of": key, **value})
