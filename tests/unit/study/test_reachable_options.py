"""Every option of a fine-tune and of an engine can be set in a study, or is said here to come from somewhere else."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from inoc_ray.cli import cli
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.serve.app import ServeSpec
from inoc_ray.serve.models import serve_spec
from inoc_ray.store.store import Store
from inoc_ray.study.study import Lora, Recipe, Study
from inoc_ray.train.spec import LoopSpec, LoraSpec
from inoc_ray.train.sweep import job_of
from inoc_ray.train.zero import deepspeed_config

RECIPE = {"learning_rate": 1e-3, "steps": 10}
TAUGHT = {"setting": "miniature/spanish_caps", "recipe": "r"}

LORA: dict[str, Any] = {"rank": 4, "alpha": 3.0, "dropout": 0.1, "targets": ("q_proj",), "rslora": True}
"""Field of `LoraSpec` → a value that is not the default, written as recipes.r.lora."""

OF_RECIPE: dict[str, tuple[dict[str, Any], Any]] = {
    "method": ({"method": "full"}, "full"),
    "learning_rate": ({"learning_rate": 0.5}, 0.5),
    "schedule": ({"schedule": "constant"}, "constant"),
    "warmup_steps": ({"warmup_steps": 3}, 3),
    "batch_size": ({"batch_size": 32}, 32),
    "steps": ({"steps": 11}, 11),
    "epochs": ({"steps": None, "epochs": 2.0}, 2.0),
    "max_length": ({"max_length": 77}, 77),
    "weight_decay": ({"weight_decay": 0.5}, 0.5),
    "clip_norm": ({"clip_norm": 0.5}, 0.5),
    "precision": ({"precision": "fp32"}, "fp32"),
}
"""Field of `LoopSpec` → a change of recipes.r, and what the field then is."""

OF_RESOURCES: dict[str, tuple[dict[str, Any], Any]] = {
    "zero_stage": ({"zero_stage": 1}, 1),
    "micro_batch_size": ({"micro_batch_size": 2}, 2),
    "gradient_checkpointing": ({"gradient_checkpointing": True}, True),
    "persistence_threshold": ({"persistence_threshold": 7}, 7),
}
"""Likewise a change of resources."""

OF_ELSEWHERE = {"model", "seed", "lora", "start", "enable_thinking"}
"""models.path, seeds, `LORA`, models.taught and models.enable_thinking, each with a test of its own below."""

ENGINE: dict[str, tuple[dict[str, Any], Any]] = {
    "model_id": ({"models": [{"name": "other"}]}, "other"),
    "max_lora_rank": ({"recipes": {"r": {**RECIPE, "lora": {"rank": 64}}}}, 64),
    "max_loras": ({"resources": {"serve_loras": 9}}, 9),
    "dtype": ({"recipes": {"r": {**RECIPE, "precision": "fp32"}}}, "float32"),
    "gpus": ({"resources": {"serve_gpus": 2}}, 2),
    "cpus": ({"resources": {"serve_cpus": 3}}, 3.0),
    "kv_cache_gib": ({"resources": {"serve_kv_cache_gib": 5}}, 5),
    "adapters": ({"recipes": {"r": {**RECIPE, "method": "full"}}}, None),
}
"""Field of `ServeSpec` → a change of the study, and what the field then is."""

ENGINE_ELSEWHERE = {
    "model",  # models.path
    "max_model_len",  # the longest prompt of the plan with its evaluation's max_tokens
    "stop",  # the end of turn of the model's chat template
    "stop_token_ids",  # likewise
    "host",  # inoc-ray serve --host
    "port",  # inoc-ray serve --port
    "api_key",  # INOC_RAY_API_KEY, since a study file is no place for a key
    "name",  # tells apart engines that run at once; given by the code that starts them
}


def plan_of(model: Path, recipe: dict[str, Any] | None = None, **changes: Any) -> tuple[Plan, Store]:
    value = {
        "name": "s",
        "settings": ["miniature/spanish_caps"],
        "arms": ["baseline"],
        "seeds": [5],
        "models": [{"name": "base-model", "path": str(model)}],
        "recipes": {"r": {**RECIPE, **(recipe or {})}},
        "evaluation": {"samples": 1},
        **changes,
    }
    for entry in value["models"]:
        entry.setdefault("path", str(model))
    store = Store(model.parent / "runs")
    return build_plan(Study.model_validate(value), store), store


def loop_spec(model: Path, recipe: dict[str, Any] | None = None, **changes: Any) -> LoopSpec:
    """What a worker is handed for the study's trial."""
    plan, store = plan_of(model, recipe, **changes)
    return LoopSpec.from_dict(job_of(plan, store, plan.trials[-1]).spec)


