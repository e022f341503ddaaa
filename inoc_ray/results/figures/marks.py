"""How a series is told apart in every figure: by a colour and by the form of its mark, so that neither is needed alone."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from inoc_ray.results.figures.drawing import COLOURS
from inoc_ray.results.figures.points import Point, by_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMS = ("o", "s", "D", "^", "v", "P", "X", "*", "<", ">")
QUIET = "#444444"
PALE = 0.35
"""The opacity of a mean that lacks something."""
_LINE_LETTERS = 13
"""How many letters of a note fit into an inch."""


def looks(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return name → (colour, form), distinct for up to 40 names."""
    return {
        name: (COLOURS[i % len(COLOURS)], FORMS[(i + i // len(COLOURS)) % len(FORMS)])
        for i, name in enumerate(dict.fromkeys(names))
    }


def panels_in(
    figure: Figure,
    points: Sequence[Point],
    *,
    most_columns: int,
    panel: tuple[float, float],
    around: tuple[float, float],
    sharex: bool = False,
) -> list[tuple[Axes, list[Point]]]:
    """Lay out an empty figure with one titled panel per `panel` of the points; return each with its points.

    panel: width and height of one in inches. around: what the figure has beside and above them.
    """
    panels = by_panel(points)
    rows = -(-len(panels) // most_columns)
    # Four panels are two above two, and no three with one below.
    columns = -(-len(panels) // rows)
    figure.set_size_inches(panel[0] * columns + around[0], panel[1] * rows + around[1])
    figure.set_layout_engine("constrained", wspace=0.06)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex).flatten()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, name in zip(grid, panels, strict=False):
        axes.set_title(wrapped(name, panel[0]), loc="left", fontsize=10)
    return list(zip(grid, panels.values(), strict=False))


def draw_mean(axes: Axes, x: float, y: float, point: Point, look: tuple[str, str], *, across: bool) -> None:
    """Draw the mean of an arm with its interval, horizontally if `across`, else vertically."""
    assert point.value is not None
    low = point.value if point.low is None else point.low
    high = point.value if point.high is None else point.high
    error = [[max(0.0, point.value - low)], [max(0.0, high - point.value)]]
    axes.errorbar(
        x,
        y,
        xerr=error if across else None,
        yerr=None if across else error,
        fmt=look[1],
        color=look[0],
        markeredgecolor="#222222",
        markeredgewidth=0.7,
        markersize=7,
        elinewidth=1.4,
        capsize=2.5,
        alpha=PALE if point.lacks else 1.0,
        zorder=3,
    )


def dot(look: tuple[str, str]) -> dict[str, Any]:
    """Return how one fine-tune is drawn: small, in its arm's form, with a white face."""
    return {
        "linestyle": "none",
        "marker": look[1],
        "markersize": 3.6,
        "markerfacecolor": "white",
        "markeredgecolor": look[0],
        "markeredgewidth": 0.9,
        "zorder": 2,
    }


def legend(figure: Figure, names: dict[str, tuple[str, str]], extra: Sequence[Any] = ()) -> None:
    """Draw the legend above the panels: each series, one fine-tune, and what else is handed in."""
    from matplotlib.lines import Line2D

    keys: list[Any] = [
        Line2D([], [], color=colour, marker=form, markeredgecolor="#222222", linewidth=1.4, label=name)
        for name, (colour, form) in names.items()
    ]
    keys.append(Line2D([], [], **dot(("#444444", "o")), label="one fine-tune"))
    width = float(figure.get_size_inches()[0])
    letters = max(len(str(key.get_label())) for key in [*keys, *extra]) + 6
    figure.legend(
        handles=[*keys, *extra],
        loc="outside upper center",
        ncols=max(1, min(len(keys) + len(extra), int(width * 12 / letters))),
        frameon=False,
    )


def wrapped(title: str, inches: float) -> str:
    """Return a title in lines that fit over a panel of that width: where it is about on the first, if one is not enough."""
    width = int(inches * _LINE_LETTERS * 0.9)
    place, colon, rest = title.partition(": ")
    if len(title) <= width or not colon:
        return textwrap.fill(title, width)
    return "\n".join(textwrap.fill(part, width) for part in (f"{place}:", rest))


def foot(figure: Figure, unit: str, missing: Sequence[str]) -> None:
    """Write the unit below the panels, and what is missing, by name."""
    width = int(float(figure.get_size_inches()[0]) * _LINE_LETTERS)
    unit += "; pale: incomplete" if missing else ""
    text = textwrap.fill(unit.replace("95 % intervals", "95\u00a0%\u00a0intervals"), width)
    if missing:
        text += "\n" + textwrap.fill(f"missing: {'; '.join(missing)}", width)
    # A dollar sign would begin a formula.
    figure.supxlabel(text.replace("$", r"\$"), fontsize=9)
