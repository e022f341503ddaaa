"""The MLflow runs of a study as plain data: pure functions, without MLflow."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from inoc_ray.evaluate.harness_run import CapabilityScore
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.completeness import Missing, Planned, list_missing
from inoc_ray.results.rows import TrialRate
from inoc_ray.store.place import Place
from inoc_ray.store.seal import cached_hash

Status = Literal["done", "failed", "running", "new"]
CURVES = ("loss", "lr", "grad_norm", "tokens_per_second", "mfu", "hfu", "padding")
TRAINING = (
    "tokens",
    "target_tokens",
    "tokens_per_second",
    "mfu",
    "hfu",
    "padding",
    "seconds_training",
    "seconds_total",
)
"""What of a fine-tune's measurements becomes a metric of that name, beside seconds by phase and peak memory."""
FIRST_RUN = "first_run"
"""A tag of a study's run: when the study was first run (epoch ms). Its storage keeps that wherever it is moved."""
MAX_PARAM = 6000  # characters; MLflow's limit
MAX_TAG = 5000  # characters; the limit of older servers, which a newer one raises to 8000
MAX_NAME = 250  # characters of a metric's name; MLflow's limit
HASHED_BYTES = 16 << 20
"""A larger file is compared by size and version: hashing the weights of a large model takes minutes."""


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """A study as the store has it. created_at: epoch ms, from the store and so fixed. tags: further tags of its run."""

    name: str
    created_at: int
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """A trial, or the untouched base (arm and kind "base", no seed, no curves), as the store has it.

    recipe: nested dicts become parameters with dotted names. curves: one dict per step with "step" and any of CURVES (of which
    "lr" stands under "learning_rate"), and "ended_at" if it is known.
    adapter_dir: logged under adapter/: the files that adapter_files names (file in it → committed SHA-256), after a check against
    it. samples_path: a parquet file, logged under samples/ and as a table that the UI can show. Both are fetched only if they
    are sent.
    started_at, ended_at: epoch ms from the store, None if unknown. status: "new" if the weights do not exist and nothing failed,
    e.g. after a trial was deleted.
    """

    trial_id: str
    setting: str
    model: str
    arm: str
    kind: str
    prompt: str | None
    seed: int | None
    recipe: Mapping[str, Any]
    dataset_hash: str
    curves: Sequence[Mapping[str, Any]] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    """What training measured, as trial.json has it; records of earlier versions have less."""
    adapter_dir: Place | None = None
    adapter_files: Mapping[str, str] = field(default_factory=dict)
    samples_path: Place | None = None
    started_at: int | None = None
    ended_at: int | None = None
    status: Status = "done"
    compared_as: str = ""
    """The model's label in the tables, if it differs (the base of several recipes)."""
    prior_trial: str = ""
    """The trial of the prior stage, whose adapter this one started from (or, for a base, is); "" for none."""
    capabilities: Sequence[CapabilityScore] = ()
    """Scores of lm-evaluation-harness; parts of a task (the subjects of mmlu) do not become metrics."""

    @property
    def place(self) -> str:
        """Its place in the study, by which its run is found: two settings may share a trial."""
        return place_of(self.setting, self.model, self.arm, self.seed)


