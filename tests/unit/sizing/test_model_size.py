"""The size of a model from its config.json: parameters exact, activations as autograd keeps them."""

from typing import Any

import pytest
from published_configs import CONFIGS, PARAMETERS, config_folder

from inoc_ray.errors import InputError
from inoc_ray.sizing.model_size import model_size, pass_size
from inoc_ray.study.recipe import Recipe

LORA = Recipe.model_validate({"learning_rate": 1e-4, "steps": 1, "lora": {"rank": 32}})
FULL = LORA.model_copy(update={"method": "full"})
KIB = 1024


def text_of(name: str) -> dict[str, Any]:
    """The configuration of the text model."""
    text: dict[str, Any] = CONFIGS[name].get("text_config", CONFIGS[name])
    return text


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_that_are_published(tmp_path, name):
    found = model_size(config_folder(tmp_path, name), FULL)
    assert found.parameters == found.trained == PARAMETERS[name]


@pytest.mark.parametrize("name", ["Qwen2.5-7B", "Llama-3.1-8B", "Qwen3-8B", "Gemma-2B", "Gemma-3-4B"])
def test_an_adapter_has_two_factors_for_each_linear_module_of_the_text_model(tmp_path, name):
    """Gemma 3's vision tower has none: rows have no images."""
    config = text_of(name)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim", hidden // config["num_attention_heads"])
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    # q, k, v, o, gate, up, down: inputs + outputs.
    ends = (hidden + queries) + 2 * (hidden + keys) + (queries + hidden) + 2 * (hidden + inner) + (inner + hidden)
    found = model_size(config_folder(tmp_path, name), LORA)
    assert found.trained == 32 * ends * config["num_hidden_layers"]


@pytest.mark.parametrize("name", ["Gemma-3-4B", "Gemma-3-27B"])
def test_a_token_of_text_does_not_go_through_the_vision_tower(tmp_path, name):
    vision, text = CONFIGS[name]["vision_config"], text_of(name)
    width, inner = vision["hidden_size"], vision["intermediate_size"]
    # Attention with biases, two layers of the MLP with theirs, two norms.
    layer = 4 * (width + 1) * width + 2 * width * inner + inner + width + 4 * width
    patch = vision["patch_size"]
    embeddings = (3 * patch**2 + 1) * width + (vision["image_size"] // patch) ** 2 * width
    tower = vision["num_hidden_layers"] * layer + embeddings + 2 * width
    projector = width * text["hidden_size"] + width
    found = model_size(config_folder(tmp_path, name), FULL)
    assert found.multiplied == PARAMETERS[name] - tower - projector


def test_a_target_that_the_model_lacks_is_refused(tmp_path):
    recipe = Recipe.model_validate({"learning_rate": 1e-4, "steps": 1, "lora": {"targets": ["no_proj"]}})
    with pytest.raises(InputError, match="no_proj"):
        model_size(config_folder(tmp_path, "Qwen2.5-7B"), recipe)


def kept_by_hand(config: dict, *, full: bool) -> int:
    """Bytes of bf16 activations that a layer of Qwen2 or Llama keeps of a token.

    Each of the two norms: its input in fp32 (4h), its result (2h), and for the gradient of its own weight the normed input
    (2h). Attention: queries and result (2 · width each), keys and values. The MLP: gate, its activation, up, their product.
    """
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = config["num_key_value_heads"] * hidden // config["num_attention_heads"]
    return 2 * (4 + 2 + 2 * full) * hidden + 2 * (2 * hidden + 2 * keys) + 4 * 2 * inner


@pytest.mark.parametrize("name", ["Qwen2.5-7B", "Qwen2.5-32B", "Llama-3.1-8B"])
@pytest.mark.parametrize("recipe", [LORA, FULL], ids=["lora", "full"])
def test_activations_are_those_that_autograd_keeps(tmp_path, name, recipe):
    config, tokens = CONFIGS[name], 1024
    found = pass_size(config_folder(tmp_path, name), recipe, tokens=tokens, checkpointed=False)
    by_hand = config["num_hidden_layers"] * kept_by_hand(config, full=recipe.method == "full")
    # Adapters keep their inner product (rank numbers a module), and the embedding what comes before the first layer.
    assert 1.0 <= found.kept / tokens / by_hand < 1.05


@pytest.mark.parametrize(("name", "mib"), [("Qwen2.5-7B", 5.6), ("Qwen2.5-32B", 18.8), ("Llama-3.1-8B", 5.6)])
def test_activations_are_those_measured_with_one_layer_of_that_shape(tmp_path, name, mib):
    """Measured on a CPU with real tensors, in bf16 with LoRA of rank 32, one layer of the real shape: MiB a token."""
    found = pass_size(config_folder(tmp_path, name), LORA, tokens=1024, checkpointed=False)
    assert found.kept / 1024 / 2**20 == pytest.approx(mib, rel=0.015)


@pytest.mark.parametrize("name", CONFIGS)
def test_checkpointed_a_layer_keeps_its_input_alone(tmp_path, name):
    config = text_of(name)
    found = pass_size(config_folder(tmp_path, name), LORA, tokens=2048, checkpointed=True)
    by_hand = config["num_hidden_layers"] * 2 * config["hidden_size"] * 2048
    assert by_hand <= found.kept < 1.2 * by_hand
    plain = pass_size(config_folder(tmp_path, name), LORA, tokens=2048, checkpointed=False)
    assert found.kept + found.layer < plain.kept / 5


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(InputError, match="no model can be made of it"):
        model_size(tmp_path, FULL)
