"""What the study asks for against what the store holds: done, missing, or failed and why. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from inoc_ray.evaluate.ungraded import ungraded_parts
from inoc_ray.plan.cells import Cell
from inoc_ray.plan.courses import step_of
from inoc_ray.plan.failure_keys import cell_key, trial_key
from inoc_ray.plan.judge_assignment import TraitJudges
from inoc_ray.plan.looking import looks
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import Subject, Trial, seed_of
from inoc_ray.results.completeness import Planned, PlannedCapability, PlannedCell
from inoc_ray.scoring.judgment import RULES
from inoc_ray.store.failures import MLFLOW, REPORT, Failure, Thing, failure_of, read_failures, still_failed
from inoc_ray.store.samples import find_judgments
from inoc_ray.store.store import Store


def state_of(plan: Plan, store: Store, trial: Trial) -> Literal["done", "failed", "new"]:
    """Return "done", "failed" (its log is in the store) or "new"."""
    if trial.trial_id in plan.done_trials:
        return "done"
    return "failed" if store.trial_log(trial.trial_id).is_file() else "new"


@looks
def planned_of(plan: Plan, store: Store, failures: Sequence[Failure]) -> Planned:
    """Return every cell and capability of the study with what is stored of it. failures: say why something is missing."""
    why = {thing: failure.error for failure in failures for thing in failure.of}
    cells = [one for cell in plan.cells for one in _cells(plan, store, cell, why)]
    return Planned(cells=cells, capabilities=list(_capabilities(plan, store, why)))


@looks
def planned_courses(plan: Plan, store: Store, failures: Sequence[Failure]) -> dict[int, list[PlannedCell]]:
    """Return step → every cell of what fine-tunes are after it, with what is stored of it; as `planned_of` does."""
    why = {thing: failure.error for failure in failures for thing in failure.of}
    found: dict[int, list[PlannedCell]] = {}
    for cell in plan.courses:
        found.setdefault(step_of(plan, cell.subject), []).extend(_cells(plan, store, cell, why))
    return dict(sorted(found.items()))


@looks
def failures_of(plan: Plan, store: Store) -> list[Failure]:
    """Return the failures of the study that still leave something missing, in the order in which they happened.

    Includes trials that failed in another study on the storage, found by their logs.
    """
    kept = still_failed(read_failures(store, plan.study.name), unfinished(plan, store))
    known = {thing for failure in kept for thing in failure.of}
    logs = [(t, store.trial_log(t.trial_id)) for t in plan.to_train if ("trial", t.trial_id) not in known]
    found = []
    for trial, log in logs:
        if log.is_file():
            error = last_line(log.read_text(errors="replace"))
            found.append(failure_of({"label": trial.label, "error": error, "log": log, "of": [trial_key(trial)]}))
    return [*found, *kept]


def last_line(text: str) -> str:
    """Return the last line that is not blank: of a traceback, the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


@looks
def unfinished(plan: Plan, store: Store) -> set[Thing]:
    """Return what the study has not finished. The report and MLflow always count: writing them clears their failures."""
    found: set[Thing] = {REPORT, MLFLOW}
    found |= {trial_key(trial) for trial in plan.to_train}
    found |= {cell_key(cell) for cell in plan.asked if plan.missing(cell)}
    found |= {("judge", name) for name in ungraded_parts(plan, store)}
    return found | {thing for _, thing, measured in _tasks(plan, store) if not measured}


def _why_missing(plan: Plan, subject: Subject, thing: Thing, why: Mapping[Thing, str]) -> str:
    """Return why a thing of the subject is missing: its own failure, or that of the subject's training."""
    if plan.has_weights(subject):
        return why.get(thing, "")
    weights: Thing = ("trial", subject.trained_by or "")
    return f"training failed: {why[weights]}" if weights in why else ""


def _cells(plan: Plan, store: Store, cell: Cell, why: Mapping[Thing, str]) -> Iterable[PlannedCell]:
    """Yield the cell once for each model of the tables that show it."""
    subject, spec = cell.subject, cell.evaluation
    stored = cell.samples - plan.missing(cell)
    by_judge = {RULES: stored, **_judged_by_models(store, cell)}
    judged = {trait: _judged(judges, by_judge) for trait, judges in cell.judges.traits.items()}
    for model in subject.compared_as:
        yield PlannedCell(
            setting=subject.setting,
            model=model,
            arm=subject.arm.name,
            kind=subject.arm.kind,
            seed=seed_of(subject),
            evaluation=spec.name,
            split=spec.split,
            context=cell.context,
            roles={trait: cell.role(trait) for trait in spec.traits},
            samples=cell.samples,
            stored=stored,
            judged=judged,
            trial_id=subject.trial_id,
            evaluation_id=cell.evaluation_id,
            trained=plan.has_weights(subject),
            why=_why_missing(plan, subject, cell_key(cell), why),
            why_not_judged={name: reason for name in by_judge if (reason := why.get(("judge", name), ""))},
        )


def _judged(judges: TraitJudges, by_judge: Mapping[str, int]) -> dict[str, int]:
    """Return judge of the trait → how many responses it has judged.

    A rule with a gate has judged no more than the gate's model has.
    """
    counts = {name: by_judge.get(name, 0) for name in judges.judges}
    if judges.gate is not None:
        name = judges.gate.judge.name
        counts[name] = by_judge.get(name, 0)
        counts[RULES] = min(counts[RULES], counts[name])
    return counts


def _judged_by_models(store: Store, cell: Cell) -> dict[str, int]:
    """Return judging model → how many of the cell's responses it has judged."""
    if not cell.judges.gradings:
        return {}
    parts = store.parts(*cell.key)
    counts = {}
    for name, grading in cell.judges.gradings.items():
        judged = [
            (start, stop) for start, stop, part in parts if find_judgments(part, grading.judgments_id) is not None
        ]
        counts[name] = sum(max(0, min(stop, cell.samples) - start) for start, stop in judged)
    return counts


def _tasks(plan: Plan, store: Store) -> Iterable[tuple[tuple[Subject, str], Thing, bool]]:
    """Yield each capability of each subject: (subject, task), its failure key, and whether it was measured."""
    if not plan.study.evaluation.capabilities:
        return
    from inoc_ray.evaluate.capabilities import capability_thing, is_measured
    from inoc_ray.evaluate.harness_task import find_task

    tasks = [find_task(capability) for capability in plan.study.evaluation.capabilities]
    for subject in plan.subjects:
        for task in tasks:
            measured = plan.has_weights(subject) and is_measured(subject, store, task)
            yield (subject, task.capability.task), capability_thing(subject, task), measured


def _capabilities(plan: Plan, store: Store, why: Mapping[Thing, str]) -> Iterable[PlannedCapability]:
    for (subject, task), thing, measured in _tasks(plan, store):
        for model in subject.compared_as:
            yield PlannedCapability(
                setting=subject.setting,
                model=model,
                arm=subject.arm.name,
                seed=seed_of(subject),
                task=task,
                measured=measured,
                why="" if measured else _why_missing(plan, subject, thing, why),
            )