def place_of(setting: str, model: str, arm: str, seed: int | str | None) -> str:
    """Return the tag `place` of a run: "setting · model · arm · seed", with an empty seed for a base."""
    return " · ".join([setting, model, arm, "" if seed is None else str(seed)])


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a training curve."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The content of one MLflow run. identity: the tag (name, value) by which it is found again.

    artifacts: (file, folder inside the run's artifacts). committed: file → SHA-256, for those that were committed.
    table: the parquet file with the samples that the UI should show.
    """

    identity: tuple[str, str]
    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    curves: Sequence[Point]
    artifacts: Sequence[tuple[Place, str]]
    committed: Mapping[Place, str]
    table: Place | None
    started_at: int
    ended_at: int | None
    status: str

    def curves_hash(self) -> str:
        """Return a hash of all points."""
        return _hash([[p.key, p.value, p.timestamp, p.step] for p in self.curves])

    def artifacts_hash(self) -> str:
        """Return a hash of all artifacts, by path and content."""
        return _hash([[f, path.name, self.committed.get(path) or _file_state(path)] for path, f in self.artifacts])


def study_run(
    study: StudyRecord, trials: Sequence[TrialRecord], comparison: Comparison, files: Sequence[Place]
) -> RunRecord:
    """Return the parent run: rates under the reference context, and effects per arm (names begin with setting/model/arm).

    An effect that rests on something incomplete does not become a metric: comparison.json has it, with a mark. The run is FINISHED
    only if nothing is missing, FAILED if something failed, and KILLED if something is missing.
    """
    metrics: dict[str, float] = {}
    for row in comparison.rows:
        if row.context == comparison.reference and row.rate is not None:
            name = f"{row.setting}/{row.model}/{row.arm}/{row.split}.{row.evaluation}.{row.context}.{row.trait}"
            metrics |= _with_limits(name, row.rate, row.low, row.high)
            for what, part in (("unparsed", row.unparsed), ("not_counted", row.excluded)):
                if part:
                    metrics[f"{name}.{what}"] = part / row.samples
            for what, lacking in (
                ("seeds_missing", row.seeds_planned - row.seeds),
                ("samples_missing", row.samples_planned - row.samples),
            ):
                if not row.complete and lacking > 0:
                    metrics[f"{name}.{what}"] = float(lacking)
    for effect in comparison.effects:
        if effect.value is not None and effect.complete:
            name = f"{effect.setting}/{effect.model}/{effect.arm}/{effect.measure}"
            metrics |= _with_limits(name, effect.value, effect.low, effect.high)
            if effect.p is not None:
                metrics[f"{name}.p"] = effect.p
    ended = [t.ended_at for t in trials if t.ended_at is not None]
    running = any(t.status == "running" for t in trials)
    failed = bool(comparison.failures) or any(t.status == "failed" for t in trials)
    return RunRecord(
        identity=("study_run", study.name),
        name=study.name,
        tags=_tags(
            {
                "mlflow.note.content": study.description,
                "trials": str(len(trials)),
                "failed": "; ".join(failure.in_words() for failure in comparison.failures),
                **_completeness(comparison.missing, complete=comparison.complete),
                **study.tags,
            }
        ),
        params={},
        metrics=with_valid_names(metrics),
        curves=(),
        artifacts=[(path, "") for path in files],
        committed={},
        table=None,
        started_at=study.created_at,
        ended_at=None if running else max(ended, default=study.created_at),
        status="RUNNING" if running else _status(failed, comparison.complete),
    )


def _status(failed: bool, complete: bool) -> str:
    """Return the MLflow status of a run that is not running.

    MLflow has no status for "incomplete"; KILLED is the one for a run that ended before it was done.
    """
    return "FAILED" if failed else "FINISHED" if complete else "KILLED"


def _completeness(missing: Sequence[Missing], *, complete: bool) -> dict[str, str]:
    """Return the tags `complete` (true, false) and `missing` (empty if nothing is)."""
    return {"complete": str(complete).lower(), "missing": "; ".join(one.in_words() for one in missing)}


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Cut tags to MLflow's limit: a server would cut a longer one, which would then never agree with the store."""
    return {key: value if len(value) <= MAX_TAG else value[: MAX_TAG - 1] + "…" for key, value in tags.items()}


def trial_runs(study: StudyRecord, trials: Sequence[TrialRecord], comparison: Comparison) -> list[RunRecord]:
    """Return one run per trial. All have the same parameter names, with "" if one does not apply."""
    recipes = _recipes(trials)
    return [_trial_run(study, trial, recipe, comparison) for trial, recipe in zip(trials, recipes, strict=True)]


def runs_under_way(study: StudyRecord, trials: Sequence[TrialRecord]) -> tuple[RunRecord, list[RunRecord]]:
    """Return the study's run and one per trial as they are before anything is measured: found again and filled by a sync."""

    def under_way(
        identity: tuple[str, str], name: str, tags: Mapping[str, str], params: Mapping[str, str]
    ) -> RunRecord:
        return RunRecord(
            identity=identity,
            name=name,
            tags=_tags(tags),
            params=params,
            metrics={},
            curves=(),
            artifacts=(),
            committed={},
            table=None,
            started_at=study.created_at,
            ended_at=None,
            status="RUNNING",
        )

    description = {"mlflow.note.content": study.description, "trials": str(len(trials)), **study.tags}
    of_trials = [
        under_way(
            ("place", trial.place),
            _run_name(trial),
            {"study": study.name, "trial_id": trial.trial_id},
            _params(trial, recipe),
        )
        for trial, recipe in zip(trials, _recipes(trials), strict=True)
    ]
    return under_way(("study_run", study.name), study.name, description, {}), of_trials


def _run_name(trial: TrialRecord) -> str:
    return trial.arm if trial.seed is None else f"{trial.arm}-s{trial.seed}"


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


def _trial_run(study: StudyRecord, trial: TrialRecord, recipe: dict[str, str], comparison: Comparison) -> RunRecord:
    started = trial.started_at if trial.started_at is not None else study.created_at
    model = trial.compared_as or trial.model
    place = (trial.setting, model, trial.arm, trial.seed)
    cells = [c for c in comparison.planned.cells if (c.setting, c.model, c.arm, c.seed) == place]
    complete = trial.status not in ("failed", "new") and all(cell.complete for cell in cells)
    failed = trial.status == "failed" or any(c.why or c.why_not_judged for c in cells if not c.complete)
    missing = list_missing(Planned(cells=cells))
    evaluations = {(row.evaluation, row.split) for row in comparison.rows if row.setting == trial.setting}
    adapter = {} if trial.adapter_dir is None else {trial.adapter_dir / f: h for f, h in trial.adapter_files.items()}
    artifacts = [
        *_files(trial.adapter_dir, adapter),
        *([(trial.samples_path, "samples")] if trial.samples_path else []),
    ]
    return RunRecord(
        identity=("place", trial.place),
        name=_run_name(trial),
        tags=_tags(
            {
                "study": study.name,
                "trial_id": trial.trial_id,
                **_completeness(missing, complete=complete),
                # Not parameters, which never change: a trial that was deleted may be trained again on another device.
                **{key: str(trial.training[key]) for key in ("device", "layout") if key in trial.training},
            }
        ),
        params=_params(trial, recipe),
        metrics=with_valid_names(
            {
                **_trial_metrics(comparison.trial_rates.get(place, ()), evaluations),
                **capability_metrics(trial.capabilities),
                **_training_metrics(trial.training),
            }
        ),
        curves=list(_points(trial, started)),
        artifacts=artifacts,
        committed=adapter,
        table=trial.samples_path,
        started_at=started,
        ended_at=trial.ended_at if trial.ended_at is not None or trial.status == "running" else started,
        status="RUNNING" if trial.status == "running" else _status(failed, complete),
    )


def _trial_metrics(rates: Sequence[TrialRate], evaluations: Iterable[tuple[str, str]]) -> dict[str, float]:
    """Return metrics named `ood.neutral.spanish`, or `ood.<evaluation>.neutral.spanish` if a split has several evaluations.

    evaluations: (name, split).
    """
    of_split = Counter(split for _, split in evaluations)
    metrics: dict[str, float] = {}
    for rate in rates:
        if rate.rate is not None:
            several = [rate.evaluation] if of_split[rate.split] > 1 else []
            name = ".".join([rate.split, *several, rate.context, rate.trait])
            metrics |= _with_limits(name, rate.rate, rate.low, rate.high)
            for what, share in (("unparsed", rate.unparsed), ("not_counted", rate.excluded)):
                if share:
                    metrics[f"{name}.{what}"] = share
    return metrics


def _training_metrics(training: Mapping[str, Any]) -> dict[str, float]:
    """Return metrics named `training.mfu`, `training.seconds.forward`, `training.peak_host_gib` and so on."""
    metrics = {f"training.{key}": float(training[key]) for key in TRAINING if training.get(key) is not None}
    for phase, seconds in training.get("seconds_by_phase", {}).items():
        metrics[f"training.seconds.{phase}"] = float(seconds)
    for where in ("device", "host"):
        if (peak := training.get(f"peak_{where}_bytes")) is not None:
            metrics[f"training.peak_{where}_gib"] = peak / 2**30
    return metrics


def capability_metrics(scores: Sequence[CapabilityScore]) -> dict[str, float]:
    """Return metrics named `capability.gsm8k.exact_match.strict-match`, and the same with `.stderr`."""
    metrics: dict[str, float] = {}
    for score in scores:
        if score.value is not None and not score.part:
            name = f"capability.{score.task}.{score.metric}"
            metrics[name] = score.value
            if score.stderr is not None:
                metrics[f"{name}.stderr"] = score.stderr
    return metrics


def with_valid_names(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics with names and values that MLflow stores unchanged.

    A name uses MLflow's alphabet, is a path without empty or dotted parts, and has at most MAX_NAME characters: a longer one keeps
    its beginning and its end around a hash of the whole, so that names stay distinct. An infinite value becomes the largest float,
    as in MLflow's databases.
    """
    out: dict[str, float] = {}
    for full, value in metrics.items():
        name = _name(full)
        if len(name) > MAX_NAME or name in out:
            mark = f"_{hashlib.sha256(full.encode()).hexdigest()[:8]}_"
            half = (MAX_NAME - len(mark)) // 2
            name = _name(full)[:half] + mark + _name(full)[-half:]
        out[name] = max(-sys.float_info.max, min(sys.float_info.max, value))
    return out


def _with_limits(name: str, value: float, low: float | None, high: float | None) -> dict[str, float]:
    limits = {} if low is None or high is None else {f"{name}.low": low, f"{name}.high": high}
    return {name: value, **limits}


def _points(trial: TrialRecord, started: int) -> Iterator[Point]:
    """Yield the points of the curves, each at the time that the store has: the same at every sync, unlike the clock.

    Steps of earlier versions have no time, and are spread evenly over the trial's.
    """
    last = max(len(trial.curves) - 1, 1)
    length = (trial.ended_at or started) - started
    for index, row in enumerate(trial.curves):
        yield from points_of(row, started + length * index // last)


def points_of(row: Mapping[str, Any], otherwise: int = 0) -> Iterator[Point]:
    """Yield the points of one step. otherwise: their time in epoch ms if the step does not say when it ended."""
    ended = row.get("ended_at")
    timestamp = otherwise if ended is None else int(ended * 1000)
    for key in CURVES:
        value = row.get("learning_rate" if key == "lr" else key)
        if value is not None:
            yield Point(key, float(value), timestamp, int(row["step"]))


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(f"{prefix}.{key}", inner)
    else:
        text = json.dumps(value) if isinstance(value, list | tuple | bool) else "" if value is None else str(value)
        yield prefix, text


def _files(root: Place | None, committed: Iterable[Place]) -> Iterator[tuple[Place, str]]:
    """Yield the files of an adapter, each with the folder for it among the run's artifacts."""
    for file in sorted(committed):
        assert root is not None
        inner = file.parent.key.removeprefix(root.key)
        yield file, f"adapter{inner}"


def _name(text: str) -> str:
    """Return a metric's name in the alphabet that MLflow accepts, as a path without empty parts, `.` and `..`."""
    parts = re.sub(r"[^\w./: -]", "_", text).split("/")
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _file_state(path: Place) -> Any:
    stat = path.stat()
    if stat.size > HASHED_BYTES:
        return [stat.size, stat.version]
    return cached_hash(path)