def names(spec: type) -> set[str]:
    return {field.name for field in dataclasses.fields(spec)}


def test_each_option_of_a_fine_tune_has_its_place_in_a_study():
    assert names(LoopSpec) == {*OF_RECIPE, *OF_RESOURCES, *OF_ELSEWHERE}, "say which field of a study sets it"
    assert names(LoraSpec) == set(LORA) == set(Lora.model_fields)
    assert set(OF_RECIPE) | {"lora"} == set(Recipe.model_fields)


@pytest.mark.parametrize("field", OF_RECIPE)
def test_a_recipes_field_reaches_the_loop(model, field):
    change, expected = OF_RECIPE[field]
    assert getattr(loop_spec(model, change), field) == expected != getattr(loop_spec(model), field)


@pytest.mark.parametrize("field", OF_RESOURCES)
def test_a_field_of_the_resources_reaches_the_loop(model, field):
    change, expected = OF_RESOURCES[field]
    assert getattr(loop_spec(model, resources=change), field) == expected != getattr(loop_spec(model), field)


@pytest.mark.parametrize("field", LORA)
def test_an_adapters_field_reaches_the_loop(model, field):
    plain = getattr(loop_spec(model).lora, field)
    assert getattr(loop_spec(model, {"lora": {field: LORA[field]}}).lora, field) == LORA[field] != plain


def test_model_seed_and_what_was_taught_first_reach_the_loop(model):
    spec = loop_spec(model)
    assert (spec.model, spec.seed, spec.start) == (str(model), 5, None)
    taught = loop_spec(model, models=[{"name": "base-model", "taught": TAUGHT}])
    assert taught.start is not None
    assert taught.start.endswith("/adapter")
    thinking = loop_spec(model, models=[{"name": "base-model", "enable_thinking": False}])
    assert (spec.enable_thinking, thinking.enable_thinking) == (None, False)


def test_the_persistence_threshold_reaches_deepspeed(model):
    spec = loop_spec(model, resources={"zero_stage": 3, "persistence_threshold": 0})
    assert deepspeed_config(spec, 2)["zero_optimization"] == {"stage": 3, "stage3_param_persistence_threshold": 0}


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, False),
        ({"gpus_per_worker": 1}, True),
        ({"gpus_per_worker": 1, "gradient_checkpointing": False}, False),
        ({"gradient_checkpointing": True}, True),
    ],
)
def test_gradients_are_checkpointed_on_gpus_unless_the_study_says_otherwise(model, resources, expected):
    assert loop_spec(model, resources=resources).gradient_checkpointing is expected


def test_each_option_of_an_engine_has_its_place():
    assert names(ServeSpec) == {*ENGINE, *ENGINE_ELSEWHERE}, "say which field of a study sets it"
    options = {option for parameter in cli.commands["serve"].params for option in parameter.opts}
    assert {"--host", "--port"} <= options


@pytest.mark.parametrize("field", ENGINE)
def test_a_field_of_the_study_reaches_the_engine(model, field):
    change, expected = ENGINE[field]
    plan, store = plan_of(model, **change)
    plain, _ = plan_of(model)
    asked = plan.trials[-1]
    found = getattr(serve_spec(plan, store, asked), field)
    assert found == expected != getattr(serve_spec(plain, store, plain.trials[-1]), field)
