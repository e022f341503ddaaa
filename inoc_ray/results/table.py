"""The comparison as plain text for the terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from inoc_ray.results.complete import counted_once, seeds_text
from inoc_ray.results.effects import WITH_TRIGGER, is_directed

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.effects import Effect
    from inoc_ray.results.leaks import Leak
    from inoc_ray.results.rows import Row

WIDTH = 118
SIGNIFICANT = 0.05
MOST_LINES = 12
"""Of what is missing and what failed so many are listed in the terminal; the report has all."""
# The difference of rates is left to the full list: the table of rates shows it already.
_HEAD = {
    "suppression": "suppression",
    "retention_id": "retention ID",
    "retention_ood": "retention OOD",
    "retention_narrow": "narrow task kept",
    "selectivity": "selectivity",
    "conditionalisation": "conditional.",
    "leakage": "leakage",
}
SHOWN = "*"
ONE_SEED = "one seed"
# What a measure says when its adjusted p is below SIGNIFICANT: above its null value, and below. A star is kept for what an
# inoculation is wanted for; a word says what else is shown, so that a loss is never marked as a success.
_MARKS = {
    "suppression": (SHOWN, "worse"),
    "selectivity": (SHOWN, "worse"),
    "retention": ("more", "lost"),
    "conditionalisation": ("shared", "reversed"),
    "leakage": ("leaks", "less"),
}
BESIDE = "suppresses"
"""In place of the star, for an arm whose prompt elicits no trait: an irrelevant prompt that suppresses is a control that failed."""
_LEGEND = {
    SHOWN: "suppressed, or selective, as wanted",
    BESIDE: "less of the trait with an arm whose prompt does not elicit it",
    "worse": "the opposite of what is wanted",
    "lost": "less of the trait than in the baseline",
    "more": "more of the trait than in the baseline",
    "shared": "an irrelevant prompt suppresses the trait, too",
    "reversed": "an irrelevant prompt does the opposite",
    "leaks": "the trait comes back with the training prompt",
    "less": "less of the trait with the training prompt",
    ONE_SEED: "this model only, without p",
}
MEANING = (
    "suppression 1: back to the base; retention 1: all of the desired trait kept; selectivity 1: only the undesired trait goes; "
    "conditional.: share of the suppression that an irrelevant prompt shows too; leakage: what comes back with the prompt"
)


def comparison_text(comparison: Comparison, width: int = WIDTH) -> str:
    """What is missing, rates under the reference context and effects by setting × model, then the notes.

    width: columns that a table may take; a wider one goes on below.
    """
    blocks = [line for group in comparison.groups() for line in _block(comparison, *group, width)]
    state = list(_state(comparison, width))
    if not blocks:
        return "\n".join([f"study {comparison.study}: no results yet", *state]) + "\n"
    notes = [f"note: {note}" for note in comparison.notes()]
    if comparison.profile:
        notes.insert(0, f"thresholds: {comparison.profile}")
    tables = [*_leaks(comparison, width), *_agreement(comparison, width), *_capabilities(comparison, width)]
    return "\n".join([f"study {comparison.study}", *state, *blocks, *tables, "", *notes]).rstrip() + "\n"


def summary_of_missing(comparison: Comparison) -> str:
    """One sentence on how much of what was planned is there; empty for a complete comparison."""
    if comparison.complete:
        return ""
    stored, asked = counted_once(comparison.planned.cells)
    there = f"{stored:,} of {asked:,} samples are there" if stored < asked else f"all {asked:,} samples are there"
    return f"INCOMPLETE: {there}. An arm of which something is missing gets no star and no headline."


def lines_of_missing(comparison: Comparison) -> list[str]:
    """What is missing and what failed, an entry each. Where all was asked and judged: the rows in which too little counts."""
    lines = [f"missing: {one.in_words()}" for one in comparison.missing]
    if not lines:
        lines = [
            f"too little counts: {r.setting}, {r.model}: {r.arm}, {r.evaluation} × {r.context}, {r.trait}: {of_plan(r)}"
            for r in comparison.rows
            if not r.complete
        ]
    return lines + [f"failed: {failure.in_words()}" for failure in comparison.failures]


def _state(comparison: Comparison, width: int) -> Iterable[str]:
    if comparison.complete:
        return
    yield ""
    yield from textwrap.wrap(summary_of_missing(comparison), width)
    lines = lines_of_missing(comparison)
    for line in lines[:MOST_LINES]:
        yield from textwrap.wrap(
            f"  {line}", width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
    if len(lines) > MOST_LINES:
        yield f"  … and {len(lines) - MOST_LINES} more; the report and --json list them all"


def number(value: float | None) -> str:
    """Two decimals without the leading zero: .07, 1.00, -.12, or a dash."""
    if value is None:
        return "–"
    if abs(value) >= 99.5:
        return "-inf" if value < 0 else "inf"
    text = f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"
    text = "0.00" if text == "-0.00" else text
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def with_interval(value: float | None, low: float | None, high: float | None) -> str:
    """`.07 [.04, .11]`, or a dash without a value."""
    return "–" if value is None else f"{number(value)} [{number(low)}, {number(high)}]"


def of_plan(row: Row) -> str:
    """What a row lacks: "1 of 2 seeds", "60 of 200 samples", "not all trained", "not all judged"; empty for a complete one."""
    if row.complete:
        return ""
    if row.seeds < row.seeds_planned:
        return f"{seeds_text(row)} seeds" if row.kind != "base" else "not evaluated"
    if row.samples < row.samples_planned:
        return f"{row.samples:,} of {row.samples_planned:,} samples"
    return "not all judged" if row.trained else "not all trained"


def why_no_rate(row: Row) -> str:
    """Why a row has no rate."""
    if not row.samples:
        return f"not evaluated and judged: 0 of {row.samples_planned:,} samples"
    if row.unparsed == row.samples:
        return "no judgment could be read"
    if row.excluded == row.samples:
        return "no response counts"
    return "no response counts that could be read"


def rate_text(row: Row, beside: str = "") -> str:
    """`.07 [.04, .11]`, and in parentheses what the row lacks, unless that is said `beside` it."""
    lacks = of_plan(row)
    lacks = "" if lacks == f"{beside} seeds" else lacks
    return with_interval(row.rate, row.low, row.high) + (f" ({lacks})" if lacks and row.rate is not None else "")


def traits_of(rows: Iterable[Row], role: str) -> str:
    """The traits that an arm with a direction of its own has in that role; empty for another arm."""
    return ", ".join(sorted({r.trait for r in rows if r.role == role and is_directed(r.kind)}))


def _block(comparison: Comparison, setting: str, model: str, width: int) -> Iterable[str]:
    rows = [r for r in comparison.rows if (r.setting, r.model, r.context) == (setting, model, comparison.reference)]
    found = [e for e in comparison.effects if (e.setting, e.model) == (setting, model)]
    yield ""
    title = f"{setting} · {model} · share of responses under the {comparison.reference} context, 95 % intervals"
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
        # Where all columns lack the same fine-tunes, the count in front says so once.
        said = seeds if len({seeds_text(row) for row in own.values()}) == 1 else ""
        against = traits_of(own.values(), "undesired")
        body.append([arm, against, seeds, *(rate_text(own[c], said) if c in own else "" for c in columns)])
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
    """Why there is no rate → "arm: columns"."""
    found: dict[tuple[str, str], list[str]] = {}
    for arm, own in arms.items():
        for column, row in own.items():
            if row.rate is None:
                found.setdefault((why_no_rate(row), arm), []).append(heads[column])
    out: dict[str, list[str]] = {}
    for (why, arm), columns in found.items():
        out.setdefault(why, []).append(f"{arm}: {', '.join(columns)}")
    return out


def mark(effect: Effect) -> str:
    """What an effect shows, by its adjusted p: a star, a word, or nothing; see `legend`."""
    marks = next((m for name, m in _MARKS.items() if effect.measure.startswith(name)), None)
    if marks is None or effect.value is None or not effect.complete or effect.p is None or effect.p >= SIGNIFICANT:
        return ""
    null = 1.0 if effect.measure.startswith("retention") else 0.0
    shown = marks[0] if effect.value > null else marks[1]
    return BESIDE if shown == SHOWN and not is_directed(effect.kind) else shown


def effect_text(effect: Effect) -> str:
    """`.95 [.84, 1.04] *`, `.37 [.21, .60] lost`, `.40 [.20, .60] (incomplete)`, or a dash."""
    text = with_interval(effect.value, effect.low, effect.high)
    if effect.value is None:
        return text
    found = _one_seed(effect) or mark(effect)
    return f"{text} (incomplete)" if not effect.complete else f"{text} {found}" if found else text


def _one_seed(effect: Effect) -> str:
    return ONE_SEED if effect.seeds is not None and effect.complete and not effect.replicated else ""


def effect_table(found: Sequence[Effect]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of arms × measures for one setting × model; blank where a measure is not defined for an arm."""
    lines: dict[str, dict[str, str]] = {}
    for effect in found:
        lines.setdefault(_arm_of(effect), {})[effect.measure.partition(".")[0]] = effect_text(effect)
    shown = [m for m in _HEAD if any(m in line for line in lines.values())]
    body = [[name, *(line.get(m, "") for m in shown)] for name, line in lines.items()]
    return ["arm", *(_HEAD[m] for m in shown)], body


