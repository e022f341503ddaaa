"""Numbers of a run for Prometheus, through the exporter that Ray has on each node of a cluster (see docs/operations.md).

They are gauges of the driver, so they end with the run. Nothing is exported from a private cluster: it ends with its command, and
nobody knows its ports.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from inoc_ray.cluster.connect import is_attached
from inoc_ray.console import under_way
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import Trial
from inoc_ray.run.outcome import StudyOutcome

TICK_SECONDS = 5.0
"""Time between two looks at what is under way. Ray passes metrics on every 10 s."""
OF_TRIALS = ("study", "setting", "model", "arm", "seed", "trial")
Watch = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A gauge; Ray puts `ray_` before its name."""

    name: str
    description: str
    tags: tuple[str, ...]


DONE = Metric(
    name="inoc_ray_work_done",
    description="How much is done of what is under way: steps, samples, judgments.",
    tags=("study", "work", "unit"),
)
TOTAL = Metric(name="inoc_ray_work_total", description="How much there is of it.", tags=("study", "work", "unit"))
RATE = Metric(
    name="inoc_ray_work_per_second",
    description="How much is done in a second; 0 when nothing is.",
    tags=("study", "work", "unit"),
)
FAILED = Metric(name="inoc_ray_failed", description="What failed in this run so far.", tags=("study",))
TRIALS = Metric(name="inoc_ray_trials", description="Fine-tunes of the study.", tags=("study",))
STEP = Metric(name="inoc_ray_trial_step", description="The last step that a trial reported.", tags=OF_TRIALS)
LOSS = Metric(name="inoc_ray_trial_loss", description="Mean loss of that step's target tokens.", tags=OF_TRIALS)
SPEED = Metric(name="inoc_ray_trial_tokens_per_second", description="Tokens per second of that step.", tags=OF_TRIALS)
METRICS = (DONE, TOTAL, RATE, FAILED, TRIALS, STEP, LOSS, SPEED)
_OF_STEPS = {"step": STEP, "loss": LOSS, "tokens_per_second": SPEED}
"""By the field of a step's record."""


class Gauge(Protocol):
    """What is asked of a gauge of Ray's."""

    def set(self, value: float, tags: dict[str, str]) -> None:
        """Set the value of the series with these tags."""


class Numbers:
    """The gauges of a run. make: makes one."""

    def __init__(self, plan: Plan, outcome: StudyOutcome, make: Callable[[Metric], Gauge]) -> None:
        self._study, self._outcome = plan.study.name, outcome
        self._trials = {trial.trial_id: tags_of(plan, trial) for trial in plan.fine_tunes}
        self._gauges = {metric: make(metric) for metric in METRICS}
        self._works: dict[str, str] = {}
        """Label → unit of what was under way."""

    def _set(self, metric: Metric, value: float, **tags: str) -> None:
        self._gauges[metric].set(value, {"study": self._study, **tags})

    def record(self, trial_id: str, step: Mapping[str, Any]) -> None:
        """Set what is known of a trial in training. step: its record, as the trial's curve has it."""
        tags = self._trials[trial_id]
        for field, metric in _OF_STEPS.items():
            self._gauges[metric].set(float(step[field]), tags)

    def look(self) -> None:
        """Set what is known of the study and of everything that is under way.

        Ray passes a value on once: what is not set again is gone from the next scrape.
        """
        self._set(TRIALS, len(self._trials))
        now: dict[str, list[dict[str, Any]]] = {}
        for state in under_way():
            if "total" in state:
                now.setdefault(state["label"], []).append(state)
        for label, states in now.items():
            # Engines that sample at once count for themselves.
            tags = {"work": label, "unit": states[0]["unit"]}
            self._works[label] = states[0]["unit"]
            self._set(DONE, sum(state["done"] for state in states), **tags)
            self._set(TOTAL, sum(state["total"] for state in states), **tags)
            self._set(RATE, sum(state["per_second"] or 0.0 for state in states), **tags)
        for label in self._works.keys() - now.keys():
            unit = self._works.pop(label)
            self._set(RATE, 0.0, work=label, unit=unit)
        self._set(FAILED, len(self._outcome.failed))


def tags_of(plan: Plan, trial: Trial) -> dict[str, str]:
    """Return the tags of a trial's series."""
    values = (plan.study.name, trial.setting, trial.model_label, trial.arm.name, str(trial.seed), trial.trial_id)
    return dict(zip(OF_TRIALS, values, strict=True))


@contextlib.contextmanager
def exported(plan: Plan, outcome: StudyOutcome, watch: Watch) -> Iterator[Watch]:
    """Export the numbers of a run while the block runs, once Ray is initialised.

    Yield a `watch` that also exports what it is told.
    """
    if not is_attached():
        yield watch
        return
    numbers = Numbers(plan, outcome, _gauge)
    over = threading.Event()

    def look() -> None:
        while True:
            numbers.look()
            if over.wait(TICK_SECONDS):
                return

    def both(trial_id: str, step: Mapping[str, Any]) -> None:
        watch(trial_id, step)
        numbers.record(trial_id, step)

    thread = threading.Thread(target=look, name="metrics", daemon=True)
    thread.start()
    try:
        yield both
    finally:
        over.set()
        # Ray must not end under it; a look takes microseconds.
        thread.join(1.0)


def _gauge(metric: Metric) -> Gauge:
    from ray.util.metrics import Gauge

    return Gauge(metric.name, description=metric.description, tag_keys=metric.tags)
