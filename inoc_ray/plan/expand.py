"""Expands a setting into its bases, and a trial for each model, recipe, arm and seed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from inoc_ray.plan.ids import base_id, trial_id
from inoc_ray.plan.trials import Base, ResolvedModel, Trial
from inoc_ray.settings import ArmSpec, Setting
from inoc_ray.study.recipe import Recipe
from inoc_ray.study.study import SettingUse, Study


def model_label(model: ResolvedModel, recipe: str, recipes: Mapping[str, Recipe]) -> str:
    """Return the label in tables of the model trained by the recipe."""
    return model.name if len(recipes) == 1 else f"{model.name}/{recipe}"


def make_bases(setting: Setting, model: ResolvedModel, recipes: Mapping[str, Recipe]) -> list[Base]:
    """Return the model before its trials, once for each precision: responses depend on it."""
    default = setting.arms["baseline"]
    source = (
        "the untouched model"
        if model.prior_stage is None
        else f"the model after the prior stage, trial {model.prior_stage.trial_id}"
    )
    arm = ArmSpec(
        name="base", kind="base", prompt=None, undesired=default.undesired, desired=default.desired, source=source
    )
    labels: dict[str, list[str]] = {}
    for name, recipe in recipes.items():
        labels.setdefault(recipe.precision, []).append(model_label(model, name, recipes))
    return [
        Base(
            trial_id=base_id(model=model.identity, setting=setting.name),
            setting=setting.name,
            arm=arm,
            model=model,
            model_label=model.name if len(labels) == 1 else f"{model.name} ({precision})",
            precision=precision,
            compared_as=tuple(names),
        )
        for precision, names in labels.items()
    ]


def make_trials(
    study: Study, use: SettingUse, model: ResolvedModel, *, arms: Collection[ArmSpec], datasets: Mapping[str, str]
) -> list[Trial]:
    """Return the trials of a model in a setting. datasets: arm → hash of its rows."""
    trials = []
    for name, recipe in study.recipes.items():
        for arm in arms:
            named = use.control_rows if arm.uses_control_rows else use.rows
            dataset = datasets[arm.name]
            for seed in study.seeds:
                trial = Trial(
                    trial_id=trial_id(model=model.identity, dataset=dataset, arm=arm, recipe=recipe, seed=seed),
                    setting=use.name,
                    arm=arm,
                    model=model,
                    model_label=model_label(model, name, study.recipes),
                    seed=seed,
                    recipe=recipe,
                    recipe_name=name,
                    dataset_hash=dataset,
                    rows_label=str(named) if named else f"rows of {use.name}",
                )
                trials.append(trial)
    return trials


def duplicate_trial_notes(trials: Iterable[Trial]) -> list[str]:
    """Return a note for each fine-tune that the study lists more than once, as two settings with the same rows do."""
    places: dict[str, dict[str, None]] = {}
    for trial in trials:
        place = f"{trial.arm.name} of {trial.setting} on {trial.model_label}"
        places.setdefault(trial.trial_id, {})[place] = None
    several = dict.fromkeys(tuple(found) for found in places.values() if len(found) > 1)
    return [
        f"{' and '.join(found)} are the same fine-tunes (same model, rows, prompt, recipe and seed): each is trained once, and "
        "their numbers are not independent"
        for found in several
    ]
