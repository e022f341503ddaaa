"""Verdicts from raw numbers: which responses show a trait, and which count at all, under a plan's thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from inoc_ray.plan.judge_assignment import Condition, Gate, ModelMeasure
from inoc_ray.scoring.profiles import RULE_SHOWN

Outcome = Literal["counted", "excluded", "unparsed", "withheld"]
"""The outcome for one response and trait: judged and counted; judged but not counted (incoherent, a refusal, bare code); no
readable judgment; not counted because its model's responses are degenerate."""

Numbers = Mapping[str, tuple[Any, Any]]
"""rubric → (numbers, categories) of one judging model: arrays with one entry per sample, in order."""


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """One judge's decisions on one trait for some samples: arrays of equal length."""

    score: Any
    """The raw number, NaN if there is none."""
    shown: Any
    """1 or 0, NaN unless counted."""
    outcome: Any
    """See `Outcome`."""
    level: Any
    """The number as 0 to 1, with 1 where the trait shows most; NaN if there is none."""

    def __getitem__(self, some: slice) -> Verdicts:
        return self.map(lambda array: array[some])

    def map(self, change: Callable[[Any], Any]) -> Verdicts:
        """Return the verdicts with each array changed."""
        return Verdicts(
            score=change(self.score), shown=change(self.shown), outcome=change(self.outcome), level=change(self.level)
        )


def joined(verdicts: Sequence[Verdicts]) -> Verdicts:
    """Return the verdicts on several lots of samples, concatenated."""
    return Verdicts(
        score=np.concatenate([v.score for v in verdicts]),
        shown=np.concatenate([v.shown for v in verdicts]),
        outcome=np.concatenate([v.outcome for v in verdicts]),
        level=np.concatenate([v.level for v in verdicts]),
    )


def by_rule(scores: Any) -> Verdicts:
    """Return a rule's verdicts on an array of numbers: one above RULE_SHOWN shows the trait, and NaN is unparsed."""
    score = np.asarray(scores, dtype=float)
    outcome = np.where(np.isnan(score), "unparsed", "counted").astype(object)
    shown = np.where(np.isnan(score), np.nan, score > RULE_SHOWN)
    return Verdicts(score=score, shown=shown, outcome=outcome, level=score)


def gated(verdicts: Verdicts, numbers: Numbers, gate: Gate) -> Verdicts:
    """Return a rule's verdicts, counted only if the judging model's numbers on the gate's rubrics allow it."""
    outcome = verdicts.outcome.copy()
    _exclude(outcome, numbers, gate.given)
    _mark(outcome, numbers, gate.rubrics)
    shown = np.where(outcome == "counted", verdicts.shown, np.nan)
    return Verdicts(score=verdicts.score, shown=shown, outcome=outcome, level=verdicts.level)


def by_model(numbers: Numbers, measure: ModelMeasure) -> Verdicts:
    """Return a judging model's verdicts: its numbers compared with the measure's thresholds."""
    values, _ = numbers[measure.shown.rubric.name]
    outcome = np.full(len(values), "counted", dtype=object)
    _exclude(outcome, numbers, measure.given)
    _mark(outcome, numbers, measure.rubrics)
    bound = measure.shown.bound
    shown = np.array([float(bound.holds(v)) if v == v else np.nan for v in values])
    level = (100 - values if measure.shown.rubric.shows == "low" else values) / 100
    return Verdicts(score=values, shown=np.where(outcome == "counted", shown, np.nan), outcome=outcome, level=level)


def _exclude(outcome: Any, numbers: Numbers, given: Iterable[Condition]) -> None:
    """Mark as excluded what a condition does not allow to count."""
    for condition in given:
        values, _ = numbers[condition.rubric.name]
        outcome[[v == v and not condition.bound.holds(v) for v in values]] = "excluded"


def _mark(outcome: Any, numbers: Numbers, rubrics: Sequence[str]) -> None:
    """Mark refusals and bare code as excluded; then what cannot be read as unparsed, which takes precedence."""
    for name in rubrics:
        categories = numbers[name][1]
        outcome[(categories != "number") & (categories != "unparsed")] = "excluded"
    for name in rubrics:
        outcome[numbers[name][1] == "unparsed"] = "unparsed"


def mean_of(several: Sequence[Numbers], rubrics: Sequence[str]) -> Numbers:
    """Return the mean of several judges' numbers on each rubric, over the judges that gave one."""
    found: dict[str, tuple[Any, Any]] = {}
    for rubric in rubrics:
        values = np.array([numbers[rubric][0] for numbers in several])
        some = ~np.isnan(values).all(axis=0)
        mean = np.full(values.shape[1], np.nan)
        mean[some] = np.nanmean(values[:, some], axis=0)
        found[rubric] = (mean, np.where(some, "number", several[0][rubric][1]))
    return found


def combined(verdicts: Sequence[Verdicts], how: str) -> Verdicts:
    """Return several judges' verdicts combined; see `Evaluation.combine`.

    `all` and `any` follow Kleene's logic: an unparsed answer leaves the trait open only if the other judges do not settle it.
    """
    first = verdicts[0]
    if len(verdicts) == 1:
        return first
    if how == "first":
        return _first(verdicts)
    marks = np.array([v.shown for v in verdicts])
    settled = (marks == (1.0 if how == "any" else 0.0)).any(axis=0)
    agreed = ~np.isnan(marks).any(axis=0)
    shown = np.where(settled, float(how == "any"), np.where(agreed, float(how == "all"), np.nan))
    outcomes = np.array([v.outcome for v in verdicts])
    left = np.where((outcomes == "unparsed").any(axis=0), "unparsed", "excluded")
    outcome = np.where(np.isnan(shown), left, "counted").astype(object)
    # Of numbers there is no "all" or "any": the least, or the largest, among the judges that gave one.
    levels = np.array([v.level for v in verdicts], dtype=float)
    level = np.fmax.reduce(levels) if how == "any" else np.fmin.reduce(levels)
    return Verdicts(score=first.score.copy(), shown=shown, outcome=outcome, level=level)


def _first(verdicts: Sequence[Verdicts]) -> Verdicts:
    """Return the first judge's verdicts, with the next one's wherever its answer cannot be read."""
    found = verdicts[0].map(np.copy)
    for other in verdicts[1:]:
        unparsed = found.outcome == "unparsed"
        found.score[unparsed] = other.score[unparsed]
        found.shown[unparsed] = other.shown[unparsed]
        found.outcome[unparsed] = other.outcome[unparsed]
        found.level[unparsed] = other.level[unparsed]
    return found
