"""The prior stage: a fine-tune that a model goes through before the study's own trials."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePath

from inoc_ray import settings
from inoc_ray.data.chat import ChatRow
from inoc_ray.data.sources import read_rows
from inoc_ray.errors import InputError, said_of
from inoc_ray.plan.ids import trial_id
from inoc_ray.plan.rows import RowLibrary
from inoc_ray.plan.trials import ResolvedModel, Trial
from inoc_ray.settings import ArmSpec
from inoc_ray.study.recipe import Lora, Recipe
from inoc_ray.study.study import Model, PriorStage, Study

ARM_NAME = "stage-1"
"""The arm name of a prior stage's trial."""

ADAPTER_FIELDS = ("rank", "alpha", "targets", "rslora")
"""Fields that a trial shares with the adapter that it continues. Dropout leaves no trace in an adapter."""


def after_prior_stage(
    found: ResolvedModel, model: Model, study: Study, *, library: RowLibrary, notes: list[str]
) -> ResolvedModel:
    """Return the model with the trial of its prior stage, if it has one; that trial's rows go into `library`.

    Raise InputError for bad rows, and for a recipe of the study that cannot continue the stage's adapter.
    """
    stage = model.prior_stage
    if stage is None:
        return found
    recipe = recipe_of(stage, study)
    check_continues(model, recipe, study.recipes)
    dataset = library.keep(prior_rows(model, stage, notes))
    source = source_of(stage)
    arm = ArmSpec(
        name=ARM_NAME,
        kind="baseline",
        prompt=None,
        undesired=(),
        desired=(),
        source="the rows of the prior stage, without a prompt",
    )
    trial = Trial(
        trial_id=trial_id(model=found.identity, dataset=dataset, arm=arm, recipe=recipe, seed=stage.seed),
        setting=source,
        arm=arm,
        model=found,
        model_label=model.name,
        seed=stage.seed,
        recipe=recipe,
        recipe_name=stage.recipe if isinstance(stage.recipe, str) else None,
        dataset_hash=dataset,
        rows_label=stage.rows or f"rows of {source}",
    )
    return replace(found, prior_stage=trial)


def prior_rows(model: Model, stage: PriorStage, notes: list[str] | None = None) -> list[ChatRow]:
    """Return the rows of the stage, unchanged; appends remarks on them to `notes`.

    Raise InputError for an unknown setting, a setting without rows, or a bad file.
    """
    if stage.rows is not None:
        with said_of(f"models: {model.name!r}: prior_stage.rows"):
            return read_rows(stage.rows, notes)
    assert stage.setting is not None
    with said_of(f"models: {model.name!r}: prior_stage.setting"):
        setting = settings.get(stage.setting)
    if setting.row_source is not None:
        raise InputError(
            f"models: {model.name!r}: prior_stage.setting: the rows of {setting.name} do not ship with the package; name a file "
            f"of them as prior_stage.rows instead. It must hold {setting.row_source.in_words()}."
        )
    return setting.rows()


def source_of(stage: PriorStage) -> str:
    """Return the label of the stage's rows: the setting, or the name of the file."""
    return stage.setting or PurePath(str(stage.rows)).name


def recipe_of(stage: PriorStage, study: Study) -> Recipe:
    """Return the stage's recipe, looked up in the study if the stage names it."""
    return study.recipes[stage.recipe] if isinstance(stage.recipe, str) else stage.recipe


def recipes_by_place(study: Study) -> dict[str, Recipe]:
    """Return every recipe that the study trains with, by its place in the study file."""
    own = {f"recipes.{name}": recipe for name, recipe in study.recipes.items()}
    inline = {
        f"models: {m.name!r}: prior_stage.recipe": m.prior_stage.recipe
        for m in study.models
        if m.prior_stage and isinstance(m.prior_stage.recipe, Recipe)
    }
    return {**own, **inline}


def check_continues(model: Model, first: Recipe, recipes: dict[str, Recipe]) -> None:
    """Raise InputError unless every recipe can continue the adapter that `first` yields.

    A trial continues that adapter's tensors, so its own must have the same shape and scale.
    """
    where = f"models: {model.name!r}: prior_stage"
    if first.method != "lora":
        raise InputError(
            f"{where}.recipe: method {first.method} is not supported in a prior stage, which must yield an adapter; use "
            "method lora, or give the fully fine-tuned weights as a model folder."
        )
    for name, recipe in recipes.items():
        if recipe.method != "lora":
            raise InputError(
                f"recipes.{name}: method {recipe.method} cannot continue the prior stage of model {model.name!r}, which is an "
                "adapter; use method lora, or remove `prior_stage` from the model."
            )
        for field in ADAPTER_FIELDS:
            before, after = _comparable(first.lora, field), _comparable(recipe.lora, field)
            if before != after:
                raise InputError(
                    f"recipes.{name}.lora.{field} is {after}, but {where}.recipe has {before}; trials continue that adapter, so "
                    "give both the same value."
                )


def _comparable(lora: Lora, field: str) -> object:
    value = getattr(lora, field)
    return sorted(set(value)) if isinstance(value, tuple) else value
