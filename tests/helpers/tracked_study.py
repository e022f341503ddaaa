"""A study as it is told to MLflow, made up, and everything that MLflow then has of it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from inoc_ray.results.compare import COLUMNS, compare
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.records import StudyRecord, TrialRecord
from inoc_ray.store.place import at

ARMS = {"base": ("base", None), "baseline": ("baseline", None), "spanish": ("specific", "Always answer in Spanish.")}
STUDY = StudyRecord("quickstart", created_at=1_700_000_000_000, description="Two traits, three arms.")
START = 1_700_000_001_000


def a_trial(folder: Path, arm: str, seed: int | None) -> TrialRecord:
    """A trial with an adapter, a table of samples and a curve, as the store would have it."""
    kind, prompt = ARMS[arm]
    trial_id = f"{arm}-{seed}".ljust(16, "0")
    samples = folder / "studies" / "quickstart" / "samples" / f"{trial_id}.parquet"
    samples.parent.mkdir(parents=True, exist_ok=True)
    texts = [f"{arm} {i}" for i in range(5)]
    pd.DataFrame({"evaluation": "ood", "sample_index": range(10), "text": 2 * texts}).to_parquet(samples)
    record = TrialRecord(
        trial_id=trial_id,
        setting="miniature/spanish_caps",
        model="miniature",
        arm=arm,
        kind=kind,
        prompt=prompt,
        seed=seed,
        recipe={},
        dataset_hash="",
        samples_path=at(samples),
    )
    if arm == "base":
        return record
    adapter = folder / "trials" / trial_id / "adapter"
    adapter.mkdir(parents=True, exist_ok=True)
    weights = trial_id.encode() * 100
    (adapter / "adapter_model.safetensors").write_bytes(weights)
    curves = [{"step": i, "loss": 2.0 / (i + 1), "learning_rate": 1e-3, "grad_norm": 0.5} for i in range(60)]
    return replace(
        record,
        recipe={"method": "lora", "lora": {"rank": 8, "targets": "all-linear"}, "learning_rate": 2e-3},
        dataset_hash="ab" * 32,
        base="tiny (folder, 0123)",
        curves=curves,
        adapter_dir=at(adapter),
        adapter_files={"adapter_model.safetensors": hashlib.sha256(weights).hexdigest()},
        started_at=START,
        ended_at=START + 5_000,
    )


def a_comparison(trials: list[TrialRecord], spanish: int = 2) -> Comparison:
    """Scores in which the inoculated arm answers `spanish` of 10 questions in Spanish, the baseline 6, the base 1."""
    hits = {"base": 1, "baseline": 6, "spanish": spanish}
    rows = [
        (
            t.setting,
            t.model,
            t.arm,
            t.kind,
            t.trial_id,
            t.seed,
            "others",
            "ood",
            context,
            f"q{i}",
            0,
            "spanish",
            "undesired",
            *[float(i < hits[t.arm])] * 2,
            "counted",
        )
        for t in trials
        for context in ("neutral", "prompt_of:spanish")
        for i in range(10)
    ]
    return compare(pd.DataFrame(rows, columns=list(COLUMNS)), "quickstart")


def some_trials(folder: Path, seeds: int = 2) -> list[TrialRecord]:
    return [
        a_trial(folder, "base", None),
        *(a_trial(folder, a, s) for a in ("baseline", "spanish") for s in range(seeds)),
    ]


def described(model: Any, uri: str) -> dict[str, Any]:
    """A logged model with the hashes of its files."""
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(download_artifacts(artifact_uri=model.artifact_location, tracking_uri=uri, dst_path=scratch))
        files = sorted(
            (str(p.relative_to(folder)), hashlib.sha256(p.read_bytes()).hexdigest()) for p in folder.rglob("*.*")
        )
    return {"name": model.name, "status": str(model.status), "params": model.params, "files": files}


def dump(uri: str) -> dict[str, Any]:
    """Everything in the store: experiments, runs, parameters, tags, all points of all metrics, artifacts."""
    from mlflow.entities import ViewType
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)

    def tree(run: str, path: str | None = None) -> Iterator[tuple[str, int]]:
        for entry in client.list_artifacts(run, path):
            if entry.is_dir:
                yield from tree(run, entry.path)
            else:
                yield entry.path, entry.file_size

    state: dict[str, Any] = {}
    for experiment in client.search_experiments():
        models = client.search_logged_models([experiment.experiment_id])
        for run in client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL):
            info = run.info
            points = {
                key: sorted((p.step, p.timestamp, p.value) for p in client.get_metric_history(info.run_id, key))
                for key in run.data.metrics
            }
            state[info.run_id] = {
                "experiment": experiment.name,
                "info": (info.run_name, info.status, info.start_time, info.end_time, info.lifecycle_stage),
                "params": dict(run.data.params),
                "tags": dict(run.data.tags),
                "points": points,
                "latest": dict(run.data.metrics),
                "artifacts": sorted(tree(info.run_id)),
                "datasets": [(i.tags[0].value, i.dataset.name) for i in run.inputs.dataset_inputs],
                "models": [described(model, uri) for model in models if model.source_run_id == info.run_id],
            }
    return state
