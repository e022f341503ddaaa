"""Is this a model that can be fine-tuned to continue a text? Decided from config.json, without torch."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inoc_ray.errors import InputError
from inoc_ray.models.config import parts

_CAUSAL, _MASKED = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_MASKED_LM_MAPPING_NAMES"
_POSITIVE = ("num_attention_heads", "num_hidden_layers", "hidden_size", "vocab_size")


def check_trainable(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise InputError for a model type that does not continue a text, quantised weights, and impossible sizes."""
    path, kind = folder / "config.json", config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise InputError(f"{path}: does not say which model it is (model_type); fetch the model again.")
    # Models that fill in masked words have a causal class too, but were never trained as one.
    if kind not in _types(_CAUSAL) - _types(_MASKED):
        # Imported only to choose the message: it imports torch, which takes seconds.
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        if kind not in CONFIG_MAPPING_NAMES:
            raise InputError(
                f"{path}: the model type {kind[:60]!r} is not one that transformers knows; use another model, or a newer "
                "transformers."
            )
        raise InputError(f"{path}: a model of the type {kind!r} does not continue a text; use a causal language model.")
    for part in parts(config):
        if quantised := part.get("quantization_config"):
            method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
            raise InputError(
                f"{path}: the weights are quantised ({str(method or 'quantization_config')[:60]}), and training needs them whole; "
                "use the model that they were made from."
            )
        for name in _POSITIVE:
            value = part.get(name)
            if isinstance(value, int) and value <= 0:
                raise InputError(
                    f"{path}: {name} is {value}, where a number above zero is needed; fetch the model again."
                )


@functools.cache
def _types(table: str) -> frozenset[str]:
    """Return the model types in a table of transformers' auto classes.

    Reads the module's text, as importing it imports torch, which takes seconds.
    """
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).with_name("models") / "auto" / "modeling_auto.py"
    rows = source.read_text(encoding="utf-8").partition(f"\n{table} = OrderedDict(")[2].partition("\n)\n")[0]
    found = frozenset(re.findall(r"\(\s*\"([\w.-]+)\",", rows))
    assert found, f"{source} has no {table}"
    return found
