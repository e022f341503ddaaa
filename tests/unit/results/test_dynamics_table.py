"""What was followed while fine-tunes trained, as a table, as curves in MLflow and as points of a figure."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pytest
from results_table import score_table

from inoc_ray.results.compare import compare
from inoc_ray.results.dynamics import Followed, courses_of, looks_of
from inoc_ray.results.figures.curves import draw_curves
from inoc_ray.results.figures.drawing import rendered
from inoc_ray.results.figures.over_steps import points_of_dynamics
from inoc_ray.results.figures.points import missing_of
from inoc_ray.results.records import CURVES, MAX_PROBES, StudyRecord, TrialRecord
from inoc_ray.results.run_metrics import MAX_METRICS
from inoc_ray.results.study_runs import study_run, trial_runs

PROBES = {name: {"trait": name, "context": "neutral", "tokens": [5, 7]} for name in ("spanish", "caps")}


def a_trial(seed: int, probes: Mapping[str, Any] = PROBES) -> TrialRecord:
    """Two responses a set, looked at before the first step and after steps 2 and 3."""

    def looked(step: int) -> dict[str, Sequence[float]]:
        return {name: [-10.0 - seed + step, -20.0 - seed + step + number] for number, name in enumerate(probes)}

    curves: list[dict[str, Any]] = [
        {"step": step, "learning_rate": 1.0, **dict.fromkeys(CURVES, 1.0), "logprobs": None, "logprobs_before": None}
        for step in (1, 2, 3)
    ]
    curves[0]["logprobs_before"] = looked(0)
    curves[1]["logprobs"], curves[2]["logprobs"] = looked(2), looked(3)
    return TrialRecord(
        trial_id=f"baseline-{seed}",
        setting="toy",
        model="tiny",
        arm="baseline",
        kind="baseline",
        prompt=None,
        seed=seed,
        recipe={},
        dataset_hash="",
        curves=curves,
        probes=probes,
    )


def test_every_response_at_every_look_is_a_line_of_the_table() -> None:
    trials = [a_trial(seed) for seed in range(2)]
    own = study_run(StudyRecord("toy", 1), trials, compare(score_table(2), "toy"))
    [table] = [artifact for artifact in own.artifacts if artifact.path == "tables/dynamics.csv"]
    assert table.make is not None
    frame = pd.read_csv(io.BytesIO(table.make()))
    assert len(frame) == 2 * 2 * 3 * 2
    line = frame.query("seed == 1 and probe == 'caps' and step == 2 and response == 1").to_dict("records")
    assert [(one["logprob"], one["tokens"], one["trait"]) for one in line] == [(-20.0 - 1 + 2 + 1, 7, "caps")]
    # A study that follows nothing has no such table.
    plain = [TrialRecord(**{**{f: getattr(t, f) for f in TrialRecord.__slots__}, "curves": ()}) for t in trials]
    paths = {a.path for a in study_run(StudyRecord("toy", 1), plain, compare(score_table(2), "toy")).artifacts}
    assert "tables/dynamics.csv" not in paths


def test_an_arms_curve_is_the_mean_over_its_fine_tunes_with_students_interval() -> None:
    courses = courses_of(looks_of([a_trial(seed) for seed in range(3)]))
    arm = next(c for c in courses if c.seed is None and (c.probe, c.step) == ("spanish", 2))
    seeds = [c.logprob for c in courses if c.seed is not None and (c.probe, c.step) == ("spanish", 2)]
    assert seeds == [-13.0, -14.0, -15.0]
    half = 4.302653 * statistics.stdev(seeds) / 3**0.5
    assert (arm.logprob, arm.low, arm.high) == pytest.approx((-14.0, -14.0 - half, -14.0 + half))
    alone = [c for c in courses_of(looks_of([a_trial(0)])) if c.seed is None]
    assert {(c.low, c.high) for c in alone} == {(None, None)}


def test_the_figure_has_a_panel_for_each_arm_and_a_curve_for_each_set() -> None:
    points = points_of_dynamics(Followed(looks=tuple(looks_of([a_trial(seed) for seed in range(2)]))))
    assert {(p.panel, p.series) for p in points} == {("toy, tiny: baseline", name) for name in PROBES}
    assert sorted({p.x for p in points if p.x is not None}) == [0.0, 2.0, 3.0]
    assert {p.seed for p in points} == {None, 0, 1}


def test_fine_tunes_that_were_not_followed_are_named() -> None:
    looks = tuple(looks_of([a_trial(seed) for seed in range(2)]))
    asked = {("toy", "tiny", "baseline", "baseline"): 3, ("toy", "tiny", "quiet", "general"): 3}
    points = points_of_dynamics(Followed(looks=looks, asked=asked))
    assert missing_of(points) == [
        "baseline (toy, tiny): 2 of 3 seeds followed",
        "quiet (toy, tiny): 0 of 3 seeds followed",
    ]
    figure = rendered(lambda drawing: draw_curves(drawing, points), ("svg",))
    assert "0 of 3 seeds followed" in " ".join(figure.svg.split())
    # A study that follows nothing lacks nothing.
    assert points_of_dynamics(Followed(asked=asked)) == []


def test_curves_in_mlflow_begin_at_step_0_and_however_many_sets_there_are_a_run_keeps_to_its_metrics() -> None:
    frame = compare(score_table(2), "toy")
    [run] = trial_runs(StudyRecord("toy", 1), [a_trial(0)], frame)
    assert [(p.step, p.value) for p in run.curves if p.key == "logprob.spanish"] == [(0, -15.0), (2, -13.0), (3, -12.0)]
    many = {f"set{n}": {"trait": "spanish", "context": "neutral", "tokens": [5, 7]} for n in range(12)}
    [run] = trial_runs(StudyRecord("toy", 1), [a_trial(0, many)], frame)
    curves = {p.key for p in run.curves}
    assert sum(key.startswith("logprob.") for key in curves) == MAX_PROBES
    assert len(curves | run.metrics.keys()) <= MAX_METRICS
