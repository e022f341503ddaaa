"""The claims that a study checks: the paper's on its settings, and its own, whose names are looked up before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from inoc_ray.config.base import nearest
from inoc_ray.errors import InputError, shown
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.probes import to_follow
from inoc_ray.settings.paper_claims import paper_claims
from inoc_ray.study.claims import DYNAMICS, KIND, REFERENCE, ROLES, Claim, StatedClaim


def stated_claims(plan: Plan) -> tuple[StatedClaim, ...]:
    """Return the claims of the study: the paper's on its settings, then its own. One of the same name takes a paper's place.

    A claim of the paper on models or tasks that the study does not have is left out. One on an arm that it does not have is
    there, since it says what is missing.
    """
    own = {claim.name for claim in plan.study.claims}
    of_paper = [_of_settings(claim, plan.settings) for claim in paper_claims() if claim.name not in own]
    follows = plan.study.dynamics is not None and bool(to_follow(plan))
    kept = (
        claim
        for claim in of_paper
        if claim.settings and _has_models_and_task(claim, plan) and (follows or claim.measure not in DYNAMICS)
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
        if claim.measure in DYNAMICS and plan.study.dynamics is None:
            raise InputError(
                f"claims: {claim.name!r}: {claim.measure} is a number of what the study follows while fine-tunes train, and it "
                "follows nothing; add `dynamics: {}` to the study."
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
    contexts = [*dict.fromkeys(cell.context for cell in plan.cells), REFERENCE]
    if claim.measure in DYNAMICS and plan.study.dynamics is not None:
        contexts = [*plan.study.dynamics.contexts, REFERENCE]
    for context in (claim.context, claim.than_context):
        if context is not None:
            yield "context", context, contexts
    if claim.trait is not None:
        yield "trait", claim.trait, [*ROLES, *dict.fromkeys(t for s in plan.settings.values() for t in s.measured)]
    if claim.evaluation is not None:
        yield "evaluation", claim.evaluation, list(dict.fromkeys(cell.evaluation.name for cell in plan.cells))
    if claim.task is not None:
        yield "capability", claim.task, [capability.task for capability in evaluation.capabilities]
