"""Coverage and error rates of the intervals and p-values, by simulation: `make calibrate` writes the tables of docs/statistics.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from inoc_ray.results.effects import NEUTRAL, TRAINING_PROMPT, Effect, View, effects
from inoc_ray.results.simulate import SimulatedArm, Study, simulate
from inoc_ray.results.stats import combine

LOW, HIGH = 0.92, 0.98
"""Coverage outside is named."""
SEED_SD = 0.5
"""How much fine-tunes of an ordinary arm differ, in logits."""
BEGIN, END = "<!-- calibrate: begin -->", "<!-- calibrate: end -->"


@dataclass
class Tally:
    """Shares of yes among yes and no, by name."""

    yes: dict[str, int] = field(default_factory=dict)
    of: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, value: bool) -> None:
        """Counts one."""
        self.yes[name] = self.yes.get(name, 0) + int(value)
        self.of[name] = self.of.get(name, 0) + 1

    def merge(self, other: Tally) -> None:
        """Adds another tally's counts."""
        for name in other.of:
            self.yes[name] = self.yes.get(name, 0) + other.yes[name]
            self.of[name] = self.of.get(name, 0) + other.of[name]

    def share(self, name: str) -> float | None:
        """The share; None where nothing was counted."""
        return self.yes[name] / self.of[name] if self.of.get(name) else None


def ood(
    *values: float, context: str = NEUTRAL, names: Sequence[str] = ("bad", "other")
) -> dict[tuple[str, str, str], float]:
    """Rates of the traits, in order, out of distribution."""
    return {("ood", context, name): value for name, value in zip(names, values, strict=False)}


@dataclass(frozen=True)
class Design:
    """A simulated study with what is measured of it."""

    table: str
    label: str
    study: Study
    null: bool = False
    """Whether no arm differs from the baseline, so that each p-value below .05 is false."""


GRID = (0.002, 0.01, 0.05, 0.3, 0.6, 0.95, 0.99)


def designs() -> Iterator[Design]:
    """All designs, by table."""
    shapes = ((100, 1), (8, 100))
    for questions, repeats in shapes:
        for seeds in (2, 3, 5, 10):
            for sd in (0.0, SEED_SD, 1.0):
                arms = [SimulatedArm("base", "base", ood(0.02), 0)]
                arms += [
                    SimulatedArm(f"{rate:g}", "baseline" if rate == 0.6 else "general", ood(rate), sd) for rate in GRID
                ]
                label = f"{seeds} seeds, {questions} × {repeats}, seed sd {sd:g}"
                yield Design("rates", label, Study(label, arms, seeds, questions, repeats))
    for questions, repeats in shapes:
        for seeds in (2, 3, 5, 10):
            label = f"{seeds} seeds, {questions} × {repeats}"
            yield Design("effects", label, typical(label, seeds, questions, repeats))
    for questions, repeats in shapes:
        for seeds in (1, 2, 3, 5):
            label = f"{seeds} seed{'s' * (seeds > 1)}, {questions} × {repeats}"
            yield Design("null", label, nothing(label, seeds, questions, repeats), null=True)
    label = "baseline 3 seeds, arms 1, 1, 3 seeds, 100 × 1"
    mixed = nothing(label, 3, 100, 1)
    few = [replace(a, seeds=1) if a.name in ("first", "second") else a for a in mixed.arms]
    yield Design("null", label, replace(mixed, arms=few), null=True)
    for seeds in (2, 3, 5):
        for together in (-1.0, 0.0, 1.0):
            label = f"{seeds} seeds, correlation {together:g}"
            yield Design("traits, null", label, two_traits(label, seeds, together), null=True)
            yield Design("traits, typical", label, opposed(label, seeds, together))
    for seeds in (3, 5, 10):
        for name, change in (
            ("seed sd 1.5", {"seed_sd": 1.5}),
            ("seed sd 3", {"seed_sd": 3.0}),
            ("fails in 1 of 5 seeds", {"fails": 0.2, "instead": ood(0.6) | ood(0.6, context=TRAINING_PROMPT)}),
        ):
            label = f"{seeds} seeds, {name}"
            arms = list(typical(label, seeds, 100, 1, one_trait=True).arms)
            arms[2] = replace(arms[2], **change)  # type: ignore[arg-type]
            yield Design("unsteady arm", label, Study(label, arms, seeds, 100, 1))
    for base, repeats, seeds in (
        (0.002, 100, 3), (0.002, 100, 2), (0.002, 12, 3), (0.0005, 100, 3), (0.0005, 12, 3), (0.02, 100, 3)
    ):  # fmt: skip
        label = f"base {base:g}, baseline .20, {seeds} seeds, 8 × {repeats}"
        arms = [
            SimulatedArm("base", "base", ood(base), 0),
            SimulatedArm("baseline", "baseline", ood(0.2), SEED_SD),
            SimulatedArm("general", "general", ood(max(base, 0.0004)), SEED_SD),
            SimulatedArm("irrelevant", "irrelevant", ood(0.18), SEED_SD),
        ]
        yield Design("emergent misalignment", label, Study(label, arms, seeds, 8, repeats))


