"""Intervals for rates when the units of replication are the fine-tune and the question.

The data of a cell (one model × arm × evaluation × context × trait) are a crossed table: every fine-tune
(seed) is asked the same questions. Both are a sample: another seed and another question would have given
another rate.

Why the seeds are not simply resampled: studies have two or three of them, and a percentile bootstrap over
three seed means is [min, max] (which holds the true median in 75 % of studies, and with two in 50 %).
Why not a t-interval per arm: with two seeds its half-width is 12.7 standard errors, which is honest and
useless. What is done instead is a crossed two-level *multiplier* bootstrap in which the seed level borrows
strength from the other arms:

* Question level. Each question gets a Gaussian multiplier, shared by all arms, contexts and traits of the
  evaluation, so that comparisons are paired over questions (multiplier bootstrap: van der Vaart &
  Wellner 1996, §2.9; crossed factors: Owen 2007, "The pigeonhole bootstrap"). The variance that seeds × questions leave
  behind is in the seed level already and is taken out here, as in a two-way random-effects analysis of
  variance.
* Seed level. The variance of seed means is written φ·p(1−p) (the beta-binomial form: equal intra-class
  correlation, whatever the rate) and φ is pooled over the arms asked the same questions in the same
  context, as the error mean square of an analysis of variance is. An arm whose own φ is larger than the
  pooled one keeps its own (an arm with unusually variable seeds must not hide among steady ones). The draw
  is Student's t with the pooled degrees of freedom, in which every arm counts once, however many traits it
  is scored for.
* Boundary. Standardised draws are mapped to rates by the Wilson score equation with the effective sample size
  p(1−p)/variance, never above the number of samples (Korn & Graubard 1998; Dean & Pagano 2015 for clustered
  proportions). So an arm with no hit at all still has an upper limit, and one model with one sample per
  question gets Wilson's interval.

The draws of all cells belong together; differences, ratios and effects are computed draw by draw (a
confidence distribution per cell, carried through the function: Xie & Singh 2013), and p-values come from
the same draws, so that "p < .05" and "the 95 % interval excludes the null value" say the same. Seeds of
different arms are taken as independent, also where they bear the same number: shared initialisation makes
arms more alike, if anything, and ignoring that widens the interval of a difference.
tests/unit/test_stats.py measures the coverage.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)

LEVEL = 0.95
DRAWS = 10_000
_VERSION = "1"


@dataclass(frozen=True, slots=True)
class Cell:
    """The crossed table of one arm in one evaluation × context for one trait.

    hits, counts: int arrays of shape (seeds, questions): responses that show the trait, and responses that
    could be judged. A zero count is a question without an answer from that seed; it is left out, not taken
    as a miss. replicated: False for the untouched base, which is one given model and not a sample of
    fine-tunes.
    """

    arm: str
    hits: NDArray[np.int64]
    counts: NDArray[np.int64]
    replicated: bool = True

    @property
    def rate(self) -> float | None:
        """Hits per judged response, or None when none was judged."""
        total = int(self.counts.sum())
        return float(self.hits.sum() / total) if total else None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its draws (confidence distribution), from which interval and p-value are read."""

    value: float
    draws: Floats
    sources: frozenset[tuple[str, str, str, str]] = frozenset()
    """The levels that it was computed from, as arm, split, trait, context."""

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Equal-tailed limits at `level`."""
        low, high = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def p_value(self, null: float) -> float:
        """Two-sided: twice the smaller share of draws beyond `null`, at least 2 / (draws + 1) (never zero)."""
        below = int((self.draws <= null).sum())
        above = int((self.draws >= null).sum())
        return min(1.0, 2 * (min(below, above) + 1) / (len(self.draws) + 1))


def wilson_root(rate: float, size: float, score: Floats) -> Floats:
    """The proportion p that solves (p − rate) = score·√(p(1−p)/size); increasing in score. Wilson (1927).

    rate in [0, 1], size > 0 the (effective) number of responses, score the standardised deviation.
    """
    squared = score**2 / size
    spread = score * np.sqrt(rate * (1 - rate) / size + squared / (4 * size))
    return np.clip((rate + squared / 2 + spread) / (1 + squared), 0.0, 1.0)


def wilson(hits: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval for `hits` of `total` independent responses. Raises ValueError when total is 0."""
    if total < 1:
        raise ValueError("an interval needs at least one response")
    from statistics import NormalDist

    z = NormalDist().inv_cdf((1 + level) / 2)
    low, high = wilson_root(hits / total, total, np.array([-z, z]))
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class _Moments:
    """What the analysis of variance of one cell yields (variances are those of the cell's overall rate)."""

    rate: float
    samples: int
    seeds: int
    questions: int
    seed_variance: float | None  # of the mean over seeds; None with fewer than two seeds
    question_scores: Floats  # (questions,) a question's share in the deviation of the overall rate
    question_variance: float  # without the part that the seed level holds already

    @property
    def spread(self) -> float:
        return self.rate * (1 - self.rate)


