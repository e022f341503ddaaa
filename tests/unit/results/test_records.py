"""What MLflow is told keeps to MLflow's limits, whatever the arms, traits and prompts of a study are called."""

from __future__ import annotations

import io
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from results_table import ARMS, score_table

from inoc_ray.results.compare import compare
from inoc_ray.results.records import CURVES, MAX_TAG, StudyRecord, TrialRecord, points_of, with_valid_names
from inoc_ray.results.report.verdict import verdicts
from inoc_ray.results.run_metrics import MAX_METRICS, RETENTION_ID
from inoc_ray.results.study_runs import arm_runs, runs_under_way, study_run, trial_runs
from inoc_ray.results.tracking_page import _view
from inoc_ray.results.wording import with_interval
from inoc_ray.store.failures import Failure


@given(st.dictionaries(st.text(min_size=1, max_size=400), st.floats(allow_nan=False), max_size=8))
@example({"..0": 1.0, "__0": 2.0})
@example({"a/b": 1.0, "a_b": 2.0, "a~b": 3.0, "a+b": 4.0})
@example({"x" * 300 + "1": 1.0, "x" * 300 + "2": 2.0, "x" * 250: 3.0})
@example({"/": 1.0, "//": 2.0, "..": 3.0, "a//b/../c": 4.0, "": math.inf, "e": -math.inf})
def test_metric_names_are_accepted_by_mlflow_and_no_two_become_one(metrics: dict[str, float]) -> None:
    from mlflow.utils.validation import _validate_metric

    found = with_valid_names(metrics)
    assert len(found) == len(metrics)
    for name, value in found.items():
        _validate_metric(name, value, 0, 0)
    assert list(found.values()) == [max(-sys.float_info.max, min(sys.float_info.max, v)) for v in metrics.values()]
    assert with_valid_names(metrics) == found


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    [name] = with_valid_names({f"setting/{'arm' * 100}/ood.neutral.spanish.low": 0.5})
    assert len(name) <= 250
    assert name.startswith("setting/arm")
    assert name.endswith("ood.neutral.spanish.low")


def test_an_arm_with_a_long_name_has_the_metrics_of_any_other() -> None:
    frame = score_table(2)
    long = "an_arm_with_a_name_of_its_own_" * 8
    frame["arm"] = frame["arm"].replace("inoc_spanish", long)
    arms = {run.params["arm"]: run for run in arm_runs(STUDY, trials_of(frame), compare(frame, "toy"))}
    assert arms[long].metrics.keys() == arms["inoc_capitals"].metrics.keys()


STUDY = StudyRecord("toy", 1)


def trials_of(frame: pd.DataFrame, curves: Sequence[Mapping[str, Any]] = ()) -> list[TrialRecord]:
    """A record for each fine-tune and base of a score table."""
    found = []
    for (arm, kind, trial_id, seed), _ in frame.groupby(["arm", "kind", "trial_id", "seed"], sort=False, dropna=False):
        number = None if pd.isna(seed) else int(seed)
        more = (
            {}
            if number is None
            else {"curves": curves, "training": {"seconds_total": 90.0, "peak_host_bytes": 1 << 30}}
        )
        found.append(a_trial(arm=str(arm), kind=str(kind), trial_id=str(trial_id), seed=number, **more))
    return found


