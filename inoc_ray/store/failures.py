"""What failed in a study, kept beside its results: a later `status`, `compare` or `report` still says so, and why.

A failure concerns things that were to be made: trials, cells, judgments, capability scores. It is shown as long as one of
them is missing, so that nothing has to be cleared for it to go: what is done makes it old news.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from inoc_ray.store import layout, seal
from inoc_ray.store.place import Place
from inoc_ray.store.store import Store

Thing = tuple[str, ...]
"""What was to be made: ("trial", trial_id), ("cell", trial_id, evaluation_id), ("judge", name), ("capability", weights, task),
("report",) or ("mlflow",)."""
REPORT: Thing = ("report",)
MLFLOW: Thing = ("mlflow",)


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that failed: what in words, why in one line, where the whole story is, and which things it left undone."""

    label: str
    error: str
    log: str
    of: tuple[Thing, ...] = ()

    def in_words(self) -> str:
        """Return "judge gpt: refused the key (log: …/judge-gpt.log)"."""
        return f"{self.label}: {self.error}" + (f" (log: {self.log})" if self.log else "")

    def to_json(self) -> dict[str, str]:
        """Return it for `--json`: without the things, which are ids."""
        return {"label": self.label, "error": self.error, "log": self.log}


def failure_of(found: Mapping[str, Any]) -> Failure:
    """Return a failure from the {label, error, log, of} of the code in which it happened; its error becomes one line."""
    error = " ".join(str(found["error"]).split()) or "no message"
    return Failure(str(found["label"]), error, str(found["log"]), tuple(dict.fromkeys(found["of"])))


def _path(store: Store, study: str) -> Place:
    return store.study(study) / layout.FAILURES


def read_failures(store: Store, study: str) -> list[Failure]:
    """Return all that was kept, what is done by now among it; empty where the file is missing or cannot be read."""
    try:
        value = _path(store, study).read_json()
        kept = value["failures"] if seal.agrees(value) else []
        return [Failure(f["label"], f["error"], f["log"], tuple(tuple(thing) for thing in f["of"])) for f in kept]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # A file that is damaged says nothing that the next run does not find out again.
        return []


def keep_failures(store: Store, study: str, tried: Iterable[Thing], failed: Sequence[Failure]) -> None:
    """Write what failed of the things that were `tried`; earlier failures of those are dropped, others are kept."""
    again = set(tried) | {thing for failure in failed for thing in failure.of}
    before = read_failures(store, study)
    kept = [replace(f, of=left) for f in before if (left := tuple(t for t in f.of if t not in again))]
    if before == [*kept, *failed]:
        return
    value = {"failures": [asdict(failure) for failure in [*kept, *failed]]}
    _path(store, study).write_json(seal.sealed_json(value))


def still_failed(failures: Iterable[Failure], undone: Collection[Thing]) -> list[Failure]:
    """Return the failures that left something undone that is undone still."""
    return [failure for failure in failures if any(thing in undone for thing in failure.of)]
