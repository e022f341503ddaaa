"""What an arm did: suppression, retention, selectivity, conditionalisation and leakage, with intervals.

All are computed for one setting × model from rates (shares of responses, 0 to 1) averaged over the
evaluations of a split and over the traits of a role, under the reference context unless stated otherwise
(`evaluation.reference`; by default the neutral one). With b = untouched base, o = baseline (fine-tuned, nothing
inoculated), a = the arm, i = the irrelevant arm(s), U / D / N = undesired / desired / narrow traits of `a` (narrow: what
the training rows teach on their own task, where a setting counts it as neither desired nor undesired):

suppression             (o − a) / (o − b) on U, OOD. 1: down to the base's rate; 0: as much as the baseline.
                        p against 0. None when the baseline did not rise (the interval of o − b does not lie
                        above 0).
suppression_difference  o − a on U, OOD, as a difference of rates. p against 0.
retention_id            a / o on D, in distribution. 1: all of the desired trait is kept. p against 1.
retention_ood           a / o on D, OOD. p against 1.
retention_narrow        a / o on N, in distribution: whether the narrow task is still learned. p against 1. All three:
                        None when the baseline does not show the trait (the interval of o − b does not lie above 0).
selectivity             suppression of U minus suppression of D, OOD. 1: only U is suppressed; 0: both
                        alike. p against 0. None when either suppression is None.
conditionalisation      (o − i) / (o − a) on U, OOD: the share of the arm's suppression that an irrelevant
                        prompt causes as well; of several, their mean, with their wordings as a level of the
                        bootstrap. p against 0. None without an irrelevant arm or when the interval of
                        o − a does not lie above 0.
leakage                 a under its training prompt minus a under the reference context, on U, OOD: how much
                        of the trait returns with the prompt. p against 0. None when either context was
                        not evaluated.

An arm that targets no trait (irrelevant, placebo, trigger, control) is measured on the setting's default roles, and once more for
each other direction of the setting's arms as `<measure>.<undesired trait>`; if the setting has no undesired trait by default, in
those directions alone. In a setting with a backdoor the measures are about questions without the trigger; those about questions
with it are `<measure>.with_trigger`, and the two are never averaged. If only the context `trigger` contains the trigger, leakage
is not measured with it, since responses under the training prompt are to questions without it. p is adjusted by Holm over the arms
of one setting × model × measure (all directions of a measure, with and without the trigger, form one family).

One fine-tune does not show what another seed would give: an effect has a p-value only if every arm that it uses has at least two
fine-tunes (except the untouched base, which is one given model). Otherwise it describes these models only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from inoc_ray.results.rows import Source
from inoc_ray.results.stats import Estimate, Floats, RateKey, combine, holm, mean_of, mean_of_sample
from inoc_ray.study.study import WITHOUT_DIRECTION

NEUTRAL = "neutral"
TRAINING_PROMPT = "training_prompt"
TRIGGER = "trigger"
WITH_TRIGGER = "with_trigger"
MIN_SEEDS = 2
"""Fine-tunes that each arm of an effect needs for the effect to be about the arm, and not about one model."""
DIRECTIONLESS = frozenset({"control", *WITHOUT_DIRECTION})
MEASURES = (
    "suppression",
    "suppression_difference",
    "retention_id",
    "retention_ood",
    "retention_narrow",
    "selectivity",
    "conditionalisation",
    "leakage",
)
NULL = {"retention_id": 1.0, "retention_ood": 1.0, "retention_narrow": 1.0}


def null_of(measure: str) -> float:
    """Return the value that the p-value of a measure is against; `measure` may have a direction and the trigger at its end."""
    return NULL.get(measure.partition(".")[0], 0.0)


def is_directed(kind: str) -> bool:
    """Return True if arms of this kind inoculate against a trait of their own."""
    return kind not in DIRECTIONLESS | {"base", "baseline"}


@dataclass(frozen=True, slots=True)
class Direction:
    """Which traits count as undesired, which as desired, and which are those of the narrow task."""

    undesired: tuple[str, ...]
    desired: tuple[str, ...]
    narrow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Arm:
    """An arm with its own direction, or the setting's default one."""

    name: str
    kind: str
    direction: Direction


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The rates of one setting × model.

    splits: evaluation → "id" | "ood". rates: (arm, evaluation, context, trait) → estimate with joint draws. reference: the
    context in which arms are compared. triggered: evaluations whose questions contain the setting's trigger.
    """

    setting: str
    model: str
    arms: tuple[Arm, ...]
    splits: Mapping[str, str]
    rates: Mapping[RateKey, Estimate]
    reference: str = NEUTRAL
    triggered: frozenset[str] = field(default_factory=frozenset)

    def level(self, arm: str, split: str, traits: Iterable[str], context: str | None = None) -> Estimate | None:
        """Return the mean rate over the evaluations of a split and over traits; None if any of them was not measured.

        context: by default the reference. An evaluation without any arm's rate for a trait in the context does not count there.
        """
        where = self.reference if context is None else context
        about = {(p[1], p[3]) for p in self.rates if p[2] == where}
        keys = [
            RateKey(arm, e, where, t) for e, s in self.splits.items() if s == split for t in traits if (e, t) in about
        ]
        if any(key not in self.rates for key in keys):
            return None
        level = mean_of([self.rates[key] for key in keys])
        return level and replace(level, sources=frozenset((arm, split, t, where) for t in traits))

    def by_trigger(self) -> list[tuple[str, View]]:
        """Return ("", the view without the trigger) and, if anything was evaluated with it, (WITH_TRIGGER, that view).

        With the trigger: the evaluations whose questions contain it; if there are none, the other evaluations in the context
        `trigger`, which is the neutral one plus the trigger. That view then has no other context, so measures that compare
        contexts (leakage, leaks) exist without the trigger only.
        """
        plain = {p: e for p, e in self.rates.items() if p[1] not in self.triggered}
        triggered = {p: e for p, e in self.rates.items() if p[1] in self.triggered}
        found = [("", replace(self, rates=plain))]
        if triggered:
            found.append((WITH_TRIGGER, replace(self, rates=triggered)))
        elif self.reference == NEUTRAL and any(p[2] == TRIGGER for p in plain):
            only = {p: e for p, e in plain.items() if p[2] == TRIGGER}
            found.append((WITH_TRIGGER, replace(self, rates=only, reference=TRIGGER)))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One measure of one arm. Without a value, `why` gives the reason. p is adjusted by Holm.

    seeds: the fewest fine-tunes of any arm that it uses; None without a value.
    """

    setting: str
    model: str
    arm: str
    measure: str
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    why: str = ""
    seeds: int | None = None
    complete: bool = True
    """Whether all that the study asks for is there of what the value rests on."""
    sources: frozenset[Source] = frozenset()
    kind: str = ""
    """The arm's kind."""

    @property
    def replicated(self) -> bool:
        """Whether it is about the arm: with one fine-tune in any arm that it uses, it is about these models only, without p."""
        return self.seeds is not None and self.seeds >= MIN_SEEDS


