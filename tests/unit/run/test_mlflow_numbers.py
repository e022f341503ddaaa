"""Every number of a study can be computed again from what MLflow has of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from finished_study import finish, write_study

from inoc_ray.results.compare import compare
from inoc_ray.results.comparison import Comparison
from inoc_ray.run.publish import compare_study, sync_study
from inoc_ray.scoring.score_columns import COLUMNS

TRAITS = ("spanish", "caps")


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, dict[str, Any], pd.DataFrame]:
    """The comparison, runs by name, and all samples that are among the artifacts of arms and base."""
    from mlflow.artifacts import download_artifacts
    from mlflow.tracking import MlflowClient

    folder = tmp_path_factory.mktemp("numbers")
    plan, store = finish(write_study(folder))
    comparison = compare_study(plan, store)
    uri = sync_study(plan, store, comparison)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("finished").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    files = [
        download_artifacts(artifact_uri=f"{runs[name].info.artifact_uri}/samples.parquet", dst_path=str(folder / name))
        for name in ("base", "baseline", "specific_spanish")
    ]
    return comparison, runs, pd.concat([pd.read_parquet(Path(file)) for file in files], ignore_index=True)


def test_rates_and_effects_by_pandas_alone_are_those_of_the_report_and_of_the_runs(
    synced: tuple[Comparison, dict[str, Any], pd.DataFrame],
) -> None:
    comparison, runs, samples = synced
    place = ["arm", "evaluation", "context"]
    rates: dict[tuple[str, ...], float] = {}
    for trait in TRAITS:
        counted = samples[samples[f"outcome.{trait}"] == "counted"]
        of_tunes = counted.groupby([*place, "trial_id"])[f"shown.{trait}"].mean()
        rates |= {(*key, trait): rate for key, rate in of_tunes.groupby(place).mean().items()}
    assert {(r.arm, r.evaluation, r.context, r.trait): pytest.approx(r.rate) for r in comparison.rows} == rates

    def level(arm: str) -> float:
        return rates[arm, "out_of_distribution", "neutral", "spanish"]

    suppression = (level("baseline") - level("specific_spanish")) / (level("baseline") - level("base"))
    [effect] = [e for e in comparison.effects if (e.arm, e.measure) == ("specific_spanish", "suppression")]
    assert effect.value == pytest.approx(suppression)
    assert runs["specific_spanish"].data.metrics["suppression"] == pytest.approx(suppression)
    for arm in ("base", "baseline", "specific_spanish"):
        assert runs[arm].data.metrics["undesired"] == pytest.approx(level(arm))


def test_intervals_from_the_samples_in_mlflow_are_those_of_the_report(
    synced: tuple[Comparison, dict[str, Any], pd.DataFrame],
) -> None:
    comparison, _, samples = synced
    tables = []
    for trait in TRAITS:
        of_trait = {f"{name}.{trait}": name for name in ("score", "shown", "outcome", "role")}
        table = samples.drop(columns=["seed"]).rename(columns={**of_trait, "fine_tune_seed": "seed"})
        tables.append(table.assign(trait=trait)[[*COLUMNS, "triggered"]])
    again = compare(pd.concat(tables, ignore_index=True), "finished")
    assert len(again.rows) == len(comparison.rows) > 0
    ours = {(r.arm, r.evaluation, r.context, r.trait): (r.rate, r.low, r.high) for r in comparison.rows}
    assert ours == {(r.arm, r.evaluation, r.context, r.trait): (r.rate, r.low, r.high) for r in again.rows}
    numbers = {(e.arm, e.measure): (e.value, e.low, e.high, e.p) for e in comparison.effects}
    assert numbers == {(e.arm, e.measure): (e.value, e.low, e.high, e.p) for e in again.effects}
