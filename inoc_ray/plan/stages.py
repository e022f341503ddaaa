"""The prior stage: what a model is taught before a study's own trials, and what can follow it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePath

from inoc_ray import settings
from inoc_ray.data.chat import ChatRow
from inoc_ray.data.sources import read_rows
from inoc_ray.errors import InputError
from inoc_ray.plan.ids import trial_id
from inoc_ray.plan.rows import RowLibrary
from inoc_ray.plan.trials import ResolvedModel, Trial
from inoc_ray.settings import ArmSpec
from inoc_ray.study.recipe import Lora, Recipe
from inoc_ray.study.study import Model, Stage, Study

STAGE_1 = "stage-1"
"""What the trial of a prior stage is called, where a trial of the study has the name of its arm."""

ADAPTER_FIELDS = ("rank", "alpha", "targets", "rslora")
"""What a trial must have in common with the adapter that it goes on with. Dropout leaves no trace in an adapter."""


def after_prior_stage(
    found: ResolvedModel, model: Model, study: Study, *, library: RowLibrary, notes: list[str]
) -> ResolvedModel:
    """Return the model with the trial of its prior stage, if the study gives it one; that trial's rows go into `library`.

    Raise InputError for wrong rows, and for a recipe of the study that cannot continue the stage's adapter.
    """
    stage = model.taught
    if stage is None:
        return found
    recipe = recipe_of(stage, study)
    check_continues(model, recipe, study.recipes)
    dataset = library.keep(read_prior_rows(model, stage, notes))
    source = rows_source(stage)
    arm = ArmSpec(
        name=STAGE_1,
        kind="baseline",
        prompt=None,
        undesired=(),
        desired=(),
        source="the rows that the model is taught first, without a prompt",
    )
    trial = Trial(
        trial_id=trial_id(model=found.identity, dataset=dataset, arm=arm, recipe=recipe, seed=stage.seed),
        setting=source,
        arm=arm,
        model=found,
        model_label=model.name,
        seed=stage.seed,
        recipe=recipe,
        dataset_hash=dataset,
        rows_label=stage.rows or f"rows of {source}",
    )
    return replace(found, prior_trial=trial)


def read_prior_rows(model: Model, stage: Stage, notes: list[str] | None = None) -> list[ChatRow]:
    """Return the rows of the stage, as they are; what there is to tell of them goes to `notes`.

    Raise InputError for an unknown setting, one without rows, a bad file.
    """
    if stage.rows is not None:
        return read_rows(stage.rows, notes)
    assert stage.setting is not None
    try:
        setting = settings.get(stage.setting)
    except InputError as error:
        raise InputError(f"models: {model.name!r}: taught.setting: {error}") from error
    if setting.row_source is not None:
        raise InputError(
            f"models: {model.name!r}: taught.setting: the rows of {setting.name} do not ship with the package; name a file "
            f"of them as taught.rows instead. What it holds: {setting.row_source.in_words()}."
        )
    return setting.rows()


def rows_source(stage: Stage) -> str:
    """Return what the stage's trial names as its setting: the setting, or the name of the file of rows."""
    return stage.setting or PurePath(str(stage.rows)).name


def recipe_of(stage: Stage, study: Study) -> Recipe:
    """Return the stage's recipe, found by its name if it is named."""
    return study.recipes[stage.recipe] if isinstance(stage.recipe, str) else stage.recipe


def recipes_by_place(study: Study) -> dict[str, Recipe]:
    """Every recipe that something is trained with, by where it stands in the study."""
    own = {f"recipes.{name}": recipe for name, recipe in study.recipes.items()}
    inline = {
        f"models: {m.name!r}: taught.recipe": m.taught.recipe
        for m in study.models
        if m.taught and isinstance(m.taught.recipe, Recipe)
    }
    return {**own, **inline}


def check_continues(model: Model, first: Recipe, recipes: dict[str, Recipe]) -> None:
    """Raise InputError unless every recipe can go on with the adapter that `first` yields.

    A trial goes on with the tensors of that adapter, so they must have its shape and its scale.
    """
    where = f"models: {model.name!r}: taught"
    if first.method != "lora":
        raise InputError(
            f"{where}.recipe: method {first.method} cannot be taught first yet, only an adapter can be gone on with; use "
            "method lora, or give the fully fine-tuned weights as a model folder of their own."
        )
    for name, recipe in recipes.items():
        if recipe.method != "lora":
            raise InputError(
                f"recipes.{name}: method {recipe.method} cannot go on from what model {model.name!r} is taught, which is an "
                "adapter; use method lora, or take `taught` away from the model."
            )
        for field in ADAPTER_FIELDS:
            before, after = _comparable(first.lora, field), _comparable(recipe.lora, field)
            if before != after:
                raise InputError(
                    f"recipes.{name}.lora.{field} is {after}, and {where}.recipe has {before}; trials go on with that very "
                    "adapter, so give both the same value."
                )


def _comparable(lora: Lora, field: str) -> object:
    value = getattr(lora, field)
    return sorted(set(value)) if isinstance(value, tuple) else value
