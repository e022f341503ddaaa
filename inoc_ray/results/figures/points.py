"""What a figure shows, as tidy data: one point a line, the mean of an arm or one fine-tune; the CSV beside a figure is this."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from inoc_ray.results.wording import shortfall, why_no_rate

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.rows import Row

UNITS = {"shown": "share of responses with the trait", "score": "mean score of the trait, 0 to 1"}
"""What a rate is, by `Comparison.outcome`."""
SPLITS = {"id": "in distribution", "ood": "out of distribution"}
INCOMPLETE = "incomplete"
"""What a number lacks that is computed from others, which name what is missing themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One mark of a figure: the mean of an arm (`seed` None) with its 95 % interval, or one fine-tune."""

    panel: str
    series: str
    """What its colour and its mark stand for."""
    setting: str
    model: str
    arm: str
    kind: str
    seed: int | None
    measure: str
    """`rate`, `suppression`, `log_prob`."""
    unit: str
    trait: str = ""
    evaluation: str = ""
    split: str = ""
    context: str = ""
    x_name: str = ""
    """What `x` is: the number of a dose or a step; empty where the arms themselves are the axis."""
    x: float | None = None
    value: float | None
    low: float | None = None
    high: float | None = None
    lacks: str = ""
    """What is missing of it, e.g. "1 of 2 seeds"; empty for a complete one."""


def rate_points(
    comparison: Comparison,
    rows: Iterable[Row],
    panel: Callable[[Row], str],
    series: Callable[[Row], str] = lambda row: row.trait,
) -> Iterator[Point]:
    """Yield the points of rates: for each row the arm's mean, then its fine-tunes."""
    seeds = comparison.seed_rates()
    for row in rows:
        lacks = shortfall(row) if row.rate is not None else why_no_rate(row)
        place = row.setting, row.model, row.arm, row.evaluation, row.context, row.trait
        own = seeds.get(place, ())
        means = [(None, row.rate, row.low, row.high, lacks)]
        for seed, rate, low, high, missing in [*means, *((s, r.rate, r.low, r.high, "") for s, r in own)]:
            yield Point(
                panel=panel(row),
                series=series(row),
                setting=row.setting,
                model=row.model,
                arm=row.arm,
                kind=row.kind,
                seed=seed,
                measure="rate",
                unit=UNITS[comparison.outcome],
                trait=row.trait,
                evaluation=row.evaluation,
                split=row.split,
                context=row.context,
                value=rate,
                low=low,
                high=high,
                lacks=missing,
            )


def place_of(split: str, evaluation: str) -> str:
    """Return the split in words with the evaluation, unless that is its name as well."""
    where = SPLITS[split]
    return where if evaluation.replace("_", " ").lower() == where else f"{where} ({evaluation})"


def units_of(points: Sequence[Point]) -> str:
    """Return what the numbers are: "share of responses with the trait, neutral context" (where it is the same for all)."""
    units = " and ".join(dict.fromkeys(p.unit for p in points))
    contexts = {p.context for p in points}
    context = next(iter(contexts)) if len(contexts) == 1 else ""
    return f"{units}, {context} context" if context else units


def by_panel(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Return the points of each panel, in order of appearance."""
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.panel, []).append(point)
    return found


def missing_of(points: Sequence[Point]) -> list[str]:
    """Return "arm (setting, model): 1 of 2 seeds" for each arm of which something is missing, each once."""
    found = [f"{p.arm} ({p.setting}, {p.model}): {p.lacks}" for p in points if p.lacks and p.lacks != INCOMPLETE]
    return list(dict.fromkeys(found))


def csv_of(points: Sequence[Point]) -> str:
    """Return the points as CSV with a head; a number has all its digits, and what is not there is empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [f.name for f in fields(Point)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    return buffer.getvalue()
