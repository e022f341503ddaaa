"""The figures of a report, one entry each: the page, its files and MLflow take them from here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from inoc_ray.results.figures.curves import draw_curves
from inoc_ray.results.figures.drawing import Pictures, rendered
from inoc_ray.results.figures.leaks import draw_leaks
from inoc_ray.results.figures.over_steps import points_of_courses, points_of_dynamics
from inoc_ray.results.figures.points import Point
from inoc_ray.results.figures.rates import draw

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFigure:
    """A figure of the report."""

    name: str
    """Of its files: `<name>.svg` and `<name>.png` beside the page."""
    label: str
    """What it shows, for screen readers."""
    caption: str
    """How to read it, below it on the page."""
    section: Literal["found", "effects", "leaks", "dynamics"]
    """The section of the page (results/report/templates/page.html) that shows it."""
    applies: Callable[[Comparison], bool] = lambda comparison: True
    """Whether a comparison has what the figure is about."""
    draw: Callable[[Comparison], Pictures | None]
    """The figure; None if there is nothing to draw."""
    draw_narrow: Callable[[Comparison], Pictures | None] | None = None
    """The figure for a telephone, as SVG alone; None if the broad one serves."""


@dataclass(frozen=True, slots=True)
class DrawnFigure:
    """A figure with its pictures."""

    about: ReportFigure
    pictures: Pictures
    narrow: Pictures | None = None


def _curves(points: Sequence[Point]) -> Pictures | None:
    if not any(point.value is not None for point in points):
        return None
    return rendered(lambda figure: draw_curves(figure, points))


FIGURES = (
    ReportFigure(
        name="figure",
        label="Rates per arm with intervals",
        caption="A bar is the rate of an arm, hatched where the arm inoculates against the trait; the line on it is its 95 % "
        "interval, a dot one fine-tune; the dashed line is the untouched base.",
        section="found",
        draw=draw,
        draw_narrow=functools.partial(draw, narrow=True),
    ),
    ReportFigure(
        name="leaks",
        label="Rates under test-time prompts",
        caption="A dot is the rate of the undesired traits under a test-time prompt, with the interval of its leak. A bar that "
        "crosses the dashed line (the reference context) shows no leak.",
        section="leaks",
        applies=lambda comparison: bool(comparison.leaks),
        draw=lambda comparison: draw_leaks(comparison.leaks),
    ),
    ReportFigure(
        name="dynamics",
        label="Log-probabilities of fixed responses over the steps",
        caption="How likely fine-tunes find fixed responses that express one trait each, before the first step and after some of "
        "them. A curve that rises towards 0 is learnt, one that stays flat is not. A dot is one fine-tune.",
        section="dynamics",
        applies=lambda comparison: bool(comparison.followed.looks),
        draw=lambda comparison: _curves(points_of_dynamics(comparison.followed)),
    ),
    ReportFigure(
        name="courses",
        label="Rates over the steps",
        caption="How often responses show a trait that are sampled from the base (step 0), from weights kept on the way and from "
        "the final ones, with 95 % intervals. A dot is one fine-tune.",
        section="dynamics",
        applies=lambda comparison: any(row.rate is not None for rates in comparison.courses for row in rates.rows),
        draw=lambda comparison: _curves(points_of_courses(comparison)),
    ),
)


def draw_figures(comparison: Comparison, figures: Iterable[ReportFigure] = FIGURES) -> list[DrawnFigure]:
    """Draw every figure that applies."""
    drawn = []
    for figure in figures:
        if figure.applies(comparison) and (pictures := figure.draw(comparison)) is not None:
            drawn.append(DrawnFigure(figure, pictures, figure.draw_narrow(comparison) if figure.draw_narrow else None))
    return drawn
