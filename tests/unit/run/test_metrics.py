"""Promises about the gauges of a run."""

from pathlib import Path
from typing import Any

import pytest
from finished_study import write_study

from inoc_ray.console import Progress
from inoc_ray.plan.build import build_plan
from inoc_ray.run.load import load_with_store
from inoc_ray.run.metrics import (
    DONE,
    FAILED,
    LOSS,
    METRICS,
    RATE,
    SPEED,
    STEP,
    TOTAL,
    TRIALS,
    Metric,
    Numbers,
    exported,
)
from inoc_ray.run.outcome import StudyOutcome


class Gauges(dict[tuple[str, tuple[tuple[str, str], ...]], float]):
    """A stand-in for Ray's exporter: what each series was set to last."""

    def make(self, metric: Metric) -> Any:
        gauges = self

        class Gauge:
            def set(self, value: float, tags: dict[str, str]) -> None:
                assert set(tags) == set(metric.tags)
                gauges[metric.name, tuple(sorted(tags.items()))] = value

        return Gauge()

    def of(self, metric: Metric, **tags: str) -> list[float]:
        return [v for (name, given), v in self.items() if name == metric.name and tags.items() <= dict(given).items()]


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    return build_plan(*load_with_store(write_study(tmp_path), None))


def test_what_is_under_way_is_counted_and_has_no_rate_when_it_is_over(plan: Any):
    gauges, outcome = Gauges(), StudyOutcome("finished")
    numbers = Numbers(plan, outcome, gauges.make)
    with Progress("sampling", 400, "samples") as progress:
        progress.update(100)
        progress.update(120)
        numbers.look()
        of = {"study": "finished", "work": "sampling", "unit": "samples"}
        assert gauges.of(DONE, **of) == [120]
        assert gauges.of(TOTAL, **of) == [400]
        assert gauges.of(RATE, **of)[0] > 0
        progress.update(400)
        numbers.look()
    numbers.look()
    assert gauges.of(RATE, **of) == [0.0]
    assert gauges.of(DONE, **of) == [400]
    assert gauges.of(FAILED) == [0]
    outcome.failed += ["a failure"]  # type: ignore[list-item]
    numbers.look()
    assert gauges.of(FAILED) == [1]


def test_what_belongs_to_the_whole_run_is_set_at_each_look_as_ray_passes_a_value_on_once(plan: Any):
    gauges = Gauges()
    numbers = Numbers(plan, StudyOutcome("finished"), gauges.make)
    for _ in range(2):
        numbers.look()
        assert gauges.of(TRIALS, study="finished") == [4]
        assert gauges.of(FAILED, study="finished") == [0]
        gauges.clear()


def test_engines_that_sample_at_once_are_counted_together(plan: Any):
    gauges = Gauges()
    numbers = Numbers(plan, StudyOutcome("finished"), gauges.make)
    with Progress("sampling", 400, "samples") as one, Progress("sampling", 100, "samples") as other:
        one.update(30)
        other.update(12)
        numbers.look()
    assert (gauges.of(DONE, work="sampling"), gauges.of(TOTAL, work="sampling")) == ([42], [500])


def test_a_step_of_a_trial_is_a_series_that_names_study_arm_and_seed(plan: Any):
    gauges = Gauges()
    numbers = Numbers(plan, StudyOutcome("finished"), gauges.make)
    trial = plan.trials[-1]
    for step in (1, 2):
        numbers.record(trial.trial_id, {"step": step, "loss": 1 / step, "tokens_per_second": 10, "mfu": None})
    tags = {"study": "finished", "arm": trial.arm.name, "seed": str(trial.seed), "trial": trial.trial_id}
    assert [gauges.of(metric, **tags) for metric in (STEP, LOSS, SPEED)] == [[2], [0.5], [10]]


def test_a_private_cluster_exports_nothing(plan: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def watch(trial_id: str, step: Any) -> None:
        raise AssertionError

    with exported(plan, StudyOutcome("finished"), watch) as given:
        assert given is watch


def test_names_are_what_prometheus_takes():
    assert all(metric.name.startswith("inoc_ray_") and metric.name.isidentifier() for metric in METRICS)
    assert len({metric.name for metric in METRICS}) == len(METRICS)