@pytest.mark.parametrize("directions", [1, 2])
def test_each_run_has_few_metrics_with_short_names_and_those_of_arms_that_are_compared_are_the_same(
    directions: int,
) -> None:
    arms = {name: arm for name, arm in ARMS.items() if directions == 2 or name != "inoc_capitals"}
    frame = score_table(3, arms=arms)
    found = compare(frame, "toy")
    curves = [{"step": 1, "learning_rate": 1.0, **dict.fromkeys(CURVES, 1.0)}]
    trials = trials_of(frame, curves)
    runs = {run.params["arm"]: run for run in arm_runs(STUDY, trials, found)}
    of_trials = {run.name: run for run in trial_runs(STUDY, trials, found)}
    runs["base"] = of_trials["base"]
    assert runs.keys() == arms.keys()
    for run in (*runs.values(), *of_trials.values()):
        assert len(run.metrics.keys() | {point.key for point in run.curves}) <= MAX_METRICS
        assert all(len(name) <= 25 for name in run.metrics)
    shared = {"undesired", "desired"} if directions == 1 else {"spanish", "capitals"}
    assert all(shared <= run.metrics.keys() for run in (*runs.values(), *of_trials.values()))
    # An arm's number is the mean over its seeds, and the number of the tables.
    for arm in runs.keys() - {"base"}:
        for name in shared:
            seeds = [run.metrics[name] for run in of_trials.values() if run.params["arm"] == arm]
            assert runs[arm].metrics[name] == pytest.approx(statistics.fmean(seeds))
    one = next(e for e in found.effects if (e.arm, e.measure) == ("inoc_spanish", "suppression"))
    assert runs["inoc_spanish"].metrics["suppression"] == one.value
    assert runs["inoc_spanish"].tags["ci.suppression"] == with_interval(one.value, one.low, one.high)
    trait = next(
        r for r in found.rows if (r.arm, r.split, r.context, r.trait) == ("inoc_spanish", "ood", "neutral", "spanish")
    )
    assert runs["inoc_spanish"].metrics["undesired"] == trait.rate
    assert of_trials["inoc_spanish-s0"].metrics["minutes"] == 1.5


def test_an_arms_run_has_the_verdict_of_the_report_and_lasts_as_long_as_its_fine_tunes() -> None:
    frame = score_table(2)
    found = compare(frame, "toy")
    study = StudyRecord("toy", 1_700_000_000_000)
    # Fine-tunes one after the other, as on one device: each took 8 s.
    trials = [
        replace(t, started_at=study.created_at + 10_000 * n, ended_at=study.created_at + 10_000 * n + 8_000)
        for n, t in enumerate(trials_of(frame))
    ]
    runs = {run.params["arm"]: run for run in arm_runs(study, trials, found)}
    assert {run.ended_at - run.started_at for run in runs.values() if run.ended_at is not None} == {16_000}
    said = {v.arm: v.does_it_work for v in verdicts(found, {})}
    assert {arm: run.tags["verdict"] for arm, run in runs.items() if "verdict" in run.tags} == said
    assert said.keys() == {"inoc_spanish", "inoc_capitals"}
    assert {run.tags["seeds"] for run in runs.values()} == {"2"}
    [kept] = [e for e in found.effects if (e.arm, e.measure) == ("inoc_spanish", "retention_id")]
    assert runs["inoc_spanish"].tags[RETENTION_ID] == with_interval(kept.value, kept.low, kept.high)
    view = json.loads(_view(found))
    shown = view["selectedColumns"]
    assert view["columnWidths"].keys() == set(view["columnOrder"])
    assert set(shown) - set(view["columnOrder"]) == {"attributes.`Duration`"}
    named = [column.removeprefix("tags.`").removesuffix("`") for column in shown if column.startswith("tags.")]
    assert {"verdict", "seeds", RETENTION_ID} <= set(named)
    assert set(named) <= set().union(*(run.tags for run in runs.values()))
    # What the questions "how much", "at what price" and "where does it leak" are answered with comes first.
    order = [name for name in named if name in ("ci.suppression", "ci.retention", "ci.leakage", "ci.selectivity")]
    assert order == ["ci.suppression", "ci.retention", "ci.leakage", "ci.selectivity"]
    # Both traits have a column, so none is of "undesired", which is another trait in each arm.
    assert {"ci.capitals", "ci.spanish"} <= set(named)
    assert not {"ci.undesired", "ci.desired"} & set(named)
    alone = compare(score_table(2, arms={name: arm for name, arm in ARMS.items() if name != "inoc_capitals"}), "toy")
    assert "tags.`ci.undesired`" in json.loads(_view(alone))["selectedColumns"]


