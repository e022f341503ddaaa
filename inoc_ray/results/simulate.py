"""Simulated studies with a known truth, for measuring what the intervals and p-values of `stats` and `effects` hold.

A response shows a trait with probability σ(μ + seed + question): μ of arm and trait, a normal deviation for each
fine-tune, one for each question (two thirds of its variance shared by all arms, so that pairing over questions helps but is not
perfect). μ is solved so that the mean over seeds and questions is the rate that the design states. The estimators know nothing
of this model: they assume neither logits nor normal deviations.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inoc_ray.results.effects import Arm, Direction, View
from inoc_ray.results.stats import draw_rates
from inoc_ray.results.variance import Cell, Floats, RateKey

SHARED = 2 / 3
"""The part of the questions' variance that all arms have in common."""
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def logistic(x: Floats) -> Floats:
    """Return 1 / (1 + exp(−x))."""
    return 1 / (1 + np.exp(-x))


def mean_rate(mu: float, sd: float) -> float:
    """Return the mean of σ(μ + N(0, sd²))."""
    return float(_WEIGHTS @ logistic(mu + sd * _NODES))


@functools.cache
def location(rate: float, sd: float) -> float:
    """Return the μ whose mean rate is `rate`, by bisection; −∞ and ∞ for 0 and 1."""
    if rate <= 0 or rate >= 1:
        return float("-inf") if rate <= 0 else float("inf")
    low, high = -40.0, 40.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_rate(middle, sd) < rate else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True, kw_only=True)
class SimulatedArm:
    """One arm: kind, the rate of each trait by context, and how its fine-tunes differ (standard deviation in logits).

    fails: the share of fine-tunes in which the arm does nothing, so that they have the rates of `instead`.
    """

    name: str
    kind: str
    rates: Mapping[tuple[str, str, str], float]
    """(split, context, trait) → rate over all seeds and questions; of the fine-tunes that do not fail."""
    seed_sd: float
    fails: float = 0.0
    instead: Mapping[tuple[str, str, str], float] | None = None
    undesired: tuple[str, ...] = ("bad",)
    desired: tuple[str, ...] = ()
    seeds: int | None = None
    """Number of fine-tunes where it differs from the study's."""

    def truth(self, key: tuple[str, str, str]) -> float:
        """Return the mean rate over all seeds and questions."""
        other = self.rates if self.instead is None else self.instead
        return (1 - self.fails) * self.rates[key] + self.fails * other[key]


@dataclass(frozen=True, kw_only=True)
class SimulatedStudy:
    """The arms of a study with known rates, and how often they are measured."""

    name: str
    arms: Sequence[SimulatedArm]
    seeds: int
    """Fine-tunes of each arm."""
    questions: int
    repeats: int
    """Samples of each question."""
    together: float = 0.0
    """Correlation of the traits' deviations over fine-tunes, −1 to 1."""
    question_sd: float = 1.0
    """How much questions differ: a standard deviation in logits."""

    @property
    def traits(self) -> tuple[str, ...]:
        """All traits of the arms, sorted."""
        return tuple(sorted({trait for arm in self.arms for _, _, trait in arm.rates}))


def simulate(study: SimulatedStudy, generator: np.random.Generator, draws: int) -> tuple[View, dict[RateKey, float]]:
    """Simulate one study.

    Returns its rates as `compare` would find them, and for each arm with one fine-tune the true rate of that very model (the
    true rate of an arm over all questions and seeds is `SimulatedArm.truth`).
    """
    cells: dict[RateKey, Cell] = {}
    own: dict[RateKey, float] = {}
    questions = {
        (split, trait): generator.normal(0, study.question_sd * SHARED**0.5, study.questions)
        for split in ("id", "ood")
        for trait in study.traits
    }
    for arm in study.arms:
        seeds = 1 if arm.kind == "base" else arm.seeds or study.seeds
        sd = 0.0 if arm.kind == "base" else arm.seed_sd
        deviations = _deviations(study, seeds, generator)
        failed = generator.random(seeds) < arm.fails
        for key in arm.rates:
            split, context, trait = key
            mu = np.array([location(arm.rates[key], float(np.hypot(sd, study.question_sd)))] * seeds)
            if arm.instead is not None:
                mu[failed] = location(arm.instead[key], float(np.hypot(sd, study.question_sd)))
            level = mu + sd * deviations[trait]
            place = RateKey(arm.name, f"{split}_questions", context, trait)
            alone = generator.normal(0, study.question_sd * (1 - SHARED) ** 0.5, study.questions)
            chance = logistic(level[:, None] + questions[split, trait] + alone)
            hits = generator.binomial(study.repeats, chance)
            cells[place] = Cell(hits, np.full_like(hits, study.repeats), replicated=arm.kind != "base")
            if seeds == 1:
                own[place] = mean_rate(float(level[0]), study.question_sd)
    arms = tuple(Arm(a.name, a.kind, Direction(a.undesired, a.desired)) for a in study.arms)
    splits = {"id_questions": "id", "ood_questions": "ood"}
    return View(setting="simulated", model=study.name, arms=arms, splits=splits, rates=draw_rates(cells, draws)), own


def _deviations(study: SimulatedStudy, seeds: int, generator: np.random.Generator) -> dict[str, Floats]:
    """Return standard normal deviations of the fine-tunes by trait; those of the second trait go with the first's."""
    first, *others = study.traits
    found = {first: generator.standard_normal(seeds)}
    for trait in others:
        fresh = generator.standard_normal(seeds)
        found[trait] = study.together * found[first] + (1 - study.together**2) ** 0.5 * fresh
    return found
