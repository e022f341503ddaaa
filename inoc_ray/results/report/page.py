"""The page of a study, rendered from templates/: this module provides the content, the templates the layout."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inoc_ray.results import effects
from inoc_ray.results.claim_text import summary as claims_summary
from inoc_ray.results.headlines import headlines
from inoc_ray.results.marks import MEANING
from inoc_ray.results.report import tables
from inoc_ray.results.report.in_short import in_short
from inoc_ray.results.report.opening import facts, opening, words
from inoc_ray.results.report.samples import MOST_BYTES, Block, CellSamples, block_of
from inoc_ray.results.report.verdict import INTERVALS, SCALE, about_gone, about_leaks, verdicts
from inoc_ray.results.wording import missing_lines, missing_summary

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.figures.catalogue import DrawnFigure
    from inoc_ray.results.report.meta import ReportMeta


def render(
    comparison: Comparison,
    meta: ReportMeta,
    samples: Sequence[CellSamples] = (),
    figures: Sequence[DrawnFigure] = (),
    most_bytes: int = MOST_BYTES,
) -> str:
    """Return the page as HTML: all text is escaped and nothing is loaded from elsewhere.

    The only script is the page's own, and a policy in the page lets no other run. Without scripts the page lacks the sorting of
    tables and the browser of samples, in place of which it shows a few responses of each arm.
    most_bytes: how much of the page the samples may take.
    """
    block = block_of(samples, most_bytes) if samples else None
    found = verdicts(comparison, {(arm.setting, arm.arm): arm.in_short() for arm in meta.arms})
    script, style = _asset("page.js"), _asset("style.css")
    context: dict[str, Any] = {
        "comparison": comparison,
        "meta": meta,
        "style": style,
        "script": script,
        "script_hash": _policy_hash(script),
        "opening": opening(comparison, meta),
        "facts": facts(comparison),
        "words": words(comparison, meta),
        "missing": missing_lines(comparison) if not comparison.complete else [],
        "missing_summary": missing_summary(comparison).removeprefix("INCOMPLETE: "),
        "verdicts": found,
        "in_short": in_short(found),
        "intervals": INTERVALS,
        "scale": SCALE,
        "about_gone": about_gone(found, meta.judges),
        "about_leaks": about_leaks(comparison),
        "headlines": headlines(comparison),
        "notes": comparison.notes(),
        "figures": [_shown(figure, number) for number, figure in enumerate(figures)],
        "claims": tables.claims(comparison),
        "claims_summary": claims_summary(comparison.claims),
        "rates": list(tables.rates_by_context(comparison)),
        "judges": tables.judges(comparison, meta),
        "effects": list(tables.effects_by_group(comparison)),
        "all_effects": tables.all_effects(comparison),
        "meaning": MEANING[0].upper() + MEANING[1:],
        "definitions": effects.__doc__ or "",
        "leaks": list(tables.leaks_by_arm(comparison)),
        "agreement": tables.agreement(comparison),
        "capabilities": tables.capabilities(comparison),
        "capability_rates": tables.capability_rates(comparison),
        "arms": tables.arms(meta),
        "data": tables.data(meta),
        "contexts": tables.contexts(meta),
        "has_samples": bool(samples),
        "block": block,
        "block_words": _block_words(block, meta, most_bytes) if block is not None else "",
        "examples": list(tables.examples(samples, comparison.reference)),
        "scored": any(cell.words for cell in samples),
        "unparsed": tables.unparsed(comparison),
        "trials": tables.trials(meta),
    }
    return _environment().get_template("page.html").render(contents=_contents(context), **context)


def _contents(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (anchor, title) of the sections that the page has."""
    there = {
        ("verdict", "Verdict"): context["verdicts"],
        ("picture", "The picture"): any(figure["section"] == "found" for figure in context["figures"]),
        ("claims", "Claims"): context["claims"] is not None,
        ("effects", "Effects"): context["comparison"].effects,
        ("rates", "Rates"): True,
        ("leaks", "Leak audit"): context["leaks"],
        ("dynamics", "Learning dynamics"): any(figure["section"] == "dynamics" for figure in context["figures"]),
        ("samples", "Samples"): context["has_samples"],
        ("capabilities", "Capabilities"): context["capabilities"].rows,
        ("made", "What was done"): True,
        ("cost", "What it took"): context["meta"].cost,
        ("provenance", "Where the numbers come from"): context["meta"].provenance or context["trials"].rows,
    }
    return [place for place, shown in there.items() if shown]


def _block_words(block: Block, meta: ReportMeta, most_bytes: int) -> str:
    where = f" All of them are in {meta.samples_at}." if meta.samples_at else ""
    if block.per_cell is None:
        return f"All {block.total:,} responses of the study."
    return (
        f"{block.shown:,} of {block.total:,} responses: the first {block.per_cell:,} of each fine-tune, evaluation and context, as "
        f"many as fit in {most_bytes / 2**20:.3g} MiB.{where}"
    )


@functools.cache
def _asset(name: str) -> Markup:
    """Return a file of ours that the page contains as it is."""
    from markupsafe import Markup

    return Markup(
        (importlib.resources.files("inoc_ray.results.report") / "templates" / name).read_text(encoding="utf-8")
    )


def _policy_hash(script: str) -> str:
    """Return the source expression that lets this script run, and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("inoc_ray.results.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = _unbroken
    return environment


_TOGETHER = re.compile(
    r"(?:(?:[-−]?[\d.]+[\u00a0%]*|interval) )?\[[-−]?[\d.inf]+, [-−]?[\d.inf]+\][;,)]*"
    r"|\d{4}-\d\d-\d\d(?: \d\d:\d\d UTC)?"
    r"|p \.\d+|(?:p )?< \.\d+"
)
"""An interval with its number, a date with its time, a p-value."""


def _unbroken(text: str) -> Markup:
    """Return a text, escaped, with what must not break in the middle held together."""
    from markupsafe import Markup

    whole = Markup('<span class="whole">{}</span>')
    parts, end = Markup(""), 0
    for found in _TOGETHER.finditer(text):
        parts += text[end : found.start()]
        parts += whole.format(found[0])
        end = found.end()
    return parts + text[end:]


def _shown(figure: DrawnFigure, number: int) -> dict[str, Any]:
    """Return what the page shows of a figure. Matplotlib has escaped the text in an SVG.

    The ids in a picture are its own in the whole page: two pictures use the same names for their letters and their clips.
    """
    from markupsafe import Markup

    def inline(svg: str, prefix: str) -> Markup:
        body = svg[svg.index("<svg") :]
        return Markup(re.sub(r'(\bid="|href="#|url\(#)', lambda found: found[1] + prefix, body))

    return {
        "section": figure.about.section,
        "label": figure.about.label,
        "caption": figure.about.caption,
        "svg": inline(figure.pictures.svg, f"f{number}-"),
        "narrow": inline(figure.narrow.svg, f"n{number}-") if figure.narrow is not None else "",
    }
