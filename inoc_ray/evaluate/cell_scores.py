"""Every judge's numbers on the samples of a cell, as stored, and the verdicts under the plan's thresholds.

A cell's folder holds `evaluation.json` (what was asked, as text), `samples-<a>-<b>.parquet` (prompt as rendered, response),
`scores-<rules>-<samples>-<a>-<b>.arrow` (one number of 0 to 1 per trait and sample) and
`judgments-<judge>-<samples>-<a>-<b>.parquet` (a judging model's raw answers, with their log-probs). <samples> is the hash of the
samples that were judged, so that scores belong to those very texts; each name also ends with the file's own hash (see
`store.seal`). What is damaged or belongs to other texts is made again, and judges are then asked only about texts that they have
not judged. Rule scores are computed again, without a model, when the rules' version changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from inoc_ray.errors import InputError
from inoc_ray.evaluate.verdicts import Numbers, Verdicts, by_model, by_rule, combined, gated, joined, mean_of
from inoc_ray.models.think import answer_of
from inoc_ray.plan.cells import Cell
from inoc_ray.plan.judge_assignment import TraitJudges
from inoc_ray.scoring.degenerate import DEGENERATE, FORM_VERSION, FORMS, forms
from inoc_ray.scoring.judgment import RULES, Item
from inoc_ray.store.place import Place
from inoc_ray.store.samples import (
    JUDGMENT_KEYS,
    Part,
    find_judgments,
    form_path,
    keep_derived,
    read_derived,
    read_part,
    read_table,
    scores_path,
)

_WHICH = ("sample_index", "question_id")


def items_of(table: Any, cell: Cell) -> list[Item]:
    """Return what judges see of the samples of a part, one item a sample."""
    answers = {q.id: (q.reference, q.other) for q in cell.evaluation.questions(cell.samples) if q.reference is not None}
    columns = (table.column(name).to_pylist() for name in ("question", "prompt", "text", "question_id"))
    return [
        Item(question, answer_of(prompt, text), *answers.get(key, ()))
        for question, prompt, text, key in zip(*columns, strict=True)
    ]


def _about(part: Place) -> Any:
    """Return number, question and forms (`degenerate.FORMS`) of each response of a part; compute and store them if missing.

    The part, which its listing has hashed, is read for that alone: most comparisons have no use for its texts.
    """
    import pyarrow as pa

    path = form_path(part, FORM_VERSION)
    if (stored := read_derived(path, (*_WHICH, *FORMS))) is not None:
        return stored
    found = read_table(part, _WHICH)
    # An earlier version's has the forms alone.
    forms_of = read_derived(path, FORMS) or _forms(part)
    whole = pa.table({name: table.column(name) for table in (found, forms_of) for name in table.column_names})
    keep_derived(path, whole)
    return whole


def _forms(part: Place) -> Any:
    """Return which responses of a part are degenerate, a column for each of `degenerate.FORMS`."""
    import pyarrow as pa

    texts = read_table(part, ["prompt", "text", "finish_reason"])
    responses = zip(*(texts.column(name).to_pylist() for name in ("prompt", "text", "finish_reason")), strict=True)
    rows = [forms(answer_of(prompt, text), finish) for prompt, text, finish in responses]
    return pa.table({name: pa.array([row[i] for row in rows], pa.bool_()) for i, name in enumerate(FORMS)})


def _rule_scores(cell: Cell, part: Place, index: Any) -> dict[str, Any]:
    """Return trait → one number per sample, from the rules, NaN for none; compute and store those of all traits if missing."""
    import pyarrow as pa

    rules = cell.judges.rules
    if not rules:
        return {}
    # Of a file that serves every evaluation of a setting, what this one measures.
    names = [trait for trait in cell.judges.traits if trait in rules]
    path = scores_path(part, cell.judges.scores_id)
    scores = read_derived(path, names)
    if scores is None:
        items = items_of(read_part(part), cell)
        columns = {t: pa.array([rules[t](item) for item in items], pa.float64()) for t in sorted(rules)}
        scores = pa.table({"sample_index": index, **columns})
        keep_derived(path, scores)
    return {t: scores.column(t).to_numpy() for t in names}


def _judgments(path: Place, index: list[int]) -> Numbers:
    found = read_table(path, JUDGMENT_KEYS).to_pandas()
    numbers = {}
    for rubric, rows in found.groupby("rubric", sort=False):
        rows = rows.set_index("sample_index").reindex(index)
        if rows["category"].isna().any():
            raise InputError(
                f"{path}: does not match the samples beside it; delete it and run the study again to judge them."
            )
        numbers[str(rubric)] = (rows["value"].to_numpy(dtype=float), rows["category"].to_numpy(dtype=object))
    return numbers


class PartScores:
    """The samples of one part of a cell, and every judge's numbers on them."""

    def __init__(self, cell: Cell, path: Place) -> None:
        self.about = _about(path)
        """Number, question and forms of each response."""
        index = self.about.column("sample_index")
        self.rules = _rule_scores(cell, path, index)
        self.numbers: dict[str, Numbers] = {}
        """Judging model → its numbers; a model that has not judged the part yet is missing."""
        for name, grading in cell.judges.gradings.items():
            stored = find_judgments(path, grading.judgments_id)
            if stored is not None:
                self.numbers[name] = _judgments(stored, index.to_pylist())

    def in_words(self, judge: str) -> list[str]:
        """Return a judging model's raw numbers on each sample, as "alignment 12, coherence 95"; empty if it has not judged."""
        texts = [
            [
                f"{rubric} {round(value, 1):g}" if value == value else f"{rubric} {category}"
                for value, category in zip(*numbers, strict=True)
            ]
            for rubric, numbers in self.numbers.get(judge, {}).items()
        ]
        return [", ".join(words) for words in zip(*texts, strict=True)] if texts else [""] * self.about.num_rows

    def verdicts(self, judges: TraitJudges) -> dict[str, Verdicts]:
        """Return judge → its verdicts on the trait; a judge that has not judged the part yet is missing."""
        found = {}
        for name in judges.judges:
            if name == RULES:
                if judges.gate is None:
                    found[name] = by_rule(self.rules[judges.trait])
                elif (numbers := self.numbers.get(judges.gate.judge.name)) is not None:
                    found[name] = gated(by_rule(self.rules[judges.trait]), numbers, judges.gate)
            elif name in self.numbers and judges.measure is not None:
                found[name] = by_model(self.numbers[name], judges.measure)
        return found

    def verdict(self, judges: TraitJudges) -> Verdicts | None:
        """Return the judges' verdicts on the trait, combined; None while a judge that the combination needs has not judged."""
        found = self.verdicts(judges)
        needed = judges.judges[:1] if judges.combine == "first" else judges.judges
        if any(name not in found for name in needed):
            return None
        if judges.combine == "mean" and judges.measure is not None and len(judges.judges) > 1:
            numbers = mean_of([self.numbers[name] for name in judges.judges], judges.measure.rubrics)
            return by_model(numbers, judges.measure)
        return combined([found[name] for name in judges.judges if name in found], judges.combine)


