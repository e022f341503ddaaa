"""How every figure is drawn: colours, style, and the same bytes for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito (2008): distinguishable with every common form of colour blindness, and in print.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
STYLE = {
    "svg.hashsalt": "inoc_ray",  # the same numbers give the same file
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 1.4,
}


@dataclass(frozen=True, slots=True)
class Pictures:
    """One figure in two formats."""

    svg: str
    png: bytes


def rendered(draw_into: Callable[[Figure], None]) -> Pictures:
    """Let `draw_into` draw into an empty figure in the project's style, and return the pictures."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure()
        FigureCanvasAgg(figure)
        draw_into(figure)
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    return Pictures(svg.getvalue(), png.getvalue())


def write_figure(folder: Path, pictures: Pictures, name: str = "figure") -> list[Path]:
    """Write <name>.svg and <name>.png into `folder` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    svg, png = folder / f"{name}.svg", folder / f"{name}.png"
    svg.write_text(pictures.svg, encoding="utf-8")
    png.write_bytes(pictures.png)
    return [svg, png]
