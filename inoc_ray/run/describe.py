"""The plan of a study as text and as JSON; nothing is started or written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from inoc_ray.cluster.checks import host_memory
from inoc_ray.cluster.connect import expected_capacity
from inoc_ray.cluster.fit import concurrent_groups
from inoc_ray.console import table
from inoc_ray.evaluate.workload import Workload, workloads
from inoc_ray.plan.cells import judges_of, stored_once
from inoc_ray.plan.judge_assignment import TraitJudges
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.steps import steps_of
from inoc_ray.plan.trials import Subject, Trial
from inoc_ray.run.integrity import damage_text
from inoc_ray.run.open_resources import shape_notes
from inoc_ray.run.planned_and_stored import state_of
from inoc_ray.run.precision import precision_notes
from inoc_ray.run.preflight import check_batches, check_capacity
from inoc_ray.scoring.judgment import RULES
from inoc_ray.sizing.replicas import PlannedEngine, Room, judges_with_room, needs_of_engines, planned_engines
from inoc_ray.sizing.schedule import Schedule, schedule_of
from inoc_ray.store.store import Store
from inoc_ray.train.sweep import groups_of, waves_of

_BESIDE = " It grades while models are sampled."


def sample_counts(plan: Plan, subject: Subject) -> tuple[int, int]:
    """Return the (stored, wanted) samples of the subject's cells; samples that two contexts share count once."""
    cells = stored_once(plan.cells_of(subject))
    return sum(c.samples - plan.missing(c) for c in cells), sum(c.samples for c in cells)


def plan_json(plan: Plan, store: Store) -> dict[str, Any]:
    """Return what would run, for `--json`. Raise InputError if it does not fit this machine."""
    check_batches(plan)
    capacity = expected_capacity()
    if capacity is not None:
        check_capacity(plan, capacity)
    schedule = expected_schedule(plan) if plan.to_train else None
    return {
        "study": plan.study.name,
        "storage": store.address,
        "models": [
            {"model": m.name, "path": str(m.path), "hash": m.hash} for m in dict.fromkeys(b.model for b in plan.bases)
        ],
        "notes": [*plan.notes, *precision_notes(plan), *shape_notes(plan)],
        "trials": [trial_json(plan, store, t) for t in plan.fine_tunes],
        "train": len(plan.to_train),
        "samples": sum(plan.missing(c) for c in plan.to_sample),
        "cells": len(plan.to_sample),
        "schedule": None if schedule is None else {"overlap": schedule.overlap, "why": schedule.why},
        "engines": [engine.to_json() for engine in _engines(plan)],
        "judging": [work.to_json() for work in workloads(plan, store)],
        "judged_beside_sampling": _judges_beside(plan),
        "damaged": list(plan.damaged),
        "judged_by": [_judges_json(t) for t in plan.trait_judges()],
    }


def _judges_json(trait: TraitJudges) -> dict[str, Any]:
    gate = trait.gate
    return {
        "setting": trait.setting,
        "evaluation": trait.evaluation,
        "trait": trait.trait,
        "judges": list(trait.judges),
        "counted_by": None if gate is None else {"judge": gate.judge.name, "rubrics": list(gate.rubrics)},
    }


def trial_json(plan: Plan, store: Store, trial: Trial) -> dict[str, Any]:
    """Return what a trial is and how far it is, for `--json`."""
    stored, wanted = sample_counts(plan, trial)
    return {
        "trial_id": trial.trial_id,
        "setting": trial.setting,
        "model": trial.model_label,
        "arm": trial.arm.name,
        "kind": trial.arm.kind,
        "seed": trial.seed,
        "taught_by": trial.model.prior_stage.trial_id if trial.model.prior_stage else None,
        "state": state_of(plan, store, trial),
        "samples_stored": stored,
        "samples_wanted": wanted,
    }


def samples_text(entry: Mapping[str, Any]) -> str:
    """Return "8/10": how many of a trial's or base's samples are stored."""
    return f"{entry['samples_stored']}/{entry['samples_wanted']}"


