"""Every response of a study with its verdicts and its judges' words, as the report shows it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from inoc_ray.evaluate.cell_scores import CellScores
from inoc_ray.plan.cells import Cell
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import seed_of
from inoc_ray.store.samples import read_table
from inoc_ray.store.store import Store

if TYPE_CHECKING:
    from inoc_ray.evaluate.verdicts import Verdicts
    from inoc_ray.results.report.samples import CellSamples

_COLUMNS = ("question", "text", "prompt_tokens", "completion_tokens")
_FEW = frozenset({0.0, 1.0})
"""The numbers of a rule: they say no more than its verdict."""


@dataclass
class StudySamples:
    """All responses of a study, and what it took to get them; a response that several places share counts once in the sums."""

    cells: list[CellSamples] = field(default_factory=list)
    responses: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    judged: dict[str, int] = field(default_factory=dict)
    """Judging model → responses that it has judged."""


def read_samples(plan: Plan, store: Store) -> StudySamples:
    """Return the responses that the study asks for and the store holds, in the order of the plan: all seeds of an arm together.

    A base stands under every model that it is compared as.
    """
    found = StudySamples()
    seen: set[tuple[str, str]] = set()
    parts = store.parts_of(cell.key for cell in plan.cells)
    for cell in plan.cells:
        scores = CellScores(parts[cell.key], cell, plan.study.evaluation.max_degenerate)
        if not len(scores.index):
            continue
        columns = _columns(scores)
        if cell.key not in seen:
            seen.add(cell.key)
            found.responses += len(scores.index)
            found.prompt_tokens += int(columns["prompt_tokens"].sum())
            found.completion_tokens += int(columns["completion_tokens"].sum())
            for name in dict.fromkeys(itertools.chain.from_iterable(part.numbers for part in scores.parts)):
                found.judged[name] = found.judged.get(name, 0) + len(scores.index)
        found.cells += _of_cell(cell, scores, columns)
    return found


def _columns(scores: CellScores) -> dict[str, Any]:
    """Return the columns of the cell's parts, the selected samples alone."""
    import pyarrow as pa

    table = pa.concat_tables([read_table(path, _COLUMNS) for path in scores.paths])
    return {name: table.column(name).to_numpy()[scores.selected] for name in _COLUMNS}


def _of_cell(cell: Cell, scores: CellScores, columns: dict[str, Any]) -> list[CellSamples]:
    from inoc_ray.results.report.samples import UNJUDGED, CellSamples

    subject = cell.subject
    verdicts = {trait: _codes(scores.traits[trait]) for trait in cell.judges.traits if trait in scores.traits}
    # A trait that is not judged yet is shown as that.
    verdicts |= {t: UNJUDGED * len(scores.index) for t in cell.judges.traits if t not in verdicts}
    numbers = {trait: found for trait, one in scores.traits.items() if (found := _numbers(one)) is not None}
    said = [[f"{judge}: {text}" if text else "" for text in texts] for judge, texts in scores.in_words().items()]
    words = ["\n".join(filter(None, texts)) for texts in zip(*said, strict=True)]
    return [
        CellSamples(
            setting=subject.setting,
            model=label,
            arm=subject.arm.name,
            seed=seed_of(subject),
            evaluation=cell.evaluation.name,
            split=cell.evaluation.split,
            context=cell.context,
            questions=columns["question"].tolist(),
            responses=columns["text"].tolist(),
            verdicts=verdicts,
            scores=numbers,
            words=words,
        )
        for label in subject.compared_as
    ]


def _codes(verdicts: Verdicts) -> str:
    """Return a character for each response; see `inoc_ray.results.report.samples`."""
    from inoc_ray.results.report.samples import EXCLUDED, LACKS, SHOWS, UNPARSED, WITHHELD

    outcome = verdicts.outcome.astype(str)
    chosen = np.where(verdicts.shown == 1.0, SHOWS, LACKS)
    for name, code in (("unparsed", UNPARSED), ("excluded", EXCLUDED), ("withheld", WITHHELD)):
        chosen = np.where(outcome == name, code, chosen)
    return "".join(chosen.tolist())


def _numbers(verdicts: Verdicts) -> list[float | None] | None:
    """Return the raw numbers to one decimal; None where they are a rule's yes and no."""
    numbers = [None if value != value else round(float(value), 1) for value in verdicts.score.tolist()]
    return None if {n for n in numbers if n is not None} <= _FEW else numbers
