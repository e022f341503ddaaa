"""The marks of effects: what an effect shows by its adjusted p, the table of arms × measures, and its legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from inoc_ray.results.effects import WITH_TRIGGER, is_directed, null_of
from inoc_ray.results.wording import with_interval

if TYPE_CHECKING:
    from inoc_ray.results.effects import Effect

SIGNIFICANT = 0.05
# The difference of rates is in the full list only: the table of rates already shows it.
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
# The mark of a measure whose adjusted p is below SIGNIFICANT: above its null value, and below. A star is only for the purpose of an
# inoculation; everything else has a word, so that a loss is never marked as a success.
_MARKS = {
    "suppression": (SHOWN, "worse"),
    "selectivity": (SHOWN, "worse"),
    "retention": ("more", "lost"),
    "conditionalisation": ("shared", "reversed"),
    "leakage": ("leaks", "less"),
}
UNINTENDED = "suppresses"
"""Replaces the star for an arm whose prompt elicits no trait: an irrelevant prompt that suppresses is a failed control."""
_LEGEND = {
    SHOWN: "suppressed, or selective, as intended",
    UNINTENDED: "less of the trait with an arm whose prompt does not elicit it",
    "worse": "the opposite of what is intended",
    "lost": "less of the trait than in the baseline, shown, be it little",
    "more": "more of the trait than in the baseline, shown",
    "shared": "an irrelevant prompt suppresses the trait as well",
    "reversed": "an irrelevant prompt does the opposite",
    "leaks": "the trait returns with the training prompt",
    "less": "less of the trait with the training prompt",
    ONE_SEED: "this model only, without a p-value",
}
MEANING = (
    "suppression 1: down to the base's rate; retention 1: the desired trait is fully kept; selectivity 1: only the undesired trait "
    "is suppressed; conditional.: the share of the suppression that an irrelevant prompt causes as well; leakage: how much of the "
    "trait returns with the training prompt"
)


def mark(effect: Effect) -> str:
    """Return the mark of an effect, by its adjusted p: a star, a word, or nothing; see `legend`."""
    marks = next((m for name, m in _MARKS.items() if effect.measure.startswith(name)), None)
    if marks is None or effect.value is None or not effect.complete or effect.p is None or effect.p >= SIGNIFICANT:
        return ""
    null = null_of(effect.measure)
    shown = marks[0] if effect.value > null else marks[1]
    return UNINTENDED if shown == SHOWN and not is_directed(effect.kind) else shown


def effect_text(effect: Effect) -> str:
    """Return `.95 [.84, 1.04] *`, `.37 [.21, .60] lost`, `.40 [.20, .60] (incomplete)`, or a dash."""
    text = with_interval(effect.value, effect.low, effect.high)
    if effect.value is None:
        return text
    found = _one_seed(effect) or mark(effect)
    return f"{text} (incomplete)" if not effect.complete else f"{text} {found}" if found else text


def _one_seed(effect: Effect) -> str:
    return ONE_SEED if effect.seeds is not None and effect.complete and not effect.replicated else ""


def effect_table(found: Sequence[Effect]) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells of arms × measures for one setting × model; blank if a measure is not defined for an arm."""
    lines: dict[str, dict[str, str]] = {}
    for effect in found:
        lines.setdefault(_arm_of(effect), {})[effect.measure.partition(".")[0]] = effect_text(effect)
    shown = [m for m in _HEAD if any(m in line for line in lines.values())]
    body = [[name, *(line.get(m, "") for m in shown)] for name, line in lines.items()]
    return ["arm", *(_HEAD[m] for m in shown)], body


def legend(found: Sequence[Effect]) -> str:
    """Return a sentence on the marks in a table of these effects."""
    used = {mark(effect) for effect in found}
    words = "; ".join(f"{word} = {meaning}" for word, meaning in _LEGEND.items() if word in used)
    blank = "Intervals are 95 % each, not adjusted. A blank cell: not defined for the arm."
    if any(map(_one_seed, found)):
        blank = f"{ONE_SEED} = {_LEGEND[ONE_SEED]}. {blank}"
    if not any(effect.p is not None for effect in found):
        return f"No effect here has a p-value. {blank}"
    return f"Holm-adjusted p < .05: {words}. {blank}" if words else f"No Holm-adjusted p is below .05. {blank}"


def _arm_of(effect: Effect) -> str:
    """Return the arm with, in parentheses, another direction than its own and the trigger, if the measure has them."""
    parts = effect.measure.split(".")[1:]
    details = ", ".join("with the trigger" if part == WITH_TRIGGER else part for part in parts)
    return f"{effect.arm} ({details})" if details else effect.arm


def dash_reasons(found: Sequence[Effect]) -> list[str]:
    """Return a line for each measure and reason without a value, e.g. "suppression: arm_a, arm_b: no baseline rate"."""
    arms: dict[tuple[str, str], list[str]] = {}
    for effect in found:
        measure = effect.measure.partition(".")[0]
        if effect.value is None and measure in _HEAD:
            arms.setdefault((measure, effect.why or "not known"), []).append(_arm_of(effect))
    order = list(_HEAD)
    listed = sorted(arms.items(), key=lambda item: order.index(item[0][0]))
    return [f"{_HEAD[measure]}: {', '.join(names)}: {why}" for (measure, why), names in listed]
