"""Samples that are there but whose cell is not complete yet: what a killed evaluation goes on from.

One file per study, beside its results and held by the study's lease, so that one process writes it. A line is given to the
operating system as soon as its sample is there; a last line that a kill has cut is taken away. When every cell is committed
the file goes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from inoc_ray.evaluate.sample import SampleResult

Key = tuple[str, str, int]
"""trial_id, evaluation_id, sample_index."""


class SampleJournal:
    """The samples of one study that no cell holds yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept: dict[Key, SampleResult] = {}
        self._read()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("ab")

    def _read(self) -> None:
        if not self.path.exists():
            return
        whole = 0
        data = self.path.read_bytes()
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                value = json.loads(line)
                trial, evaluation, index = value.pop("of")
                self.kept[str(trial), str(evaluation), int(index)] = SampleResult(key="", **value)
            except (ValueError, TypeError, KeyError):
                # A line that cannot be read is a sample that is asked for again, and so is what comes behind it.
                break
            whole += len(line)
        if whole < len(data):
            with self.path.open("r+b") as stream:
                stream.truncate(whole)

    def add(self, samples: Iterable[tuple[Key, SampleResult]]) -> None:
        """Keeps samples; they are safe from the death of this process when this returns."""
        lines = []
        for key, result in samples:
            value = {name: v for name, v in asdict(result).items() if name != "key"}
            # ASCII: a response may hold half of a surrogate pair, which UTF-8 cannot.
            lines.append(json.dumps({"of": key, **value}).encode() + b"\n")
        self._stream.write(b"".join(lines))
        self._stream.flush()

    def close(self, *, done: bool) -> None:
        """Ends writing; `done` when every cell that was begun is committed."""
        self._stream.close()
        if done:
            self.path.unlink(missing_ok=True)