def effects(view: View) -> list[Effect]:
    """All measures of all arms but the base and the baseline, in the order of view.arms and MEASURES."""
    arms = [arm for arm in view.arms if arm.kind not in {"base", "baseline"}]
    found = [replace(effect, kind=arm.kind) for arm in arms for effect in _of_arm(view, arm)]
    return _adjust(found)


def levels(view: View) -> list[Effect]:
    """Return the rates of every arm out of distribution: of its undesired traits, of its desired ones, and of each trait.

    As measures `undesired`, `desired` and `rate.<trait>`, of questions with the trigger `undesired.with_trigger` and so on; all
    under the reference context, without p. An arm that inoculates against nothing has the setting's default roles or, if the
    setting has none, those that all other arms share; if they differ, only the rate of each trait.
    """
    shared = directions(view.arms)
    default = default_direction(view) or (shared[0] if len(shared) == 1 else None)
    found: list[Effect] = []
    for (name, part), arm in itertools.product(view.by_trigger(), view.arms):
        own = arm.direction if arm.direction.undesired else default
        roles = {} if own is None else {"undesired": own.undesired, "desired": own.desired}
        traits = dict.fromkeys(trait for _, _, _, trait in part.rates)
        for measure, of in {**roles, **{f"rate.{trait}": (trait,) for trait in traits}}.items():
            level = part.level(arm.name, "ood", of)
            if level is not None:
                low, high = level.interval()
                found.append(
                    Effect(
                        setting=view.setting,
                        model=view.model,
                        arm=arm.name,
                        measure=f"{measure}.{name}" if name else measure,
                        value=level.value,
                        low=low,
                        high=high,
                        p=None,
                        seeds=level.seeds,
                        sources=level.sources,
                        kind=arm.kind,
                    )
                )
    return found


