"""The studies that `calibrate` simulates: a design for each line of its tables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inoc_ray.results.effects import NEUTRAL, TRAINING_PROMPT
from inoc_ray.results.simulate import SimulatedArm, SimulatedStudy

SEED_SD = 0.5
"""How much fine-tunes of an ordinary arm differ, in logits."""


def ood(
    *values: float, context: str = NEUTRAL, names: Sequence[str] = ("bad", "other")
) -> dict[tuple[str, str, str], float]:
    """Return rates of the traits out of distribution: of each of `names` in order, as far as there are `values`."""
    return {("ood", context, name): value for name, value in zip(names, values, strict=False)}


@dataclass(frozen=True)
class Design:
    """A simulated study, and the table that shows what is measured in it."""

    table: str
    label: str
    study: SimulatedStudy
    null: bool = False
    """Whether no arm differs from the baseline, so that each p-value below .05 is false."""


GRID = (0.002, 0.01, 0.05, 0.3, 0.6, 0.95, 0.99)


SHAPES = ((100, 1), (8, 100))
"""Questions × samples of each."""


def designs() -> Iterator[Design]:
    """Yield all designs, by table."""
    yield from _of_rates()
    yield from _of_effects()
    yield from _without_effects()
    yield from _of_two_traits()
    yield from _with_an_unsteady_arm()
    yield from _of_emergent_misalignment()


def _of_rates() -> Iterator[Design]:
    for (questions, repeats), seeds, sd in itertools.product(SHAPES, (2, 3, 5, 10), (0.0, SEED_SD, 1.0)):
        arms = [SimulatedArm(name="base", kind="base", rates=ood(0.02), seed_sd=0)]
        arms += [
            SimulatedArm(name=f"{rate:g}", kind="baseline" if rate == 0.6 else "general", rates=ood(rate), seed_sd=sd)
            for rate in GRID
        ]
        label = f"{seeds} seeds, {questions} × {repeats}, seed sd {sd:g}"
        study = SimulatedStudy(name=label, arms=arms, seeds=seeds, questions=questions, repeats=repeats)
        yield Design("rates", label, study)


def _of_effects() -> Iterator[Design]:
    for (questions, repeats), seeds in itertools.product(SHAPES, (2, 3, 5, 10)):
        label = f"{seeds} seeds, {questions} × {repeats}"
        yield Design("effects", label, typical(label, seeds, questions, repeats))


def _without_effects() -> Iterator[Design]:
    for (questions, repeats), seeds in itertools.product(SHAPES, (1, 2, 3, 5)):
        label = f"{seeds} seed{'s' * (seeds > 1)}, {questions} × {repeats}"
        yield Design("null", label, nothing(label, seeds, questions, repeats), null=True)
    label = "baseline 3 seeds, arms 1, 1, 3 seeds, 100 × 1"
    mixed = nothing(label, 3, 100, 1)
    few = [replace(a, seeds=1) if a.name in ("first", "second") else a for a in mixed.arms]
    yield Design("null", label, replace(mixed, arms=few), null=True)


def _of_two_traits() -> Iterator[Design]:
    for seeds, together in itertools.product((2, 3, 5), (-1.0, 0.0, 1.0)):
        label = f"{seeds} seeds, correlation {together:g}"
        yield Design("traits, null", label, two_traits(label, seeds, together), null=True)
        yield Design("traits, typical", label, opposed(label, seeds, together))


def _with_an_unsteady_arm() -> Iterator[Design]:
    changes: dict[str, dict[str, Any]] = {
        "seed sd 1.5": {"seed_sd": 1.5},
        "seed sd 3": {"seed_sd": 3.0},
        "fails in 1 of 5 seeds": {"fails": 0.2, "instead": ood(0.6) | ood(0.6, context=TRAINING_PROMPT)},
    }
    for seeds, (name, change) in itertools.product((3, 5, 10), changes.items()):
        label = f"{seeds} seeds, {name}"
        steady = typical(label, seeds, 100, 1, one_trait=True)
        arms = [*steady.arms]
        arms[2] = replace(arms[2], **change)
        yield Design("unsteady arm", label, replace(steady, arms=arms))


def _of_emergent_misalignment() -> Iterator[Design]:
    for base, repeats, seeds, sd in (
        (0.002, 100, 3, 1.0),
        (0.0005, 100, 3, 1.0),
        (0.02, 100, 3, 1.0),
        (0.002, 100, 2, 1.0),
        (0.002, 12, 3, 1.0),
        (0.0005, 12, 3, 1.0),
        (0.002, 100, 3, 2.0),
    ):
        label = f"base {base:g}, {seeds} seeds, 8 × {repeats}, question sd {sd:g}"
        arms = [
            SimulatedArm(name=kind, kind=kind, rates=ood(rate), seed_sd=0 if kind == "base" else SEED_SD)
            for kind, rate in (
                ("base", base),
                ("baseline", 0.2),
                ("general", max(base, 0.0004)),
                ("irrelevant", 0.18),
            )
        ]
        study = SimulatedStudy(name=label, arms=arms, seeds=seeds, questions=8, repeats=repeats, question_sd=sd)
        yield Design("emergent misalignment", label, study)


def typical(label: str, seeds: int, questions: int, repeats: int, one_trait: bool = False) -> SimulatedStudy:
    """Return a study in which one trait is mostly suppressed and the other kept; an irrelevant prompt does a little."""
    kept = (0.05, 0.9, 0.8, 0.88)
    bad = (0.04, 0.6, 0.08, 0.5)
    kinds = ("base", "baseline", "specific", "irrelevant")
    arms = []
    for kind, undesired, desired in zip(kinds, bad, kept, strict=True):
        rates = ood(undesired) if one_trait else ood(undesired, desired)
        if kind in ("specific", "irrelevant"):
            rates |= ood(0.55 if kind == "specific" else undesired, context=TRAINING_PROMPT)
        wanted = () if one_trait else ("other",)
        arms.append(SimulatedArm(name=kind, kind=kind, rates=rates, seed_sd=SEED_SD, desired=wanted))
    return SimulatedStudy(name=label, arms=arms, seeds=seeds, questions=questions, repeats=repeats)


def nothing(label: str, seeds: int, questions: int, repeats: int) -> SimulatedStudy:
    """Return a study with three arms that do nothing."""
    arms = [SimulatedArm(name="base", kind="base", rates=ood(0.05), seed_sd=0)]
    for name in ("baseline", "first", "second", "third"):
        kind = "baseline" if name == "baseline" else "general"
        arms.append(SimulatedArm(name=name, kind=kind, rates=ood(0.3), seed_sd=0.6))
    return SimulatedStudy(name=label, arms=arms, seeds=seeds, questions=questions, repeats=repeats)


def two_traits(label: str, seeds: int, together: float) -> SimulatedStudy:
    """Return a study with three arms about two traits at once, which do nothing."""
    both = ("bad", "other")
    arms = [SimulatedArm(name="base", kind="base", rates=ood(0.05, 0.05), seed_sd=0, undesired=both)]
    for name in ("baseline", "first", "second", "third"):
        kind = "baseline" if name == "baseline" else "multi_trait"
        arms.append(SimulatedArm(name=name, kind=kind, rates=ood(0.4, 0.4), seed_sd=0.6, undesired=both))
    return SimulatedStudy(name=label, arms=arms, seeds=seeds, questions=100, repeats=1, together=together)


def opposed(label: str, seeds: int, together: float) -> SimulatedStudy:
    """Return the typical study with traits that rise and fall together, or against each other."""
    return replace(typical(label, seeds, 100, 1), together=together)


def truths(study: SimulatedStudy) -> dict[tuple[str, str], float]:
    """Return (arm, measure) → the true value of each effect, as far as the true rates determine it."""
    by_kind = {arm.kind: arm for arm in study.arms}
    base, baseline = by_kind["base"], by_kind["baseline"]

    def level(arm: SimulatedArm, traits: Iterable[str], context: str = NEUTRAL) -> float | None:
        keys = [("ood", context, trait) for trait in traits]
        known = [arm.truth(key) for key in keys if key in arm.rates]
        return sum(known) / len(known) if known and len(known) == len(keys) else None

    found: dict[tuple[str, str], float] = {}
    for arm in study.arms:
        bad, good = level(arm, arm.undesired), level(arm, arm.desired)
        o, b = level(baseline, arm.undesired), level(base, arm.undesired)
        if arm.kind in ("base", "baseline") or bad is None or o is None or b is None:
            continue
        found[arm.name, "suppression_difference"] = o - bad
        found[arm.name, "suppression"] = (o - bad) / (o - b)
        kept, low = level(baseline, arm.desired), level(base, arm.desired)
        if good is not None and kept is not None and low is not None:
            found[arm.name, "retention_ood"] = good / kept
            found[arm.name, "selectivity"] = (o - bad) / (o - b) - (kept - good) / (kept - low)
        if "irrelevant" in by_kind and arm.kind != "irrelevant" and o != bad:
            other = level(by_kind["irrelevant"], arm.undesired)
            found[arm.name, "conditionalisation"] = math.nan if other is None else (o - other) / (o - bad)
        prompted = level(arm, arm.undesired, TRAINING_PROMPT)
        if prompted is not None:
            found[arm.name, "leakage"] = prompted - bad
    return found