def plan_text(plan: Plan, store: Store, width: int | None = None) -> str:
    """Return the trials with their state, and what would run. width: as in `console.table`."""
    value = plan_json(plan, store)
    shown = ("trial_id", "setting", "model", "arm", "kind", "seed", "state")
    rows = [[*(str(t[name]) for name in shown), samples_text(t)] for t in value["trials"]]
    text = table(rows, ["trial", *shown[1:], "samples"], width)
    steps = [steps_of(plan, t) for t in plan.to_train]
    lines = [f"Study {plan.study.name}, results in {store.address}", "", text, ""]
    if plan.to_train:
        schedule = expected_schedule(plan)
        waves = [groups_of(plan, wave, None if schedule is None else schedule.capacity) for wave in waves_of(plan)]
        groups = sum(map(len, waves))
        lines.append(
            f"To train: {len(plan.to_train)} of {len(plan.fine_tunes)} trials, {sum(steps)} optimizer steps in {groups} "
            f"group{'s' if groups > 1 else ''}{_at_a_time(plan, waves, schedule)}."
        )
        if schedule is not None:
            lines.append(f"Schedule: {'overlap' if schedule.overlap else 'phased'} ({schedule.why}).")
        if waiting := sum(not plan.can_start(t) for t in plan.to_train):
            lines.append(f"{waiting} of them wait for a prior stage.")
    else:
        lines.append("To train: nothing.")
    to_sample = f"{value['samples']:,} responses in {value['cells']} cells." if value["cells"] else "nothing."
    lines.append(f"To sample: {to_sample}{_in_words(_engines(plan))}")
    if works := workloads(plan, store):
        beside = value["judged_beside_sampling"]
        lines += [f"To judge: {work_text(work)}{_BESIDE if work.judge in beside else ''}" for work in works]
    else:
        lines.append("To judge: nothing; rules score every trait.")
    lines += [f"Model {m['model']}: {m['path']} ({m['hash'][:16]})." for m in value["models"]]
    return "\n".join(
        [*lines, *judges_text(plan), *(f"Note: {note}." for note in value["notes"]), *damage_text(plan.damaged)]
    )


def _engines(plan: Plan) -> list[PlannedEngine]:
    return planned_engines(plan, _room())


def _room() -> Room | None:
    capacity = expected_capacity()
    return None if capacity is None else Room(capacity=capacity, host_bytes=host_memory())


def _judges_beside(plan: Plan) -> list[str]:
    """Return the judges that grade while models are sampled: those behind APIs, and those with room beside the engines."""
    judges, room = judges_of(plan.to_sample), _room()
    own = [] if room is None else judges_with_room(plan, needs_of_engines(plan, plan.to_sample, room), room)
    return [judge.name for judge in judges if judge.folder is None or judge in own]


def _in_words(engines: Sequence[PlannedEngine]) -> str:
    """Return " 3 engines: a, 2 × b." for more than one engine, and " 1 engine: a on 2 GPUs." where they take GPUs."""
    numbers = Counter[str]()
    for engine in engines:
        full = " (full)" if engine.subject.is_own_model else ""
        on = f" on {engine.gpus} GPU{'s' if engine.gpus > 1 else ''}" if engine.gpus else ""
        numbers[f"{engine.subject.model.name}{full}{on}"] += engine.replicas
    if numbers.total() <= 1 and not any(engine.gpus for engine in engines):
        return ""
    each = (f"{count} × {name}" if count > 1 else name for name, count in numbers.items())
    return f" {numbers.total()} engine{'s' if numbers.total() > 1 else ''}: {', '.join(each)}."


def expected_schedule(plan: Plan) -> Schedule | None:
    """Return how the study would run on this machine; None where it would run elsewhere."""
    capacity = expected_capacity()
    return None if capacity is None else schedule_of(plan, capacity, host_bytes=host_memory())


def _at_a_time(plan: Plan, waves: Sequence[list[list[Trial]]], schedule: Schedule | None) -> str:
    """Return how many groups train at once where that is known: ", 2 at a time on this machine"."""
    if schedule is None:
        return ""
    found = {concurrent_groups(plan.resources_of(wave[0][0]), schedule.capacity, len(wave)) for wave in waves}
    return f", {' or '.join(map(str, sorted(found)))} at a time on this machine"


def work_text(work: Workload) -> str:
    """Return what is left for a judging model: "1,200 judgments by gpt (gpt-4o), about 1,200 calls."."""
    if not work.missing:
        return f"nothing by {work.judge} ({work.model}); all {work.judged:,} judgments are stored."
    stored = f" ({work.judged:,} already stored)" if work.judged else ""
    return f"{work.missing:,} judgments by {work.judge} ({work.model}), about {work.calls:,} calls{stored}."


def judges_text(plan: Plan) -> list[str]:
    """Return a line for each group of judges with its traits; none if rules alone score all of them."""
    ways: dict[str, dict[str, None]] = {}
    for t in plan.trait_judges():
        ways.setdefault(t.in_words(), {})[f"{t.trait} ({t.evaluation})"] = None
    return [] if set(ways) <= {RULES} else [f"Judges: {', '.join(traits)} by {way}." for way, traits in ways.items()]
