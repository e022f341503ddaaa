"""The failures of a study, kept beside its results, so that a later `status`, `compare` or `report` still shows them.

A failure concerns pieces of work: trials, cells, judgments, capability scores. It is shown until all of them are done, so that
nobody has to clear it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from inoc_ray.store import layout, seal
from inoc_ray.store.place import Place
from inoc_ray.store.store import Store

Thing = tuple[str, ...]
"""A piece of work: ("trial", trial_id), ("cell", trial_id, evaluation_id), ("judge", name), ("capability", weights, task),
("report",) or ("mlflow",)."""
REPORT: Thing = ("report",)
MLFLOW: Thing = ("mlflow",)


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure: what failed, why in one line, where its log is, and which work it left undone."""

    label: str
    error: str
    log: str
    of: tuple[Thing, ...] = ()

    def in_words(self) -> str:
        """Return "judge gpt: refused the key (log: …/judge-gpt.log)"."""
        return f"{self.label}: {self.error}" + (f" (log: {self.log})" if self.log else "")

    def to_json(self) -> dict[str, str]:
        """Return it for `--json`, without the ids of the work."""
        return {"label": self.label, "error": self.error, "log": self.log}


def failure_of(found: Mapping[str, Any]) -> Failure:
    """Return the failure that {label, error, log, of} describes; its error becomes one line that a terminal may show."""
    shown = "".join(one if one.isprintable() else " " for one in str(found["error"]))
    error = " ".join(shown.split()) or "no message"
    return Failure(str(found["label"]), error, str(found["log"]), tuple(dict.fromkeys(found["of"])))


def _path(store: Store, study: str) -> Place:
    return store.study(study) / layout.FAILURES


def read_failures(store: Store, study: str) -> list[Failure]:
    """Return all kept failures, including those of work that is done by now; empty if the file is missing or damaged."""
    try:
        value = _path(store, study).read_json()
        kept = value["failures"] if seal.agrees(value) else []
        return [Failure(f["label"], f["error"], f["log"], tuple(tuple(thing) for thing in f["of"])) for f in kept]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # The next run finds out again what a damaged file would have said.
        return []


def keep_failures(store: Store, study: str, tried: Iterable[Thing], failed: Sequence[Failure]) -> None:
    """Write the failures of the work that was `tried`; earlier failures of that work are dropped, others are kept."""
    again = set(tried) | {thing for failure in failed for thing in failure.of}
    before = read_failures(store, study)
    kept = [replace(f, of=left) for f in before if (left := tuple(t for t in f.of if t not in again))]
    if before == [*kept, *failed]:
        return
    value = {"failures": [asdict(failure) for failure in [*kept, *failed]]}
    _path(store, study).write_json(seal.sealed_json(value))


def still_failed(failures: Iterable[Failure], undone: Collection[Thing]) -> list[Failure]:
    """Return the failures whose work is still undone."""
    return [failure for failure in failures if any(thing in undone for thing in failure.of)]