def _moments(cell: Cell) -> _Moments | None:
    """Two-way random-effects analysis of the linearised residuals hits − rate·counts (ratio estimator)."""
    rate = cell.rate
    if rate is None:
        return None
    asked = cell.counts.sum(axis=0) > 0
    trained = cell.counts.sum(axis=1) > 0
    residual = (cell.hits - rate * cell.counts) / cell.counts.sum()
    table = residual[trained][:, asked]
    seeds, questions = table.shape
    by_question = residual.sum(axis=0)
    variance = float((by_question**2).sum()) * questions / max(questions - 1, 1)
    seed_variance = None
    if cell.replicated and seeds > 1:
        by_seed = table.sum(axis=1)
        seed_variance = float((by_seed**2).sum()) * seeds / (seeds - 1)
        if questions > 1 and variance > 0:
            rest = table - by_seed[:, None] / questions - table.sum(axis=0) / seeds
            scale = seeds * questions / ((seeds - 1) * (questions - 1))
            kept = max(0.0, 1 - float((rest**2).sum()) * scale / variance)
            by_question = by_question * math.sqrt(kept)
            variance *= kept
    return _Moments(rate, int(cell.counts.sum()), seeds, questions, seed_variance, by_question, variance)


@dataclass(frozen=True, slots=True)
class _Pool:
    """Between-seed variability shared by the arms of one context: φ (variance of a seed mean / p(1−p)) and its df."""

    phi: float | None
    df: float


def _pool(cells: Sequence[tuple[Cell, _Moments]]) -> _Pool:
    """Error mean square over arms; df by Welch–Satterthwaite, each arm counted once over its traits."""
    weights: dict[str, float] = {}
    freedom: dict[str, int] = {}
    total = 0.0
    for cell, m in cells:
        if m.seed_variance is None or m.spread == 0:
            continue
        weights[cell.arm] = weights.get(cell.arm, 0.0) + (m.seeds - 1) * m.spread
        freedom[cell.arm] = max(freedom.get(cell.arm, 0), m.seeds - 1)
        total += (m.seeds - 1) * m.seed_variance * m.seeds
    if not weights:
        return _Pool(None, math.inf)
    weight = sum(weights.values())
    df = weight**2 / sum(w**2 / freedom[arm] for arm, w in weights.items())
    return _Pool(total / weight, df)


def _generator(*names: object) -> np.random.Generator:
    """A stream that depends on names only, so that a new arm does not move the draws of the others."""
    digest = hashlib.sha256("\x1f".join([_VERSION, *map(str, names)]).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest[:16], dtype=np.uint32))


