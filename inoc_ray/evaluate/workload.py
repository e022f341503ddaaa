"""How much of a study is still to be judged by models; asks nobody and writes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from inoc_ray.plan.cells import Cell
from inoc_ray.plan.judges import Grading
from inoc_ray.plan.plan import Plan
from inoc_ray.store.samples import find_judgments
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import Judge


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What one judging model has done and has to do. A judgment is one number for one response on one rubric."""

    judge: str
    model: str
    judged: int
    """Judgments that are stored."""
    missing: int
    """Judgments that are not, of responses that are still to be asked for among them."""
    calls: int
    """Requests, if none has to be repeated and none was answered before, in any study of the storage."""

    def to_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return asdict(self)


def workloads(plan: Plan, store: Store) -> list[Workload]:
    """Return one for each judging model that the study asks something."""
    found: dict[str, Workload] = {}
    seen: set[tuple[str, str, str]] = set()
    # Of several cells with the same place the one with the most samples.
    for cell in sorted(plan.cells, key=lambda c: -c.samples):
        for name, grading in cell.judges.gradings.items():
            place = (*cell.key, grading.judgments_id)
            if place not in seen:
                seen.add(place)
                judge = grading.judge
                before = found.get(name, Workload(judge=name, model=judge.model, judged=0, missing=0, calls=0))
                found[name] = _with(before, store, cell, grading)
    return list(found.values())


def _with(before: Workload, store: Store, cell: Cell, grading: Grading) -> Workload:
    """The workload with what a cell adds to it."""
    parts = store.parts(*cell.key)
    done = sum(p.stop - p.start for p in parts if find_judgments(p.path, grading.judgments_id) is not None)
    # Whole parts are judged, also where another study has asked for more than this one.
    missing = max(cell.samples, parts[-1].stop if parts else 0) - done
    rubrics = len(grading.rubrics)
    return replace(
        before,
        judged=before.judged + done * rubrics,
        missing=before.missing + missing * rubrics,
        calls=before.calls + missing * _calls(grading.judge.judge, rubrics),
    )


def _calls(judge: Judge, rubrics: int) -> int:
    """Requests for one response. What `candidates` asks an own engine behind prefixes is not counted."""
    return 1 if judge.method == "json" else rubrics * judge.samples
