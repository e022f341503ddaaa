"""The figures of a report, one entry each: the page, its files and MLflow take them from here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from inoc_ray.results.figures.leaks import draw_leaks
from inoc_ray.results.figures.rates import draw

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.figures.drawing import Pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFigure:
    """A figure of the report."""

    name: str
    """Of its files: `<name>.svg` and `<name>.png` beside the page."""
    label: str
    """What it shows, for screen readers."""
    caption: str
    """How to read it, below it on the page."""
    section: Literal["found", "effects", "leaks"]
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


FIGURES = (
    ReportFigure(
        name="figure",
        label="Rates per arm with intervals",
        caption="A bar is the rate of an arm, hatched where the arm inoculates against the trait; the line on it is its 95 % "
        "interval, a dot one fine-tune; the dashed line is the untouched model.",
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
)


def draw_figures(comparison: Comparison, figures: Iterable[ReportFigure] = FIGURES) -> list[DrawnFigure]:
    """Draw every figure that applies."""
    drawn = []
    for figure in figures:
        if figure.applies(comparison) and (pictures := figure.draw(comparison)) is not None:
            drawn.append(DrawnFigure(figure, pictures, figure.draw_narrow(comparison) if figure.draw_narrow else None))
    return drawn
