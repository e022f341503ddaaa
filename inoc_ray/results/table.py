"""The comparison as plain text for the terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from inoc_ray.console import align
from inoc_ray.results.claim_text import summary
from inoc_ray.results.completeness import seeds_text
from inoc_ray.results.effects import is_directed
from inoc_ray.results.marks import MEANING, dash_reasons, effect_table, legend
from inoc_ray.results.wording import (
    leak_seeds,
    missing_lines,
    missing_summary,
    number,
    shortfall,
    why_no_rate,
    with_interval,
)

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.effects import Effect
    from inoc_ray.results.leaks import Leak
    from inoc_ray.results.rows import Row

WIDTH = 118
MOST_LINES = 12
"""How many missing and failed items the terminal lists; the report has all of them."""


def comparison_text(comparison: Comparison, width: int = WIDTH) -> str:
    """Return the comparison as text: what is missing, rates and effects by setting × model, then the notes.

    width: columns that a table may take; a wider one continues below.
    """
    blocks = [line for group in comparison.groups() for line in _block(comparison, *group, width)]
    state = list(_state(comparison, width))
    if not blocks:
        return "\n".join([f"study {comparison.study}: no results yet", *state]) + "\n"
    notes = [f"note: {note}" for note in comparison.notes()]
    if comparison.profile:
        notes.insert(0, f"thresholds: {comparison.profile}")
    if comparison.claims:
        notes.append(f"{summary(comparison.claims)}; `inoc-ray claims STUDY` shows them")
    tables = [*_leaks(comparison, width), *_agreement(comparison, width), *_capabilities(comparison, width)]
    return "\n".join([f"study {comparison.study}", *state, *blocks, *tables, "", *notes]).rstrip() + "\n"


def _state(comparison: Comparison, width: int) -> Iterable[str]:
    if comparison.complete:
        return
    yield ""
    yield from textwrap.wrap(missing_summary(comparison), width)
    lines = missing_lines(comparison)
    for line in lines[:MOST_LINES]:
        yield from textwrap.wrap(
            f"  {line}", width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
    if len(lines) > MOST_LINES:
        yield f"  … and {len(lines) - MOST_LINES} more; the report and --json list them all"


def rate_text(row: Row, beside: str = "") -> str:
    """Return `.07 [.04, .11]`, and in parentheses what the row lacks, unless `beside` already shows it."""
    lacks = shortfall(row)
    lacks = "" if lacks == f"{beside} seeds" else lacks
    return with_interval(row.rate, row.low, row.high) + (f" ({lacks})" if lacks and row.rate is not None else "")


def traits_of(rows: Iterable[Row], role: str) -> str:
    """Return the traits with that role in an arm with a direction of its own; empty for other arms."""
    return ", ".join(sorted({r.trait for r in rows if r.role == role and is_directed(r.kind)}))


def _block(comparison: Comparison, setting: str, model: str, width: int) -> Iterable[str]:
    rows = [r for r in comparison.rows if (r.setting, r.model, r.context) == (setting, model, comparison.reference)]
    found = [e for e in comparison.effects if (e.setting, e.model) == (setting, model)]
    yield ""
    what = "share of responses" if comparison.outcome == "shown" else "mean score, 0 to 1,"
    title = f"{setting} · {model} · {what} under the {comparison.reference} context, 95 % intervals"
    yield from textwrap.wrap(title, width, break_on_hyphens=False)
    yield from _rates(rows, width)
    if found:
        yield ""
        yield "effects, 95 % intervals"
        yield from _effects(found, width)


def _rates(rows: Sequence[Row], width: int) -> Iterable[str]:
    columns = sorted({(r.split, r.evaluation, r.trait) for r in rows})
    several = {s for s, _, _ in columns if len({e for s2, e, _ in columns if s2 == s}) > 1}
    heads = {c: " ".join([c[0].upper(), *([c[1]] if c[0] in several else []), c[2]]) for c in columns}
    arms: dict[str, dict[tuple[str, str, str], Row]] = {}
    for row in rows:
        arms.setdefault(row.arm, {})[row.split, row.evaluation, row.trait] = row
    body = []
    for arm, own in arms.items():
        fewest = min(own.values(), key=lambda r: r.seeds)
        seeds = seeds_text(fewest)
        # If all columns lack the same fine-tunes, the column of seeds shows it once.
        shown = seeds if len({seeds_text(row) for row in own.values()}) == 1 else ""
        against = traits_of(own.values(), "undesired")
        body.append([arm, against, seeds, *(rate_text(own[c], shown) if c in own else "" for c in columns)])
    shares = any(row.unparsed or row.excluded for row in rows)
    if shares:
        for line, own in zip(body, arms.values(), strict=True):
            total = max(1, sum(row.samples for row in own.values()))
            line += [f"{sum(getattr(r, n) for r in own.values()) / total:.0%}" for n in ("unparsed", "excluded")]
    names = ["arm", "against", "seeds", *heads.values(), *(["unparsed", "not counted"] if shares else [])]
    if not any(line[1] for line in body):
        names, body = [names[0], *names[2:]], [[line[0], *line[2:]] for line in body]
    yield from _aligned(names, body, names.index("seeds") + 1, width=width, whole=True)
    kept = {arm: traits for arm, own in arms.items() if (traits := traits_of(own.values(), "desired"))}
    if kept:
        text = f"  to be kept: {'; '.join(f'{traits} ({arm})' for arm, traits in kept.items())}"
        yield from textwrap.wrap(text, width, subsequent_indent="    ")
    for why, places in _no_rates(arms, heads).items():
        yield from textwrap.wrap(f"  – {'; '.join(places)}: {why}", width, subsequent_indent="    ")


def _no_rates(
    arms: Mapping[str, Mapping[tuple[str, str, str], Row]], heads: Mapping[tuple[str, str, str], str]
) -> dict[str, list[str]]:
    """Return why there is no rate → "arm: columns"."""
    found: dict[tuple[str, str], list[str]] = {}
    for arm, own in arms.items():
        for column, row in own.items():
            if row.rate is None:
                found.setdefault((why_no_rate(row), arm), []).append(heads[column])
    out: dict[str, list[str]] = {}
    for (why, arm), columns in found.items():
        out.setdefault(why, []).append(f"{arm}: {', '.join(columns)}")
    return out


def _effects(found: Sequence[Effect], width: int) -> Iterable[str]:
    yield from _aligned(*effect_table(found), fixed=1, width=width)
    for line in [*(f"– {line}" for line in dash_reasons(found)), MEANING, legend(found)]:
        yield from textwrap.wrap(f"  {line}", width, subsequent_indent="    ")


def _leaks(comparison: Comparison, width: int) -> Iterable[str]:
    if not comparison.leaks:
        return
    yield ""
    where = f"the {comparison.reference} context"
    yield f"leak audit: rate under a test-time prompt minus the rate in {where} (simultaneous 95 % intervals)"
    yield "beyond base: the rate under the prompt minus the untouched base's rate under the same prompt"
    for group in comparison.groups():
        shown = [
            k
            for k in comparison.leaks
            if (k.setting, k.model) == group and (k.largest or k.largest_excess or k.residual)
        ]
        # As in the table of rates, the columns of shares appear only if there are any.
        shares = any(k.unparsed or k.excluded for k in shown)
        partial = any(not k.complete for k in shown)
        body = []
        for k in sorted(shown, key=lambda k: (k.arm, k.trigger, -k.leak)):
            prompt = _short("(the arm's own)" if k.prompt is None else k.prompt)
            cells = [k.arm_label, prompt, _why(k), number(k.rate), with_interval(k.leak, k.low, k.high)]
            cells += [with_interval(k.excess, k.excess_low, k.excess_high), number(k.baseline)]
            cells += [f"{k.unparsed:.0%}", f"{k.excluded:.0%}"] if shares else []
            body.append([*cells, *([leak_seeds(k)] if partial else [])])
        if body:
            yield " · ".join(group)
            heads = ["arm", "prompt", "", "rate", "leak", "beyond base", "baseline"]
            heads += ["unparsed", "not counted"] if shares else []
            yield from _aligned([*heads, *(["seeds"] if partial else [])], body, fixed=2, width=width)
            if any(k.baseline is None for k in shown):
                yield "  – baseline: not evaluated under this prompt"


def _why(leak: Leak) -> str:
    so_far = "" if leak.audit_complete else " so far"
    marks = {
        f"largest{so_far}": leak.largest,
        f"beyond base{so_far}": leak.largest_excess,
        "paper's residual": bool(leak.residual),
    }
    return ", ".join(name for name, holds in marks.items() if holds)


def _short(text: str, width: int = 36) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _agreement(comparison: Comparison, width: int) -> Iterable[str]:
    if not comparison.agreement:
        return
    yield ""
    yield "agreement of the judges, over responses that both judged"
    body = [
        [
            a["setting"],
            a["trait"],
            " / ".join(a["judges"]),
            f"{a['responses']} of {a['asked']}",
            number(a["agreement"]),
            number(a["kappa"]),
        ]
        for a in comparison.agreement
    ]
    yield from _aligned(["setting", "trait", "judges", "responses", "agreement", "kappa"], body, fixed=3, width=width)


def _capabilities(comparison: Comparison, width: int) -> Iterable[str]:
    """Yield the table of means over seeds; the report has every model's scores."""
    if not comparison.capabilities:
        return
    yield ""
    yield "capabilities (lm-evaluation-harness), mean over seeds"
    means: dict[tuple[str, str, str, str, str], list[float]] = {}
    for c in comparison.capabilities:
        means.setdefault((c["setting"], c["model"], c["arm"], c["capability"], c["metric"]), []).append(c["value"])
    planned = Counter((c.setting, c.model, c.arm, c.task) for c in comparison.planned.capabilities)
    rates = {(r.setting, r.model, r.arm, r.task, r.metric): r for r in comparison.capability_rates}
    body = []
    for key, values in means.items():
        count, expected = len(values), planned[key[:4]]
        seeds = f"{count} of {expected}" if count < expected else str(count)
        rate = rates.get(key)
        value, difference = number(sum(values) / count), ""
        if rate is not None:
            value = with_interval(rate.value, rate.low, rate.high)
            difference = with_interval(rate.than_baseline, rate.than_baseline_low, rate.than_baseline_high)
        body.append([*key, value, difference, seeds])
    heads = ["setting", "model", "arm", "task", "metric", "value [95 %]", "minus baseline", "seeds"]
    yield from _aligned(heads, body, fixed=3, width=width)


def _aligned(
    heads: Sequence[str], body: Sequence[Sequence[str]], fixed: int, *, width: int = WIDTH, whole: bool = False
) -> Iterable[str]:
    """Yield lines of left-aligned columns; if they exceed `width`, further tables repeat the first `fixed` columns.

    Lines that are blank in such a table are left out there, unless `whole`; so is a table without lines.
    """
    widths = [max(len(row[i]) for row in [heads, *body]) for i in range(len(heads))]
    start = fixed
    while start < len(heads):
        end, used = start + 1, sum(widths[:fixed]) + 2 * fixed + widths[start]
        while end < len(heads) and used + 2 + widths[end] <= width - 2:
            used += 2 + widths[end]
            end += 1
        picked = [*range(fixed), *range(start, end)]
        lines = [row for row in body if whole or any(row[i] for i in picked[fixed:])]
        if lines and start > fixed:
            yield ""
        if lines:
            shown = [[row[i] for i in picked] for row in [heads, *lines]]
            yield from (f"  {line}" for line in align(shown, [widths[i] for i in picked]))
        start = end
