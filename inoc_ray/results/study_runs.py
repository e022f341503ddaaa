"""The MLflow runs of a study: its own, one for each arm, and one for each fine-tune and base; pure functions, without MLflow.

An arm's run stands beside the base's and the study's, and the fine-tunes of its seeds are below it, so that the runs table and
the charts show arms against each other before anything is unfolded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from inoc_ray.results.claim_text import claim_tags
from inoc_ray.results.completeness import Missing, Planned, list_missing
from inoc_ray.results.records import (
    MAX_PARAM,
    Artifact,
    DatasetRecord,
    ModelRecord,
    Point,
    RunRecord,
    StudyRecord,
    TrialRecord,
    cut_tags,
    points_of,
    with_valid_names,
)
from inoc_ray.results.rows import Place as StudyPlace
from inoc_ray.results.run_metrics import MAX_METRICS, arm_estimates, arm_metrics, in_words, trial_metrics
from inoc_ray.results.sample_tables import arm_samples, table_of_samples
from inoc_ray.results.tidy import tidy_tables

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.completeness import PlannedCell
    from inoc_ray.store.place import Place

FORMAT = {"inoc_ray.format": "2"}
"""A tag of every run. Without it, a run is of an earlier version, with other metrics: it is deleted and made again."""
_NOTE = "mlflow.note.content"
_ABOVE = 1000
"""Milliseconds after the study's beginning at which its bases begin, for the order of the list: arms lie between."""


def study_run(
    study: StudyRecord, trials: Sequence[TrialRecord], comparison: Comparison, files: Sequence[Artifact] = ()
) -> RunRecord:
    """Return the study's own run: no metrics, but all numbers as tables, the report and what else is in `files`.

    The run is FINISHED only if nothing is missing, FAILED if something failed, and KILLED if something is missing.
    """
    running = any(trial.status == "running" for trial in trials)
    failed = bool(comparison.failures) or any(trial.status == "failed" for trial in trials)
    tables = {
        **tidy_tables(comparison, trials),
        "comparison.json": json.dumps(comparison.to_json(), indent=1).encode(),
    }
    tags = {
        "failed": "; ".join(failure.in_words() for failure in comparison.failures),
        **_completeness(comparison.missing, complete=comparison.complete),
        **claim_tags(comparison.claims),
    }
    under_way = _study_under_way(study, trials)
    return replace(
        under_way,
        tags=cut_tags({**under_way.tags, **tags}),
        artifacts=[*(_made(path, content) for path, content in tables.items()), *files],
        ended_at=_end_of(trials, study.created_at, running=running),
        status="RUNNING" if running else _status(failed=failed, complete=comparison.complete),
    )


def _made(path: str, content: bytes) -> Artifact:
    return Artifact(path=path, make=lambda: content)


def arm_runs(study: StudyRecord, trials: Sequence[TrialRecord], comparison: Comparison) -> list[RunRecord]:
    """Return one run for each arm with fine-tunes: means over its seeds, with the intervals as tags."""
    planned = _by_place(comparison)
    return [
        _arm_run(study, run, of_arm, comparison, planned=planned)
        for run, of_arm in zip(_arms_under_way(study, trials), _by_arm(trials), strict=True)
    ]


def _by_arm(trials: Sequence[TrialRecord]) -> list[list[TrialRecord]]:
    found: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        if trial.kind != "base":
            found.setdefault(trial.arm_place, []).append(trial)
    return list(found.values())


def _arm_run(
    study: StudyRecord,
    run: RunRecord,
    trials: Sequence[TrialRecord],
    comparison: Comparison,
    *,
    planned: Mapping[StudyPlace, Sequence[PlannedCell]],
) -> RunRecord:
    first = trials[0]
    estimates = arm_estimates(comparison, first.setting, first.compared_as or first.model, first.arm)
    states = [_state(trial, planned) for trial in trials]
    running = any(trial.status == "running" for trial in trials)
    complete = all(whole for whole, _, _ in states)
    samples = [trial.samples_path for trial in trials if trial.samples_path is not None]
    missing = [one for _, _, of_trial in states for one in of_trial]
    return replace(
        run,
        tags=cut_tags({**run.tags, **_completeness(missing, complete=complete), **in_words(estimates)}),
        metrics=with_valid_names(arm_metrics(estimates, [trial.capabilities for trial in trials])),
        artifacts=[table_of_samples(samples[0]), arm_samples(samples)] if samples else [],
        ended_at=_end_of(trials, study.created_at, running=running),
        status="RUNNING" if running else _status(failed=any(failed for _, failed, _ in states), complete=complete),
    )


def _end_of(trials: Sequence[TrialRecord], otherwise: int, *, running: bool) -> int | None:
    return None if running else max((t.ended_at for t in trials if t.ended_at is not None), default=otherwise)


def _status(*, failed: bool, complete: bool) -> str:
    """Return the MLflow status of a run that is not running.

    MLflow has no status for "incomplete"; KILLED is the one for a run that ended before it was done.
    """
    return "FAILED" if failed else "FINISHED" if complete else "KILLED"


