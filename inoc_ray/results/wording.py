"""Numbers and gaps as text: the same in the terminal, in the report and in the figures."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from inoc_ray.results.completeness import count_responses, seeds_text

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.leaks import Leak
    from inoc_ray.results.rows import Row


MINUS = "−"


def missing_summary(comparison: Comparison) -> str:
    """Return a sentence on how much is missing; empty for a complete comparison."""
    if comparison.complete:
        return ""
    stored, planned = count_responses(comparison.planned.cells)
    there = f"{stored:,} of {planned:,} samples are there"
    if stored >= planned:
        there = f"all {planned:,} samples are there, but not everything that rests on them"
    return f"INCOMPLETE: {there}. An arm with missing results gets no star and no verdict."


def missing_lines(comparison: Comparison) -> list[str]:
    """Return a line for everything that is missing or failed.

    If every response exists and is judged: the rows in which too few responses count.
    """
    lines = [f"missing: {one.in_words()}" for one in comparison.missing]
    if not lines:
        lines = [
            f"too few responses count: {r.setting}, {r.model}: {r.arm}, {r.evaluation} × {r.context}, {r.trait}: {shortfall(r)}"
            for r in comparison.rows
            if not r.complete
        ]
    return lines + [f"failed: {failure.in_words()}" for failure in comparison.failures]


def number(value: float | None) -> str:
    """Return two decimals without the leading zero: .07, 1.00, −.12, or a dash."""
    if value is None:
        return "–"
    if abs(value) >= 99.5:
        return f"{MINUS}inf" if value < 0 else "inf"
    text = f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"
    text = "0.00" if text == "-0.00" else text
    text = text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text
    return text.replace("-", MINUS)


def with_minus(text: str) -> str:
    """Return a text in which every negative number has a minus in place of a hyphen."""
    return re.sub(r"(?<![\w.])-(?=\.?\d)", MINUS, text)


def with_interval(value: float | None, low: float | None, high: float | None) -> str:
    """Return `.07 [.04, .11]`, the number alone if it has no interval, or a dash without a value."""
    return (
        number(value)
        if value is None or low is None or high is None
        else f"{number(value)} [{number(low)}, {number(high)}]"
    )


def shortfall(row: Row) -> str:
    """Return what a row lacks: "1 of 2 seeds", "60 of 200 samples", "not all trained", "not all judged".

    Empty for a complete row. A fine-tune whose responses are all there, and none of which counts, is not one that is missing.
    """
    if row.complete:
        return ""
    if row.seeds < row.seeds_planned and row.samples >= row.samples_planned:
        return why_no_rate(row) if row.kind == "base" else f"{seeds_text(row)} seeds with responses that count"
    if row.seeds < row.seeds_planned:
        return f"{seeds_text(row)} seeds" if row.kind != "base" else "not evaluated"
    if row.samples < row.samples_planned:
        return f"{row.samples:,} of {row.samples_planned:,} samples"
    return "not all judged" if row.trained else "not all trained"


def why_no_rate(row: Row) -> str:
    """Return why a row has no rate."""
    if not row.samples:
        return f"not evaluated and judged: 0 of {row.samples_planned:,} samples"
    if row.unparsed == row.samples:
        return "no judgment could be read"
    if row.excluded == row.samples:
        return "no response counts"
    return "no response with a readable judgment counts"


def leak_seeds(leak: Leak) -> str:
    """Return "2", "1 of 2", or "2, incomplete" if every fine-tune has responses but some are missing."""
    if leak.seeds < leak.seeds_planned:
        return f"{leak.seeds} of {leak.seeds_planned}"
    return str(leak.seeds) if leak.complete else f"{leak.seeds}, incomplete"


def p_text(p: float | None) -> str:
    """Return `.012`, `< .001`, or a dash."""
    if p is None:
        return "–"
    return "< .001" if p < 0.001 else f"{p:.3f}".replace("0.", ".", 1)