class CellScores:
    """The first `cell.samples` samples of a cell, with the combined verdicts on each trait."""

    def __init__(self, parts: Sequence[Part], cell: Cell, max_degenerate: float) -> None:
        """`parts` are those of the cell that the store has."""
        self.paths = [part.path for part in parts]
        self.parts = [PartScores(cell, path) for path in self.paths]
        index = self._column("sample_index")
        self.selected = index < cell.samples
        """Mask of the stored samples that this study asks for: another study may have asked for more."""
        self.index = index[self.selected]
        self.question_id = self._column("question_id")[self.selected]
        self.forms = {name: self._form(name)[self.selected] for name in FORMS}
        self.traits: dict[str, Verdicts] = {}
        for trait, judges in cell.judges.traits.items() if self.parts else ():
            found = [v for part in self.parts if (v := part.verdict(judges)) is not None]
            if len(found) == len(self.parts):
                verdicts = joined(found)[self.selected]
                self.traits[trait] = replace(verdicts, shown=verdicts.shown.astype(float))
        if self.traits and self.degenerate() > max_degenerate:
            for verdicts in self.traits.values():
                verdicts.shown[:], verdicts.outcome[:] = np.nan, "withheld"

    def _column(self, name: str) -> Any:
        return _joined([part.about.column(name).to_numpy() for part in self.parts])

    def _form(self, name: str) -> Any:
        return _joined([part.about.column(name).to_numpy(False) for part in self.parts])

    def in_words(self) -> dict[str, Any]:
        """Return judging model → its raw numbers on each sample, as text."""
        names = dict.fromkeys(name for part in self.parts for name in part.numbers)
        return {
            name: _joined([np.array(p.in_words(name), object) for p in self.parts])[self.selected] for name in names
        }

    def degenerate(self) -> float:
        """Return the share of degenerate responses."""
        return float(np.any([self.forms[name] for name in DEGENERATE], axis=0).mean())


def _joined(arrays: list[Any]) -> Any:
    return np.concatenate(arrays) if arrays else np.array([])
