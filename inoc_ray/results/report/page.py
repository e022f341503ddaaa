"""The page of a study, rendered from templates/: this module provides the content, the templates the layout."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from inoc_ray.results import effects
from inoc_ray.results.claims import headlines
from inoc_ray.results.completeness import count_responses
from inoc_ray.results.marks import MEANING
from inoc_ray.results.report import tables
from inoc_ray.results.wording import missing_lines, missing_summary

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Environment
    from markupsafe import Markup

    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.figures.catalogue import ReportFigure
    from inoc_ray.results.figures.drawing import Pictures
    from inoc_ray.results.report.meta import ReportMeta


def render(
    comparison: Comparison,
    meta: ReportMeta,
    samples: pd.DataFrame | None,
    figures: Sequence[tuple[ReportFigure, Pictures]] = (),
) -> str:
    """Return the page as HTML: all text is escaped, nothing is loaded from elsewhere, and there is no script.

    samples: a row per response with the columns setting, model, arm, context, evaluation, question, response and, if there are
    any, `verdict` and `said` (as text: the decision, and the judging models' raw numbers).
    """
    return (
        _environment()
        .get_template("page.html")
        .render(
            comparison=comparison,
            meta=meta,
            facts=_facts(comparison),
            missing=missing_lines(comparison) if not comparison.complete else [],
            missing_summary=missing_summary(comparison).removeprefix("INCOMPLETE: "),
            headlines=headlines(comparison),
            notes=comparison.notes(),
            figures=[(figure, _svg(pictures)) for figure, pictures in figures],
            rates=list(tables.rates_by_context(comparison)),
            judges=tables.judges(comparison, meta),
            effects=list(tables.effects_by_group(comparison)),
            all_effects=tables.all_effects(comparison),
            meaning=MEANING[0].upper() + MEANING[1:],
            definitions=effects.__doc__ or "",
            leaks=list(tables.leaks_by_arm(comparison)),
            agreement=tables.agreement(comparison),
            capabilities=tables.capabilities(comparison),
            arms=tables.arms(meta),
            contexts=tables.contexts(meta),
            has_examples=samples is not None and not samples.empty,
            examples=[] if samples is None or samples.empty else list(tables.examples(samples, comparison.reference)),
            unparsed=tables.unparsed(comparison),
            trials=tables.trials(meta),
        )
    )


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("inoc_ray.results.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _svg(pictures: Pictures) -> Markup:
    """Return the SVG without its XML header. Matplotlib has escaped the text in it."""
    from markupsafe import Markup

    return Markup(pictures.svg[pictures.svg.index("<svg") :])


def _facts(comparison: Comparison) -> str:
    groups = ", ".join(f"{setting} on {model}" for setting, model in comparison.groups())
    profile = comparison.profile.partition(":")[0]
    under = f" under threshold profile “{profile}”" if profile else ""
    responses, _ = count_responses(comparison.planned.cells)
    return f"{_fine_tunes(comparison)} ({groups or 'nothing yet'}), {responses:,} responses{under}."


def _fine_tunes(comparison: Comparison) -> str:
    """Return "12 fine-tunes of 4 arms", or "11 of 12 fine-tunes of 4 arms" if one has no response yet.

    Fine-tunes that several settings share count once.
    """
    cells = [cell for cell in comparison.planned.cells if cell.kind != "base"]
    planned = {cell.trial_id for cell in cells}
    there = {cell.trial_id for cell in cells if cell.stored}
    count = str(len(there)) if there == planned else f"{len(there)} of {len(planned)}"
    return f"{count} fine-tunes of {len({(cell.setting, cell.model, cell.arm) for cell in cells})} arms"