def typical(label: str, seeds: int, questions: int, repeats: int, one_trait: bool = False) -> Study:
    """One trait is inoculated and mostly suppressed, the other is kept; an irrelevant prompt does a little."""
    kept = (0.05, 0.9, 0.8, 0.88)
    bad = (0.04, 0.6, 0.08, 0.5)
    kinds = ("base", "baseline", "specific", "irrelevant")
    arms = []
    for kind, undesired, desired in zip(kinds, bad, kept, strict=True):
        rates = ood(undesired) if one_trait else ood(undesired, desired)
        if kind in ("specific", "irrelevant"):
            rates |= ood(0.55 if kind == "specific" else undesired, context=TRAINING_PROMPT)
        wanted = () if one_trait else ("other",)
        arms.append(SimulatedArm(kind, kind, rates, SEED_SD, desired=wanted))
    return Study(label, arms, seeds, questions, repeats)


def nothing(label: str, seeds: int, questions: int, repeats: int) -> Study:
    """Three arms that do nothing."""
    arms = [SimulatedArm("base", "base", ood(0.05), 0), SimulatedArm("baseline", "baseline", ood(0.3), 0.6)]
    arms += [SimulatedArm(name, "general", ood(0.3), 0.6) for name in ("first", "second", "third")]
    return Study(label, arms, seeds, questions, repeats)


def two_traits(label: str, seeds: int, together: float) -> Study:
    """Three arms about two traits at once, which do nothing."""
    both = ("bad", "other")
    arms = [SimulatedArm("base", "base", ood(0.05, 0.05), 0, undesired=both)]
    for name in ("baseline", "first", "second", "third"):
        kind = "baseline" if name == "baseline" else "multi_trait"
        arms.append(SimulatedArm(name, kind, ood(0.4, 0.4), 0.6, undesired=both))
    return Study(label, arms, seeds, 100, 1, together)


def opposed(label: str, seeds: int, together: float) -> Study:
    """The typical study with traits that rise and fall together, or against each other."""
    return replace(typical(label, seeds, 100, 1), together=together)


def truths(study: Study) -> dict[tuple[str, str], float]:
    """(arm, measure) → the true value of each effect that the truth of the rates gives."""
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


def measured(design: Design, seed: int, studies: int, draws: int) -> Tally:
    """What `studies` simulated studies of the design say."""
    tally = Tally()
    true = truths(design.study)
    for number in range(studies):
        generator = np.random.default_rng([seed, number, *design.label.encode()])
        view, own = simulate(design.study, generator, draws)
        _rates(design, view, own, tally)
        found = effects(view)
        for effect in found:
            _effect(effect, true.get((effect.arm, effect.measure)), tally)
        if design.null:
            _null(design, view, found, tally)
    return tally


def _rates(design: Design, view: View, own: Mapping[object, float], tally: Tally) -> None:
    arms = {arm.name: arm for arm in design.study.arms}
    for place, estimate in view.rates.items():
        truth = own.get(place, arms[place.arm].truth(("ood", place.context, place.trait)))
        low, high = estimate.interval()
        # A limit at 0 or 1 is reached by rounding alone.
        tally.add(f"rate {place.arm}", low - 1e-9 <= truth <= high + 1e-9)
    if design.table == "rates":
        reference = [p for p in view.rates if p.arm == "0.6"][0]
        for place in view.rates:
            if place.arm not in ("0.6", "base"):
                low, high = combine(lambda a, b: a - b, view.rates[reference], view.rates[place]).interval()
                tally.add("differences", low <= 0.6 - arms[place.arm].truth(("ood", NEUTRAL, "bad")) <= high)


def _effect(effect: Effect, truth: float | None, tally: Tally) -> None:
    if effect.measure == "suppression":
        tally.add("withheld", effect.value is None)
    if truth is not None and effect.low is not None and effect.high is not None:
        tally.add(f"{effect.measure} {effect.arm}", effect.low <= truth <= effect.high)
        tally.add(effect.measure, effect.low <= truth <= effect.high)


def _null(design: Design, view: View, found: Sequence[Effect], tally: Tally) -> None:
    tested = [e for e in found if e.measure == "suppression_difference"]
    for effect in tested:
        tally.add("false", effect.p is not None and effect.p < 0.05)
        tally.add("with p", effect.p is not None)
    tally.add("any false", any(e.p is not None and e.p < 0.05 for e in tested))
