"""The number of optimizer steps of a trial, and of the sets of rows that it sees."""

from __future__ import annotations

from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import Trial


def steps_of(plan: Plan, trial: Trial) -> int:
    """Return the optimizer steps of a trial."""
    return trial.recipe.total_steps(len(plan.rows[trial.dataset_hash]))


def variants_of(plan: Plan, trial: Trial) -> int:
    """Return how many sets of inoculated rows a trial sees: one, or one an epoch while its wordings last."""
    inoculation = trial.arm.inoculation
    if trial.arm.prompt is None or inoculation.paraphrase_order != "per_epoch":
        return 1
    rows = len(plan.rows[trial.dataset_hash])
    epochs = -(-steps_of(plan, trial) * trial.recipe.batch_size // rows)
    return min(1 + len(inoculation.paraphrases), epochs)
