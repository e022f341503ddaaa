"""The figures of a report, one entry each: the page, its files and MLflow take them from here."""

from __future__ import annotations

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
    section: Literal["found", "effects", "leaks"]
    """The section of the page (results/report/templates/page.html) that shows it."""
    applies: Callable[[Comparison], bool] = lambda comparison: True
    """Whether a comparison has what the figure is about."""
    draw: Callable[[Comparison], Pictures | None]
    """The figure; None if there is nothing to draw."""


FIGURES = (
    ReportFigure(name="figure", label="Rates per arm with intervals", section="found", draw=draw),
    ReportFigure(
        name="leaks",
        label="Rates under test-time prompts",
        section="leaks",
        applies=lambda comparison: bool(comparison.leaks),
        draw=lambda comparison: draw_leaks(comparison.leaks),
    ),
)


def draw_figures(
    comparison: Comparison, figures: Iterable[ReportFigure] = FIGURES
) -> list[tuple[ReportFigure, Pictures]]:
    """Draw every figure that applies."""
    drawn = [(figure, figure.draw(comparison)) for figure in figures if figure.applies(comparison)]
    return [(figure, pictures) for figure, pictures in drawn if pictures is not None]
