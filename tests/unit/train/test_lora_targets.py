"""A recipe's adapters go on modules that are there, and that the engine can serve: known from headers, before training."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from inoc_ray.errors import InputError
from inoc_ray.miniature import weights_path
from inoc_ray.plan.build import build_plan
from inoc_ray.run.preflight import check_plan
from inoc_ray.store.store import Store
from inoc_ray.study.recipe import Lora
from inoc_ray.study.study import Study
from inoc_ray.train.targets import check_targets, linear_modules


@pytest.mark.parametrize(
    "targets", ["all-linear", ("q_proj",), ("q_proj", "v_proj", "down_proj"), ("self_attn.o_proj",)]
)
def test_linear_modules_of_the_layers_are_right(targets):
    check_targets("recipes.r", Lora(targets=targets), weights_path())


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "model.embed_tokens"])
def test_what_the_engine_cannot_serve_is_refused(target):
    with pytest.raises(InputError, match=rf"recipes\.r\.lora\.targets: '{target}' is outside the layers"):
        check_targets("recipes.r", Lora(targets=("q_proj", target)), weights_path())


@pytest.mark.parametrize(
    ("target", "near"), [("q_prj", "did you mean 'q_proj'"), ("nope", "valid: "), ("norm", "valid: ")]
)
def test_a_module_that_is_not_there_is_named_with_the_nearest(target, near):
    with pytest.raises(InputError, match=near):
        check_targets("recipes.r", Lora(targets=(target,)), weights_path())


@pytest.mark.parametrize("targets", [(), (".*",), (".*proj",), ("q_proj|v_proj",), ("",), ("q_proj ",)])
def test_no_target_and_patterns_are_no_names(targets):
    with pytest.raises(ValidationError, match="targets"):
        Lora(targets=targets)


def test_embeddings_are_outside_of_the_layers():
    inside, outside = linear_modules(weights_path())
    assert {m.rsplit(".", 1)[-1] for m in inside} >= {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"}
    assert any(m.endswith("embed_tokens") for m in outside)


def test_a_plan_says_it(tmp_path: Path):
    study = Study.model_validate(
        {
            "name": "s",
            "settings": ["miniature/spanish_caps"],
            "arms": ["baseline"],
            "recipes": {"short": {"learning_rate": 1e-3, "steps": 1, "lora": {"targets": ["nope_proj"]}}},
        }
    )
    with pytest.raises(InputError, match=r"recipes\.short\.lora\.targets: 'nope_proj' names no linear module"):
        check_plan(build_plan(study, Store(tmp_path / "runs")))