def directions(arms: Iterable[Arm]) -> list[Direction]:
    """Return the distinct directions of arms that have one of their own, in order of appearance."""
    return list(dict.fromkeys(a.direction for a in arms if is_directed(a.kind) and a.direction.undesired))


def _of_arm(view: View, arm: Arm) -> Iterable[Effect]:
    if arm.kind in DIRECTIONLESS and not arm.direction.undesired:
        # A control arm has no roles of its own.
        arm = replace(arm, direction=default_direction(view) or arm.direction)
    others = directions(view.arms) if arm.kind in DIRECTIONLESS else []
    for name, part in view.by_trigger():
        end = f".{name}" if name else ""
        if arm.direction.undesired or not others:
            own = _of_direction(part, arm, arm.direction, end)
            # The reasons for missing values are given without the trigger; suppression is the measure that the trigger is about.
            yield from (e for e in own if not name or e.value is not None or e.measure.startswith("suppression"))
        for direction in others:
            if direction != arm.direction:
                yield from _of_direction(part, arm, direction, "." + "+".join(direction.undesired) + end)


def default_direction(view: View) -> Direction | None:
    """Return the setting's default roles, those of the baseline and the base; None if no trait is undesired by default."""
    found = (arm.direction for kind in ("baseline", "base") for arm in view.arms if arm.kind == kind)
    return next((direction for direction in found if direction.undesired), None)


def _of_direction(view: View, arm: Arm, direction: Direction, suffix: str) -> Iterable[Effect]:
    names = [measure for measure in MEASURES if _is_defined(measure, arm.kind, direction)]
    measures = {name: measured(view, arm.name, direction, name) for name in names}
    for measure, result in measures.items():
        if isinstance(result, str):
            yield Effect(
                setting=view.setting,
                model=view.model,
                arm=arm.name,
                measure=measure + suffix,
                value=None,
                low=None,
                high=None,
                p=None,
                why=result,
            )
        else:
            low, high = result.interval()
            found = Effect(
                setting=view.setting,
                model=view.model,
                arm=arm.name,
                measure=measure + suffix,
                value=result.value,
                low=low,
                high=high,
                p=None,
                seeds=result.seeds,
                sources=result.sources,
            )
            yield replace(found, p=result.p_value(null_of(measure))) if found.replicated else found


def _is_defined(measure: str, kind: str, direction: Direction) -> bool:
    if measure == "retention_narrow":
        return bool(direction.narrow)
    if measure == "conditionalisation":
        return kind not in {"irrelevant", "control"}
    return measure != "leakage" or kind != "control"


def measured(view: View, arm: str, direction: Direction, measure: str) -> Estimate | str:
    """Return one of MEASURES of an arm in a direction, or why it has no value."""
    undesired, desired = direction.undesired, direction.desired
    match measure:
        case "suppression":
            return _suppression(view, arm, undesired)
        case "suppression_difference":
            return _difference(view, arm, undesired)
        case "retention_id":
            return _retention(view, arm, desired, "id")
        case "retention_ood":
            return _retention(view, arm, desired, "ood")
        case "retention_narrow":
            return _retention(view, arm, direction.narrow, "id") if direction.narrow else "no trait of a narrow task"
        case "selectivity":
            return _selectivity(view, arm, direction)
        case "conditionalisation":
            return _conditionalisation(view, arm, undesired)
        case "leakage":
            return _leakage(view, arm, undesired)
    raise ValueError(f"there is no measure {measure!r}")


def _arm_of_kind(view: View, kind: str) -> list[str]:
    return [arm.name for arm in view.arms if arm.kind == kind]


def _baseline(view: View, split: str, traits: tuple[str, ...]) -> Estimate | None:
    levels = [view.level(name, split, traits) for name in _arm_of_kind(view, "baseline")]
    return mean_of([level for level in levels if level is not None])


def _difference(view: View, arm: str, traits: tuple[str, ...]) -> Estimate | str:
    if not traits:
        return "no undesired trait"
    baseline, own = _baseline(view, "ood", traits), view.level(arm, "ood", traits)
    if baseline is None or own is None:
        return _no_rate(view, "ood", traits, of_baseline=baseline is None)
    return combine(lambda o, a: o - a, baseline, own)


