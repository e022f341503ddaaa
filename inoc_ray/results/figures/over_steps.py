"""What is drawn over the steps of fine-tunes, as points: log-probabilities of fixed responses, and rates of sampled ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from inoc_ray.results.dynamics import Course, Followed, courses_of
from inoc_ray.results.figures.points import Point, rate_points
from inoc_ray.results.leaks import base_context
from inoc_ray.results.rows import Row

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.courses import StepRates

_UNIT = "log-probability of a response (nats)"


def points_of_dynamics(followed: Followed) -> list[Point]:
    """Return what figure 6 of the paper shows: a panel for each arm, in it a curve for each probe set, over the steps.

    A mean of fewer fine-tunes than the study follows says so, and so does an arm without any.
    """
    courses, wanted = courses_of(followed.looks), followed.asked
    if not courses:
        return []
    there = {(one.setting, one.model, one.arm, one.kind) for one in courses}
    return [
        *(_point(one, wanted.get((one.setting, one.model, one.arm, one.kind), 0)) for one in courses),
        *(_unfollowed(*place, count, courses[0].probe) for place, count in wanted.items() if place not in there),
    ]


def _unfollowed(setting: str, model: str, arm: str, kind: str, count: int, probe: str) -> Point:
    return Point(
        panel=f"{setting}, {model}: {arm}",
        series=probe,
        setting=setting,
        model=model,
        arm=arm,
        kind=kind,
        seed=None,
        measure="log_prob",
        unit=_UNIT,
        x_name="step",
        value=None,
        lacks=f"0 of {count} seeds followed",
    )


def _point(one: Course, asked: int) -> Point:
    few = one.seed is None and one.seeds < asked
    return Point(
        panel=f"{one.setting}, {one.model}: {one.arm}",
        series=one.probe,
        setting=one.setting,
        model=one.model,
        arm=one.arm,
        kind=one.kind,
        seed=one.seed,
        measure="log_prob",
        unit=_UNIT,
        trait=one.trait,
        context=one.context,
        x_name="step",
        x=float(one.step),
        value=one.logprob,
        low=one.low,
        high=one.high,
        lacks=f"{one.seeds} of {asked} seeds followed" if few else "",
    )


def points_of_courses(comparison: Comparison) -> list[Point]:
    """Return a panel for each trait of each evaluation and context, in it a curve for each arm over the steps.

    All curves of a panel begin at the base. What is missing of an arm is named.
    """
    points = [point for rates in comparison.courses for point in _points(comparison, rates)]
    return sorted(points, key=lambda point: (point.setting, point.model, point.trait, point.split, point.evaluation))


def _points(comparison: Comparison, rates: StepRates) -> Iterator[Point]:
    after = replace(comparison, rows=rates.rows, trial_rates=rates.trial_rates)
    rows = [row for row in rates.rows if row.kind != "base"]
    if not rows:
        rows = list(_bases(comparison, rates.rows))
        after = replace(after, rows=tuple(rows), trial_rates={})
    for point in rate_points(after, rows, _panel, lambda row: row.arm):
        yield replace(point, x_name="step", x=float(rates.step))


def _panel(row: Row) -> str:
    return f"{row.setting}, {row.model}: {row.trait} in {row.evaluation}, {row.context} context"


def _bases(comparison: Comparison, rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the base's rate as that of every arm before its first step, in the context that the arm is asked in."""
    of_base = {(r.setting, r.model, r.evaluation, r.context, r.trait): r for r in rows}
    later = (row for rates in comparison.courses for row in rates.rows if row.kind != "base")
    for row in {(r.setting, r.model, r.arm, r.evaluation, r.context, r.trait): r for r in later}.values():
        context = base_context(row.arm, row.context)
        before = of_base.get((row.setting, row.model, row.evaluation, context, row.trait))
        if before is not None:
            yield replace(before, arm=row.arm, kind=row.kind, role=row.role, context=row.context)
