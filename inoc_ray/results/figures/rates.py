"""The figure of a study: rates per arm with intervals, traits side by side, in and out of distribution."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inoc_ray.results.effects import is_directed
from inoc_ray.results.figures.drawing import COLOURS, ON_PAGE, Pictures, rendered
from inoc_ray.results.figures.points import UNITS, place_of
from inoc_ray.results.wording import shortfall

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.rows import Row, TrialRate

_QUIET = "#444444"
_PANEL_WIDTH, _ARM_HEIGHT, _BAR = 4.6, 0.62, 0.8  # inches, inches, share of an arm's height
_NARROW_WIDTH, _NARROW_LETTERS = 4.6, 44
_DOT: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 3.6,
    "markerfacecolor": "white",
    "markeredgecolor": "#222222",
    "markeredgewidth": 0.8,
}
"""One fine-tune, above the interval of its arm."""


def draw(comparison: Comparison, *, narrow: bool = False) -> Pictures | None:
    """Draw the figure; None if there is no rate under the reference context. The same comparison gives the same bytes.

    narrow: one panel below the other, for a telephone, as SVG alone.
    """
    rows = [row for row in comparison.rows if row.context == comparison.reference]
    if not rows:
        return None
    return rendered(lambda figure: _draw_into(figure, comparison, rows, narrow), ("svg",) if narrow else ON_PAGE)


def _draw_into(figure: Figure, comparison: Comparison, rows: Sequence[Row], narrow: bool) -> None:
    """Draw one row of panels per setting × model, with one panel per evaluation (in distribution first)."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    groups = list(dict.fromkeys((row.setting, row.model) for row in rows))
    panels = {g: _panels([r for r in rows if (r.setting, r.model) == g]) for g in groups}
    arms = {g: list(dict.fromkeys(r.arm for r in rows if (r.setting, r.model) == g)) for g in groups}
    traits = sorted({row.trait for row in rows})
    colours = {trait: COLOURS[i % len(COLOURS)] for i, trait in enumerate(traits)}
    seeds = comparison.seed_rates()
    # A place is a panel's row and column; None leaves it empty.
    places: list[list[tuple[tuple[str, str], tuple[str, str]] | None]]
    if narrow:
        places = [[(group, panel)] for group in groups for panel in panels[group]]
    else:
        columns = max(len(p) for p in panels.values())
        places = [[(g, panels[g][i]) if i < len(panels[g]) else None for i in range(columns)] for g in groups]
    heights = [len(arms[line[0][0]]) * _ARM_HEIGHT + 0.9 for line in places if line[0] is not None]
    width = _NARROW_WIDTH if narrow else _PANEL_WIDTH * len(places[0]) + 1.6
    figure.set_size_inches(width, sum(heights) + (1.6 if narrow else 1.0))
    # Without space, the last tick label of one panel and the first of the next would touch.
    figure.set_layout_engine("constrained", wspace=0.06)
    grid = figure.subplots(len(places), len(places[0]), squeeze=False, sharex=True, height_ratios=heights)
    for line, of_line in enumerate(places):
        for column, place in enumerate(of_line):
            axes = grid[line][column]
            if place is None:
                axes.set_visible(False)
                continue
            group, (split, evaluation) = place
            shown = [r for r in rows if (r.setting, r.model, r.evaluation) == (*group, evaluation)]
            measured = [trait for trait in traits if any(r.trait == trait for r in shown)]
            _panel(axes, shown, arms=arms[group], traits=measured, colours=colours, names=column == 0, seeds=seeds)
            title = _capital(place_of(split, evaluation))
            axes.set_title(
                _wrapped(f"{group[0]}, {group[1]}: {title}" if narrow and len(groups) > 1 else title, narrow),
                loc="left",
                fontsize=10,
            )
            if column == 0 and len(groups) > 1 and not narrow:
                axes.set_ylabel(f"{group[0]}\n{group[1]}")
    keys: list[Any] = [Patch(facecolor=colours[trait], label=trait) for trait in traits]
    keys.append(Patch(facecolor="white", edgecolor="#555555", hatch="////", label="inoculated against"))
    keys.append(_line("untouched base"))
    if any(not row.complete for row in rows):
        keys.append(Patch(facecolor="#888888", alpha=0.35, label="incomplete"))
    keys.append(Line2D([], [], **_DOT, label="one fine-tune"))
    figure.legend(handles=keys, loc="outside upper center", ncols=2 if narrow else len(keys), frameon=False)
    where = f"{comparison.reference} context, 95 % intervals"
    figure.supxlabel(f"{UNITS[comparison.outcome]}{chr(10) if narrow else ' '}({where})", fontsize=10)


