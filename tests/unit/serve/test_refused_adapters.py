"""What a recipe refuses because it cannot be served as it was trained, and that the engine gives the reason."""

from types import SimpleNamespace

import pytest

from inoc_ray.errors import InputError
from inoc_ray.study.study import Study


def study(recipe: dict) -> Study:
    base = {"learning_rate": 1e-4, "steps": 1}
    settings = ["miniature/spanish_caps"]
    return Study.model_validate({"name": "s", "settings": settings, "recipes": {"r": {**base, **recipe}}})


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ({"lora": {"dora": True}}, "DoRA is not supported"),
        ({"lora": {"use_dora": True}}, "DoRA is not supported"),
        ({"method": "dora"}, "DoRA is not supported"),
        ({"method": "qlora"}, "QLoRA is not supported"),
        ({"load_in_4bit": True}, "QLoRA is not supported"),
        ({"lora": {"modules_to_save": ["lm_head"]}}, "modules_to_save is not supported"),
        ({"modules_to_save": ["lm_head"]}, "Use method: full"),
        ({"optim": "adamw_8bit"}, "there is one optimizer, AdamW with its state in full"),
    ],
)
def test_it_is_refused_in_the_study_with_the_reason(recipe, told):
    with pytest.raises((InputError, ValueError), match=told):
        study(recipe)


@pytest.mark.parametrize(
    ("extra", "told"), [({"use_dora": True}, "DoRA"), ({"modules_to_save": ["lm_head"]}, "modules_to_save")]
)
def test_the_engine_refuses_such_an_adapter(extra, told):
    """When this fails, the engine has learnt it, and the recipe may have it."""
    from vllm.lora.peft_helper import PEFTHelper

    plain = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
    limits = SimpleNamespace(max_lora_rank=8)
    PEFTHelper.from_dict(plain).validate_legal(limits)
    with pytest.raises(ValueError, match=told):
        PEFTHelper.from_dict({**plain, **extra}).validate_legal(limits)


def test_the_engine_has_no_base_of_4_bit_as_qlora_trains_on():
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

    assert "fp8" in QUANTIZATION_METHODS
    assert not [name for name in QUANTIZATION_METHODS if "bitsandbytes" in name or "nf4" in name]


def test_the_factors_of_dora_are_unknown_to_the_engine():
    from vllm.lora.utils import parse_fine_tuned_lora_name

    module = "base_model.model.model.layers.0.self_attn.q_proj"
    assert parse_fine_tuned_lora_name(f"{module}.lora_A.weight") == ("model.layers.0.self_attn.q_proj", True)
    with pytest.raises(ValueError, match="unsupported LoRA weight"):
        parse_fine_tuned_lora_name(f"{module}.lora_magnitude_vector.weight")
