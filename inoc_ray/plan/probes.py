"""The probe sets of a fine-tune: fixed responses of its setting and of the study, in the contexts that the study names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from inoc_ray.config.base import nearest
from inoc_ray.data.chat import ChatRow, Message, rows_hash
from inoc_ray.errors import InputError
from inoc_ray.plan.contexts import ResolvedContext, resolve_contexts
from inoc_ray.plan.looking import looks
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import KeptWeights, Trial
from inoc_ray.settings import ArmSpec, Setting
from inoc_ray.store.store import Store
from inoc_ray.study.dynamics import Dynamics
from inoc_ray.study.evaluation import Context


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A probe set in a context."""

    name: str
    """The set's name, with the context behind a dot unless it is the reference."""
    trait: str
    context: str
    rows: tuple[ChatRow, ...]
    """What the model is shown: the context, a question, the fixed response."""

    def to_record(self) -> dict[str, Any]:
        """Return what the record of a fine-tune says of the set, with a hash over its responses, in their context."""
        return {"trait": self.trait, "context": self.context, "responses": rows_hash(self.rows)}

    def is_recorded_in(self, record: Mapping[str, Any]) -> bool:
        """Return whether a fine-tune with this record was followed in these very responses.

        A record of before responses were hashed tells trait, context and their number.
        """
        about = record.get("probes", {}).get(self.name)
        if about is None:
            return False
        if "responses" in about:
            return bool(about == self.to_record())
        number = len(record.get("probe_tokens", {}).get(self.name, ()))
        return (about["trait"], about["context"], number) == (self.trait, self.context, len(self.rows))


def probes_of(plan: Plan, trial: Trial) -> list[Probe]:
    """Return what is followed while a trial trains; nothing if the study follows nothing, or for a prior stage.

    Of a study with several settings those are followed that have the trait of a probe set. Raises InputError if none has one,
    or for a context that there is not.
    """
    dynamics = plan.study.dynamics
    if dynamics is None or trial in plan.prior_stages:
        return []
    setting = plan.settings[trial.setting]
    sets = _sets(dynamics, setting, plan.settings.values())
    found: list[Probe] = []
    for context in followed_contexts(plan, dynamics, trial.setting, trial.arm):
        for name, (trait, rows) in sets.items():
            shown = tuple(ChatRow((*context.around(row.messages[:-1]), row.messages[-1])) for row in rows)
            full = name if context.name == plan.reference else f"{name}.{context.name}"
            if full in (other.name for other in found) or (full != name and full in sets):
                raise InputError(
                    f"dynamics.probes: {full!r} is what the set {name!r} is called in the context {context.name}; give the other "
                    "set another name."
                )
            found.append(Probe(name=full, trait=trait, context=context.name, rows=shown))
    return found


def followed_contexts(plan: Plan, dynamics: Dynamics, setting: str, arm: ArmSpec) -> list[ResolvedContext]:
    """Return the contexts in which an arm of a setting is followed. Raises InputError for one that there is not."""
    arms = {t.arm.name: t.arm for t in plan.trials if t.setting == setting}
    written = {c.name: c for c in plan.study.evaluation.contexts if isinstance(c, Context)}
    names = [written.get(name, name) for name in dynamics.contexts]
    try:
        return list(resolve_contexts(names, plan.settings[setting], arm, arms, is_base=False))
    except InputError as error:
        # They are named as those of the evaluation are, and wrong in another place.
        raise InputError(f"dynamics.contexts: {str(error).removeprefix('evaluation.contexts: ')}") from error


def probes_of_arms(plan: Plan) -> dict[tuple[str, str], list[Probe]]:
    """Return (setting, arm) → what is followed while its fine-tunes train; arms in which the study follows nothing are missing."""
    # Seeds, models and recipes do not matter to it.
    arms = {(trial.setting, trial.arm.name): trial for trial in plan.trials}
    return {place: probes for place, trial in arms.items() if (probes := probes_of(plan, trial))}


def to_follow(plan: Plan) -> list[Trial]:
    """Return the fine-tunes in which the study follows something: those of settings that have the trait of a probe set."""
    followed = probes_of_arms(plan)
    return [trial for trial in plan.trials if (trial.setting, trial.arm.name) in followed]


def check_dynamics(plan: Plan) -> None:
    """Raise InputError if the study follows something that there is not: a context, a trait, or no probe set at all."""
    to_follow(plan)


@looks
def notes_on_dynamics(plan: Plan, store: Store) -> tuple[str, ...]:
    """Return notes on fine-tunes that are done and lack something that the study follows, for which they are not trained again."""
    if plan.study.dynamics is None:
        return ()
    asked, probes = to_follow(plan), probes_of_arms(plan)
    without = sum(
        not _was_followed(store, trial, probes[trial.setting, trial.arm.name])
        for trial in asked
        if trial.trial_id in plan.done_trials
    )
    kept = {cell.subject for cell in plan.courses if isinstance(cell.subject, KeptWeights)}
    lost = {one.fine_tune for one in kept if one.fine_tune in plan.done_trials and one.trial_id not in plan.kept}
    notes = []
    if without:
        notes.append(
            f"dynamics: {without} of {len(asked)} fine-tunes were done without it, and are not trained again for it; figure 6 "
            "lacks them"
        )
    if lost:
        notes.append(
            f"dynamics.samples: {len(lost)} of {len({one.fine_tune for one in kept})} fine-tunes were done without keeping all of "
            "these weights on the way, and are not trained again for them; the rates over the steps lack those"
        )
    return tuple(notes)


def _was_followed(store: Store, trial: Trial, probes: Collection[Probe]) -> bool:
    """Return whether all of these sets were followed; another study on the storage may have followed others."""
    try:
        record = store.read_trial(trial.trial_id)
        return all(probe.is_recorded_in(record) for probe in probes)
    except InputError:
        # A damaged record: the plan names it, and the trial is trained again.
        return True


def _sets(
    dynamics: Dynamics, setting: Setting, every: Collection[Setting]
) -> Mapping[str, tuple[str, tuple[ChatRow, ...]]]:
    """Return name → trait, and rows of a question and a response. every: the study's settings, of which each has its own traits."""
    sets = {trait: (trait, tuple(rows())) for trait, rows in setting.probes.items()}
    for one in dynamics.probes:
        trait = one.trait or one.name
        if trait not in setting.traits and any(trait in other.traits for other in every):
            continue
        if trait not in setting.traits:
            raise InputError(
                f"dynamics.probes: {one.name}: setting {setting.name} has no trait {trait!r}{nearest(trait, setting.traits)}."
            )
        sets[one.name] = (
            trait,
            tuple(
                ChatRow((Message("user", said.question), Message("assistant", said.response))) for said in one.responses
            ),
        )
    if not sets and not dynamics.probes and dynamics.samples is None and not any(other.probes for other in every):
        raise InputError(
            f"dynamics: setting {setting.name} has no probe sets of its own; write some under dynamics.probes."
        )
    return sets
