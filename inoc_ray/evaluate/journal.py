"""Samples that are there but whose cell is not complete yet: what a killed evaluation goes on from.

One file per study, beside its results and held by the study's lease, so that one process writes it (see `store.journal`). At the
end the file holds what no cell holds (other cells than those that were asked, cells that failed), or goes.
"""

from __future__ import annotations

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
    """The samples of one study that no cell holds yet."""

    def __init__(self, path: Place) -> None:
        self.kept: dict[Key, SampleResult] = {}
        self._journal = Journal(path)
        values, damaged = self._journal.lines()
        self._stale = damaged > 0
        for value in values:
            try:
                trial, evaluation, index = value.pop("of")
                result = SampleResult(key="", **{**value, "text": as_text(value["text"])})
                self.kept[str(trial), str(evaluation), int(index)] = result
            except (ValueError, TypeError, KeyError, AttributeError):
                # Of another kind: the sample is asked again.
                self._stale = True

    def add(self, samples: Iterable[tuple[Key, SampleResult]]) -> None:
        """Keep samples; they are safe from the death of this process when this returns."""
        added = list(samples)
        self.kept.update(added)
        self._journal.add(_line(key, result) for key, result in added)

    def forget(self, gone: Callable[[Key], bool]) -> None:
        """Drop samples that a cell holds by now, or that nobody wants any more; from the file at the end."""
        keys = [key for key in self.kept if gone(key)]
        for key in keys:
            del self.kept[key]
        self._stale |= bool(keys)

    def close(self) -> None:
        """End writing and leave in the file what is still kept; without any the file goes."""
        if self._stale or not self.kept:
            self._journal.rewrite(_line(key, result) for key, result in self.kept.items())
        self._journal.close()


def _line(key: Key, result: SampleResult) -> dict[str, Any]:
    return {"of": key, **{name: value for name, value in asdict(result).items() if name != "key"}}
