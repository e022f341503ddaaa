"""One HTML page about a study that opens offline, with its figures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inoc_ray.results.figures.catalogue import draw_figures
from inoc_ray.results.figures.drawing import write_figure
from inoc_ray.results.report.page import render
from inoc_ray.results.report.samples import CellSamples

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.report.meta import ReportMeta


def write_report(
    out: Path,
    comparison: Comparison,
    meta: ReportMeta,
    samples: Sequence[CellSamples] = (),
) -> list[Path]:
    """Write the page to `out` (an .html file), with each of its figures as SVG and PNG beside it.

    Returns the files. samples: as for `render`.
    """
    figures = draw_figures(comparison)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render(comparison, meta, samples, figures), encoding="utf-8")
    return [out, *(path for drawn in figures for path in write_figure(out.parent, drawn.pictures, drawn.about.name))]