def legend(found: Sequence[Effect]) -> str:
    """What the marks in a table of these effects mean."""
    used = {mark(effect) for effect in found}
    words = "; ".join(f"{word} {meaning}" for word, meaning in _LEGEND.items() if word in used)
    blank = "Intervals are 95 % each, not adjusted. Blank: not defined for the arm."
    if any(map(_one_seed, found)):
        blank = f"{ONE_SEED}: {_LEGEND[ONE_SEED]}. {blank}"
    if not any(effect.p is not None for effect in found):
        return f"No effect here has a p-value. {blank}"
    return f"Holm-adjusted p < .05: {words}. {blank}" if words else f"No Holm-adjusted p is below .05. {blank}"


def _arm_of(effect: Effect) -> str:
    """The arm, with the undesired trait where it is measured on another direction than its own, and with the trigger."""
    parts = effect.measure.split(".")[1:]
    said = ", ".join("with the trigger" if part == WITH_TRIGGER else part for part in parts)
    return f"{effect.arm} ({said})" if said else effect.arm


def dashes(found: Sequence[Effect]) -> list[str]:
    """A sentence for each measure and reason for which there is a dash: "suppression: arm_a, arm_b: no baseline rate"."""
    arms: dict[tuple[str, str], list[str]] = {}
    for effect in found:
        measure = effect.measure.partition(".")[0]
        if effect.value is None and measure in _HEAD:
            arms.setdefault((measure, effect.why or "not known"), []).append(_arm_of(effect))
    order = list(_HEAD)
    listed = sorted(arms.items(), key=lambda item: order.index(item[0][0]))
    return [f"{_HEAD[measure]}: {', '.join(names)}: {why}" for (measure, why), names in listed]


