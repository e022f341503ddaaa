"""A figure of curves: a number over steps or doses, the arm's mean with its interval and its fine-tunes as dots or thin lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from inoc_ray.results.figures.marks import dot, draw_mean, foot, legend, looks, panels_in
from inoc_ray.results.figures.points import Point, missing_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT, _COLUMNS = 4.2, 3.2, 3  # inches, inches, panels a row
_DODGE = 0.04
_TICKS = 8
"""Most numbers on a logarithmic axis, about."""
_TO_ZERO = 0.5
"""How far step 0 stands before the first step on a logarithmic axis, in powers of ten."""
_LOG_SPAN = 8
"""From this ratio between the largest and the smallest x on, the axis is logarithmic."""


def draw_curves(figure: Figure, points: Sequence[Point]) -> None:
    """Draw one panel per `panel`, with `x` across; a mean without `x` is left out."""
    names = looks(p.series for p in points)
    for axes, own in panels_in(figure, points, most_columns=_COLUMNS, panel=(_WIDTH, _HEIGHT), around=(0.6, 1.2)):
        _panel(axes, own, names)
    legend(figure, names)
    foot(figure, "bars: 95 % intervals", missing_of(points))


def _panel(axes: Axes, points: Sequence[Point], names: dict[str, tuple[str, str]]) -> None:
    x_values = sorted({p.x for p in points if p.x is not None})
    logarithmic = bool(x_values) and x_values[-1] > _LOG_SPAN * max(x_values[0], 1e-12)
    order = list(dict.fromkeys(p.series for p in points))
    for number, series in enumerate(order):
        own = sorted(
            (p for p in points if p.series == series and p.x is not None and p.value is not None),
            key=lambda p: p.x or 0.0,
        )
        means = [p for p in own if p.seed is None]
        beside = number - (len(order) - 1) / 2

        def place(x: float | None, beside: float = beside) -> float:
            """Return where a series stands: a little beside the others, so that their intervals are seen."""
            x = x or 0.0
            return x * (1 + _DODGE) ** beside if logarithmic else x + (x_values[-1] - x_values[0]) * _DODGE / 2 * beside

        x_of_means = [place(p.x) for p in means]
        axes.plot(x_of_means, [p.value or 0.0 for p in means], color=names[series][0], linewidth=1.6, zorder=1)
        for x, mean in zip(x_of_means, means, strict=True):
            draw_mean(axes, x, mean.value or 0.0, mean, names[series], across=False)
        seeds = [p for p in own if p.seed is not None]
        axes.plot([place(p.x) for p in seeds], [p.value or 0.0 for p in seeds], **dot(names[series]))
    if logarithmic:
        if x_values[0] > 0:
            axes.set_xscale("log")
        else:
            # Step 0 has a place on this axis, and from the first step on it is logarithmic.
            axes.set_xscale("symlog", linthresh=next(x for x in x_values if x > 0), linscale=0.9 * _TO_ZERO)
        # The very steps or doses, not powers of ten that none of them is.
        shown = _apart(x_values)
        axes.set_xticks(shown, labels=[f"{x:g}" for x in shown])
        axes.minorticks_off()
    if all(p.measure == "rate" for p in points):
        # Panels stand beside each other: a rate of .1 must not look as high as one of 1.
        axes.set_ylim(-0.04, 1.05)
    axes.set_xlabel(points[0].x_name)
    axes.set_ylabel(points[0].unit)
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)


def _apart(x_values: Sequence[float]) -> list[float]:
    """Return those of sorted numbers from 0 up that have room for a label on a logarithmic axis; the last one always."""
    # Below the smallest positive one, symlog is linear.
    positive = [x for x in x_values if x > 0]
    places = {x: math.log(x if x > 0 else positive[0] / 10**_TO_ZERO) for x in x_values}
    gap = (places[x_values[-1]] - places[x_values[0]]) / _TICKS
    kept: list[float] = [x_values[-1]]
    for x in reversed(x_values[:-1]):
        if places[kept[-1]] - places[x] >= gap:
            kept.append(x)
    return kept[::-1]
