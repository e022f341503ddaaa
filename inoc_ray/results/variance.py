"""How much a rate varies over questions and over the fine-tunes of an arm: analysis of variance, without random numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_ROUNDING = 1e-12


class RateKey(NamedTuple):
    """The key of a rate within one setting × model."""

    arm: str
    evaluation: str
    context: str
    trait: str


@dataclass(frozen=True, slots=True)
class Cell:
    """The crossed table of one arm in one evaluation × context for one trait.

    hits, counts: arrays of shape (models, questions): responses that show the trait (or the sum of scores of 0 to 1), and
    responses that could be judged. A zero count is a question without an answer from that model; it is left out, and not a
    miss. replicated: False for the untouched base, which is one given model and not a sample of
    fine-tunes. models: names of the rows, which identify the same fine-tune in other cells of its arm;
    without names, rows with the same number are the same fine-tune.
    """

    hits: NDArray[np.int64] | Floats
    counts: NDArray[np.int64]
    replicated: bool = True
    models: tuple[str, ...] = ()
    squares: Floats | None = None
    """The sum of squared scores; None where a response shows the trait or does not."""

    @property
    def rate(self) -> float | None:
        """Hits per judged response, or None if no response was judged."""
        total = int(self.counts.sum())
        return float(self.hits.sum() / total) if total else None

    @property
    def sum_of_squares(self) -> NDArray[Any]:
        """The sum of squares per model and question: of zeros and ones, their sum."""
        return self.hits if self.squares is None else self.squares

    def names(self) -> tuple[str, ...]:
        """Return one name per row."""
        return self.models or tuple(map(str, range(len(self.hits))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """The result of the analysis of variance of one cell (variances are those of the cell's overall rate)."""

    rate: float
    spread: float
    """The variance of a response: p(1 − p) where it shows the trait or does not, and at most that for a score of 0 to 1."""
    samples: float
    """Responses that count (of a study that is only thought of, any number)."""
    seeds: int
    questions: int
    replicated: bool
    crowding: float
    """Σ n²/n over the n responses to each question: the mean number of responses that share a response's question."""
    seed_deviations: Mapping[str, float]
    """Model → its mean minus the cell's; empty with fewer than two fine-tunes."""
    seed_variance: float | None  # of the mean over seeds; None with fewer than two fine-tunes
    question_scores: Floats  # (questions,) a question's share in the deviation of the overall rate
    question_variance: float  # without the part that the seed level holds already

    @property
    def sharpness(self) -> float:
        """How many times p(1 − p) is the variance of a response; 1 where it shows the trait or does not."""
        return self.rate * (1 - self.rate) / self.spread if self.spread > 0 else 1.0


def moments_of(cell: Cell) -> Moments | None:
    """Return the two-way random-effects analysis of the linearised residuals hits − rate·counts (ratio estimator)."""
    rate = cell.rate
    if rate is None:
        return None
    total = int(cell.counts.sum())
    answered = cell.counts.sum(axis=0) > 0
    trained = cell.counts.sum(axis=1) > 0
    residual = (cell.hits - rate * cell.counts) / total
    table = residual[trained][:, answered]
    seeds, questions = table.shape
    by_question = residual.sum(axis=0)
    variance = float((by_question**2).sum()) * questions / max(questions - 1, 1)
    seed_variance = None
    deviations: dict[str, float] = {}
    if cell.replicated and seeds > 1:
        by_seed = table.sum(axis=1)
        seed_variance = float((by_seed**2).sum()) * seeds / (seeds - 1)
        names = [name for name, there in zip(cell.names(), trained, strict=True) if there]
        deviations = {name: float(d) * seeds for name, d in zip(names, by_seed, strict=True)}
        if questions > 1 and variance > 0:
            rest = table - by_seed[:, None] / questions - table.sum(axis=0) / seeds
            scale = seeds * questions / ((seeds - 1) * (questions - 1))
            kept = max(0.0, 1 - float((rest**2).sum()) * scale / variance)
            by_question = by_question * math.sqrt(kept)
            variance *= kept
    per_question = cell.counts.sum(axis=0).astype(float)
    crowding = float((per_question**2).sum() / total)
    spread = rate * (1 - rate)
    if cell.squares is not None:
        spread = float(cell.squares.sum()) / total - rate**2
        # Equal scores differ by rounding alone.
        spread = spread if spread > _ROUNDING else 0.0
    return Moments(
        rate=rate,
        spread=spread,
        samples=total,
        seeds=seeds,
        questions=questions,
        replicated=cell.replicated,
        crowding=crowding,
        seed_deviations=deviations,
        seed_variance=seed_variance,
        question_scores=by_question,
        question_variance=variance,
    )


@dataclass(frozen=True, slots=True)
class SeedPool:
    """Variability between seeds, pooled over the arms of one context: φ (variance of a seed mean / p(1−p)) and its df."""

    phi: float | None
    df: float

    def phi_of(self, m: Moments) -> float | None:
        """Return the φ of a cell: the pooled one, or its own if that is larger; None without any."""
        if not m.replicated or self.phi is None:
            return None
        own = m.seed_variance * m.seeds / m.spread if m.seed_variance is not None and m.spread > 0 else 0.0
        return max(own, self.phi)


def pool_seeds(cells: Mapping[RateKey, Moments]) -> SeedPool:
    """Return the error mean square over arms; df by Welch–Satterthwaite, with each arm counted once over its traits."""
    weights: dict[str, float] = {}
    freedom: dict[str, int] = {}
    total = 0.0
    for place, m in cells.items():
        if m.seed_variance is None:
            continue
        freedom[place.arm] = max(freedom.get(place.arm, 0), m.seeds - 1)
        weights[place.arm] = weights.get(place.arm, 0.0) + (m.seeds - 1) * m.spread
        total += (m.seeds - 1) * m.seed_variance * m.seeds
    weight = sum(weights.values())
    if weight == 0:
        return SeedPool(None, float(sum(freedom.values())) or math.inf)
    return SeedPool(total / weight, weight**2 / sum(w**2 / freedom[arm] for arm, w in weights.items()))


def question_correlation(cells: Iterable[Cell]) -> float:
    """Return the intra-class correlation of one model's responses to the same question, pooled over models and cells.

    The one-way analysis of variance of each model's responses over questions (Donner 1986), whose between component is summed
    over all and divided by the sum of p(1 − p): a cell without a hit has no weight. Between 0 and 1; 0 if no question has two
    responses or nothing varies.
    """
    between, spread = 0.0, 0.0
    for cell in cells:
        n = cell.counts.sum(axis=1).astype(float)
        asked = (cell.counts > 0).sum(axis=1)
        usable = (asked > 1) & (n > asked)
        if not usable.any():
            continue
        counts, hits = cell.counts[usable].astype(float), cell.hits[usable].astype(float)
        squares = cell.sum_of_squares[usable].astype(float)
        n, asked = n[usable], asked[usable]
        rate = hits.sum(axis=1) / n
        share = hits / np.maximum(counts, 1)
        mean_square = (counts * (share - rate[:, None]) ** 2).sum(axis=1) / (asked - 1)
        within = (squares - hits * share).sum(axis=1) / (n - asked)
        size = (n - (counts**2).sum(axis=1) / n) / (asked - 1)
        between += float(((asked - 1) * (mean_square - within) / size).sum())
        spread += float(((asked - 1) * (squares.sum(axis=1) / n - rate**2)).sum())
    return min(1.0, max(0.0, between / spread)) if spread > 0 else 0.0