def _completeness(missing: Sequence[Missing], *, complete: bool) -> dict[str, str]:
    """Return the tags `complete` (true, false) and `missing` (empty if nothing is)."""
    return {"complete": str(complete).lower(), "missing": "; ".join(one.in_words() for one in missing)}


def trial_runs(study: StudyRecord, trials: Sequence[TrialRecord], comparison: Comparison) -> list[RunRecord]:
    """Return one run per trial and base. All have the same parameter names, with "" if one does not apply."""
    planned = _by_place(comparison)
    return [
        _trial_run(study, trial, run, comparison, planned=planned)
        for trial, run in zip(trials, _trials_under_way(study, trials), strict=True)
    ]


def all_runs(
    study: StudyRecord, trials: Sequence[TrialRecord], comparison: Comparison, files: Sequence[Artifact] = ()
) -> list[RunRecord]:
    """Return the study's run, then one per arm, then one per trial and base: each after the one that it is shown under."""
    return [
        study_run(study, trials, comparison, files),
        *arm_runs(study, trials, comparison),
        *trial_runs(study, trials, comparison),
    ]


def runs_under_way(
    study: StudyRecord, trials: Sequence[TrialRecord]
) -> tuple[RunRecord, list[RunRecord], list[RunRecord]]:
    """Return the study's run, one per arm and one per trial as they are before anything is measured.

    A sync finds them again and fills them.
    """
    return _study_under_way(study, trials), _arms_under_way(study, trials), _trials_under_way(study, trials)


def _under_way(
    study: StudyRecord, identity: tuple[str, str], name: str, tags: Mapping[str, str], params: Mapping[str, str]
) -> RunRecord:
    return RunRecord(
        identity=identity,
        name=name,
        tags=cut_tags({"mlflow.source.name": "inoc-ray", **tags, **FORMAT}),
        params=params,
        metrics={},
        started_at=study.created_at,
        ended_at=None,
        status="RUNNING",
    )


def _study_under_way(study: StudyRecord, trials: Sequence[TrialRecord]) -> RunRecord:
    tags = {_NOTE: study.description, "trials": str(len(trials)), **study.tags}
    return _under_way(study, ("study_run", study.name), study.name, tags, {})


def _arms_under_way(study: StudyRecord, trials: Sequence[TrialRecord]) -> list[RunRecord]:
    groups = _by_arm(trials)
    several = len({(of_arm[0].setting, of_arm[0].model) for of_arm in groups}) > 1
    names = ("setting", "model", "arm", "kind", "prompt")
    found = []
    for number, of_arm in enumerate(groups):
        first = of_arm[0]
        run = _under_way(
            study,
            ("arm", first.arm_place),
            first.arm_place if several else first.arm,
            {"study": study.name, _NOTE: first.prompt or "", "seeds": str(len(of_arm))},
            {name: value for name, value in _params(first, {}).items() if name in names},
        )
        # MLflow lists the newest run first, and compares the first ten: bases, the arms in the order of every table, the study.
        found.append(replace(run, started_at=study.created_at + max(1, _ABOVE - 1 - number)))
    return found


def _trials_under_way(study: StudyRecord, trials: Sequence[TrialRecord]) -> list[RunRecord]:
    found = []
    for trial, recipe in zip(trials, _recipes(trials), strict=True):
        run = _under_way(
            study,
            ("place", trial.place),
            trial.arm if trial.seed is None else f"{trial.arm}-s{trial.seed}",
            {"study": study.name, "trial_id": trial.trial_id},
            _params(trial, recipe),
        )
        of_base = replace(run, started_at=study.created_at + _ABOVE)
        found.append(of_base if trial.kind == "base" else replace(run, parent=("arm", trial.arm_place)))
    return found


def _params(trial: TrialRecord, recipe: Mapping[str, str]) -> dict[str, str]:
    params = {
        "setting": trial.setting,
        "model": trial.model,
        "arm": trial.arm,
        "kind": trial.kind,
        "prompt": trial.prompt or "",
        "seed": "" if trial.seed is None else str(trial.seed),
        "dataset_hash": trial.dataset_hash,
        **recipe,
    }
    return {key: value[:MAX_PARAM] for key, value in params.items()}


def _recipes(trials: Sequence[TrialRecord]) -> list[dict[str, str]]:
    """Return the parameters that the recipe of each trial gives, the same names for all."""
    flat = [dict(_flatten("recipe", trial.recipe)) for trial in trials]
    keys = sorted({key for recipe in flat for key in recipe})
    if any(trial.prior_trial for trial in trials):
        # Only if there are any, since a run whose parameters change is deleted and made again.
        flat = [{**recipe, "taught_by": trial.prior_trial} for trial, recipe in zip(trials, flat, strict=True)]
        keys.append("taught_by")
    return [{key: recipe.get(key, "") for key in keys} for recipe in flat]


def _by_place(comparison: Comparison) -> dict[StudyPlace, list[PlannedCell]]:
    """Return setting, model, arm and seed → the planned cells there."""
    found: dict[StudyPlace, list[PlannedCell]] = {}
    for cell in comparison.planned.cells:
        found.setdefault((cell.setting, cell.model, cell.arm, cell.seed), []).append(cell)
    return found


