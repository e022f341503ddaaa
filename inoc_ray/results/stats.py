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
* One model alone (the untouched base, an arm with one seed): its variance over questions is at least
  p(1−p)·(1 + (m − 1)ρ)/n, with m responses per question and ρ their intra-class correlation, pooled over the
  cells of the context as φ is below (Kish 1965, design effect; Donner 1986). A model with few hits or none says
  nothing of ρ itself, and so its limits move by little from no hit to one.
* What a cell has for itself. Multipliers that cells share cancel where two cells agree in every response; that no
  response differs is a measurement, too, and no proof that none ever would. So of each cell's variance at least
  2/(n + 4)², and at most p(1−p)/n, is drawn for the cell alone, with n = responses/(1 + (m − 1)ρ). Two cells then differ
  by ±1.96·√4/(n + 4) where they agree throughout: the score interval of a paired difference, ±z²/(n + z²) (Tango 1998),
  as Wilson's is of a rate. The part is taken from the seed level first (which arms do not share, but contexts do), then
  from the questions', and added only where these are less: a rate's own variance stays what it is.
* Seed level. The variance of seed means is written φ·p(1−p) (the beta-binomial form: equal intra-class
  correlation, whatever the rate) and φ is pooled over the arms asked the same questions in the same
  context, as the error mean square of an analysis of variance is. An arm whose own φ is larger than the
  pooled one keeps its own (an arm with unusually variable seeds must not hide among steady ones). The draw
  is Student's t with the pooled degrees of freedom, in which every arm counts once, however many traits it
  is scored for.
* Rates of the same fine-tunes (several traits, evaluations, contexts) are drawn together: their seed-level
  draws are correlated as the deviations of the seed means are, pooled over arms (the error cross products of a
  multivariate analysis of variance). Each arm has normal multipliers of its own for the pooled deviations of
  all fine-tunes.
* Boundary. Standardised draws are mapped to rates by the Wilson score equation with the effective sample size
  p(1−p)/variance, never above the number of samples (Korn & Graubard 1998; Dean & Pagano 2015 for clustered
  proportions). So an arm with no hit at all still has an upper limit, and one model with one sample per
  question gets Wilson's interval.

The draws of all cells belong together; differences, ratios and effects are computed draw by draw (a
confidence distribution per cell, carried through the function: Xie & Singh 2013), and p-values come from
the same draws, so that "p < .05" and "the 95 % interval excludes the null value" say the same. Seeds of
different arms are taken as independent, also where they bear the same number: shared initialisation makes
arms more alike, if anything, and ignoring that widens the interval of a difference.

A score of 0 to 1 takes the place of a yes or no throughout: p is its mean, and p(1 − p) its variance, which is never larger.
Wilson's equation is then solved with p(1 − p)/variance times the effective sample size, so that the limits stay between 0 and
1.

