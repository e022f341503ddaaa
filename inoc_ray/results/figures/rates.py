"""The figure of a study: rates per arm with intervals, traits side by side, in and out of distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from inoc_ray.results.effects import is_directed
from inoc_ray.results.figures.drawing import COLOURS, Pictures, rendered
from inoc_ray.results.wording import shortfall

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.rows import Row

_QUIET = "#444444"
_PANEL_WIDTH, _ARM_HEIGHT, _BAR = 4.6, 0.62, 0.8  # inches, inches, share of an arm's height


def draw(comparison: Comparison) -> Pictures | None:
    """Draw the figure; None if there is no rate under the reference context. The same comparison gives the same bytes."""
    rows = [row for row in comparison.rows if row.context == comparison.reference]
    return rendered(lambda figure: _draw_into(figure, comparison, rows)) if rows else None


def _draw_into(figure: Figure, comparison: Comparison, rows: Sequence[Row]) -> None:
    """Draw one row of panels per setting × model, with one panel per evaluation (in distribution first)."""
    from matplotlib.patches import Patch

    groups = list(dict.fromkeys((row.setting, row.model) for row in rows))
    panels = {g: _panels([r for r in rows if (r.setting, r.model) == g]) for g in groups}
    arms = {g: list(dict.fromkeys(r.arm for r in rows if (r.setting, r.model) == g)) for g in groups}
    traits = sorted({row.trait for row in rows})
    colours = {trait: COLOURS[i % len(COLOURS)] for i, trait in enumerate(traits)}
    columns = max(len(p) for p in panels.values())
    heights = [len(arms[g]) * _ARM_HEIGHT + 0.9 for g in groups]
    figure.set_size_inches(_PANEL_WIDTH * columns + 1.6, sum(heights) + 1.0)
    # Without space, the last tick label of one panel and the first of the next would touch.
    figure.set_layout_engine("constrained", wspace=0.06)
    grid = figure.subplots(len(groups), columns, squeeze=False, sharex=True, height_ratios=heights)
    for line, group in enumerate(groups):
        for column in range(columns):
            axes = grid[line][column]
            if column >= len(panels[group]):
                axes.set_visible(False)
                continue
            split, evaluation = panels[group][column]
            shown = [r for r in rows if (r.setting, r.model, r.evaluation) == (*group, evaluation)]
            measured = [trait for trait in traits if any(r.trait == trait for r in shown)]
            _panel(axes, shown, arms=arms[group], traits=measured, colours=colours, names=column == 0)
            where = "In distribution" if split == "id" else "Out of distribution"
            axes.set_title(f"{where} ({evaluation})", loc="left", fontsize=10)
            if column == 0 and len(groups) > 1:
                axes.set_ylabel(f"{group[0]}\n{group[1]}")
    keys: list[Any] = [Patch(facecolor=colours[trait], label=trait) for trait in traits]
    keys.append(Patch(facecolor="white", edgecolor="#555555", hatch="////", label="inoculated against"))
    keys.append(_line("untouched base"))
    if any(not row.complete for row in rows):
        keys.append(Patch(facecolor="#888888", alpha=0.35, label="incomplete"))
    figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), frameon=False)
    where = f"{comparison.reference} context, 95 % intervals"
    figure.supxlabel(f"share of responses with the trait ({where})", fontsize=10)


def _panels(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return sorted(dict.fromkeys((row.split, row.evaluation) for row in rows), key=lambda p: (p[0] != "id", p[1]))


def _panel(
    axes: Axes, rows: Sequence[Row], *, arms: Sequence[str], traits: Sequence[str], colours: dict[str, str], names: bool
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