def _panels(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return sorted(dict.fromkeys((row.split, row.evaluation) for row in rows), key=lambda p: (p[0] != "id", p[1]))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _wrapped(text: str, narrow: bool) -> str:
    return textwrap.fill(text, _NARROW_LETTERS) if narrow else text


def _panel(
    axes: Axes,
    rows: Sequence[Row],
    *,
    arms: Sequence[str],
    traits: Sequence[str],
    colours: dict[str, str],
    names: bool,
    seeds: Mapping[tuple[str, ...], Sequence[tuple[int, TrialRate]]],
) -> None:
    """Draw horizontal bars, since names of arms are long; hatched if the arm inoculates against the trait.

    An incomplete bar is pale, with a note on what is missing; a missing bar is replaced by a note.
    """
    tall = _BAR / len(traits)
    for row in rows:
        index = traits.index(row.trait)
        if row.rate is None or row.low is None or row.high is None:
            place = arms.index(row.arm) - _BAR / 2 + (index + 0.5) * tall
            axes.text(0.01, place, _short_reason(row), color=_QUIET, fontsize=7.5, va="center")
            continue
        if row.kind == "base":
            axes.axvline(row.rate, color=colours[row.trait], linestyle="--", linewidth=1.2, zorder=0)
        y = arms.index(row.arm) - _BAR / 2 + (index + 0.5) * tall
        against = row.role == "undesired" and is_directed(row.kind)
        axes.barh(
            y,
            row.rate,
            height=tall * 0.9,
            facecolor="white" if against else colours[row.trait],
            edgecolor=colours[row.trait],
            hatch="////" if against else None,
            linewidth=1.2,
            alpha=1.0 if row.complete else 0.35,
        )
        if not row.complete:
            _beside(axes, row, y)
        error = [[max(0.0, row.rate - row.low)], [max(0.0, row.high - row.rate)]]
        axes.errorbar(row.rate, y, xerr=error, fmt="none", ecolor="#222222", elinewidth=1.3, capsize=2.5)
        own = seeds.get((row.setting, row.model, row.arm, row.evaluation, row.context, row.trait), ())
        rates = [rate.rate for _, rate in own if rate.rate is not None]
        # Fine-tunes with the same rate would hide each other: they lie above each other.
        stacked = [[round(other, 3) for other in rates[:i]].count(round(rate, 3)) for i, rate in enumerate(rates)]
        axes.plot(rates, [y - tall * (0.16 + 0.12 * above) for above in stacked], **_DOT)
    axes.set_xlim(0, 1.05)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_yticks(range(len(arms)), labels=arms if names else [""] * len(arms))
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelbottom=True)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)


def _short_reason(row: Row) -> str:
    return "not evaluated" if not row.samples else "no response counts"


def _beside(axes: Axes, row: Row, y: float) -> None:
    """Write what a row lacks behind its interval, or before it if there is no room behind."""
    assert row.low is not None
    assert row.high is not None
    behind = row.high < 0.7
    x, side = (row.high + 0.015, "left") if behind else (row.low - 0.015, "right")
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8}
    axes.text(x, y, shortfall(row), color=_QUIET, fontsize=7.5, va="center", ha=side, bbox=box)


def _line(label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color="#555555", linestyle="--", linewidth=1.2, label=label)
