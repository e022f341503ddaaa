"""The trials of a study as records for MLflow."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from inoc_ray.evaluate.capabilities import stored_scores
from inoc_ray.evaluate.harness_task import find_task
from inoc_ray.plan.looking import reads
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.probes import probes_of_arms
from inoc_ray.plan.trials import Subject, Trial, seed_of
from inoc_ray.run.planned_and_stored import state_of
from inoc_ray.run.sample_tables import SampleTables
from inoc_ray.store.store import Store

if TYPE_CHECKING:
    from inoc_ray.results.records import Status, TrialRecord


@reads
def trial_records(plan: Plan, store: Store) -> list[TrialRecord]:
    """Return a record for each trial and base of the study, prior stages too.

    Missing ones are included, since a tracking server may know them from before they were lost.
    """
    here = {"host": socket.gethostname(), "pid": os.getpid()}
    elsewhere = store.holder(f"study-{plan.study.name}") not in (None, here)
    tables = SampleTables(plan, store)
    found = [
        replace(_trial_record(plan, store, s, _state(plan, store, s, elsewhere=elsewhere)), samples_path=tables.keep(s))
        for s in (*plan.prior_stages, *plan.subjects)
    ]
    tables.note()
    return found


def planned_records(plan: Plan) -> list[TrialRecord]:
    """Return a record for each trial and base of the study with what is known before it is trained; reads no results."""
    return [_planned_record(subject) for subject in (*plan.prior_stages, *plan.subjects)]


def _planned_record(subject: Subject) -> TrialRecord:
    from inoc_ray.results.records import TrialRecord

    return TrialRecord(
        trial_id=subject.trial_id,
        setting=subject.setting,
        model=subject.model_label,
        compared_as=subject.compared_as[0],
        arm=subject.arm.name,
        kind=subject.arm.kind,
        prompt=subject.arm.prompt,
        seed=seed_of(subject),
        recipe=subject.recipe.model_dump(mode="json") if isinstance(subject, Trial) else {},
        dataset_hash=subject.dataset_hash if isinstance(subject, Trial) else "",
        prior_trial=subject.model.prior_stage.trial_id if subject.model.prior_stage else "",
        base=f"{subject.model.name} ({subject.model.path.name}, {subject.model.hash[:16]})",
        rows_name=subject.rows_label if isinstance(subject, Trial) else "",
        status="new",
    )


def _state(plan: Plan, store: Store, subject: Subject, *, elsewhere: bool) -> Status:
    """Return what became of a trial or base. elsewhere: another process is at work on the study, and shows what it trains."""
    if isinstance(subject, Trial):
        state = state_of(plan, store, subject)
        return "running" if state == "new" and elsewhere else state
    return "done" if plan.has_weights(subject) else "new"


def _trial_record(plan: Plan, store: Store, subject: Subject, state: Status) -> TrialRecord:
    started = ended = None
    curves: list[dict[str, Any]] = []
    training: dict[str, Any] = {}
    adapter = None
    adapter_files: dict[str, str] = {}
    probes: dict[str, dict[str, Any]] = {}
    if isinstance(subject, Trial) and state == "done":
        adapter = store.weights_place(subject.trial_id)
        adapter_files = store.committed_weights(subject.trial_id)
        trial = store.read_trial(subject.trial_id)
        ended = int(trial["committed_at"] * 1000)
        training = trial["training"]
        started = ended - int(training["seconds_total"] * 1000)
        curves, probes = store.read_curves(subject.trial_id), _probes(trial)
    return replace(
        _planned_record(subject),
        curves=curves,
        probes=probes,
        training=training,
        adapter_dir=adapter,
        adapter_files=adapter_files,
        started_at=started,
        ended_at=ended,
        status=state,
        capabilities=[
            score for c in plan.study.evaluation.capabilities for score in stored_scores(subject, store, find_task(c))
        ],
    )


def _probes(trial: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the probe sets that were followed while a trial trained, by its record."""
    tokens = trial.get("probe_tokens", {})
    return {name: {**about, "tokens": tokens[name]} for name, about in trial.get("probes", {}).items()}


def followed_records(plan: Plan, store: Store) -> list[TrialRecord]:
    """Return the trials that are done with their curves and the probe sets of this study, and nothing else that was measured.

    Another study on the storage may have followed others while it trained them: a mean over fine-tunes is of the same responses.
    """
    asked = probes_of_arms(plan)
    found = []
    for trial in plan.trials:
        if trial.trial_id not in plan.done_trials or (trial.setting, trial.arm.name) not in asked:
            continue
        record = store.read_trial(trial.trial_id)
        own = {probe.name for probe in asked[trial.setting, trial.arm.name] if probe.is_recorded_in(record)}
        if probes := {name: about for name, about in _probes(record).items() if name in own}:
            found.append(replace(_planned_record(trial), curves=store.read_curves(trial.trial_id), probes=probes))
    return found