def _suppression(view: View, arm: str, traits: tuple[str, ...]) -> Estimate | str:
    difference = _difference(view, arm, traits)
    if isinstance(difference, str):
        return difference
    baseline, base = _baseline(view, "ood", traits), view.level("base", "ood", traits)
    if baseline is None or base is None:
        return "no rate of the untouched base"
    rise = combine(lambda o, b: o - b, baseline, base)
    if not _above_zero(rise):
        return "the baseline did not rise above the base"
    return combine(_ratio, difference, rise)


def _retention(view: View, arm: str, traits: tuple[str, ...], split: str) -> Estimate | str:
    if not traits:
        return "no desired trait"
    baseline, own = _baseline(view, split, traits), view.level(arm, split, traits)
    if baseline is None or own is None:
        return _no_rate(view, split, traits, of_baseline=baseline is None)
    base = view.level("base", split, traits)
    if base is None:
        return "no rate of the untouched base"
    if not _above_zero(combine(lambda o, b: o - b, baseline, base)):
        return f"the baseline does not show {' and '.join(traits)}: its rate is not above the base's"
    return combine(_ratio, own, baseline)


def _selectivity(view: View, arm: str, direction: Direction) -> Estimate | str:
    if not direction.desired:
        return "no desired trait"
    undesired = _suppression(view, arm, direction.undesired)
    desired = _suppression(view, arm, direction.desired)
    if isinstance(undesired, str):
        return undesired
    if isinstance(desired, str):
        return f"desired trait: {desired}"
    return combine(lambda u, d: u - d, undesired, desired)


def _conditionalisation(view: View, arm: str, traits: tuple[str, ...]) -> Estimate | str:
    own = _difference(view, arm, traits)
    others = [_difference(view, name, traits) for name in _arm_of_kind(view, "irrelevant")]
    # Several irrelevant prompts are a sample of such wordings, and not all there are.
    irrelevant = mean_of_sample([other for other in others if not isinstance(other, str)])
    if isinstance(own, str):
        return own
    if irrelevant is None:
        return "no rate of an irrelevant arm"
    if not _above_zero(own):
        return "the arm's own suppression is not shown"
    return combine(_ratio, irrelevant, own)


def _leakage(view: View, arm: str, traits: tuple[str, ...]) -> Estimate | str:
    if not traits:
        return "no undesired trait"
    prompted = view.level(arm, "ood", traits, TRAINING_PROMPT)
    reference = view.level(arm, "ood", traits)
    if prompted is None or reference is None:
        return f"not evaluated under both the training prompt and the {view.reference} context"
    return combine(lambda p, n: p - n, prompted, reference)


def _no_rate(view: View, split: str, traits: tuple[str, ...], of_baseline: bool) -> str:
    """Return why there is no rate of the traits in the split under the reference context."""
    measured = {(trait, context) for _, e, context, trait in view.rates if view.splits[e] == split and trait in traits}
    if not measured:
        where = "in distribution" if split == "id" else "out of distribution"
        # An evaluation may measure them without a response that counts; then it has no rate either.
        return f"no evaluation {where} has a rate of {' or '.join(traits)}"
    if all(context != view.reference for _, context in measured):
        return f"{' and '.join(traits)} was not evaluated under the {view.reference} context"
    if not of_baseline:
        return "no rate of this arm"
    return "no baseline rate" if _arm_of_kind(view, "baseline") else "no baseline arm"


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    # A draw of zero in the denominator counts as a tiny positive number: the ratio is very large, with the numerator's sign.
    tiny = 1e-12
    return numerator / np.where(np.abs(denominator) < tiny, tiny, denominator)


def _above_zero(estimate: Estimate) -> bool:
    return estimate.interval()[0] > 0


def _adjust(found: list[Effect]) -> list[Effect]:
    families: dict[str, list[int]] = {}
    for index, effect in enumerate(found):
        if effect.p is not None:
            families.setdefault(effect.measure.partition(".")[0], []).append(index)
    adjusted = list(found)
    for members in families.values():
        for index, p in zip(members, holm([found[i].p or 0.0 for i in members]), strict=True):
            adjusted[index] = replace(found[index], p=p)
    return adjusted
