"""A figure of one trait against another: where each arm stands, with both intervals and its fine-tunes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from inoc_ray.results.figures.marks import dot as dot_of
from inoc_ray.results.figures.marks import draw_mean, foot, legend, looks, panels_in
from inoc_ray.results.figures.points import Point, missing_of, units_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE = 3.7  # inches


def draw_scatter(figure: Figure, points: Sequence[Point]) -> None:
    """Draw one panel per `panel`: its first trait across, its second upwards; a series is an arm."""
    names = looks(p.series for p in points)
    for axes, own in panels_in(figure, points, most_columns=2, panel=(_SIDE, _SIDE + 0.35), around=(0.8, 1.0)):
        _panel(axes, own, names)
    legend(figure, names)
    foot(figure, f"{units_of(points)}; bars: 95 % intervals", missing_of(points))


def _panel(axes: Axes, points: Sequence[Point], names: dict[str, tuple[str, str]]) -> None:
    across, upwards = list(dict.fromkeys(p.trait for p in points))[:2]
    places = {(p.series, p.seed, p.trait): p for p in points}
    for series, seed in dict.fromkeys((p.series, p.seed) for p in points):
        x, y = places.get((series, seed, across)), places.get((series, seed, upwards))
        if x is None or y is None or x.value is None or y.value is None:
            continue
        if seed is not None:
            axes.plot(x.value, y.value, **dot_of(names[series]))
        else:
            draw_mean(axes, x.value, y.value, x, names[series], across=True)
            draw_mean(axes, x.value, y.value, y, names[series], across=False)
    axes.set_xlim(-0.05, 1.05)
    axes.set_ylim(-0.05, 1.05)
    axes.set_aspect("equal")
    axes.set_xlabel(across)
    axes.set_ylabel(upwards)
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
