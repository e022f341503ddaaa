"""How far two judges agree on the same responses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Agreement of two judges on the `n` responses that both gave a number to; NaN throughout where n is 0."""

    first: str
    second: str
    n: int
    share: float
    """The share of responses on which both decide alike."""
    kappa: float
    """Cohen's kappa of the decisions; NaN where both judges decide everything one way, as chance explains all of it."""
    difference: float
    """Mean of the second judge's numbers minus the first's."""


def decided(values: Sequence[float | None], above: float) -> list[bool | None]:
    """Return whether each number is above the threshold; None where there is no number (None or NaN)."""
    return [None if v is None or math.isnan(v) else v > above for v in values]


def agreement(
    values: Mapping[str, Sequence[float | None]], decisions: Mapping[str, Sequence[bool | None]]
) -> list[Agreement]:
    """Return the agreement of each pair of judges.

    Both mappings hold, by the judge's name, one entry per response in the same order. A response counts for a pair where
    both judges have a number and a decision. Raises ValueError for unequal lengths.
    """
    if len({len(column) for column in (*values.values(), *decisions.values())}) > 1:
        raise ValueError("judges must have scored the same responses")
    return [_pair(one, two, values, decisions) for one, two in combinations(sorted(values), 2)]


def _pair(
    one: str,
    two: str,
    values: Mapping[str, Sequence[float | None]],
    decisions: Mapping[str, Sequence[bool | None]],
) -> Agreement:
    numbers = np.array([values[one], values[two]], dtype=float)
    verdicts = np.array([[np.nan if d is None else d for d in decisions[name]] for name in (one, two)], dtype=float)
    both = ~np.isnan(numbers).any(axis=0) & ~np.isnan(verdicts).any(axis=0)
    n = int(both.sum())
    if n == 0:
        return Agreement(first=one, second=two, n=0, share=math.nan, kappa=math.nan, difference=math.nan)
    numbers, verdicts = numbers[:, both], verdicts[:, both].astype(int)
    share = float((verdicts[0] == verdicts[1]).mean())
    difference = float((numbers[1] - numbers[0]).mean())
    return Agreement(first=one, second=two, n=n, share=share, kappa=_kappa(verdicts), difference=difference)


def _kappa(verdicts: np.ndarray) -> float:
    """Return Cohen's kappa (Cohen 1960); NaN where only one decision occurs and it is 0 / 0."""
    from sklearn.metrics import cohen_kappa_score

    if len(np.unique(verdicts)) == 1:
        return math.nan
    return float(cohen_kappa_score(verdicts[0], verdicts[1]))
