"""The keys under which the store records failures of a plan's trials and cells."""

from __future__ import annotations

from inoc_ray.plan.cells import Cell
from inoc_ray.plan.trials import Trial
from inoc_ray.store.failures import Thing


def trial_key(trial: Trial) -> Thing:
    """Return the key of a trial's weights."""
    return ("trial", trial.trial_id)


def cell_key(cell: Cell) -> Thing:
    """Return the key of a cell's samples."""
    return ("cell", cell.subject.trial_id, cell.evaluation_id)
