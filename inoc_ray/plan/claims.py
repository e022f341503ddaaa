"""The claims that a study checks: the paper's on its settings, and its own, whose names are looked up before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from inoc_ray.config.base import nearest
from inoc_ray.errors import InputError, shown
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.probes import probes_of_arms
from inoc_ray.settings.paper_claims import paper_claims
from inoc_ray.study.claims import DYNAMICS, KIND, REFERENCE, ROLES, Claim, StatedClaim


def stated_claims(plan: Plan) -> tuple[StatedClaim, ...]:
    """Return the claims of the study: the paper's on its settings, then its own. One of the same name takes a paper's place.

    A claim of the paper on models or tasks that the study does not have is left out. One on an arm that it does not have is
    there, since it says what is missing.
    """
    own = {claim.name for claim in plan.study.claims}
    of_paper = [_of_settings(claim, plan.settings) for claim in paper_claims() if claim.name not in own]
    kept = (
        claim
        for claim in of_paper
        if claim.settings
        and _has_models_and_task(claim, plan)
        and (claim.measure not in DYNAMICS or _is_followed(claim, plan))
    )
    return (*(StatedClaim(claim=c) for c in kept), *(StatedClaim(claim=c, own=True) for c in plan.study.claims))


def _of_settings(claim: Claim, settings: Iterable[str]) -> Claim:
    """Return the claim on those settings that have its names, with or without a family's prefix (`miniature/`)."""
    names = tuple(name for name in settings if name.rpartition("/")[2] in claim.settings)
    return claim.model_copy(update={"settings": names})


def _has_models_and_task(claim: Claim, plan: Plan) -> bool:
    models = {label for subject in plan.subjects for label in subject.compared_as}
    tasks = {capability.task for capability in plan.study.evaluation.capabilities}
    return (not claim.models or bool(models & set(claim.models))) and (claim.task is None or claim.task in tasks)


def check_claims(plan: Plan) -> None:
    """Raise InputError if a claim of the study names an arm, trait, context or anything else that it does not have."""
    for claim in plan.study.claims:
        if claim.measure in DYNAMICS and not probes_of_arms(plan):
            advice = (
                "add `dynamics: {}` to the study" if plan.study.dynamics is None else "write some under dynamics.probes"
            )
            raise InputError(
                f"claims: {claim.name!r}: {claim.measure} is a number of fixed responses that the study follows while fine-tunes "
                f"train, and it follows none; {advice}."
            )
        for what, name, valid in _names(claim, plan):
            if name not in valid:
                raise InputError(
                    f"claims: {claim.name!r}: the study has no {what} {shown(name)}{nearest(name, valid)}."
                )


def _names(claim: Claim, plan: Plan) -> Iterator[tuple[str, str, list[str]]]:
    """Yield what a claim names: what it is, its name, and the names that the study has."""
    evaluation = plan.study.evaluation
    arms = ["base", *dict.fromkeys(trial.arm.name for trial in plan.trials)]
    kinds = list(dict.fromkeys(f"{KIND}{trial.arm.kind}" for trial in plan.trials))
    for name in [*claim.arms, *([claim.than] if claim.than is not None else [])]:
        yield "arm", name, kinds if name.startswith(KIND) else arms
    for name in claim.settings:
        yield "setting", name, list(plan.settings)
    for name in claim.models:
        yield "model", name, sorted({label for subject in plan.subjects for label in subject.compared_as})
    if claim.measure in DYNAMICS:
        yield from _names_of_followed(claim, plan)
        return
    contexts = list(dict.fromkeys(cell.context for cell in plan.cells))
    for context, valid in ((claim.context, contexts), (claim.than_context, [*contexts, REFERENCE])):
        if context is not None:
            yield "context", context, valid
    if claim.trait is not None:
        yield "trait", claim.trait, [*ROLES, *dict.fromkeys(t for s in plan.settings.values() for t in s.measured)]
    if claim.evaluation is not None:
        yield "evaluation", claim.evaluation, list(dict.fromkeys(cell.evaluation.name for cell in plan.cells))
    if claim.task is not None:
        yield "capability", claim.task, [capability.task for capability in evaluation.capabilities]


def _is_followed(claim: Claim, plan: Plan) -> bool:
    """Return whether the study follows what a claim on learning dynamics is about."""
    return bool(probes_of_arms(plan)) and all(name in valid for _, name, valid in _names_of_followed(claim, plan))


def _names_of_followed(claim: Claim, plan: Plan) -> Iterator[tuple[str, str, list[str]]]:
    """Yield what a claim on learning dynamics names, and what of that the study follows."""
    of_arms = probes_of_arms(plan)
    probes = [probe for of_arm in of_arms.values() for probe in of_arm]
    contexts = list(dict.fromkeys(probe.context for probe in probes))
    # A claim without a context is about the reference, which need not be one that is followed.
    than = plan.reference if claim.than_context == REFERENCE else claim.than_context
    for context in (claim.context or plan.reference, than):
        if context is not None:
            yield "context among dynamics.contexts", context, contexts
    if claim.trait is not None:
        yield "probe set of trait", claim.trait, [*ROLES, *dict.fromkeys(probe.trait for probe in probes)]
    for name in (*claim.arms, claim.than):
        if name == "base":
            yield "curve of", name, sorted(arm for _, arm in of_arms)
