"""A figure of panels with an arm on each line: means with intervals, fine-tunes as dots, the untouched base as a dashed line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from inoc_ray.results.figures.marks import QUIET, dot, draw_mean, foot, legend, looks, panels_in
from inoc_ray.results.figures.points import Point, by_panel, missing_of, units_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS, _WIDTH, _LINE, _HEAD = 3, 3.9, 0.46, 0.8  # panels a row; inches
_STACKED = 0.1


def draw_arms(figure: Figure, points: Sequence[Point]) -> None:
    """Draw one panel per `panel` of the points into an empty figure."""
    from matplotlib.lines import Line2D

    names = looks(p.series for p in points)
    height = max(len(_lines(own)) for own in by_panel(points).values()) * _LINE + _HEAD
    panels = panels_in(figure, points, most_columns=_COLUMNS, panel=(_WIDTH, height), around=(1.4, 1.2), sharex=True)
    for axes, own in panels:
        _panel(axes, own, names)
    legend(figure, names, [Line2D([], [], color=QUIET, linestyle="--", linewidth=1.1, label="untouched base")])
    foot(figure, f"{units_of(points)}; bars: 95 % intervals", missing_of(points))


def _lines(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(p.arm for p in points))


def _panel(axes: Axes, points: Sequence[Point], names: dict[str, tuple[str, str]]) -> None:
    arms = _lines(points)
    series = [name for name in names if any(p.series == name for p in points)]
    step = 0.7 / max(1, len(series))
    # Fine-tunes with the same number would hide each other: they lie below each other.
    stacked: Counter[tuple[str, str, float]] = Counter()
    for point in points:
        y = arms.index(point.arm) + (series.index(point.series) - (len(series) - 1) / 2) * step
        if point.value is None:
            if point.seed is None:
                axes.text(0.01, y, point.lacks or "no number", color=QUIET, fontsize=7.5, va="center")
            continue
        if point.seed is not None:
            place = point.arm, point.series, round(point.value, 3)
            axes.plot(point.value, y + step * 0.3 + stacked[place] * _STACKED, **dot(names[point.series]))
            stacked[place] += 1
            continue
        if point.kind == "base":
            axes.axvline(point.value, color=names[point.series][0], linestyle="--", linewidth=1.1, zorder=0)
        draw_mean(axes, point.value, y, point, names[point.series], across=True)
    limits: dict[str, Any] = {"left": -0.03, "right": 1.05}
    axes.set_xlim(**limits)
    axes.set_ylim(len(arms) - 0.45, -0.55)
    axes.set_yticks(range(len(arms)), labels=arms)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelbottom=True)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
