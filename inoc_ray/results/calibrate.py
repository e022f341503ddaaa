"""Coverage and error rates of intervals and p-values, by simulation: `make calibrate` writes the tables of docs/statistics.md."""

from __future__ import annotations

import argparse
import datetime
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from inoc_ray.results.effects import NEUTRAL, TRAINING_PROMPT, Effect, View, effects
from inoc_ray.results.simulate import SimulatedArm, Study, simulate
from inoc_ray.results.stats import RateKey, combine

LOW, HIGH = 0.92, 0.98
"""Coverage outside is named."""
SIGNIFICANT = 0.05
ROUNDING = 1e-9
"""A limit at 0 or 1 is reached by rounding alone."""
BATCH = 250
"""Studies of one task of a process."""
SEED_SD = 0.5
"""How much fine-tunes of an ordinary arm differ, in logits."""
BEGIN, END = "<!-- calibrate: begin -->", "<!-- calibrate: end -->"


@dataclass
class Tally:
    """Shares of yes among yes and no, by name."""

    yes: dict[str, int] = field(default_factory=dict)
    of: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, value: bool) -> None:
        """Count one."""
        self.yes[name] = self.yes.get(name, 0) + int(value)
        self.of[name] = self.of.get(name, 0) + 1

    def merge(self, other: Tally) -> None:
        """Add another tally's counts."""
        for name in other.of:
            self.yes[name] = self.yes.get(name, 0) + other.yes[name]
            self.of[name] = self.of.get(name, 0) + other.of[name]

    def share(self, name: str) -> float | None:
        """Return the share; None where nothing was counted."""
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
            arms[2] = replace(arms[2], **change)
            yield Design("unsteady arm", label, Study(label, arms, seeds, 100, 1))
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
            SimulatedArm("base", "base", ood(base), 0),
            SimulatedArm("baseline", "baseline", ood(0.2), SEED_SD),
            SimulatedArm("general", "general", ood(max(base, 0.0004)), SEED_SD),
            SimulatedArm("irrelevant", "irrelevant", ood(0.18), SEED_SD),
        ]
        yield Design("emergent misalignment", label, Study(label, arms, seeds, 8, repeats, question_sd=sd))


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
    """Return the typical study with traits that rise and fall together, or against each other."""
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


def measured(design: Design, seed: int, first: int, studies: int, draws: int) -> Tally:
    """Return what the simulated studies number `first` to `first + studies − 1` of the design say."""
    tally = Tally()
    true = truths(design.study)
    for number in range(first, first + studies):
        generator = np.random.default_rng([seed, number, *design.table.encode(), *design.label.encode()])
        view, own = simulate(design.study, generator, draws)
        _rates(design, view, own, tally)
        found = effects(view)
        for effect in found:
            _effect(effect, true.get((effect.arm, effect.measure)), tally)
        if design.null:
            _null(found, tally)
    return tally


def _rates(design: Design, view: View, own: Mapping[RateKey, float], tally: Tally) -> None:
    arms = {arm.name: arm for arm in design.study.arms}
    for key, estimate in view.rates.items():
        truth = own.get(key, arms[key.arm].truth(("ood", key.context, key.trait)))
        low, high = estimate.interval()
        tally.add(f"rate {key.arm}", low - ROUNDING <= truth <= high + ROUNDING)
    if design.table == "rates":
        reference = next(k for k in view.rates if k.arm == "0.6")
        for key in view.rates:
            if key.arm not in ("0.6", "base"):
                low, high = combine(lambda a, b: a - b, view.rates[reference], view.rates[key]).interval()
                tally.add("differences", low <= 0.6 - arms[key.arm].truth(("ood", NEUTRAL, "bad")) <= high)


def _effect(effect: Effect, truth: float | None, tally: Tally) -> None:
    if effect.measure == "suppression":
        tally.add("withheld", effect.value is None)
    if truth is not None and effect.low is not None and effect.high is not None:
        covered = effect.low <= truth <= effect.high
        tally.add(f"{effect.measure} {effect.arm}", covered)
        tally.add(effect.measure, covered)


def _null(found: Sequence[Effect], tally: Tally) -> None:
    tested = [e for e in found if e.measure == "suppression_difference"]
    false = [e.p is not None and e.p < SIGNIFICANT for e in tested]
    for effect, wrong in zip(tested, false, strict=True):
        tally.add("false", wrong)
        tally.add("with p", effect.p is not None)
    tally.add("any false", any(false))


