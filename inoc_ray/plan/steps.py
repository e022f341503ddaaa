"""How long a trial of a plan trains, and how many sets of rows it sees on the way."""

from __future__ import annotations

from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import Trial
from inoc_ray.train.spec import LoopSpec, total_steps


def steps_of(plan: Plan, trial: Trial) -> int:
    """Optimizer steps of a trial."""
    spec = LoopSpec.from_dict({**trial.recipe.model_dump(mode="json"), "model": "", "seed": 0})
    return total_steps(spec, len(plan.rows[trial.dataset_hash]))


def variants_of(plan: Plan, trial: Trial) -> int:
    """How many sets of inoculated rows a trial sees: one, or with wordings per epoch one per wording and epoch."""
    inoculation = trial.arm.inoculation
    if trial.arm.prompt is None or inoculation.paraphrase_order != "per_epoch":
        return 1
    rows = len(plan.rows[trial.dataset_hash])
    epochs = -(-steps_of(plan, trial) * trial.recipe.batch_size // rows)
    return min(1 + len(inoculation.paraphrases), epochs)
