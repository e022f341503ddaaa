"""Coverage of intervals and error rates of p-values, by simulation: `make calibrate` writes the tables of docs/statistics.md."""

from __future__ import annotations

import argparse
import datetime
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from inoc_ray.results.effects import NEUTRAL, Effect, View, effects
from inoc_ray.results.simulate import simulate
from inoc_ray.results.simulated_designs import GRID, Design, designs, truths
from inoc_ray.results.stats import RateKey, combine

LOW, HIGH = 0.92, 0.98
"""The tables list coverage outside of this range."""
SIGNIFICANT = 0.05
ROUNDING = 1e-9
"""Tolerance for limits at 0 or 1, which only rounding moves."""
BATCH = 250
"""Studies that a process simulates per task."""
BEGIN, END = "<!-- calibrate: begin -->", "<!-- calibrate: end -->"


@dataclass
class Tally:
    """Counts of yes/no outcomes, by name."""

    yes: dict[str, int] = field(default_factory=dict)
    of: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, value: bool) -> None:
        """Count one outcome."""
        self.yes[name] = self.yes.get(name, 0) + int(value)
        self.of[name] = self.of.get(name, 0) + 1

    def merge(self, other: Tally) -> None:
        """Add another tally's counts."""
        for name in other.of:
            self.yes[name] = self.yes.get(name, 0) + other.yes[name]
            self.of[name] = self.of.get(name, 0) + other.of[name]

    def share(self, name: str) -> float | None:
        """Return the share of yes; None if nothing was counted."""
        return self.yes[name] / self.of[name] if self.of.get(name) else None


def measure(design: Design, seed: int, *, first: int, studies: int, draws: int) -> Tally:
    """Simulate the studies number `first` to `first + studies − 1` of a design, and tally what they find."""
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


TABLES: Mapping[str, tuple[str, Mapping[str, str]]] = {
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
"""Table → its description, and column → name of its tally."""
NO_COVERAGE = frozenset({"false", "any false", "with p", "withheld"})


def tables(found: Mapping[str, Mapping[str, Tally]]) -> Iterator[str]:
    """Yield the lines of the tables in Markdown, then the coverage outside of LOW to HIGH. found: table → design → tally."""
    outside: dict[str, list[str]] = {"below": [], "above": []}
    for table, (described, columns) in TABLES.items():
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
    """Simulate `studies` studies of each design; return table → design → tally."""
    found: dict[str, dict[str, Tally]] = {}
    with ProcessPoolExecutor(processes) as pool:
        waiting = []
        for design in designs():
            for first in range(0, studies, BATCH):
                count = min(BATCH, studies - first)
                waiting.append((design, pool.submit(measure, design, seed, first=first, studies=count, draws=draws)))
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
    args = parser.parse_args()
    started = time.monotonic()
    found = run(args.studies, args.draws, args.seed, args.processes)
    took = (time.monotonic() - started) / 60
    head = (
        f"Made by `make calibrate` on {datetime.date.today().isoformat()}: {args.studies:,} simulated studies per design, "
        f"{args.draws:,} draws each, seed {args.seed}, in {took:.0f} minutes. The Monte Carlo error of a share near .95 is "
        f"{math.sqrt(0.95 * 0.05 / args.studies):.3f}.".replace("0.", ".")
    )
    text = "\n".join([head, *tables(found)])
    print(text)
    if args.out is not None:
        page = args.out.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        args.out.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
