"""The comparison as plain text for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from inoc_ray.results.effects import NEUTRAL, is_directed

if TYPE_CHECKING:
    from inoc_ray.results.compare import Comparison, Row
    from inoc_ray.results.effects import Effect
    from inoc_ray.results.leaks import Leak

WIDTH = 118
SIGNIFICANT = 0.05
# The difference of rates is left to the full list: the table of rates shows it already.
_HEAD = {
    "suppression": "suppression",
    "retention_id": "retention ID",
    "retention_ood": "retention OOD",
    "selectivity": "selectivity",
    "conditionalisation": "conditional.",
    "leakage": "leakage",
}


def comparison_text(comparison: Comparison) -> str:
    """Rates under the neutral context and effects, one block per setting × model, then the notes."""
    blocks = [line for group in comparison.groups() for line in _block(comparison, *group)]
    if not blocks:
        return f"study {comparison.study}: no results yet\n"
    notes = [f"note: {note}" for note in comparison.notes()]
    if comparison.profile:
        notes.insert(0, f"thresholds: {comparison.profile}")
    tables = [*_leaks(comparison), *_agreement(comparison), *_capabilities(comparison)]
    return "\n".join([f"study {comparison.study}", *blocks, *tables, "", *notes]).rstrip() + "\n"


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


def _block(comparison: Comparison, setting: str, model: str) -> Iterable[str]:
    rows = [r for r in comparison.rows if (r.setting, r.model, r.context) == (setting, model, NEUTRAL)]
    found = [e for e in comparison.effects if (e.setting, e.model) == (setting, model)]
    yield ""
    yield f"{setting} · {model} · share of responses under the neutral context, 95 % intervals"
    yield "- the trait this arm inoculates against   + the trait that should stay"
    yield from _rates(rows)
    if found:
        yield ""
        yield "effects (p by Holm: * < .05; suppression 1 = back to the base; retention 1 = all kept)"
        yield from _effects(found)


def _rates(rows: Sequence[Row]) -> Iterable[str]:
    columns = sorted({(r.split, r.evaluation, r.trait) for r in rows})
    several = {s for s, _, _ in columns if len({e for s2, e, _ in columns if s2 == s}) > 1}
    cells: dict[str, dict[tuple[str, str, str], str]] = {}
    seeds: dict[str, int] = {}
    for row in rows:
        sign = {"undesired": "-", "desired": "+"}.get(row.role, " ") if is_directed(row.kind) else " "
        text = sign + with_interval(row.rate, row.low, row.high)
        cells.setdefault(row.arm, {})[row.split, row.evaluation, row.trait] = text
        seeds[row.arm] = max(seeds.get(row.arm, 0), row.seeds)
    heads = [" " + " ".join([s.upper(), *([e] if s in several else []), t]) for s, e, t in columns]
    body = [[arm, str(seeds[arm]), *(own.get(c, " –") for c in columns)] for arm, own in cells.items()]
    if any(row.unparsed or row.excluded for row in rows):
        heads += ["unparsed", "not counted"]
        for line, arm in zip(body, cells, strict=True):
            own = [row for row in rows if row.arm == arm]
            total = sum(row.samples for row in own)
            line += [f"{sum(getattr(row, name) for row in own) / total:.0%}" for name in ("unparsed", "excluded")]
    yield from _aligned(["arm", "seeds", *heads], body, fixed=2)


def effect_table(found: Sequence[Effect]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of arms × measures for one setting × model; a star where the adjusted p is below SIGNIFICANT."""
    lines: dict[str, dict[str, str]] = {}
    for effect in found:
        measure, _, trait = effect.measure.partition(".")
        text = with_interval(effect.value, effect.low, effect.high)
        if effect.p is not None and effect.p < SIGNIFICANT:
            text += "*"
        lines.setdefault(f"{effect.arm} ({trait})" if trait else effect.arm, {})[measure] = text
    shown = [m for m in _HEAD if any(m in line for line in lines.values())]
    body = [[name, *(line.get(m, "–") for m in shown)] for name, line in lines.items()]
    return ["arm", *(_HEAD[m] for m in shown)], body