def _state(trial: TrialRecord, planned: Mapping[StudyPlace, Sequence[PlannedCell]]) -> tuple[bool, bool, list[Missing]]:
    """Return whether a trial and its evaluations are complete, whether anything of it failed, and what is missing."""
    cells = planned.get((trial.setting, trial.compared_as or trial.model, trial.arm, trial.seed), ())
    complete = trial.status not in ("failed", "new") and all(cell.complete for cell in cells)
    failed = trial.status == "failed" or any(c.why or c.why_not_judged for c in cells if not c.complete)
    return complete, failed, list_missing(Planned(cells=cells))


def _trial_run(
    study: StudyRecord,
    trial: TrialRecord,
    run: RunRecord,
    comparison: Comparison,
    *,
    planned: Mapping[StudyPlace, Sequence[PlannedCell]],
) -> RunRecord:
    started = trial.started_at if trial.started_at is not None else run.started_at
    model = trial.compared_as or trial.model
    complete, failed, missing = _state(trial, planned)
    curves = list(_points(trial, started))
    if trial.kind == "base":
        estimates = arm_estimates(comparison, trial.setting, model, trial.arm)
        metrics, intervals = arm_metrics(estimates, [trial.capabilities]), in_words(estimates)
    else:
        place = (trial.setting, model, trial.arm, trial.seed)
        room = MAX_METRICS - len({point.key for point in curves})
        metrics, intervals = trial_metrics(comparison, place, trial.capabilities, trial.training, room), {}
    tags = {
        **_completeness(missing, complete=complete),
        **intervals,
        # Not parameters, which never change: a trial that was deleted may be trained again on another device.
        **{key: str(trial.training[key]) for key in ("device", "layout") if key in trial.training},
    }
    return replace(
        run,
        tags=cut_tags({**run.tags, **tags}),
        metrics=with_valid_names(metrics),
        curves=curves,
        artifacts=_samples(trial),
        dataset=_dataset(trial),
        model=_model(study, trial, run.name),
        started_at=started,
        ended_at=trial.ended_at if trial.ended_at is not None or trial.status == "running" else started,
        status="RUNNING" if trial.status == "running" else _status(failed=failed, complete=complete),
    )


def _samples(trial: TrialRecord) -> list[Artifact]:
    """Return the table of a trial; of a base, which has no arm's run, all its samples as well."""
    if trial.samples_path is None:
        return []
    return [
        table_of_samples(trial.samples_path),
        *([arm_samples([trial.samples_path])] if trial.kind == "base" else []),
    ]


def _points(trial: TrialRecord, started: int) -> Iterator[Point]:
    """Yield the points of the curves, each at the time that the store has: the same at every sync, unlike the clock.

    Steps of earlier versions have no time, and are spread evenly over the trial's.
    """
    last = max(len(trial.curves) - 1, 1)
    length = (trial.ended_at or started) - started
    for index, row in enumerate(trial.curves):
        yield from points_of(row, started + length * index // last)


def _dataset(trial: TrialRecord) -> DatasetRecord | None:
    if not trial.dataset_hash:
        return None
    source = {"rows": trial.rows_name or trial.setting, "sha256": trial.dataset_hash, "inoculation": trial.prompt}
    content = hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()
    return DatasetRecord(
        name=f"{trial.rows_name or trial.setting} · {trial.arm}", digest=content[:32], source=json.dumps(source)
    )


def _model(study: StudyRecord, trial: TrialRecord, name: str) -> ModelRecord | None:
    """Return the weights of a trial; of a full fine-tune without its files, which are a whole model each."""
    if trial.adapter_dir is None or not trial.adapter_files:
        return None
    content = hashlib.sha256(json.dumps(sorted(trial.adapter_files.items())).encode()).hexdigest()[:32]
    adapter = trial.recipe.get("method") != "full"
    files = sorted((trial.adapter_dir / file, sha) for file, sha in trial.adapter_files.items()) if adapter else []
    return ModelRecord(
        name=re.sub(r"""[/:.%"']""", "_", name),
        content=content,
        params={
            "base_model": trial.base,
            "kind": "LoRA adapter (PEFT)" if adapter else "whole model",
            "setting": trial.setting,
            "arm": trial.arm,
            "seed": str(trial.seed),
        },
        tags=cut_tags(
            {
                "study": study.name,
                "trial_id": trial.trial_id,
                "weights": content,
                "stored_at": str(trial.adapter_dir),
                "inoculation": trial.prompt or "",
            }
        ),
        files=[Artifact(path=_inside(place, trial.adapter_dir), of=(place,), committed=sha) for place, sha in files],
    )


def _inside(file: Place, folder: Place) -> str:
    return file.key.removeprefix(folder.key).lstrip("/")


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(f"{prefix}.{key}", inner)
    else:
        text = json.dumps(value) if isinstance(value, list | tuple | bool) else "" if value is None else str(value)
        yield prefix, text
