"""What judging models have still to grade: the parts of cells without judgments of their texts.

Apart from `grading`, which grades them, since whoever only asks needs no engine, nor anything that starts one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inoc_ray.config.identity import content_id
from inoc_ray.plan.cells import Cell
from inoc_ray.plan.judge_assignment import Grading
from inoc_ray.plan.looking import looks
from inoc_ray.plan.plan import Plan
from inoc_ray.scoring.rubrics import Rubric
from inoc_ray.store.place import Place
from inoc_ray.store.samples import find_judgments, judgments_path, refusal_note
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import Judge


@dataclass(frozen=True, kw_only=True)
class UngradedPart:
    """A part of a cell that a judge has not graded."""

    cell: Cell
    part: Place
    """The file of samples."""
    grading: Grading
    out: Place
    """The file for the judgments."""
    samples: int
    """Responses in the part."""

    @property
    def rubrics(self) -> Mapping[str, Rubric]:
        """The rubrics on which the judge scores each response, by name."""
        return self.grading.rubrics

    @property
    def judgments(self) -> int:
        """How many judgments it needs."""
        return self.samples * len(self.rubrics)


@looks
def ungraded_parts(plan: Plan, store: Store) -> dict[str, list[UngradedPart]]:
    """Return judge → the parts it still has to grade: those without judgments of their texts, or with damaged ones.

    A part with responses that an API refused is graded again when the study gives another address for the same model.
    """
    found: dict[str, dict[Place, UngradedPart]] = {}
    for cell in plan.asked:
        if not cell.judges.gradings:
            continue
        parts = store.parts(*cell.key)
        for name, grading in cell.judges.gradings.items():
            for start, stop, part in parts:
                out = judgments_path(part, grading.judgments_id)
                if find_judgments(part, grading.judgments_id) is None or _refused_elsewhere(grading.judge.judge, out):
                    found.setdefault(name, {})[out] = UngradedPart(
                        cell=cell, part=part, grading=grading, out=out, samples=stop - start
                    )
    return {name: list(parts.values()) for name, parts in found.items()}


def _refused_elsewhere(judge: Judge, out: Place) -> bool:
    try:
        return judge.endpoint is not None and refusal_note(out).read_text() != content_id(judge.endpoint)
    except FileNotFoundError:
        return False