def _effects(found: Sequence[Effect]) -> Iterable[str]:
    yield from _aligned(*effect_table(found), fixed=1)
    missing = {(e.arm, e.why): e.measure for e in found if e.why and e.measure in _HEAD}
    for (arm, why), measure in missing.items():
        yield f"  –: {arm}, {measure}: {why}"


def _leaks(comparison: Comparison) -> Iterable[str]:
    if not comparison.leaks:
        return
    yield ""
    yield "leak audit: rate under a test-time prompt minus that in the neutral context (simultaneous 95 % intervals)"
    yield "beyond base: the rate under the prompt minus the untouched model's under the same one"
    for group in comparison.groups():
        shown = [
            k
            for k in comparison.leaks
            if (k.setting, k.model) == group and (k.largest or k.largest_excess or k.residual)
        ]
        # As in the table of rates, shares stand there only where there are any.
        shares = any(k.unparsed or k.excluded for k in shown)
        body = [
            [
                k.arm, _short("(the arm's own)" if k.prompt is None else k.prompt), _why(k), number(k.rate),
                with_interval(k.leak, k.low, k.high), with_interval(k.excess, k.excess_low, k.excess_high),
                number(k.baseline), *([f"{k.unparsed:.0%}", f"{k.excluded:.0%}"] if shares else []),
            ]
            for k in sorted(shown, key=lambda k: (k.arm, -k.leak))
        ]  # fmt: skip
        if body:
            yield " · ".join(group)
            heads = ["arm", "prompt", "", "rate", "leak", "beyond base", "baseline"]
            yield from _aligned([*heads, *(["unparsed", "not counted"] if shares else [])], body, fixed=2)


def _why(leak: Leak) -> str:
    marks = {"largest": leak.largest, "beyond base": leak.largest_excess, "paper's residual": bool(leak.residual)}
    return ", ".join(name for name, holds in marks.items() if holds)


def _short(text: str, width: int = 36) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _agreement(comparison: Comparison) -> Iterable[str]:
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
    yield from _aligned(["setting", "trait", "judges", "responses", "agreement", "kappa"], body, fixed=3)


def _capabilities(comparison: Comparison) -> Iterable[str]:
    """The mean over seeds: the report has every model's own."""
    if not comparison.capabilities:
        return
    yield ""
    yield "capabilities (lm-evaluation-harness), mean over seeds"
    means: dict[tuple[str, str, str, str, str], list[float]] = {}
    for c in comparison.capabilities:
        means.setdefault((c["setting"], c["model"], c["arm"], c["capability"], c["metric"]), []).append(c["value"])
    body = [[*key, number(sum(values) / len(values)), str(len(values))] for key, values in means.items()]
    yield from _aligned(["setting", "model", "arm", "task", "metric", "value", "models"], body, fixed=3)


def _aligned(heads: Sequence[str], body: Sequence[Sequence[str]], fixed: int) -> Iterable[str]:
    """Left-aligned columns; where they exceed WIDTH, a further table repeats the `fixed` first ones."""
    widths = [max(len(row[i]) for row in [heads, *body]) for i in range(len(heads))]
    start = fixed
    while start < len(heads):
        end, used = start + 1, sum(widths[:fixed]) + 2 * fixed + widths[start]
        while end < len(heads) and used + 2 + widths[end] <= WIDTH:
            used += 2 + widths[end]
            end += 1
        picked = [*range(fixed), *range(start, end)]
        for row in [heads, *(row for row in body if any(row[i].strip() != "–" for i in picked[fixed:]))]:
            yield "  " + "  ".join(row[i].ljust(widths[i]) for i in picked).rstrip()
        start = end
        if start < len(heads):
            yield ""
