"""One HTML page about a study that opens offline, with its figures beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from inoc_ray.results.figures.leaks import draw_leaks
from inoc_ray.results.figures.rates import draw, write_figure
from inoc_ray.results.report.page import render

if TYPE_CHECKING:
    import pandas as pd

    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.report.meta import ReportMeta


def write_report(out: Path, comparison: Comparison, meta: ReportMeta, samples: pd.DataFrame | None) -> list[Path]:
    """Write the page to `out` (an .html file), with figure.svg and .png and, for a leak audit, leaks.svg and .png beside it.

    Returns the files. samples: as for `render`.
    """
    figure, leaks = draw(comparison), draw_leaks(comparison.leaks)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render(comparison, meta, samples, figure=figure, leaks=leaks), encoding="utf-8")
    drawn = [(name, pictures) for name, pictures in (("figure", figure), ("leaks", leaks)) if pictures is not None]
    return [out, *(path for name, pictures in drawn for path in write_figure(out.parent, pictures, name))]