def test_the_seeds_are_below_their_arm_and_arms_stand_in_the_order_of_the_tables_beside_study_and_base() -> None:
    frame = score_table(2)
    study, trials = StudyRecord("toy", 1_700_000_000_000), trials_of(frame)
    found = compare(frame, "toy")
    arms, of_trials = arm_runs(study, trials, found), trial_runs(study, trials, found)
    own = study_run(study, trials, found)
    assert own.parent is None
    assert {run.parent for run in arms} == {None}
    assert {run.name: run.parent for run in of_trials if run.params["kind"] != "base"} == {
        f"{run.name}-s{seed}": run.identity for run in arms for seed in range(2)
    }
    newest_first = sorted(
        [own, *arms, *(run for run in of_trials if run.name == "base")], key=lambda run: -run.started_at
    )
    assert [run.name for run in newest_first] == [*ARMS, "toy"]


def test_rates_with_and_without_the_trigger_are_apart() -> None:
    frame = score_table(2).assign(triggered=False)
    triggered = frame[frame.context == "neutral"].assign(
        triggered=True, evaluation=frame.evaluation + "_with_trigger", shown=1.0
    )
    both = pd.concat([frame, triggered], ignore_index=True)
    trials, plain = trials_of(frame), compare(frame, "toy")
    found = compare(both, "toy")
    for of in (arm_runs, trial_runs):
        for alone, run in zip(of(STUDY, trials, plain), of(STUDY, trials, found), strict=True):
            if "undesired" in alone.metrics:
                assert run.metrics["undesired"] == pytest.approx(alone.metrics["undesired"])
                assert run.metrics["undesired_with_trigger"] == 1.0


def test_the_tables_have_every_number_with_all_its_digits() -> None:
    frame = score_table(2)
    found, trials = compare(frame, "toy"), trials_of(frame)
    tables = {
        artifact.path: pd.read_csv(io.BytesIO(artifact.make()))
        for artifact in study_run(STUDY, trials, found).artifacts
        if artifact.make is not None and artifact.path.endswith(".csv")
    }
    rates = tables["tables/rates.csv"]
    assert list(rates["rate"]) == [row.rate for row in found.rows]
    assert list(rates["low"]) == [row.low for row in found.rows]
    effects = tables["tables/effects.csv"]
    assert [None if math.isnan(v) else v for v in effects["value"]] == [
        e.value for e in (*found.effects, *found.levels)
    ]
    assert len(tables["tables/fine_tunes.csv"]) == len(trials)
    assert len(tables["tables/fine_tune_rates.csv"]) == sum(map(len, found.trial_rates.values()))


def test_tags_are_cut_here_since_a_cut_by_the_server_would_be_written_again_at_every_sync() -> None:
    failures = tuple(Failure(f"judge {n}", "x" * 300, "log") for n in range(60))
    found = replace(compare(score_table(2), "toy"), failures=failures)
    tags = study_run(StudyRecord("toy", 1, "d" * 9000), [], found, []).tags
    assert max(map(len, tags.values())) == MAX_TAG
    assert tags["failed"].endswith("…")


