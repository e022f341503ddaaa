"""Whether the report and MLflow have a study's results as they are now, so that they need not be written again.

Of MLflow that is known for its own database alone, whose file shows every change; a server is always told.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.cluster.versions import own_source
from inoc_ray.config.identity import content_id
from inoc_ray.plan.plan import Plan
from inoc_ray.store.store import Store, tracking_files

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison

_REPORT, _MLFLOW = "report", "mlflow"


def report_is_written(plan: Plan, store: Store, comparison: Comparison) -> bool:
    """Return whether the report was last written from this comparison and these fine-tunes, and is as it was then.

    What judges said beside their numbers changes only when a run judges.
    """
    return _is_noted(plan, store, _REPORT, _report(plan, store, comparison))


def note_report(plan: Plan, store: Store, comparison: Comparison) -> None:
    """Note that the report was just written from this comparison."""
    _note(plan, store, _REPORT, _report(plan, store, comparison))


def mlflow_is_written(plan: Plan, store: Store, told: str) -> bool:
    """Return whether MLflow's own database was told this last, and is as it was then."""
    return _is_noted(plan, store, _MLFLOW, _mlflow(plan, store, told))


def note_mlflow(plan: Plan, store: Store, told: str) -> None:
    """Note that MLflow was just told this."""
    _note(plan, store, _MLFLOW, _mlflow(plan, store, told))


def _is_noted(plan: Plan, store: Store, what: str, state: list[Any] | None) -> bool:
    return state is not None and _notes(plan, store).get(what) == state


def _note(plan: Plan, store: Store, what: str, state: list[Any] | None) -> None:
    if state is not None:
        store.results_note(plan.study.name).write_json({**_notes(plan, store), what: state})


def _notes(plan: Plan, store: Store) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return dict(store.results_note(plan.study.name).read_json())
    # There is none yet, or it is damaged.
    return {}


def _report(plan: Plan, store: Store, comparison: Comparison) -> list[Any] | None:
    """Return what would have to change for the report to be written again; None if there is none."""
    page = store.report(plan.study.name)
    if not page.is_file():
        return None
    study = plan.study.model_dump(mode="json")
    tunes = [(t.trial_id, store.read_trial(t.trial_id)["committed_at"]) for t in plan.trials if plan.has_weights(t)]
    made_from = content_id([study, tunes, comparison.to_json(), own_source(), _templates()])
    return [made_from, hashlib.sha256(page.read_bytes()).hexdigest()]


def _mlflow(plan: Plan, store: Store, told: str) -> list[Any] | None:
    """Return what would have to change for MLflow to be told again; None where that cannot be known."""
    database, artifacts = tracking_files(store.mlflow())
    if plan.study.tracking_uri is not None or not (database.is_file() and artifacts.is_dir()):
        return None
    stat = database.stat()
    return [content_id([told, own_source()]), stat.st_size, stat.st_mtime_ns]


def _templates() -> str:
    """Return a hash over what the report is made with besides Python: templates, styles."""
    digest = hashlib.sha256()
    for path in sorted((Path(__file__).parents[1] / "results").rglob("*")):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            digest.update(f"{path.name}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
