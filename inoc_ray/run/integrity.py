"""Integrity of what is stored: weights are hashed before use, older sample files get a hash, work is claimed."""

from __future__ import annotations

from collections.abc import Sequence

from inoc_ray.console import say
from inoc_ray.evaluate.ungraded import ungraded_parts
from inoc_ray.plan.looking import looks
from inoc_ray.plan.plan import Plan
from inoc_ray.store.samples import seal_parts
from inoc_ray.store.store import Store

_DAMAGE_LINES = 10


def verify_used(plan: Plan, store: Store, *, train: bool) -> bool:
    """Hash all weights that this run will serve or continue. Return whether some are damaged.

    Damaged weights count as missing from now on, and are reported. Weights that the run does not need are not read.
    """
    from inoc_ray.evaluate.capabilities import missing_capabilities

    used = {cell.subject.trained_by for cell in plan.to_sample}
    used |= {task.subject.adapter_of for task in missing_capabilities(plan, store, plan.study.evaluation.capabilities)}
    if train:
        used |= {trial.model.prior_stage.trial_id for trial in plan.to_train if trial.model.prior_stage}
    faults = [
        (trial, store.verify_trial(trial)) for trial in sorted(used & plan.done_trials, key=str) if trial is not None
    ]
    for trial, fault in faults:
        if fault is not None:
            say(f"Damaged: trial {trial} counts as missing: {fault} (in {store.trial(trial)}).")
    return any(fault is not None for _, fault in faults)


def report_damage(plan: Plan) -> None:
    """Print a line for each stored thing of the study that is damaged."""
    for line in damage_text(plan.damaged):
        say(line)


def damage_text(damaged: Sequence[str]) -> list[str]:
    """Return a line for each damaged thing in the store; of many, the first ones."""
    shown = [f"Damaged: {sentence}" for sentence in damaged[:_DAMAGE_LINES]]
    more = len(damaged) - len(shown)
    return [*shown, *([f"Damaged: {more} more."] if more else [])]


@looks
def seal_samples(plan: Plan, store: Store) -> None:
    """Give samples that were stored before files had a hash one, taking them as they are.

    Also bind them to the weights that are committed now: if their trial is trained again with another result, they no longer
    belong to it. Call this before anything is trained.
    """
    for subject in (*plan.prior_stages, *plan.subjects):
        if store.is_unbound(subject.trial_id):
            store.bind(subject.trial_id, subject.adapter_of)
    count = sum(seal_parts(store.evaluation(*key)) for key in plan.stored)
    if count:
        say(f"{count} sample files of an earlier version had no hash; they were taken as they are and have one now.")


def claims_of(plan: Plan, store: Store, *, train: bool) -> set[str]:
    """Return what this run will do, so that no other study on the storage does the same at the same time."""
    claims = {f"ask {'/'.join(cell.key)}" for cell in plan.to_sample if train or plan.has_weights(cell.subject)}
    claims |= {f"judge {one.out.key}" for parts in ungraded_parts(plan, store).values() for one in parts}
    return claims | ({f"train {trial.trial_id}" for trial in plan.to_train} if train else set())
