"""Whether report and MLflow have a study's results as they are now, so that a run that made nothing need not write them again.

Known for MLflow's own database alone, whose file shows every change; a server is always told.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.cluster.versions import own_source
from inoc_ray.config.identity import content_id
from inoc_ray.plan.plan import Plan
from inoc_ray.store.store import Store, tracking_files

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison


def are_written(plan: Plan, store: Store, comparison: Comparison) -> bool:
    """Return whether the report and MLflow's database were last written from this comparison, and are as they were then."""
    try:
        value = store.results_note(plan.study.name).read_json()
    except (OSError, ValueError):
        return False
    return value is not None and value == _note(plan, store, comparison)


def note_written(plan: Plan, store: Store, comparison: Comparison) -> None:
    """Note that the report and MLflow were just written from this comparison."""
    if (value := _note(plan, store, comparison)) is not None:
        store.results_note(plan.study.name).write_json(value)


def _note(plan: Plan, store: Store, comparison: Comparison) -> dict[str, Any] | None:
    """Return what would have to change for the results to be written again; None where that cannot be known."""
    database, artifacts = tracking_files(store.mlflow())
    page = store.report(plan.study.name)
    if plan.study.tracking_uri is not None or not (database.is_file() and artifacts.is_dir() and page.is_file()):
        return None
    stat = database.stat()
    study = plan.study.model_dump(mode="json")
    return {
        "from": content_id([study, comparison.to_json(), own_source(), _templates()]),
        "report": hashlib.sha256(page.read_bytes()).hexdigest(),
        "mlflow": [stat.st_size, stat.st_mtime_ns],
    }


def _templates() -> str:
    """Return a hash over what the report is made with besides Python: templates, styles."""
    digest = hashlib.sha256()
    for path in sorted((Path(__file__).parents[1] / "results").rglob("*")):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            digest.update(f"{path.name}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
