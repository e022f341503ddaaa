"""`inoc-ray status`: how far a study is, from its plan, or without its models from what its runs left in the store."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from inoc_ray.console import table
from inoc_ray.errors import InputError
from inoc_ray.evaluate.workload import Workload, workloads
from inoc_ray.plan.plan import Plan
from inoc_ray.run.course_status import courses_json, courses_text, outlined_courses
from inoc_ray.run.describe import sample_counts, samples_text, trial_json, work_text
from inoc_ray.run.integrity import damage_text
from inoc_ray.run.live import progress_of, progress_text
from inoc_ray.run.planned_and_stored import failures_of, last_line
from inoc_ray.store.failures import MLFLOW, REPORT, Failure, Thing, read_failures, still_failed
from inoc_ray.store.progress import read_outline
from inoc_ray.store.store import Store


def status_json(plan: Plan, store: Store) -> dict[str, Any]:
    """Return the state of each trial and base, counted and listed, for `--json`."""
    trials = [trial_json(plan, store, t) for t in plan.fine_tunes]
    for trial in trials:
        if trial["state"] == "failed":
            trial["log"] = str(store.trial_log(trial["trial_id"]))
    base = [
        {
            "trial_id": b.trial_id,
            "setting": b.setting,
            "model": b.model_label,
            "arm": "base",
            **dict(zip(("samples_stored", "samples_wanted"), sample_counts(plan, b), strict=True)),
        }
        for b in plan.bases
    ]
    return {
        "study": plan.study.name,
        "storage": store.address,
        "counts": dict(Counter(t["state"] for t in trials)),
        "running": store.holder(f"study-{plan.study.name}"),
        "progress": progress_of(store, plan.study.name),
        "trials": trials,
        "base": base,
        "courses": courses_json(
            outlined_courses(plan),
            lambda weights, evaluation: plan.stored.get((weights, evaluation), 0),
            lambda one: one["fine_tune"] not in plan.done_trials or one["trial_id"] in plan.kept,
        ),
        "judging": [work.to_json() for work in workloads(plan, store)],
        "damaged": list(plan.damaged),
        "failures": [failure.to_json() for failure in failures_of(plan, store)],
    }


def stored_status_json(name: str, store: Store) -> dict[str, Any]:
    """Return what `status_json` does, for a study that has been run, from the store alone: no model, file or plugin is needed.

    What judging models still have to do, and what is damaged, is not known then (None). Raises InputError for a study that has
    not been run.
    """
    outline = read_outline(store, name)
    if outline is None:
        raise InputError(f"{name}: no run of this study has written to {store.address} yet.")
    ids = dict.fromkeys(subject["trial_id"] for subject in _subjects(outline))
    with store.glance(ids):
        return _of_outline(name, store, outline)


def _of_outline(name: str, store: Store, outline: Mapping[str, Any]) -> dict[str, Any]:
    count = _counter(store)
    trials = [
        _stored_subject(trial, count) | {"state": _state(store, trial["trial_id"])} for trial in outline["trials"]
    ]
    for trial in trials:
        if trial["state"] == "failed":
            trial["log"] = str(store.trial_log(trial["trial_id"]))
    base = [_stored_subject(one, count) for one in outline["base"]]
    return {
        "study": name,
        "storage": store.address,
        "counts": dict(Counter(trial["state"] for trial in trials)),
        "running": store.holder(f"study-{name}"),
        "progress": progress_of(store, name),
        "trials": trials,
        "base": base,
        "courses": courses_json(outline.get("courses", ()), count, _may_be_kept(store)),
        "judging": None,
        "damaged": None,
        "failures": [failure.to_json() for failure in _stored_failures(store, name, outline, trials)],
    }


def _subjects(outline: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield everything that has cells; the outline of an earlier version has nothing over the steps."""
    for name in ("trials", "base", "courses"):
        yield from outline.get(name, ())


