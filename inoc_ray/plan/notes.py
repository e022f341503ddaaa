"""Notes on a study that can run as it is, but may not measure what its author expects."""

from __future__ import annotations

from collections.abc import Iterator

from inoc_ray.plan.plan import Plan
from inoc_ray.plan.steps import steps_of
from inoc_ray.study.study import WITHOUT_DIRECTION


def notes_on(plan: Plan) -> tuple[str, ...]:
    """Return the notes, each once and without a full stop."""
    return tuple(
        dict.fromkeys(
            (*_never_warm(plan), *_never_kept(plan), *_unused_samples(plan), *_unmeasured(plan), *_uncompared(plan))
        )
    )


def _never_warm(plan: Plan) -> Iterator[str]:
    """Yield a note for each recipe whose warm-up lasts as long as the training of a trial, or longer."""
    names = {recipe: name for name, recipe in plan.study.recipes.items()}
    for trial in plan.fine_tunes:
        steps, recipe = steps_of(plan, trial), trial.recipe
        if steps <= recipe.warmup_steps:
            name = f"recipe {names[recipe]!r}" if recipe in names else f"the prior-stage recipe of {trial.model.name!r}"
            yield (
                f"{name}: warmup_steps is {recipe.warmup_steps}, and training on {trial.rows_label} has only {steps} "
                f"step{'s' * (steps != 1)}, so the learning rate rises to the end and reaches {steps / recipe.warmup_steps:.0%} of "
                "learning_rate; lower warmup_steps or train longer"
            )


def _never_kept(plan: Plan) -> Iterator[str]:
    """Yield a note for each step of `resources.checkpoints` that no fine-tune of the study reaches before its end."""
    last: dict[int, int] = {}
    for trial in plan.fine_tunes:
        steps = steps_of(plan, trial)
        for one in plan.resources_of(trial).checkpoints:
            if isinstance(one, int):
                last[one] = max(steps, last.get(one, 0))
    late: dict[int, list[str]] = {}
    for step, steps in last.items():
        if step >= steps:
            late.setdefault(steps, []).append(f"{step}")
    for steps, named in late.items():
        yield (
            f"resources.checkpoints: {', '.join(named)}: fine-tunes that are to keep them have {steps} steps at most, so that "
            "nothing is kept there beside the final weights; name earlier steps, or fractions such as 0.5"
        )


def _unused_samples(plan: Plan) -> Iterator[str]:
    """Yield a note if `evaluation.samples` is set but every evaluation has a number of its own, as suites do."""
    evaluation = plan.study.evaluation
    if "samples" in evaluation.model_fields_set and all(cell.evaluation.samples for cell in plan.cells):
        yield (
            f"evaluation.samples: {evaluation.samples} has no effect, as each evaluation sets its own number; a suite asks every "
            "question once, or `samples_per_question` times"
        )


def _unmeasured(plan: Plan) -> Iterator[str]:
    """Yield a note for each undesired trait that nothing measures out of distribution: it can show no suppression."""
    measured = {
        (cell.subject.setting, trait)
        for cell in plan.cells
        if cell.evaluation.split == "ood" and cell.context == plan.reference
        for trait in cell.evaluation.traits
    }
    arms: dict[tuple[str, str], dict[str, None]] = {}
    for trial in plan.trials:
        for trait in trial.arm.undesired:
            if trial.arm.kind != "baseline" and (trial.setting, trait) not in measured:
                arms.setdefault((trial.setting, trait), {})[trial.arm.name] = None
    for (setting, trait), names in arms.items():
        yield (
            f"setting {setting}: no out-of-distribution evaluation measures {trait!r} in the context {plan.reference!r}, so its "
            f"suppression cannot be reported ({', '.join(names)}); add a suite with `split: ood` that measures it there"
        )


def _uncompared(plan: Plan) -> Iterator[str]:
    """Yield a note where prompts are compared with nothing, and where one fine-tune stands for an arm."""
    kinds: dict[str, set[str]] = {}
    for trial in plan.trials:
        kinds.setdefault(trial.setting, set()).add(trial.arm.kind)
    for setting, of_setting in kinds.items():
        if "baseline" not in of_setting and of_setting - {"control", *WITHOUT_DIRECTION}:
            yield (
                f"setting {setting}: without the arm baseline there is no suppression and no retention, which are measured against "
                "it; add it to arms"
            )
    if len(plan.study.seeds) == 1:
        yield (
            "seeds: one fine-tune of an arm says nothing of another seed, so no effect has a p-value or a verdict; take two or more"
        )