MEASURED: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "rates": (
        "Coverage of the 95 % interval of a rate, by the true rate (columns); `base`: an untouched base of .02; `differences`: of "
        "the arm of .6 to each other arm.",
        {**{f"{rate:g}": f"rate {rate:g}" for rate in GRID}, "base": "rate base", "differences": "differences"},
    ),
    "effects": (
        "Coverage of the effects in a typical study (undesired trait: base .04, baseline .6, inoculated .08, irrelevant .5, "
        "inoculated under its training prompt .55; desired trait: .05, .9, .8, .88).",
        {
            name: f"{name} specific"
            for name in (
                "suppression_difference",
                "suppression",
                "retention_ood",
                "selectivity",
                "conditionalisation",
                "leakage",
            )
        },
    ),
    "null": (
        "Three arms that do nothing (baseline .3, base .05, seed sd .6). `false`: arms called significant (Holm-adjusted p < .05), "
        "`any`: studies with such an arm, `with p`: arms that have a p-value, then coverage of the difference to the baseline and "
        "of the arms' own rates (with one seed: the rate of that very model).",
        {
            "false": "false",
            "any": "any false",
            "with p": "with p",
            "difference": "suppression_difference",
            "rate of an arm": "rate first",
            "rate of the base": "rate base",
        },
    ),
    "traits, null": (
        "Three arms about two traits at once that do nothing (rates .4, seed sd .6); correlation: of the two traits over seeds.",
        {"false": "false", "any": "any false", "difference": "suppression_difference"},
    ),
    "traits, typical": (
        "The typical study with traits that move together (1) or against each other (-1) over seeds.",
        {
            "selectivity": "selectivity specific",
            "suppression": "suppression specific",
            "retention": "retention_ood specific",
        },
    ),
    "unsteady arm": (
        "The typical study with 100 × 1, in which the fine-tunes of the inoculated arm differ more than those of the others, or "
        "inoculation fails in some of them.",
        {
            "rate of the arm": "rate specific",
            "difference": "suppression_difference specific",
            "suppression": "suppression specific",
        },
    ),
    "emergent misalignment": (
        "8 questions, baseline .20, inoculated as the base, irrelevant .18. `withheld`: studies without a suppression, since the "
        "baseline's rise over the base is not shown.",
        {
            "withheld": "withheld",
            "rate of the base": "rate base",
            "rate of the baseline": "rate baseline",
            "suppression": "suppression general",
            "difference": "suppression_difference general",
        },
    ),
}
"""Table → its description, and column → what is tallied."""
NO_COVERAGE = frozenset({"false", "any false", "with p", "withheld"})


def tables(found: Mapping[str, Mapping[str, Tally]]) -> Iterator[str]:
    """Return the tables in Markdown, then what lies outside LOW to HIGH. found: table → design → tally."""
    outside: dict[str, list[str]] = {"below": [], "above": []}
    for table, (described, columns) in MEASURED.items():
        rows = found.get(table, {})
        if not rows:
            continue
        yield f"\n### {table[0].upper()}{table[1:]}\n\n{described}\n"
        yield f"| design | {' | '.join(columns)} |"
        yield f"|---|{'---|' * len(columns)}"
        above: dict[str, int] = {}
        for label, tally in rows.items():
            shares = {column: tally.share(name) for column, name in columns.items()}
            yield f"| {label} | {' | '.join(_number(share) for share in shares.values())} |"
            for column, share in shares.items():
                if share is None or columns[column] in NO_COVERAGE:
                    continue
                if share < LOW:
                    outside["below"].append(f"{table}, {label}, {column}: {_number(share)}")
                above[column] = above.get(column, 0) + (share > HIGH)
        outside["above"] += [f"{table}, {c}: {n} of {len(rows)} designs" for c, n in above.items() if n]
    yield f"\n### Coverage outside {_number(LOW)} to {_number(HIGH)}\n"
    yield "Too narrow:\n"
    yield from ([f"- {line}" for line in outside["below"]] or ["- none"])
    yield "\nToo wide (cautious):\n"
    yield from ([f"- {line}" for line in outside["above"]] or ["- none"])


def _number(share: float | None) -> str:
    return "–" if share is None else f"{share:.3f}".removeprefix("0") if share < 1 else "1.000"


def run(studies: int, draws: int, seed: int, processes: int) -> dict[str, dict[str, Tally]]:
    """Simulate `studies` studies of each design on so many processes."""
    found: dict[str, dict[str, Tally]] = {}
    with ProcessPoolExecutor(processes) as pool:
        waiting = []
        for design in designs():
            for first in range(0, studies, BATCH):
                count = min(BATCH, studies - first)
                waiting.append((design, pool.submit(measured, design, seed, first, count, draws)))
        for done, (design, future) in enumerate(waiting, start=1):
            found.setdefault(design.table, {}).setdefault(design.label, Tally()).merge(future.result())
            if sys.stderr.isatty():
                print(f"\r{done} of {len(waiting)}", end="", file=sys.stderr)
    return found


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies per design")
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap draws per study")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a Markdown file whose part between the calibrate marks is replaced")
    asked = parser.parse_args()
    started = time.monotonic()
    found = run(asked.studies, asked.draws, asked.seed, asked.processes)
    took = (time.monotonic() - started) / 60
    head = (
        f"Made by `make calibrate` on {datetime.date.today().isoformat()}: {asked.studies:,} simulated studies per design, "
        f"{asked.draws:,} draws each, seed {asked.seed}, in {took:.0f} minutes. The Monte Carlo error of a share near .95 is "
        f"{math.sqrt(0.95 * 0.05 / asked.studies):.3f}.".replace("0.", ".")
    )
    text = "\n".join([head, *tables(found)])
    print(text)
    if asked.out is not None:
        page = asked.out.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        asked.out.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
