"""The number that a claim is about, as an estimate with draws: of each of its arms, from the rates of one setting × model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from inoc_ray.results.claim_dynamics import measured_gain
from inoc_ray.results.effects import WITH_TRIGGER, Arm, Direction, View, default_direction, measured
from inoc_ray.results.leaks import base_context
from inoc_ray.results.stats import Estimate, combine, mean_of_sample
from inoc_ray.study.claims import DYNAMICS, KIND, RATIOS, REFERENCE, ROLES, Claim

Scores = Mapping[tuple[str, str], Estimate]
"""(arm, capability task) → the score, and (arm, `claim_dynamics.key_of`) → what was followed, with draws that belong together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimValue:
    """The number of one arm (or of a kind of arms) of a claim; without an estimate, `why` gives the reason."""

    arm: str
    estimate: Estimate | None
    why: str = ""
    of: int = 1
    """How many arms it is the mean of."""


def values_of(claim: Claim, view: View, scores: Scores) -> list[ClaimValue]:
    """Return the number of each arm of the claim."""
    part = dict(view.by_trigger()).get(WITH_TRIGGER if claim.triggered else "")
    if part is None:
        return [
            ClaimValue(arm=name, estimate=None, why="nothing was evaluated with the trigger") for name in claim.arms
        ]
    if claim.evaluation is not None:
        part = replace(part, rates={p: e for p, e in part.rates.items() if p.evaluation == claim.evaluation})
    return [_value(claim, part, name, scores) for name in claim.arms]


def _value(claim: Claim, view: View, name: str, scores: Scores) -> ClaimValue:
    members = _members(view, name)
    found = _difference(claim, view, members, scores) if members else _no_arm(name)
    if isinstance(found, str):
        return ClaimValue(arm=name, estimate=None, why=found)
    return ClaimValue(arm=name, estimate=found, of=len(members))


def _difference(claim: Claim, view: View, members: Sequence[Arm], scores: Scores) -> Estimate | str:
    """Return the mean over the arms of their numbers, each minus that of what the claim compares it with."""
    found: list[Estimate] = []
    for arm in members:
        direction = _direction(claim, view, arm)
        number = _number(claim, view, arm, direction, scores=scores, context=claim.context)
        if not isinstance(number, str) and (claim.than is not None or claim.than_context is not None):
            # What is subtracted is the same number, so the same traits as those of the arm.
            other = _other(claim, view, arm, direction, scores)
            number = other if isinstance(other, str) else combine(lambda a, b: a - b, number, other)
        if isinstance(number, str):
            return number
        found.append(number)
    return mean_of_sample(found) or "no arm"


def _other(claim: Claim, view: View, arm: Arm, direction: Direction, scores: Scores) -> Estimate | str:
    """Return what is subtracted from the number of one arm of the claim."""
    others = [arm] if claim.than is None else _members(view, claim.than)
    context = view.reference if claim.than_context == REFERENCE else claim.than_context or claim.context
    found: list[Estimate] = []
    for other in others:
        where = base_context(arm.name, context) if context is not None and other.kind == "base" else context
        number = _number(claim, view, other, direction, scores=scores, context=where)
        if isinstance(number, str):
            return number
        found.append(number)
    return mean_of_sample(found) or _no_arm(claim.than or "")


def _members(view: View, name: str) -> list[Arm]:
    if name.startswith(KIND):
        return [arm for arm in view.arms if arm.kind == name.removeprefix(KIND)]
    return [arm for arm in view.arms if arm.name == name]


def _no_arm(name: str) -> str:
    if name.startswith(KIND):
        return f"the study has no results of an arm of kind {name.removeprefix(KIND)}"
    return f"the study has no results of the arm {name}"


def _direction(claim: Claim, view: View, arm: Arm) -> Direction:
    """Return the traits that the claim is about, in the place where its measure looks for them."""
    own = arm.direction if arm.direction.undesired else default_direction(view) or arm.direction
    if claim.trait is None or claim.trait == "undesired":
        return own
    traits = {"desired": own.desired, "narrow": own.narrow}.get(claim.trait, (claim.trait,))
    if claim.measure == "retention_narrow":
        return replace(own, narrow=traits)
    return replace(own, desired=traits) if claim.measure.startswith("retention") else replace(own, undesired=traits)


def _number(
    claim: Claim, view: View, arm: Arm, direction: Direction, *, scores: Scores, context: str | None
) -> Estimate | str:
    if claim.measure == "capability":
        score = scores.get((arm.name, claim.task or ""))
        return f"{arm.name} has no score on {claim.task} that is a mean over items" if score is None else score
    if claim.measure in DYNAMICS:
        return measured_gain(claim.measure, arm.name, direction, context or view.reference, scores)
    if not direction.undesired and not claim.measure.startswith("retention"):
        return f"{arm.name} has no {claim.trait if claim.trait in ROLES else 'undesired'} trait; name one as `trait`"
    if claim.measure in RATIOS and arm.kind in ("base", "baseline"):
        return f"{claim.measure} is measured against base and baseline, and says nothing of {arm.name} itself"
    if claim.measure != "rate":
        return measured(view, arm.name, direction, claim.measure)
    level = view.level(arm.name, claim.split, direction.undesired, context)
    if level is None:
        where = "in distribution" if claim.split == "id" else "out of distribution"
        return (
            f"{arm.name} has no rate of {' and '.join(direction.undesired)} {where} under the context "
            f"{context or view.reference}"
        )
    return level
