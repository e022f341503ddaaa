"""How much of a study judging models still have to grade, counted without asking them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from inoc_ray.plan.cells import Cell
from inoc_ray.plan.judge_assignment import Grading
from inoc_ray.plan.plan import Plan
from inoc_ray.store.samples import find_judgments
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import Judge


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What one judging model has graded and has to grade. A judgment is one number for one response on one rubric."""

    judge: str
    model: str
    judged: int
    """Stored judgments."""
    missing: int
    """Judgments to come, also of responses that are not sampled yet."""
    calls: int
    """Requests to come, if none has to be repeated and no study of the storage has asked the same before."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields for `--json`."""
        return asdict(self)


def workloads(plan: Plan, store: Store) -> list[Workload]:
    """Return the workload of each judging model that the study uses."""
    found: dict[str, Workload] = {}
    seen: set[tuple[str, str, str]] = set()
    # Of several cells with the same samples, count the one with the most.
    for cell in sorted(plan.asked, key=lambda c: -c.samples):
        for name, grading in cell.judges.gradings.items():
            key = (*cell.key, grading.judgments_id)
            if key not in seen:
                seen.add(key)
                judge = grading.judge
                before = found.get(name, Workload(judge=name, model=judge.model, judged=0, missing=0, calls=0))
                found[name] = _with(before, store, cell, grading)
    return list(found.values())


def _with(before: Workload, store: Store, cell: Cell, grading: Grading) -> Workload:
    """Return the workload with a cell's share added."""
    parts = store.parts(*cell.key)
    done = sum(p.stop - p.start for p in parts if find_judgments(p.path, grading.judgments_id) is not None)
    # Whole parts are graded, even if another study asked for more samples than this one.
    missing = max(cell.samples, parts[-1].stop if parts else 0) - done
    rubrics = len(grading.rubrics)
    return replace(
        before,
        judged=before.judged + done * rubrics,
        missing=before.missing + missing * rubrics,
        calls=before.calls + missing * _calls(grading.judge.judge, rubrics),
    )


def _calls(judge: Judge, rubrics: int) -> int:
    """Return the requests for one response; the prefixes that `candidates` asks an engine about are not counted."""
    return 1 if judge.method == "json" else rubrics * judge.samples
