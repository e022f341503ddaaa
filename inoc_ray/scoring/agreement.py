"""How far two judges agree on the same responses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two judges on the `n` responses that both gave a number to; of none of them nothing is said (NaN)."""

    first: str
    second: str
    n: int
    share: float
    """The share of responses that both decide alike."""
    kappa: float
    """Cohen's kappa of the decisions; NaN where both judges decide all alike one way, when chance explains everything."""
    difference: float
    """Mean of the second judge's numbers minus the first one's."""


def decided(values: Sequence[float | None], above: float) -> list[bool | None]:
    """Whether each number is above the threshold; None for what has no number (None or NaN)."""
    return [None if v is None or math.isnan(v) else v > above for v in values]


def agreement(
    values: Mapping[str, Sequence[float | None]], decisions: Mapping[str, Sequence[bool | None]]
) -> list[Agreement]:
    """Each pair of judges, by name; both mappings hold, for each judge, one entry per response in the same order.

    A response counts for a pair where both judges have a number and a decision. Raises ValueError for unequal lengths.
    """
    if len({len(column) for column in (*values.values(), *decisions.values())}) > 1:
        raise ValueError("judges must have looked at the same responses")
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
        return Agreement(one, two, 0, math.nan, math.nan, math.nan)
    numbers, verdicts = numbers[:, both], verdicts[:, both].astype(int)
    share = float((verdicts[0] == verdicts[1]).mean())
    return Agreement(one, two, n, share, _kappa(verdicts), float((numbers[1] - numbers[0]).mean()))


def _kappa(verdicts: np.ndarray) -> float:
    """Cohen's kappa (Cohen 1960), which is 0 / 0 where only one decision occurs."""
    from sklearn.metrics import cohen_kappa_score

    if len(np.unique(verdicts)) == 1:
        return math.nan
    return float(cohen_kappa_score(verdicts[0], verdicts[1]))
