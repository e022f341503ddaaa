"""Do the tensors in a model's files fill the model that its config.json describes? Decided from names and shapes alone.

transformers initialises whatever it does not find at random, with a warning. Training compares every tensor with the model
that it loads (`inoc_ray.train.model`); the checks here need no torch, so they can run before anything starts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inoc_ray.errors import InputError
from inoc_ray.models.config import number

LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""Names of the number of layers in config.json, the most common first."""
_MORE_LAYERS = ("num_nextn_predict_layers", "mtp_num_hidden_layers")
"""Layers after those, which predict several tokens at once and which transformers leaves out."""
_LAYER = re.compile(
    r"(?:(?:model|transformer|backbone|gpt_neox|language_model|decoder)\.)*(?:layers|h|blocks)\.(\d+)\.(.+)"
)
"""A tensor of the language model's layers; those for pictures and sound have other prefixes."""

UNIFORM_FAMILIES = frozenset(
    {
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma",
        "gemma2",
        "gemma3_text",
        "phi3",
        "olmo",
        "olmo2",
        "granite",
        "smollm3",
    }
)
"""Families with the same tensors in each layer, named as Llama names them."""


def check_layout(folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise InputError where tensors are missing or left over, or have other sizes than config.json says.

    `shapes`: the shape of each tensor of all files, by name.
    """
    layers: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if found := _LAYER.fullmatch(name):
            layers.setdefault(int(found[1]), {})[found[2]] = shape
    _check_count(folder, config, set(layers))
    if config.get("model_type") not in UNIFORM_FAMILIES:
        return
    every = {name for layer in layers.values() for name in layer if not name.endswith("inv_freq")}
    for index, layer in sorted(layers.items()):
        if absent := sorted(every - set(layer)):
            raise _missing(folder, f"{absent[0]} of layer {index}")
    _check_outside_layers(folder, config, shapes)
    _check_sizes(folder, config, shapes)


def _missing(folder: Path, what: str) -> InputError:
    return InputError(
        f"{folder}: the weights have no tensor {what}, which a model of this config.json needs (it would be initialised at "
        "random); fetch the model again."
    )


def _check_count(folder: Path, config: Mapping[str, Any], found: set[int]) -> None:
    expected = number(config, LAYERS)
    if expected is None or not found:
        return
    allowed = expected + (number(config, _MORE_LAYERS) or 0)
    absent, left_over = sorted(set(range(expected)) - found), sorted(i for i in found if i >= allowed)
    if absent or left_over:
        what = f"layer {absent[0]} is missing" if absent else f"layer {left_over[0]} would be left out"
        raise InputError(
            f"{folder}: config.json says {expected} layers, and the weights have {len(found)} ({what}); one of them belongs to "
            "another model."
        )


def _check_outside_layers(folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check the tensors outside the layers. A base without a head is published without `model.` before its names."""
    for name in ("embed_tokens.weight", "layers.0.mlp.down_proj.weight", "norm.weight"):
        # The first Olmo normalises without weights.
        if (name, config.get("model_type")) == ("norm.weight", "olmo"):
            continue
        if name not in shapes and f"model.{name}" not in shapes:
            raise _missing(folder, f"model.{name}")
    if config.get("tie_word_embeddings") is False and "lm_head.weight" not in shapes:
        raise _missing(folder, "lm_head.weight (tie_word_embeddings is false)")


def _check_sizes(folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    hidden, inner = number(config, ("hidden_size",)), number(config, ("intermediate_size",))
    sizes = {
        "embed_tokens.weight": (1, "hidden_size", hidden),
        "self_attn.q_proj.weight": (1, "hidden_size", hidden),
        "mlp.down_proj.weight": (1, "intermediate_size", inner),
    }
    for name, shape in shapes.items():
        for end, (axis, field, size) in sizes.items():
            if size is not None and name.endswith(end) and (len(shape) != 2 or shape[axis] != size):
                raise InputError(
                    f"{folder}: {name} has the shape {list(shape)}, but config.json says {field} {size:,}; one of them belongs "
                    "to another model."
                )
