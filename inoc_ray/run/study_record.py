"""The study as its storage and MLflow keep it: as it was written, and when it was first run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from inoc_ray import __version__
from inoc_ray.errors import hide_passwords
from inoc_ray.plan.plan import Plan
from inoc_ray.store.store import Store

if TYPE_CHECKING:
    from inoc_ray.results.records import StudyRecord


def keep_study(plan: Plan, store: Store) -> None:
    """Write the study beside its results as it was run, with the time of its first run (epoch seconds, never changed)."""
    written = hide_passwords(plan.study.model_dump(mode="json"))
    store.keep_study(plan.study.name, {"study": written, "created_at": first_run_at(plan, store) or time.time()})


def study_file(plan: Plan) -> str:
    """Return the study as a study file, without what has its default."""
    import yaml

    written = hide_passwords(plan.study.model_dump(mode="json", exclude_defaults=True))
    return yaml.safe_dump(written, sort_keys=False, allow_unicode=True)


def first_run_at(plan: Plan, store: Store) -> float | None:
    """Return when the study was first run, in epoch seconds; None if it never was."""
    try:
        return float((store.read_study(plan.study.name) or {})["created_at"])
    except (ValueError, KeyError, TypeError):
        return None


def study_record(plan: Plan, store: Store) -> StudyRecord:
    """Return the study for the tracking server."""
    from inoc_ray.results.records import FIRST_RUN, StudyRecord

    created = int((first_run_at(plan, store) or 0.0) * 1000)
    tags = {"storage": store.address, "inoc_ray": __version__, **({FIRST_RUN: str(created)} if created else {})}
    return StudyRecord(plan.study.name, created, study_dimensions(plan), tags)


def study_dimensions(plan: Plan) -> str:
    """Return the study's size in words, such as "miniature: 3 arms × 2 seeds × 1 model"."""
    names = ", ".join(use.name for use in plan.study.settings)
    counts = {"arm": len(plan.study.arms), "seed": len(plan.study.seeds), "model": len(plan.study.models)}
    return f"{names}: " + " × ".join(f"{n} {what}{'' if n == 1 else 's'}" for what, n in counts.items())
