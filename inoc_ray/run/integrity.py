"""Integrity of what is stored: weights are hashed before use, older sample files get a hash, work is claimed."""

from __future__ import annotations

from inoc_ray.console import say
from inoc_ray.evaluate.grading import due
from inoc_ray.plan.plan import Plan
from inoc_ray.run.describe import damage_text
from inoc_ray.store.samples import seal_parts
from inoc_ray.store.store import Store


def verify_used(plan: Plan, store: Store, *, train: bool) -> bool:
    """Hash all weights that this run will serve or go on with. Return True if some are damaged: they count as missing from now on.

    Says what is damaged, a line each. Weights that nothing is asked of are not read.
    """
    from inoc_ray.evaluate.capabilities import missing

    used = {cell.subject.adapter_of for cell in plan.to_sample}
    used |= {wanted.subject.adapter_of for wanted in missing(plan, store, plan.study.evaluation.capabilities)}
    if train:
        used |= {trial.model.prior_trial.trial_id for trial in plan.to_train if trial.model.prior_trial}
    faults = [
        (trial, store.verify_trial(trial)) for trial in sorted(used & plan.done_trials, key=str) if trial is not None
    ]
    for trial, fault in faults:
        if fault is not None:
            say(f"Damaged: trial {trial} counts as missing: {fault} (in {store.trial(trial)}).")
    return any(fault is not None for _, fault in faults)


def say_damage(plan: Plan) -> None:
    """Return a line for each thing of the study that is stored but damaged."""
    for line in damage_text(plan):
        say(line)


def seal_samples(plan: Plan, store: Store) -> None:
    """Samples that were stored before files had a hash are taken as they are, and get one.

    They are also bound to the weights that are committed now: when their trial is trained again with another result, they are
    not its own. To be called before anything is trained.
    """
    for subject in (*plan.prior_trials, *plan.subjects):
        if store.is_unbound(subject.trial_id):
            store.bind(subject.trial_id, subject.adapter_of)
    count = sum(seal_parts(store.evaluation(*key)) for key in plan.stored)
    if count:
        say(f"{count} sample files of an earlier version have no hash: they are taken as they are, and get one.")


def claims_of(plan: Plan, store: Store, *, train: bool) -> set[str]:
    """Return what this run will do, so that no other study of the storage does the same at the same time."""
    claims = {f"ask {'/'.join(cell.key)}" for cell in plan.to_sample if train or plan.has_weights(cell.subject)}
    claims |= {f"judge {one.out.key}" for dues in due(plan, store).values() for one in dues}
    return claims | ({f"train {trial.trial_id}" for trial in plan.to_train} if train else set())
