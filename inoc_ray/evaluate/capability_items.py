"""What each model answered of each item of a capability task, as a score of 0 to 1: from the harness's samples in the store."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inoc_ray.store.capabilities import read_capability_samples

if TYPE_CHECKING:
    from inoc_ray.evaluate.harness_run import CapabilityScore
    from inoc_ray.evaluate.harness_task import HarnessTask
    from inoc_ray.plan.plan import Plan
    from inoc_ray.plan.trials import Subject
    from inoc_ray.store.store import Store
    from inoc_ray.study.evaluation import Capability


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityItems:
    """One model's scores on the items of a task, under one metric."""

    setting: str
    model: str
    arm: str
    kind: str
    trial_id: str
    seed: int | None
    task: str
    metric: str
    scores: Mapping[str, float]
    """Item → score, 0 to 1."""


def read_capability_items(plan: Plan, store: Store, capabilities: Sequence[Capability]) -> list[CapabilityItems]:
    """Return the scores of the items of a study's tasks, for metrics that are the mean of them.

    A metric that is something else (a perplexity, a mean of means) has no items, and so no interval over them.
    """
    from inoc_ray.evaluate.harness_task import find_task
    from inoc_ray.plan.trials import seed_of

    tasks = [find_task(capability) for capability in capabilities]
    return [
        CapabilityItems(
            setting=subject.setting,
            model=label,
            arm=subject.arm.name,
            kind=subject.arm.kind,
            trial_id=subject.trial_id,
            seed=seed_of(subject),
            task=task.capability.task,
            metric=score.metric,
            scores=scores,
        )
        for subject in plan.subjects
        for task in tasks
        for score, scores in _of_model(subject, store, task)
        for label in subject.compared_as
    ]


def _of_model(subject: Subject, store: Store, task: HarnessTask) -> Iterator[tuple[CapabilityScore, dict[str, float]]]:
    from inoc_ray.evaluate.capabilities import stored_scores, weights_id

    whole = [score for score in stored_scores(subject, store, task) if not score.part and score.value is not None]
    if not whole:
        return
    found = items_by_metric(read_capability_samples(store.capability(weights_id(subject), task.id(subject.precision))))
    for score in whole:
        items = found.get(score.metric, {})
        value = score.value
        if items and value is not None and all(0 <= one <= 1 for one in items.values()):
            mean = math.fsum(items.values()) / len(items)
            if math.isclose(mean, value, abs_tol=1e-6):
                yield score, items


def items_by_metric(samples: bytes | None) -> dict[str, dict[str, float]]:
    """Return metric → item → score; a metric's name has the harness's filter after a dot, as in `CapabilityScore`."""
    found: dict[str, dict[str, float]] = {}
    try:
        lines = gzip.decompress(samples or b"").decode("utf-8").splitlines()
        entries: list[Any] = [json.loads(line) for line in lines if line.strip()]
    except (OSError, EOFError, ValueError):
        # The scores stand for themselves; without their samples they only lack an interval.
        return found
    for entry in entries:
        if not isinstance(entry, dict) or "doc_id" not in entry:
            continue
        made_by = entry.get("filter", "none")
        for name in entry.get("metrics", ()):
            value = entry.get(name)
            if isinstance(value, int | float) and math.isfinite(value):
                metric = name if made_by == "none" else f"{name}.{made_by}"
                found.setdefault(metric, {})[f"{entry.get('task')}/{entry['doc_id']}"] = float(value)
    return found
