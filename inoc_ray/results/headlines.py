"""The headlines of a study: one sentence for each inoculated arm, computed from the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from inoc_ray.results.effects import MEASURES, TRIGGER, WITH_TRIGGER, is_directed
from inoc_ray.results.marks import mark
from inoc_ray.results.report.verdict import RETURNS, verdicts_on
from inoc_ray.results.wording import number, p_text, shortfall, with_interval

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.effects import Effect
    from inoc_ray.results.rows import Row


def headlines(comparison: Comparison) -> list[str]:
    """Return one sentence per inoculated arm; it says "not shown" if the adjusted p-value does not show an effect.

    There is no statement about an arm if anything is missing of it, or of what it is compared with.
    """
    found = {(e.setting, e.model, e.arm, e.measure): e for e in comparison.effects}
    sentences = []
    for setting, model in comparison.groups():
        lacks = _incomplete_arms(comparison, setting, model)
        leaks = {(v.arm, bool(v.condition)): v.where_it_leaks for v in verdicts_on(comparison, setting, model)}
        conditions = _conditions(comparison, setting, model)
        for arm in dict.fromkeys(r.arm for rows in conditions.values() for r in rows if is_directed(r.kind)):
            for suffix, rows in conditions.items():
                own = {m: found.get((setting, model, arm, m + suffix)) for m in MEASURES}
                sentence = _sentence(
                    arm,
                    rows,
                    own,
                    lacks=lacks.get(arm, ""),
                    condition="with the trigger, " if suffix else "",
                    leak=leaks.get((arm, bool(suffix)), ""),
                )
                sentences.append(f"{setting}, {model}: {sentence}")
    return sentences


def _conditions(comparison: Comparison, setting: str, model: str) -> dict[str, list[Row]]:
    """Return suffix of a measure → its rows: without the trigger and, if the setting has one, with it."""
    rows = [r for r in comparison.rows if (r.setting, r.model) == (setting, model)]
    under_reference = [r for r in rows if r.context == comparison.reference]
    found = {"": [r for r in under_reference if not r.triggered]}
    ends = {e.measure.endswith(WITH_TRIGGER) for e in comparison.effects if (e.setting, e.model) == (setting, model)}
    if True in ends:
        triggered = [r for r in under_reference if r.triggered]
        found[f".{WITH_TRIGGER}"] = triggered or [r for r in rows if r.context == TRIGGER]
    return found


def _incomplete_arms(comparison: Comparison, setting: str, model: str) -> dict[str, str]:
    """Return arm → what it lacks in the evaluation and context in which it lacks most."""
    rows = [r for r in comparison.rows if (r.setting, r.model) == (setting, model) and not r.complete]
    worst: dict[str, Row] = {}
    for row in sorted(rows, key=lambda r: (r.seeds / max(1, r.seeds_planned), r.samples / max(1, r.samples_planned))):
        worst.setdefault(row.arm, row)
    return {arm: f"{shortfall(row)} in {row.evaluation} × {row.context}" for arm, row in worst.items()}


def _sentence(
    arm: str, rows: Sequence[Row], own: Mapping[str, Effect | None], *, lacks: str, condition: str, leak: str
) -> str:
    undesired = sorted({r.trait for r in rows if r.arm == arm and r.role == "undesired"})
    trait = " and ".join(undesired) or "the undesired trait"
    suppression = own["suppression"]
    start = f"{condition}inoculating against {trait} ({arm}) out of distribution: "
    if lacks:
        return f"{start}no statement, the arm is incomplete ({lacks})."
    if suppression is not None and not suppression.complete:
        return f"{start}no statement, what it is compared with is incomplete."
    if suppression is None or suppression.value is None or suppression.low is None:
        reason = suppression.why if suppression is not None else "not measured"
        return f"{start}no statement, {reason}."
    rates = [(name, _mean_rate(rows, name, undesired)) for name in ("baseline", arm, "base")]
    levels = ", ".join(f"{name} {number(rate)}" for name, rate in rates)
    share = with_interval(suppression.value, suppression.low, suppression.high)
    if suppression.seeds is not None and not suppression.replicated:
        return (
            f"{start}this model only (one seed): {levels}; suppression {share}, with an interval over questions alone. Another "
            "seed may give a different result, so nothing is concluded about the arm."
        )
    p = f", Holm-adjusted p {p_text(suppression.p)} against 0"
    text = f"{start}{levels}. "
    # By the adjusted p, like the marks in the table: the interval is not adjusted for the other arms.
    verdict = {"": "Suppression not shown", "worse": "More of it than in the baseline"}.get(
        mark(suppression), "Suppressed"
    )
    text += f"{verdict}: {share} of what training added{p}."
    kept = [
        f"{with_interval(e.value, e.low, e.high)} {where} (p {p_text(e.p)} against 1)"
        for where, e in (("out of distribution", own["retention_ood"]), ("in distribution", own["retention_id"]))
        if e is not None and e.value is not None and e.complete
    ]
    if kept:
        text += f" The desired trait, as a share of the baseline's rate: {', '.join(kept)}."
    shared = own["conditionalisation"]
    if shared is not None and shared.value is not None and shared.complete and shared.replicated:
        text += (
            f" An irrelevant prompt achieves {with_interval(shared.value, shared.low, shared.high)} of the suppression."
        )
    return f"{text} Leak: {leak.removeprefix(RETURNS)}." if leak else text


def _mean_rate(rows: Sequence[Row], arm: str, traits: Sequence[str]) -> float | None:
    kind = {"baseline", "base"} & {arm}
    picked = [r for r in rows if (r.kind == arm if kind else r.arm == arm) and r.split == "ood" and r.trait in traits]
    rates = [r.rate for r in picked if r.rate is not None]
    return sum(rates) / len(rates) if rates else None
