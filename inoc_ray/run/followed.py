"""What was followed of a study's fine-tunes while they trained: log-probabilities of fixed responses, and rates over the steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from inoc_ray.plan.courses import step_of
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.probes import to_follow
from inoc_ray.run.planned_and_stored import planned_courses
from inoc_ray.store.failures import Failure
from inoc_ray.store.store import Store

if TYPE_CHECKING:
    from inoc_ray.results.courses import StepRates
    from inoc_ray.results.dynamics import Followed


def followed_of(plan: Plan, store: Store) -> Followed:
    """Return the looks at the fixed responses that the study follows, and what is missing of them."""
    from inoc_ray.results.dynamics import Followed, looks_of
    from inoc_ray.run.mlflow_records import followed_records

    if plan.study.dynamics is None:
        return Followed()
    asked = [((t.setting, t.compared_as[0], t.arm.name, t.arm.kind), t.trial_id) for t in to_follow(plan)]
    return Followed(
        looks=tuple(looks_of(followed_records(plan, store))),
        asked=Counter(place for place, _ in asked),
        to_train=frozenset(place for place, trial_id in asked if trial_id not in plan.done_trials),
    )


def read_courses(plan: Plan, store: Store, failures: Sequence[Failure]) -> Iterator[StepRates]:
    """Yield the rates over the steps that the study asks for, of what is stored of them."""
    from inoc_ray.evaluate.score_table import NoScores, empty_score_table, read_score_table
    from inoc_ray.results.compare import rates_after

    if not plan.courses:
        return
    for step, planned in planned_courses(plan, store, failures).items():
        cells = tuple(cell for cell in plan.courses if step_of(plan, cell.subject) == step)
        try:
            frame = read_score_table(replace(plan, cells=cells, courses=()), store)
        except NoScores:
            frame = empty_score_table()
        yield rates_after(step, frame, planned, plan.reference, plan.study.evaluation.outcome)
