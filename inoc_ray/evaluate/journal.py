"""The journal of samples whose cell is not complete yet, from which a killed evaluation resumes.

One file per study, beside its results and protected by the study's lease, so that one process writes it (see `store.journal`).
At the end it keeps the samples that no cell holds (of failed cells, or of cells that this run did not sample), or is deleted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from inoc_ray.config.identity import as_text
from inoc_ray.endpoint.completions import SampleResult
from inoc_ray.store.journal import Journal
from inoc_ray.store.place import Place

Key = tuple[str, str, int]
"""trial_id, evaluation_id, sample_index."""


class SampleJournal:
    """The samples of one study that no cell holds yet: `kept` maps their keys to them."""

    def __init__(self, path: Place) -> None:
        self.kept: dict[Key, SampleResult] = {}
        # Engines that run at once have a thread each.
        self._lock = threading.Lock()
        self._journal = Journal(path)
        values, damaged = self._journal.lines()
        self._stale = damaged > 0
        for value in values:
            try:
                trial, evaluation, index = value.pop("of")
                result = SampleResult(key="", **{**value, "text": as_text(value["text"])})
                self.kept[str(trial), str(evaluation), int(index)] = result
            except (ValueError, TypeError, KeyError, AttributeError):
                # The line is in another format: the sample is drawn again.
                self._stale = True

    def add(self, samples: Iterable[tuple[Key, SampleResult]]) -> None:
        """Keep samples; they survive the death of this process once this returns."""
        added = list(samples)
        with self._lock:
            self.kept.update(added)
            self._journal.add(_line(key, result) for key, result in added)

    def forget(self, gone: Callable[[Key], bool]) -> None:
        """Drop the samples whose key `gone` accepts; `close` removes them from the file."""
        with self._lock:
            keys = [key for key in self.kept if gone(key)]
            for key in keys:
                del self.kept[key]
            self._stale |= bool(keys)

    def close(self) -> None:
        """Close the file, which then holds what is still kept; delete it if nothing is."""
        if self._stale or not self.kept:
            self._journal.rewrite(_line(key, result) for key, result in self.kept.items())
        self._journal.close()


def _line(key: Key, result: SampleResult) -> dict[str, Any]:
    return {"of": key, **{name: value for name, value in asdict(result).items() if name != "key"}}
