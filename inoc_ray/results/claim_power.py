"""How many more fine-tunes, or questions, would settle what a study cannot tell.

The interval that a larger study would give is drawn from the same rates and variances, with the parts of the variance divided
by how many times more fine-tunes and questions it has. If the true number is the one measured, at a distance d from the
threshold, a study settles it with probability POWER if d ≥ h·(1 + z_POWER/z), with h the half-width of its interval on that
side: the quantiles of the two errors add up (Cohen 1988), in units of this interval. It is a rough guide, since the measured
number is uncertain itself, and so is the variance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

POWER = 0.8
SEEDS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 32, 40, 50)
"""Numbers of fine-tunes of an arm that are tried; nobody trains more."""
TIMES = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 20.0)
"""How many times more questions, or questions and fine-tunes, are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A number's distance from the nearest threshold, to be settled by an interval of `level` with probability `power`."""

    distance: float
    level: float = 0.95
    power: float = POWER

    def is_settled_by(self, half: float) -> bool:
        """Return whether an interval of that half-width, on the side of the threshold, would do."""
        quantile = NormalDist().inv_cdf((1 + self.level) / 2)
        return self.distance >= half * (1 + NormalDist().inv_cdf(self.power) / quantile)


def smallest(sizes: Sequence[float], settles: Callable[[float], bool]) -> float | None:
    """Return the smallest of ascending sizes that settles it, by bisection; None if the largest does not."""
    if not sizes or not settles(sizes[-1]):
        return None
    low, high = 0, len(sizes) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if settles(sizes[middle]) else (middle + 1, high)
    return sizes[high]