Random numbers follow from the data alone (an arm's from its counts), never from the names of study, setting or
model, nor from the order of rows. `make calibrate` measures coverage and error rates (docs/statistics.md).
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from inoc_ray.results.variance import Cell, Floats, Moments, RateKey, moments_of, pool_seeds, question_correlation

__all__ = [
    "Cell",
    "Estimate",
    "Floats",
    "Larger",
    "RateDraws",
    "RateKey",
    "combine",
    "draw_rates",
    "holm",
    "mean_of",
    "mean_of_sample",
    "model_interval",
    "wilson",
]

LEVEL = 0.95
DRAWS = 10_000
PSEUDO = 4
"""Responses, out of as many more, in which two cells that agree throughout are taken to differ: z² (Agresti & Coull 1998)."""
_VERSION = "2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Larger:
    """A study with so many times the fine-tunes of each arm, and so many times the questions, all like those there are."""

    seeds: float = 1.0
    questions: float = 1.0

    def responses(self, m: Moments) -> float:
        """Return by what factor a cell then has more responses; the untouched base has no fine-tunes."""
        return self.questions * (self.seeds if m.replicated else 1.0)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its draws (confidence distribution), from which interval and p-value are read.

    seeds: the fewest fine-tunes of any arm that it is computed from; None if that is the untouched base alone.
    """

    value: float
    draws: Floats
    seeds: int | None = None
    sources: frozenset[tuple[str, str, str, str]] = frozenset()
    """The levels that it was computed from, as arm, split, trait, context."""

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return equal-tailed limits at `level`."""
        low, high = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def p_value(self, null: float) -> float:
        """Return the two-sided p-value: twice the smaller share of draws beyond `null`, at least 2 / (draws + 1)."""
        below = int((self.draws <= null).sum())
        above = int((self.draws >= null).sum())
        return min(1.0, 2 * (min(below, above) + 1) / (len(self.draws) + 1))


def combine(function: Callable[[Floats, Floats], Floats], first: Estimate, second: Estimate) -> Estimate:
    """Return a function of two estimates, draw by draw."""
    value = function(np.array([first.value]), np.array([second.value]))
    sources = first.sources | second.sources
    return Estimate(float(value[0]), function(first.draws, second.draws), _fewest([first, second]), sources)


def mean_of(estimates: Sequence[Estimate]) -> Estimate | None:
    """Return the plain mean, draw by draw; None without estimates."""
    if not estimates:
        return None
    value = sum(e.value for e in estimates) / len(estimates)
    sources = frozenset().union(*(e.sources for e in estimates))
    return Estimate(value, np.mean([e.draws for e in estimates], axis=0), _fewest(estimates), sources)


def mean_of_sample(estimates: Sequence[Estimate]) -> Estimate | None:
    """Return the mean over estimates that are themselves a sample, as the wordings of a kind of prompt are.

    The members' variance beyond what their own draws explain (the between component of a nested analysis of variance, at least 0)
    is a level of its own, with k − 1 degrees of freedom for k members: a generalised pivotal quantity (Weerahandi 1995), which is
    Student's t where the draws explain little. One member stands for itself.
    """
    mean = mean_of(estimates)
    count = len(estimates)
    if mean is None or count < 2:
        return mean
    values = np.array([e.value for e in estimates])
    apart = np.stack([e.draws - e.value for e in estimates])
    apart -= apart.mean(axis=0)
    # Half the width of the middle 68 %, since ratios of rates have draws without a variance.
    low, high = np.quantile(apart, [0.1587, 0.8413], axis=1)
    within = float((((high - low) / 2) ** 2).mean()) * count / (count - 1)
    size = len(mean.draws)
    # Of these very members: those of another mean are other wordings, and in a difference the two must not cancel.
    key = "wordings", hashlib.sha256(np.stack([values, *(e.draws[:count] for e in estimates)]).tobytes()).hexdigest()
    # Few members often lie close together by chance: their variance is drawn as well, and not only estimated.
    whole = float(values.var(ddof=1)) * _student_scale(count - 1, size, *key) ** 2
    noise = _generator(*key, "noise").standard_normal(size) * np.sqrt(np.maximum(0.0, whole - within) / count)
    return replace(mean, draws=mean.draws + noise)


def _fewest(estimates: Iterable[Estimate]) -> int | None:
    return min((e.seeds for e in estimates if e.seeds is not None), default=None)


def wilson_root(rate: float, size: float, score: Floats) -> Floats:
    """Return the proportion p that solves (p − rate) = score·√(p(1−p)/size); increasing in score. Wilson (1927).

    rate in [0, 1], size > 0 the (effective) number of responses, score the standardised deviation.
    """
    squared = score**2 / size
    spread = score * np.sqrt(rate * (1 - rate) / size + squared / (4 * size))
    return np.clip((rate + squared / 2 + spread) / (1 + squared), 0.0, 1.0)


def wilson(hits: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's score interval for `hits` of `total` independent responses. Raises `ValueError` if total is 0."""
    if total < 1:
        raise ValueError("an interval needs at least one response")
    z = NormalDist().inv_cdf((1 + level) / 2)
    low, high = wilson_root(hits / total, total, np.array([-z, z]))
    return float(low), float(high)


def draw_rates(cells: Mapping[RateKey, Cell], draws: int = DRAWS) -> dict[RateKey, Estimate]:
    """Return rates with joint draws for all cells of one setting × model.

    The columns of all cells of an evaluation are the same questions in the same order. Deterministic: the same
    counts give the same draws. Returns the cells in the given order, without those in which no response could be judged.
    """
    return RateDraws(cells, draws).rates()


class RateDraws:
    """What the joint draws of all cells of one setting × model are made of, as for `draw_rates`.

    None of it depends on the size of the study, so that rates of larger ones cost no random numbers again.
    """

    def __init__(self, cells: Mapping[RateKey, Cell], draws: int = DRAWS) -> None:
        self._cells, self._draws = cells, draws
        self._moments = {place: m for place, cell in cells.items() if (m := moments_of(cell)) is not None}
        ranks = _ranks({place: cells[place] for place in self._moments})
        self._seed_level = _seed_draws(self._moments, ranks, draws)
        self._places: list[list[RateKey]] = []
        """The places of each evaluation."""
        self._deviations: dict[RateKey, Floats] = {}
        for number, evaluation in enumerate(sorted({p.evaluation for p in self._moments})):
            places = [p for p in sorted(self._moments) if p.evaluation == evaluation]
            questions = cells[places[0]].counts.shape[1]
            multipliers = _generator("questions", number).standard_normal((draws, questions))
            # One product for all cells: each alone would read the multipliers again, which takes longer than to compute with them.
            products = np.stack([self._moments[p].question_scores for p in places]) @ multipliers.T
            self._deviations |= zip(places, products, strict=True)
            self._places.append(places)
        self._own = {
            place: self._own_draws(ranks[place], alone=self._seed_level[place] is None) for place in self._moments
        }

    def _own_draws(self, rank: tuple[str, int, int], *, alone: bool) -> tuple[Floats, Floats | None]:
        """Return standard normal draws of a cell for itself, and where it has none with others, of its fine-tunes."""
        own = _generator("rest", *rank)
        normal = own.standard_normal(self._draws)
        return normal, own.standard_normal(self._draws) if alone else None

    def rates(self, larger: Larger | None = None) -> dict[RateKey, Estimate]:
        """Return the rates. larger: draw as for a study of that size, with the rates and the variances of this one."""
        more = larger or Larger()
        found: dict[RateKey, Estimate] = {}
        for number, places in enumerate(self._places):
            # With Q questions the variance is estimated from Q of them: a shared χ² makes the draws Student's t, Q − 1 df.
            heavy = functools.cache(
                lambda df, number=number: _student_scale(df * more.questions, self._draws, "questions", number)
            )
            for context in sorted({p.context for p in places}):
                found |= self._of_context([p for p in places if p.context == context], heavy, more)
        return {place: found[place] for place in self._cells if place in found}

    def _of_context(
        self, places: Sequence[RateKey], heavy: Callable[[int], Floats], more: Larger
    ) -> dict[RateKey, Estimate]:
        """Return the rates of one evaluation in one context.

        heavy: degrees of freedom → factors that make normal draws Student's t.
        """
        group = {p: self._moments[p] for p in places}
        pool = pool_seeds(group)
        correlation = question_correlation(self._cells[p] for p in group)
        draws, found = self._draws, {}
        steady = _student_scale(pool.df * more.seeds, draws, "seeds") if math.isfinite(pool.df) else np.ones(draws)
        for place, m in group.items():
            df = max(m.questions - 1, 1)
            small = math.sqrt(m.questions / df) if m.questions > 1 else 1.0
            deviation = self._deviations[place] * small
            if m.question_variance > 0:
                deviation /= math.sqrt(m.question_variance)
            parts = _parts(m, pool.phi_of(m), correlation).of(more)
            normal, alone = self._own[place]
            together = self._seed_level[place] if alone is None else alone
            assert together is not None
            found[place] = _estimate(
                replace(m, samples=m.samples * more.responses(m)),
                parts,
                questions=deviation * heavy(df),
                own=normal * np.sqrt(parts.rest + parts.own_questions * heavy(df) ** 2 + parts.own_seeds * steady**2),
                fine_tunes=together * steady,
            )
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """The variance of a cell's rate in units of p(1 − p), which is known even if the rate is 0 or 1."""

    questions: float
    """From the deviations over questions, drawn with multipliers that all cells share."""
    own_questions: float
    """The part of that which is drawn for the cell alone."""
    seeds: float
    """From the differences between fine-tunes, drawn with multipliers that the cells of an arm share."""
    own_seeds: float
    """The part of that which is drawn for the cell alone."""
    rest: float
    """What the pooled correlation, or the minimum of a cell's own variance, adds to these."""

    @property
    def total(self) -> float:
        return self.questions + self.own_questions + self.seeds + self.own_seeds + self.rest

    def of(self, larger: Larger) -> _Parts:
        """Return the parts for a study of that size; what is drawn for the cell alone goes with the responses."""
        seeds, questions = larger.seeds, larger.questions
        return replace(
            self,
            questions=self.questions / questions,
            own_questions=self.own_questions / questions,
            seeds=self.seeds / seeds,
            own_seeds=self.own_seeds / seeds,
            rest=self.rest / questions,
        )


def _parts(m: Moments, phi: float | None, correlation: float) -> _Parts:
    shown = m.question_variance / m.spread if m.spread > 0 else 0.0
    seeds = phi / m.seeds if phi else 0.0
    # The correlation is within one model's responses to a question; it does not give what several models have in common.
    crowding = m.crowding if m.seed_variance is None else max(m.crowding / m.seeds, 1.0)
    size = m.samples / (1 + (crowding - 1) * correlation)
    rest = max(0.0, 1 / size - shown) if m.seed_variance is None else 0.0
    least = min(1.0, PSEUDO / 2 * size / (size + PSEUDO) ** 2 / m.spread) / size if m.spread > 0 else 1 / size
    lacking = max(0.0, least - rest)
    own_seeds = min(lacking, seeds)
    own_questions = min(lacking - own_seeds, shown)
    rest += lacking - own_seeds - own_questions
    return _Parts(
        questions=shown - own_questions,
        own_questions=own_questions,
        seeds=seeds - own_seeds,
        own_seeds=own_seeds,
        rest=rest,
    )


def _estimate(m: Moments, parts: _Parts, *, questions: Floats, own: Floats, fine_tunes: Floats) -> Estimate:
    """Return the cell's estimate.

    questions, fine_tunes: standardised draws that the cell shares with others. own: draws of its own, in the units of `parts`.
    """
    score = math.sqrt(parts.questions) * questions + math.sqrt(parts.seeds) * fine_tunes + own
    size = m.sharpness * min(1 / parts.total, m.samples)
    return Estimate(
        m.rate, wilson_root(m.rate, size, score / math.sqrt(parts.total)), m.seeds if m.replicated else None
    )


def _seed_draws(
    moments: Mapping[RateKey, Moments], ranks: Mapping[RateKey, tuple[str, int, int]], draws: int
) -> dict[RateKey, Floats | None]:
    """Return standard normal draws per cell, correlated within an arm as the deviations of the seed means are over all arms.

    A row per evaluation × context × trait, a column per fine-tune, its deviation from its arm's mean in each field:
    rows of length 1 times normal multipliers have the correlation of the rows. None where no arm has two fine-tunes.
    """
    columns: dict[tuple[str, str], int] = {}
    for arm in sorted({p.arm for p in moments}, key=lambda a: min(ranks[p] for p in moments if p.arm == a)):
        own = [moments[p].seed_deviations for p in sorted(moments) if p.arm == arm]
        deviations = {model: [d.get(model, 0.0) for d in own] for d in own for model in d}
        for model in sorted(deviations, key=lambda name: deviations[name]):
            columns[arm, model] = len(columns)
    rows: dict[tuple[str, str, str], Floats] = {}
    for place, m in moments.items():
        row = rows.setdefault(place[1:], np.zeros(len(columns)))
        for model, deviation in m.seed_deviations.items():
            row[columns[place.arm, model]] = deviation
    found: dict[RateKey, Floats | None] = dict.fromkeys(moments)
    for arm in {p.arm for p in moments}:
        of_arm = {place: rows[place[1:]] for place in sorted(moments) if place.arm == arm and moments[place].replicated}
        lengths = {place: float(np.linalg.norm(row)) for place, row in of_arm.items()}
        spread = [place for place in of_arm if lengths[place] > 0]
        if spread:
            multipliers = _generator("seeds", *ranks[spread[0]][:2]).standard_normal((len(columns), draws))
            products = np.stack([of_arm[place] / lengths[place] for place in spread]) @ multipliers
            found |= zip(spread, products, strict=True)
    return found


def _ranks(cells: Mapping[RateKey, Cell]) -> dict[RateKey, tuple[str, int, int]]:
    """Return what the random numbers of each cell follow from.

    That is the digest of its arm's counts, the arm's number among arms with the same counts, and the cell's number in its arm.
    """
    digests = {}
    for arm in sorted({p.arm for p in cells}):
        rows: dict[str, list[bytes]] = {}
        for place in sorted(p for p in cells if p.arm == arm):
            cell = cells[place]
            for name, hits, counts in zip(cell.names(), cell.hits, cell.counts, strict=True):
                rows.setdefault(name, []).append(
                    np.stack([hits, counts]).astype("<i8" if cell.squares is None else "<f8").tobytes()
                )
        whole = b"\x1e".join(sorted(b"\x1f".join(parts) for parts in rows.values()))
        digests[arm] = hashlib.sha256(whole).hexdigest()
    found: dict[RateKey, tuple[str, int, int]] = {}
    for arm, digest in digests.items():
        same = sorted(a for a, d in digests.items() if d == digest)
        for number, place in enumerate(sorted(p for p in cells if p.arm == arm)):
            found[place] = (digest, same.index(arm), number)
    return found


def _generator(*key: object) -> np.random.Generator:
    """Return the random numbers for a key of counts and numbers."""
    digest = hashlib.sha256("\x1f".join([_VERSION, *map(str, key)]).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest[:16], dtype=np.uint32))


def _student_scale(df: float, draws: int, *key: object) -> Floats:
    """Return factors that turn standard normal draws into Student's t with df degrees of freedom."""
    return np.sqrt(df / _generator(*key).chisquare(df, draws))


def model_interval(cell: Cell, level: float = LEVEL, correlation: float = 0.0) -> tuple[float, float] | None:
    """Return the interval for the rate of the very models in `cell`, over questions alone; None without a response.

    correlation: that of a model's responses to one question (`question_correlation` of the cells of its context); the cell's own
    variance is used if it is larger. With one sample per question this is Wilson's interval, with Student's t in place of the
    normal quantile if there are both hits and misses.
    """
    from scipy.special import stdtrit

    m = moments_of(Cell(cell.hits, cell.counts, replicated=False, squares=cell.squares))
    if m is None:
        return None
    parts = _parts(m, None, correlation)
    total = parts.total
    upper = (1 + level) / 2
    # As in the draws: Student's t for variance from the questions' own deviations, normal for pooled variance.
    t, z = float(stdtrit(max(m.questions - 1, 1), upper)), NormalDist().inv_cdf(upper)
    quantile = math.sqrt(((total - parts.rest) * t**2 + parts.rest * z**2) / total)
    low, high = wilson_root(m.rate, m.sharpness * min(1 / total, m.samples), np.array([-quantile, quantile]))
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values with Holm's (1979) step-down adjustment, in the given order; it controls the family-wise error rate."""
    count = len(p_values)
    order = sorted(range(count), key=lambda i: p_values[i])
    adjusted = [0.0] * count
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