def draw_rates(
    stream: str, evaluation: str, contexts: Mapping[str, Mapping[Key, Cell]], draws: int = DRAWS
) -> dict[str, dict[Key, Estimate]]:
    """Rates with joint draws for all cells of one evaluation.

    stream and evaluation name the random numbers (deterministic: same names, same draws). The seed-level
    draw of a cell depends on stream, context and key but not on the evaluation: a rate averaged over
    several evaluations of the same fine-tunes then moves with them together, which is the cautious choice.
    contexts maps a context to its cells; the columns of all cells are the same questions in the same order.
    Returns the same shape without the cells in which nothing could be judged.
    """
    cells = [cell for group in contexts.values() for cell in group.values()]
    if not cells:
        return {}
    questions = cells[0].counts.shape[1]
    multipliers = _generator(stream, evaluation, "questions").standard_normal((draws, questions)).astype(np.float32)
    # With Q questions the variance is estimated from Q of them: a shared χ² makes the draws Student's t, Q
    # − 1 df.
    heavy: dict[int, Floats] = {}
    out: dict[str, dict[Key, Estimate]] = {}
    for context, group in contexts.items():
        moments = {key: m for key, cell in group.items() if (m := _moments(cell)) is not None}
        pool = _pool([(group[key], m) for key, m in moments.items()])
        steady = np.ones(draws)
        if pool.phi is not None:
            steady = _student_scale(pool.df, draws, stream, evaluation, context, "pool")
        out[context] = {}
        for key, m in moments.items():
            if m.questions not in heavy:
                df = max(m.questions - 1, 1)
                heavy[m.questions] = _student_scale(df, draws, stream, evaluation, "questions", df)
            # The seed-level part (all there is to go by where every response is alike).
            phi = _phi(group[key], m, pool)
            normal = _generator(stream, context, key).standard_normal(draws)
            if m.spread == 0:
                score = normal * (steady if phi else heavy[m.questions])
                size = m.seeds / phi if phi else m.questions
            else:
                small = math.sqrt(m.questions / max(m.questions - 1, 1))
                deviation = (multipliers @ m.question_scores.astype(np.float32)).astype(np.float64)
                deviation *= small * heavy[m.questions]
                variance = m.question_variance
                if phi:
                    seed_variance = phi * m.spread / m.seeds
                    deviation += math.sqrt(seed_variance) * normal * steady
                    variance += seed_variance
                score = deviation / math.sqrt(variance) if variance > 0 else normal
                size = m.spread / variance if variance > 0 else m.samples
            out[context][key] = Estimate(m.rate, wilson_root(m.rate, min(size, m.samples), score))
    return out


def _student_scale(df: float, draws: int, *names: object) -> Floats:
    """Factors that turn standard normal draws into Student's t with df degrees of freedom."""
    return np.sqrt(df / _generator(*names).chisquare(df, draws))


def model_interval(cell: Cell, level: float = LEVEL) -> tuple[float, float] | None:
    """Interval for the rate of the very models in `cell` (questions alone are a sample); None without a
    response.

    With one sample per question this is Wilson's interval, with Student's t in place of the normal quantile.
    """
    from scipy.special import stdtrit

    m = _moments(Cell(cell.arm, cell.hits, cell.counts, replicated=False))
    if m is None:
        return None
    size = min(m.spread / m.question_variance, m.samples) if m.question_variance > 0 else m.questions
    quantile = float(stdtrit(max(m.questions - 1, 1), (1 + level) / 2))
    low, high = wilson_root(m.rate, size, np.array([-quantile, quantile]))
    return float(low), float(high)


def _phi(cell: Cell, m: _Moments, pool: _Pool) -> float | None:
    """The between-seed φ to use for a cell: the pooled one, or its own where that is larger; None without any."""
    if not cell.replicated or pool.phi is None:
        return None
    own = m.seed_variance * m.seeds / m.spread if m.seed_variance is not None and m.spread > 0 else 0.0
    return max(own, pool.phi)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjustment over a family, in the given order; controls the family-wise error rate."""
    count = len(p_values)
    order = sorted(range(count), key=lambda i: p_values[i])
    adjusted = [0.0] * count
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
