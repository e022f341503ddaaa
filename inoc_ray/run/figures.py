"""`inoc-ray figures`: the figures of a study's report, or those of the paper, as SVG, PNG, PDF and CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.plan.looking import reads
from inoc_ray.plan.plan import Plan
from inoc_ray.store.place import Place, at
from inoc_ray.store.store import Store

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.figures.paper import PaperFigure


@dataclass(frozen=True, kw_only=True)
class Written:
    """One figure of the paper: its files, or why there are none."""

    name: str
    title: str
    files: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """Trials and responses that it lacks, by name."""
    absent: tuple[str, ...] = ()
    """Kinds of arms that the paper's figure has and the study does not."""
    why: str = ""
    """What a study needs for it, if there are no files."""

    def in_words(self) -> str:
        """Return a line or more for the terminal."""
        if not self.files:
            return f"{self.title}: none, it needs {self.why}"
        lines = [
            f"{self.title}: {self.files[0].rpartition('.')[0]}.{{{','.join(f.rpartition('.')[2] for f in self.files)}}}"
        ]
        lines += [f"  missing: {one}" for one in self.missing]
        lines += (
            [f"  kinds of arms in the paper's figure that the study lacks: {', '.join(self.absent)}"]
            if self.absent
            else []
        )
        return "\n".join(lines)


@reads
def write_figures(
    plan: Plan, store: Store, comparison: Comparison, *, paper: bool, out: Path | None = None
) -> list[Written]:
    """Write the figures of the report, or every figure of the paper that the study has numbers for.

    out: a folder instead of the study's own. In the study's own nothing stays of a figure of the paper that it had numbers for
    earlier, and has none for now.
    """
    from inoc_ray.results.figures.paper import PAPER, PaperData

    folder = store.figures(plan.study.name) if out is None else at(out)
    if not paper:
        return _write_report_figures(comparison, folder)
    data = PaperData(comparison=comparison, recipes=_recipes(plan))
    written = [_write(figure, data, folder) for figure in PAPER]
    if out is None:
        gone = {one.name for one in written if not one.files}
        for file in folder.iterdir():
            if file.stem in gone:
                file.unlink(missing_ok=True)
    return written


def _write_report_figures(comparison: Comparison, folder: Place) -> list[Written]:
    from inoc_ray.results.figures.catalogue import draw_figures
    from inoc_ray.results.figures.drawing import write_figure

    found = []
    with folder.folder() as place:
        for drawn in draw_figures(comparison):
            files = write_figure(place, drawn.pictures, drawn.about.name)
            found.append(
                Written(
                    name=drawn.about.name, title=drawn.about.label, files=tuple(str(folder / f.name) for f in files)
                )
            )
    return found


def _write(figure: PaperFigure, data: Any, folder: Place) -> Written:
    from inoc_ray.results.figures.drawing import ALL, rendered, write_figure
    from inoc_ray.results.figures.points import csv_of, missing_of

    points = figure.points(data)
    if not any(point.value is not None for point in points):
        lacking = [f"; nothing is there yet of {', '.join(missing_of(points))}"] if points else [""]
        return Written(name=figure.name, title=figure.title, why=figure.needs + lacking[0])
    pictures = rendered(lambda drawing: figure.draw(drawing, points), ALL)
    with folder.folder() as place:
        files = write_figure(place, pictures, figure.name)
        table = place / f"{figure.name}.csv"
        table.write_text(csv_of(points), encoding="utf-8")
    return Written(
        name=figure.name,
        title=figure.title,
        files=tuple(str(folder / path.name) for path in (*files, table)),
        missing=tuple(missing_of(points)),
        absent=tuple(figure.absent(points)),
    )


def _recipes(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return model as the tables call it → its recipe, flat."""
    return {t.model_label: dict(_flat(t.recipe.model_dump(mode="json"))) for t in plan.trials}


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{before}{key}.")
        else:
            yield f"{before}{key}", inner
