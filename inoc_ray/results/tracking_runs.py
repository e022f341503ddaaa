"""The experiment of a study and its runs in MLflow: found by what they are of, and made where they are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from inoc_ray.errors import InputError
from inoc_ray.results.records import RunRecord, StudyRecord, TrialRecord, place_of
from inoc_ray.results.study_runs import FORMAT
from inoc_ray.results.tracking_server import EXPERIMENT_KIND, IN_THE_TRASH, check_storage_of_run

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Metric, Param, RunTag
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

_BATCH = 1000
"""Entities in one call: MLflow's limit."""
_SMALL_BATCH = 100
"""Parameters, and tags, in one call: MLflow's limit."""


def find_experiment(client: MlflowClient, name: str, artifact_root: str | None) -> Experiment:
    """Return the experiment of a study, made if it is missing. Raises `InputError` if it is in the trash."""
    found = client.get_experiment_by_name(name)
    if found is None:
        location = f"{artifact_root.rstrip('/')}/{name}" if artifact_root is not None else None
        return client.get_experiment(
            client.create_experiment(name, artifact_location=location, tags=dict([EXPERIMENT_KIND]))
        )
    if found.lifecycle_stage != "active":
        raise InputError(IN_THE_TRASH.format(name=name))
    return found


def known_runs(
    client: MlflowClient, experiment: str, trials: Sequence[TrialRecord], study: StudyRecord | None
) -> dict[tuple[str, str], MlflowRun]:
    """Return the study's runs by identity. Of several with one identity the oldest is kept, and the others are deleted.

    study: given where others may write too. Raises `InputError`, and deletes nothing, if the runs are those of another storage.
    """
    bases: dict[tuple[str, str], str] = {}
    for trial in trials:
        if trial.kind == "base":
            bases.setdefault((trial.setting, trial.trial_id), trial.place)
    runs = _all_runs(client, experiment)
    for run in runs:
        if study is not None and run.data.tags.get("study_run") == study.name:
            check_storage_of_run(study, run.data.tags, run.info.start_time)
    known: dict[tuple[str, str], MlflowRun] = {}
    for run in sorted(runs, key=lambda r: (r.info.start_time, r.info.run_id)):
        tags = run.data.tags
        for name, value in (
            ("place", _place(run, bases)),
            ("arm", tags.get("arm")),
            ("study_run", tags.get("study_run")),
        ):
            if value is not None and (name, value) in known:
                client.delete_run(run.info.run_id)
            elif value is not None:
                known[name, value] = run
    return known


def _all_runs(client: MlflowClient, experiment: str) -> list[MlflowRun]:
    runs: list[MlflowRun] = []
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _place(run: MlflowRun, bases: Mapping[tuple[str, str], str]) -> str | None:
    """Return the place of a run; None if it has none.

    bases: (setting, trial id) → place of a base. An earlier version listed the base of several recipes under the first.
    """
    tags, params = run.data.tags, run.data.params
    if "place" in tags or "trial_id" not in tags:
        return tags.get("place")
    if params.get("kind") == "base" and (found := bases.get((params.get("setting", ""), tags["trial_id"]))):
        return found
    try:
        return place_of(params["setting"], params["model"], params["arm"], params["seed"])
    except KeyError:
        return None


def all_tags(run: RunRecord, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the tags of a run, with those by which it is found and named."""
    return {run.identity[0]: run.identity[1], "mlflow.runName": run.name, **run.tags, **(extra or {})}


def parent_tag(run: RunRecord, ids: Mapping[tuple[str, str], str]) -> dict[str, str]:
    """Return the tag that shows a run under its parent. ids: identity → id of the runs that are there."""
    return {} if run.parent is None else {"mlflow.parentRunId": ids[run.parent]}


def open_run(
    client: MlflowClient, experiment: str, run: RunRecord, *, known: MlflowRun | None, tags: Mapping[str, str]
) -> tuple[MlflowRun, bool]:
    """Return the MLflow run of `run`, and whether it was made now.

    known: what MLflow has; deleted and made again if a parameter differs, since those cannot be changed, or if it is of an
    earlier version, whose metrics have other names.
    """
    if known is not None:
        params = known.data.params
        if FORMAT.items() <= known.data.tags.items() and all(
            params.get(key, value) == value for key, value in run.params.items()
        ):
            return known, False
        client.delete_run(known.info.run_id)
    return client.create_run(experiment, start_time=run.started_at, tags=dict(tags), run_name=run.name), True


def log(
    client: MlflowClient,
    run_id: str,
    *,
    params: Sequence[Param] = (),
    metrics: Sequence[Metric] = (),
    tags: Sequence[RunTag] = (),
) -> None:
    """Log everything in as few calls as MLflow's limits allow; nothing, in none.

    A tag is written after all parameters and metrics: tags stand in the last call, whose tags MLflow writes last.
    """
    while params or metrics or tags:
        few = params[:_SMALL_BATCH]
        points = metrics[: _BATCH - len(few)]
        params, metrics = params[len(few) :], metrics[len(points) :]
        room = 0 if params or metrics else min(_SMALL_BATCH, _BATCH - len(few) - len(points))
        client.log_batch(run_id, metrics=points, params=few, tags=tags[:room])
        tags = tags[room:]
