"""The picture of a leak audit: for each inoculated arm its rate under every test-time prompt, largest leak on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from inoc_ray.results.figures.drawing import COLOURS, Pictures, rendered
from inoc_ray.results.wording import leak_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from inoc_ray.results.leaks import Leak

_WIDTH, _ROW_HEIGHT, _LABEL = 9.6, 0.34, 52  # inches, inches, characters
_BASE, _BASELINE = "#777777", "#E69F00"


def draw_leaks(leaks: Sequence[Leak]) -> Pictures | None:
    """Draw one panel per setting × model × arm; None without leaks. The same leaks give the same bytes.

    A dot is a rate; its bar is the leak's simultaneous interval, drawn from the arm's rate in the reference context (the
    vertical line), so a bar that crosses the line does not show a leak.
    """
    return rendered(lambda figure: draw_into(figure, leaks)) if leaks else None


def draw_into(figure: Figure, leaks: Sequence[Leak]) -> None:
    """Draw the panels into an empty figure."""
    from matplotlib.lines import Line2D

    groups = list(dict.fromkeys((k.setting, k.model, k.arm_label) for k in leaks))
    panels = [
        sorted((k for k in leaks if (k.setting, k.model, k.arm_label) == g), key=lambda k: -k.leak) for g in groups
    ]
    heights = [len(panel) * _ROW_HEIGHT + 0.75 for panel in panels]
    figure.set_size_inches(_WIDTH, sum(heights) + 0.9)
    figure.set_layout_engine("constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)
    for (setting, model, arm), panel, (axes,) in zip(groups, panels, grid, strict=True):
        _panel(axes, panel)
        axes.set_title(f"{arm} ({setting}, {model})", loc="left", fontsize=10)
    reach = [limit for k in leaks for limit in (k.neutral + k.low, k.neutral + k.high)]
    grid[0][0].set_xlim(min(0.0, *reach) - 0.02, max(1.0, *reach) + 0.02)
    dot: dict[str, Any] = {"linestyle": "none"}
    keys = [
        Line2D([], [], color=COLOURS[0], marker="o", label="the arm, with its leak's interval", linewidth=1.3),
        Line2D([], [], color=COLOURS[0], linestyle="--", linewidth=1.2, label="the arm, reference context"),
        Line2D([], [], color=_BASE, marker="D", markersize=5, markerfacecolor="none", label="untouched base", **dot),
        Line2D([], [], color=_BASELINE, marker="s", markersize=5, markerfacecolor="none", label="baseline", **dot),
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), frameon=False)
    what = "rate of the undesired traits under the test-time prompt, out of distribution"
    more = "bars: rate in the reference context plus the leak's simultaneous 95 % interval"
    named = "; *: the paper's residual" if any(k.residual for k in leaks) else ""
    figure.supxlabel(f"{what}\n{more}{named}", fontsize=10)


def _panel(axes: Axes, panel: Sequence[Leak]) -> None:
    axes.axvline(panel[0].neutral, color=COLOURS[0], linestyle="--", linewidth=1.2, zorder=0)
    for y, leak in enumerate(panel):
        error = [[max(0.0, leak.leak - leak.low)], [max(0.0, leak.high - leak.leak)]]
        if leak.base is not None:
            axes.plot(leak.base, y, "D", color=_BASE, markersize=5, markerfacecolor="none")
        if leak.baseline is not None:
            axes.plot(leak.baseline, y, "s", color=_BASELINE, markersize=5, markerfacecolor="none")
        bar: dict[str, Any] = {"color": COLOURS[0], "elinewidth": 1.3, "capsize": 2.5, "markersize": 5}
        axes.errorbar(leak.rate, y, xerr=error, fmt="o", alpha=1.0 if leak.complete else 0.35, **bar)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.set_ylim(len(panel) - 0.4, -0.6)
    axes.set_yticks(range(len(panel)), labels=[_label(leak) for leak in panel])
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelbottom=True)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)


def _label(leak: Leak) -> str:
    text = "(the arm's own prompt)" if leak.prompt is None else " ".join(leak.prompt.split())
    short = text if len(text) <= _LABEL else text[: _LABEL - 1] + "…"
    # A dollar sign would begin a formula.
    lacks = (
        "" if leak.complete else f" ({leak_seeds(leak)} seeds)" if leak.seeds < leak.seeds_planned else " (incomplete)"
    )
    return short.replace("$", r"\$") + (" *" if leak.residual else "") + lacks
