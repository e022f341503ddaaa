"""The Python interface: plan, run and compare a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inoc_ray.run import telemetry
from inoc_ray.store.address import check_storage
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study

if TYPE_CHECKING:
    from inoc_ray.plan.plan import Plan
    from inoc_ray.results.comparison import Comparison
    from inoc_ray.run.outcome import StudyOutcome


def plan(study: Study, *, storage: str | Path | None = None) -> Plan:
    """Work out what the study would run and what is done. Starts and writes nothing.

    storage: a folder to use instead of the study's. Raises InputError if the study cannot run as it is written.
    """
    from inoc_ray.plan.build import build_plan
    from inoc_ray.plan.templates import check_roles
    from inoc_ray.run.preflight import check_plan

    built = build_plan(study, _store(study, storage))
    check_plan(built)
    check_roles(built)
    return built


def run(
    study: Study, *, storage: str | Path | None = None, train: bool = True, only: Sequence[str] = ()
) -> StudyOutcome:
    """Train, sample, judge and compare what the study is missing; write the report and update MLflow.

    storage: a folder to use instead of the study's. train: False evaluates finished fine-tunes only. only: names of
    evaluations or contexts, to sample only those. Blocks until the study is done. Raises InputError before anything
    starts if the study cannot run. A fine-tune or an evaluation that fails neither stops the others nor raises: it is listed
    in `failed` of the outcome.
    """
    telemetry.switch_off()
    from inoc_ray.run.pipeline import run_study

    return run_study(study, _store(study, storage), train=train, only=only)


def compare(study: Study, *, storage: str | Path | None = None, profile: str | None = None) -> Comparison:
    """Compute rates and effects with intervals from the stored scores. Calls no model and no judge.

    storage: a folder to use instead of the study's. profile: name of a threshold profile to use instead of the study's.
    Raises InputError if nothing is evaluated yet.
    """
    from inoc_ray.run.publish import compared

    return compared(study, _store(study, storage), profile)[1]


def _store(study: Study, storage: str | Path | None) -> Store:
    return Store(study.storage if storage is None else check_storage(str(storage)))