def _effects(found: Sequence[Effect], width: int) -> Iterable[str]:
    yield from _aligned(*effect_table(found), fixed=1, width=width)
    for line in [*(f"– {line}" for line in dashes(found)), MEANING, legend(found)]:
        yield from textwrap.wrap(f"  {line}", width, subsequent_indent="    ")


def _leaks(comparison: Comparison, width: int) -> Iterable[str]:
    if not comparison.leaks:
        return
    yield ""
    where = f"the {comparison.reference} context"
    yield f"leak audit: rate under a test-time prompt minus that in {where} (simultaneous 95 % intervals)"
    yield "beyond base: the rate under the prompt minus the untouched model's under the same one"
    for group in comparison.groups():
        shown = [
            k
            for k in comparison.leaks
            if (k.setting, k.model) == group and (k.largest or k.largest_excess or k.residual)
        ]
        # As in the table of rates, shares stand there only where there are any.
        shares = any(k.unparsed or k.excluded for k in shown)
        partial = any(not k.complete for k in shown)
        body = [
            [
                k.whose, _short("(the arm's own)" if k.prompt is None else k.prompt), _why(k), number(k.rate),
                with_interval(k.leak, k.low, k.high), with_interval(k.excess, k.excess_low, k.excess_high),
                number(k.baseline), *([f"{k.unparsed:.0%}", f"{k.excluded:.0%}"] if shares else []),
                *([leak_seeds(k)] if partial else []),
            ]
            for k in sorted(shown, key=lambda k: (k.arm, k.trigger, -k.leak))
        ]  # fmt: skip
        if body:
            yield " · ".join(group)
            heads = ["arm", "prompt", "", "rate", "leak", "beyond base", "baseline"]
            heads += ["unparsed", "not counted"] if shares else []
            yield from _aligned([*heads, *(["seeds"] if partial else [])], body, fixed=2, width=width)
            if any(k.baseline is None for k in shown):
                yield "  – baseline: it is not asked under this prompt"


def leak_seeds(leak: Leak) -> str:
    """ "2", "1 of 2", or "2, incomplete" where all fine-tunes have responses but not all of them."""
    if leak.seeds < leak.seeds_planned:
        return f"{leak.seeds} of {leak.seeds_planned}"
    return str(leak.seeds) if leak.complete else f"{leak.seeds}, incomplete"


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
    yield "agreement of the judges, over responses that both decided"
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
    """The mean over seeds: the report has every model's own."""
    if not comparison.capabilities:
        return
    yield ""
    yield "capabilities (lm-evaluation-harness), mean over seeds"
    means: dict[tuple[str, str, str, str, str], list[float]] = {}
    for c in comparison.capabilities:
        means.setdefault((c["setting"], c["model"], c["arm"], c["capability"], c["metric"]), []).append(c["value"])
    planned = Counter((c.setting, c.model, c.arm, c.task) for c in comparison.planned.capabilities)
    body = []
    for key, values in means.items():
        count, asked = len(values), planned[key[:4]]
        body.append([*key, number(sum(values) / count), f"{count} of {asked}" if count < asked else str(count)])
    yield from _aligned(["setting", "model", "arm", "task", "metric", "value", "seeds"], body, fixed=3, width=width)


def _aligned(
    heads: Sequence[str], body: Sequence[Sequence[str]], fixed: int, *, width: int = WIDTH, whole: bool = False
) -> Iterable[str]:
    """Left-aligned columns; where they exceed `width`, a further table repeats the `fixed` first ones.

    A line that is blank in such a table is left out there, unless the body is to be `whole`, and a table without lines is, too.
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
        for row in [heads, *lines] if lines else []:
            yield "  " + "  ".join(row[i].ljust(widths[i]) for i in picked).rstrip()
        start = end