def _may_be_kept(store: Store) -> Callable[[Mapping[str, Any]], bool]:
    """Return a function that is False for weights of a step that a finished fine-tune has not kept."""

    # Once for all of its steps: the record names every file of the fine-tune, and each is looked for.
    @functools.cache
    def kept(fine_tune: str) -> frozenset[int] | None:
        return frozenset(store.kept_steps(fine_tune)) if store.trial_done(fine_tune) else None

    return lambda weights: (steps := kept(weights["fine_tune"])) is None or weights["step"] in steps


def status_text(value: Mapping[str, Any], width: int | None = None) -> str:
    """Return the state of each trial and base, what runs and what failed. width: as in `console.table`."""
    rows = [
        [t["trial_id"], t["arm"], str(t.get("seed", "")), t.get("state", "base"), samples_text(t), t.get("log", "")]
        for t in [*value["base"], *value["trials"]]
    ]
    running = value["running"]
    activity = f"Running: process {running['pid']} on {running['host']}." if running else "Not running."
    counts = ", ".join(f"{n} {state}" for state, n in sorted(value["counts"].items()))
    courses = courses_text(value["courses"])
    works = [f"To judge: {work_text(Workload(**work))}" for work in value["judging"] or ()]
    damaged = damage_text(value["damaged"] or ())
    failed = [f"Failed: {f['label']}: {f['error']} (log: {f['log']})" for f in value["failures"]]
    return "\n".join(
        [
            f"Study {value['study']}: {counts}. {activity}",
            *progress_text(value["progress"]),
            "",
            table(rows, ["trial", "arm", "seed", "state", "samples", "log"], width),
            *(["", *courses] if courses else []),
            *(["", *works] if works else []),
            *(["", *damaged] if damaged else []),
            *(["", *failed] if failed else []),
        ]
    )


Count = Callable[[str, str], int]


def _counter(store: Store) -> Count:
    """Return a function (trial, evaluation) → stored samples that looks only where there are any."""
    evaluated = store.evaluated()
    return lambda trial, evaluation: store.stored_samples(trial, evaluation) if trial in evaluated else 0


def _state(store: Store, trial_id: str) -> str:
    if store.trial_done(trial_id):
        return "done"
    return "failed" if store.trial_log(trial_id).is_file() else "new"


def _stored_subject(subject: Mapping[str, Any], count: Count) -> dict[str, Any]:
    """Return a subject of the outline with its samples in place of its cells."""
    known = {name: value for name, value in subject.items() if name != "cells"}
    stored = sum(min(samples, count(subject["trial_id"], evaluation)) for evaluation, samples in subject["cells"])
    return {**known, "samples_stored": stored, "samples_wanted": sum(samples for _, samples in subject["cells"])}


def _stored_failures(
    store: Store, name: str, outline: Mapping[str, Any], trials: list[dict[str, Any]]
) -> list[Failure]:
    """Return the kept failures whose work is undone as far as the store alone can tell, and those of trials that left a log."""
    count = _counter(store)
    kept = read_failures(store, name)
    undone: set[Thing] = {REPORT, MLFLOW} | {("trial", t["trial_id"]) for t in trials if t["state"] != "done"}
    undone |= {
        ("cell", subject["trial_id"], evaluation)
        for subject in _subjects(outline)
        for evaluation, samples in subject["cells"]
        if count(subject["trial_id"], evaluation) < samples
    }
    # Whether these are done by now follows from the plan alone.
    undone |= {thing for failure in kept for thing in failure.of if thing[0] in ("judge", "capability")}
    found = still_failed(kept, undone)
    known = {thing for failure in found for thing in failure.of}
    others = {t["trial_id"]: t for t in trials if t["state"] == "failed" and ("trial", t["trial_id"]) not in known}
    return [*(_from_log(store, trial) for trial in others.values()), *found]


def _from_log(store: Store, trial: Mapping[str, Any]) -> Failure:
    log = store.trial_log(trial["trial_id"])
    label = f"{trial['setting']} {trial['arm']} seed {trial['seed']}"
    return Failure(label, last_line(log.read_text(errors="replace")), str(log), (("trial", trial["trial_id"]),))
