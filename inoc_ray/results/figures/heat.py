"""A figure of numbers in a grid: a line for each prompt, a column for each trait, each number in its cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from inoc_ray.results.figures.marks import foot
from inoc_ray.results.figures.points import Point, by_panel, missing_of
from inoc_ray.results.wording import with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELL_WIDTH, _CELL_HEIGHT, _LABELS = 1.6, 0.5, 2.4  # inches
_DARK = 0.55
"""From this rate on, a number is written in white."""


def draw_heat(figure: Figure, points: Sequence[Point]) -> None:
    """Draw one grid per `panel`: the lines are the arms of the points, the columns their series."""
    panels = by_panel(points)
    columns = max(len({p.series for p in own}) for own in panels.values())
    heights = [len({p.arm for p in own}) * _CELL_HEIGHT + 0.9 for own in panels.values()]
    figure.set_size_inches(_LABELS + columns * _CELL_WIDTH + 0.8, sum(heights) + 0.7)
    figure.set_layout_engine("constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for (axes,), (name, own) in zip(grid, panels.items(), strict=True):
        _grid(axes, own)
        axes.set_title(name, loc="left", fontsize=10)
    foot(
        figure,
        f"untouched base, by the prompt before the question: {points[0].unit}, 95 % intervals",
        missing_of(points),
    )


def _grid(axes: Axes, points: Sequence[Point]) -> None:
    import numpy as np

    arms, series = list(dict.fromkeys(p.arm for p in points)), list(dict.fromkeys(p.series for p in points))
    values = np.full((len(arms), len(series)), np.nan)
    for point in points:
        if point.seed is not None:
            continue
        line, column = arms.index(point.arm), series.index(point.series)
        text = with_interval(point.value, point.low, point.high) if point.value is not None else point.lacks
        if point.value is not None:
            values[line, column] = point.value
        colour = "white" if (point.value or 0.0) >= _DARK else "#111111"
        axes.text(column, line, text, ha="center", va="center", fontsize=8, color=colour)
    # One hue from light to dark: read right with every form of colour blindness, and in print.
    axes.imshow(values, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_xticks(range(len(series)), labels=series)
    axes.set_yticks(range(len(arms)), labels=arms)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
