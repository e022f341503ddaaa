"""How every figure is drawn: colours, style, and the same bytes for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito (2008): distinguishable with every common form of colour blindness, and in print.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
DPI = 160
STYLE = {
    "svg.hashsalt": "inoc_ray",  # the same numbers give the same file
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "pdf.fonttype": 42,  # letters that a PDF's reader can search and a journal accepts
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 1.4,
}


@dataclass(frozen=True, slots=True)
class Pictures:
    """One figure in its formats; empty where it was not made in one."""

    svg: str = ""
    png: bytes = b""
    pdf: bytes = b""


Format = Literal["svg", "png", "pdf"]
ON_PAGE: tuple[Format, ...] = ("svg", "png")
ALL: tuple[Format, ...] = ("svg", "png", "pdf")
_METADATA: dict[Format, dict[str, None]] = {
    # Without dates and versions the same numbers give the same bytes.
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def rendered(draw_into: Callable[[Figure], None], formats: Sequence[Format] = ON_PAGE) -> Pictures:
    """Let `draw_into` draw into an empty figure in the project's style, and return the pictures."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure()
        FigureCanvasAgg(figure)
        draw_into(figure)
        # The places of everything are found once: every format would find them again.
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)
            figure.set_layout_engine("none")
        made = {name: _printed(figure, name) for name in formats}
    return Pictures(made.get("svg", b"").decode(), made.get("png", b""), made.get("pdf", b""))


def _printed(figure: Figure, name: Format) -> bytes:
    """Return a figure in a format, drawn once: `savefig` draws it twice where it has, or had, a layout engine."""
    buffer = io.BytesIO()
    # As `savefig` does: an image in an SVG has these dots per inch, too.
    before, figure.dpi = figure.dpi, DPI
    if name == "svg":
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        FigureCanvasSVG(figure).print_svg(buffer, metadata=_METADATA[name])
    elif name == "pdf":
        from matplotlib.backends.backend_pdf import FigureCanvasPdf

        FigureCanvasPdf(figure).print_pdf(buffer, metadata=_METADATA[name])
    else:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        FigureCanvasAgg(figure).print_png(buffer, metadata=_METADATA[name])
    figure.dpi = before
    return buffer.getvalue()


def write_figure(folder: Path, pictures: Pictures, name: str = "figure") -> list[Path]:
    """Write the figure into `folder` as <name>.svg, .png and .pdf, in the formats that it has, and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Path] = []
    for suffix, data in ((".svg", pictures.svg.encode()), (".png", pictures.png), (".pdf", pictures.pdf)):
        if data:
            found.append(folder / f"{name}{suffix}")
            found[-1].write_bytes(data)
    return found