def test_what_training_measured_is_in_the_trials_run() -> None:
    found = compare(score_table(2), "toy")
    record = TrialRecord(
        trial_id="0",
        setting="toy",
        model="tiny",
        arm="baseline",
        kind="baseline",
        prompt=None,
        seed=0,
        recipe={},
        dataset_hash="",
        curves=[
            {
                "step": 1,
                "loss": 2.0,
                "tokens_per_second": 100.0,
                "mfu": None,
                "hfu": None,
                "padding": 0.25,
                "seconds": {},
            }
        ],
        training={
            "tokens_per_second": 120.0,
            "mfu": 0.4,
            "hfu": 0.5,
            "padding": 0.25,
            "seconds_by_phase": {"forward": 1.5},
            "peak_device_bytes": None,
            "peak_host_bytes": 3 << 30,
            "device": "NVIDIA H100 80GB HBM3",
            "layout": "packed",
        },
    )
    [run] = trial_runs(StudyRecord("toy", 1), [record], found)
    assert run.metrics["peak_gib"] == 3.0
    assert {p.key: p.value for p in run.curves} == {"loss": 2.0, "tokens_per_second": 100.0}
    own = study_run(STUDY, [record], found)
    [table] = [a for a in own.artifacts if a.path == "tables/fine_tunes.csv"]
    assert table.make is not None
    [row] = pd.read_csv(io.BytesIO(table.make())).to_dict("records")
    assert (row["mfu"], row["padding"], row["seconds.forward"], row["peak_host_bytes"]) == (0.4, 0.25, 1.5, 3 << 30)
    assert (run.tags["device"], run.tags["layout"]) == ("NVIDIA H100 80GB HBM3", "packed")
    # A trial of an earlier version has none of it.
    [old] = trial_runs(StudyRecord("toy", 1), [replace(record, training={"seconds_total": 3.0}, curves=[])], found)
    assert {name for name in old.metrics if name in ("minutes", "peak_gib")} == {"minutes"}
    assert "device" not in old.tags


def a_trial(**changes: object) -> TrialRecord:
    fields = {"setting": "toy", "model": "tiny", "arm": "baseline", "kind": "baseline", "prompt": None, "seed": 0}
    return TrialRecord(**{"trial_id": "0", "recipe": {"rank": 8}, "dataset_hash": "d", **fields, **changes})


def test_a_step_that_is_sent_while_a_trial_trains_is_the_point_of_the_whole_curve() -> None:
    steps = [{"step": n, "loss": 1 / n, "learning_rate": 1e-3, "ended_at": 1_700_000_000.1234 + n} for n in range(1, 6)]
    [run] = trial_runs(
        StudyRecord("toy", 1), [a_trial(curves=steps, started_at=5, ended_at=9)], compare(score_table(2), "toy")
    )
    assert [p for step in steps for p in points_of(step)] == list(run.curves)
    assert [p.timestamp for p in run.curves if p.key == "lr"] == [1_700_000_000_123 + 1000 * n for n in range(1, 6)]


def test_steps_of_earlier_versions_are_spread_over_the_trials_time() -> None:
    steps = [{"step": n, "loss": 1 / n} for n in range(1, 4)]
    [run] = trial_runs(
        StudyRecord("toy", 1), [a_trial(curves=steps, started_at=1000, ended_at=3000)], compare(score_table(2), "toy")
    )
    assert [p.timestamp for p in run.curves] == [1000, 2000, 3000]


def test_a_run_under_way_is_the_one_that_a_sync_fills() -> None:
    study, found = StudyRecord("toy", 1, "two arms", {"storage": "s"}), compare(score_table(2), "toy")
    trials = [
        a_trial(),
        a_trial(trial_id="1", seed=1, recipe={"learning_rate": 1e-3}, prior_trial="9"),
        a_trial(trial_id="2", kind="base", arm="base", seed=None, recipe={}),
    ]
    parent, arms, under_way = runs_under_way(study, trials)
    early_ones = [parent, *arms, *under_way]
    late_ones = [
        study_run(study, trials, found, []),
        *arm_runs(study, trials, found),
        *trial_runs(study, trials, found),
    ]
    for early, late in zip(early_ones, late_ones, strict=True):
        assert (early.identity, early.name, early.params, early.parent) == (
            late.identity,
            late.name,
            late.params,
            late.parent,
        )
        assert early.tags.items() <= late.tags.items()
        assert (early.status, early.metrics, list(early.curves)) == ("RUNNING", {}, [])
