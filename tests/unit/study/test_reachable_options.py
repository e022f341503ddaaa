"""Every option of a fine-tune and of an engine can be set in a study, or is said here to come from somewhere else."""

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import inoc_ray
from inoc_ray.cli import cli
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.serve.models import serve_spec
from inoc_ray.serve.spec import ServeSpec
from inoc_ray.store.store import Store
from inoc_ray.study.recipe import Lora, Recipe
from inoc_ray.study.resources import TrialResources
from inoc_ray.study.study import Study
from inoc_ray.train.job import TrialJob
from inoc_ray.train.spec import LoopSpec
from inoc_ray.train.sweep import job_of
from inoc_ray.train.zero import deepspeed_config

PACKAGE = Path(inoc_ray.__file__).parent
RECIPE = {"learning_rate": 1e-3, "steps": 10}
PRIOR = {"setting": "miniature/spanish_caps", "recipe": "r"}

ENGINE: dict[str, tuple[dict[str, Any], Any]] = {
    "model_id": ({"models": [{"name": "other"}]}, "other"),
    "max_lora_rank": ({"recipes": {"r": {**RECIPE, "lora": {"rank": 64}}}}, 64),
    "max_loras": ({"resources": {"serve_loras": 9}}, 9),
    "dtype": ({"recipes": {"r": {**RECIPE, "precision": "fp32"}}}, "float32"),
    "gpus": ({"resources": {"serve_gpus": 2}}, 2),
    "cpus": ({"resources": {"serve_cpus": 3}}, 3.0),
    "replicas": ({"resources": {"serve_replicas": 3}}, 3),
    "gpu_share": ({"resources": {"serve_gpu_share": 0.5}}, 0.5),
    "kv_cache_gib": ({"resources": {"serve_kv_cache_gib": 5}}, 5),
    "adapters": ({"recipes": {"r": {**RECIPE, "method": "full"}}}, None),
}
"""Field of `ServeSpec` → a change of the study, and what the field then is."""

ENGINE_ELSEWHERE = {
    "model",  # models.path
    "full",  # method: full of a recipe
    "max_model_len",  # the longest prompt of the plan with its evaluation's max_tokens
    "stop",  # the end of turn of the model's chat template
    "stop_token_ids",  # likewise
    "host",  # inoc-ray serve --host
    "port",  # inoc-ray serve --port
    "api_key",  # INOC_RAY_API_KEY, since a study file is no place for a key
    "name",  # tells apart engines that run at once; given by the code that starts them
    "listing",  # inoc-ray serve: the names of what is served
    "metrics",  # whether the cluster outlives the command
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


def job(model: Path, recipe: dict[str, Any] | None = None, **changes: Any) -> TrialJob:
    """What a worker is given for the study's trial, after its way through Ray Train's configuration."""
    plan, store = plan_of(model, recipe, **changes)
    return TrialJob.from_dict(json.loads(json.dumps(job_of(plan, store, plan.trials[-1]).to_dict())))


def loop_spec(model: Path, recipe: dict[str, Any] | None = None, **changes: Any) -> LoopSpec:
    return job(model, recipe, **changes).spec


def names(spec: type) -> set[str]:
    return {field.name for field in dataclasses.fields(spec)}


def test_a_fine_tune_has_no_option_beside_those_of_the_study():
    """Its recipe and resources are the study's own classes, so a new option is declared there or nowhere."""
    hints = get_type_hints(LoopSpec)
    assert names(LoopSpec) == {"model", "seed", "enable_thinking", "start", "recipe", "resources"}
    assert (hints["recipe"], hints["resources"]) == (Recipe, TrialResources)
    assert get_args(Study.model_fields["recipes"].annotation)[1] is Recipe
    assert issubclass(Study.model_fields["resources"].annotation, TrialResources)


OTHER: dict[str, dict[str, Any]] = {
    "recipe": {
        "method": "full",
        "lora": {"rank": 4, "alpha": 3.0, "dropout": 0.1, "targets": ["q_proj"], "rslora": True},
        "learning_rate": 0.5,
        "schedule": "constant",
        "warmup_steps": 3,
        "batch_size": 32,
        "epochs": 2.0,
        "steps": None,
        "max_length": 77,
        "weight_decay": 0.5,
        "clip_norm": 0.5,
        "precision": "fp32",
    },
    "resources": {
        "workers": 2,
        "cpus_per_worker": 2.0,
        "gpus_per_worker": 0.5,
        "micro_batch_size": 2,
        "micro_batch_tokens": 300,
        "layout": "packed",
        "zero_stage": 3,
        "persistence_threshold": 7,
        "accumulate_in_fp32": True,
        "offload_optimizer": True,
        "offload_parameters": True,
        "hpz_partition_size": 2,
        "deepspeed": {"zero_optimization": {"reduce_bucket_size": 9}},
        "gradient_checkpointing": True,
        "logits_chunk": 5,
    },
}
"""Options at values that are not their defaults."""


def test_every_option_reaches_the_worker_as_the_study_has_it(model):
    spec = loop_spec(model, OTHER["recipe"], resources=OTHER["resources"])
    for got, written in ((spec.recipe, OTHER["recipe"]), (spec.resources, OTHER["resources"])):
        carried = got.model_dump(mode="json")
        assert set(carried) == set(type(got).model_fields)
        assert carried == type(got).model_validate(written).model_dump(mode="json")
        assert written.items() <= carried.items()


@pytest.mark.parametrize("cls", [Recipe, Lora, TrialResources])
def test_every_option_is_acted_on(cls):
    """Somebody above the study reads the field: one that is declared and then forgotten does nothing."""
    read: set[str] = set()
    for room in ("train", "cluster", "plan"):
        for path in (PACKAGE / room).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            read |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    # Read by the class's own methods, which those rooms call.
    own = {"steps": "total_steps", "epochs": "total_steps", "gradient_checkpointing": "checkpoints_gradients"}
    assert [name for name in cls.model_fields if own.get(name, name) not in read] == []


def test_model_seed_and_the_prior_stage_reach_the_loop(model):
    spec = loop_spec(model)
    assert (spec.model, spec.seed, spec.start) == (str(model), 5, None)
    continued = loop_spec(model, models=[{"name": "base-model", "prior_stage": PRIOR}])
    assert continued.start is not None
    assert continued.start.endswith("/adapter")
    thinking = loop_spec(model, models=[{"name": "base-model", "enable_thinking": False}])
    assert (spec.enable_thinking, thinking.enable_thinking) == (None, False)


def test_the_persistence_threshold_reaches_deepspeed(model):
    spec = loop_spec(model, resources={"zero_stage": 3, "persistence_threshold": 0})
    assert deepspeed_config(spec, 2)["zero_optimization"]["stage3_param_persistence_threshold"] == 0


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
    assert loop_spec(model, resources=resources).resources.checkpoints_gradients is expected


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
