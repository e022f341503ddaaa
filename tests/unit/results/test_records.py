"""What MLflow is told keeps to MLflow's limits, whatever the arms, traits and prompts of a study are called."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st
from results_table import score_table

from inoc_ray.results.compare import compare
from inoc_ray.results.records import (
    MAX_TAG,
    StudyRecord,
    TrialRecord,
    points_of,
    runs_under_way,
    study_run,
    trial_runs,
    with_valid_names,
)
from inoc_ray.store.failures import Failure


@given(st.dictionaries(st.text(min_size=1, max_size=400), st.floats(allow_nan=False), max_size=8))
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


def test_a_study_with_long_names_is_whole_in_mlflow() -> None:
    frame = score_table(2)
    long = "an_arm_with_a_name_of_its_own_" * 8
    frame["arm"] = frame["arm"].replace("inoc_spanish", long)
    found = compare(frame, "toy")
    metrics = study_run(StudyRecord("toy", 1), [], found, []).metrics
    assert max(map(len, metrics)) <= 250
    rates = [r for r in found.rows if r.context == "neutral" and r.rate is not None]
    effects = [e for e in found.effects if e.value is not None]
    with_p = [e for e in effects if e.p is not None]
    assert len(metrics) == 3 * (len(rates) + len(effects)) + len(with_p)
    record = TrialRecord(
        trial_id="0",
        setting="toy",
        model="tiny",
        arm=long,
        kind="specific",
        prompt=None,
        seed=0,
        recipe={},
        dataset_hash="",
    )
    [run] = trial_runs(StudyRecord("toy", 1), [record], found)
    assert max(map(len, run.metrics)) <= 250


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
    measured = {name: value for name, value in run.metrics.items() if name.startswith("training.")}
    assert measured == {
        "training.tokens_per_second": 120.0,
        "training.mfu": 0.4,
        "training.hfu": 0.5,
        "training.padding": 0.25,
        "training.seconds.forward": 1.5,
        "training.peak_host_gib": 3.0,
    }
    assert {p.key: p.value for p in run.curves} == {"loss": 2.0, "tokens_per_second": 100.0, "padding": 0.25}
    assert (run.tags["device"], run.tags["layout"]) == ("NVIDIA H100 80GB HBM3", "packed")
    # A trial of an earlier version has none of it.
    [old] = trial_runs(StudyRecord("toy", 1), [replace(record, training={"seconds_total": 3.0}, curves=[])], found)
    assert [name for name in old.metrics if name.startswith("training.")] == ["training.seconds_total"]
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
    parent, under_way = runs_under_way(study, trials)
    filled = trial_runs(study, trials, found)
    for early, late in [(parent, study_run(study, trials, found, [])), *zip(under_way, filled, strict=True)]:
        assert (early.identity, early.name, early.params) == (late.identity, late.name, late.params)
        assert early.tags.items() <= late.tags.items()
        assert (early.status, early.metrics, list(early.curves)) == ("RUNNING", {}, [])
