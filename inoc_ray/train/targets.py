"""The target modules of a recipe's adapters: whether the model has them and the engine can serve adapters on them."""

from __future__ import annotations

import re
from pathlib import Path

from inoc_ray.config.base import nearest
from inoc_ray.errors import InputError
from inoc_ray.models.weights import read_header
from inoc_ray.study.recipe import Lora

_LAYER = re.compile(r"\.\d+\.")


def linear_modules(folder: Path) -> tuple[set[str], set[str]]:
    """Return (linear modules inside the layers, other modules with a matrix), by the weights' headers."""
    inside: set[str] = set()
    outside: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        for tensor in read_header(path):
            if tensor.name.endswith(".weight") and len(tensor.shape) == 2:
                module = tensor.name.removesuffix(".weight")
                (inside if _LAYER.search(module) else outside).add(module)
    return inside, outside


def check_targets(where: str, lora: Lora, folder: Path) -> None:
    """Raise InputError for a target that names no linear module of the model, or one that no adapter can be served on.

    `where` begins the message ("recipes.short"). The engine applies adapters in the layers alone, not to the embedding and
    the output (`embed_tokens`, `lm_head`).
    """
    if lora.targets == "all-linear":
        return
    inside, outside = linear_modules(folder)
    valid = sorted({module.rsplit(".", 1)[-1] for module in inside})
    for target in lora.targets:
        if not _named(target, inside):
            why = (
                "is outside the layers, where the engine applies no adapter; leave it out"
                if _named(target, outside) or target in ("lm_head", "embed_tokens")
                else f"names no linear module of {folder}{nearest(target, valid)}"
            )
            raise InputError(f"{where}.lora.targets: {target!r} {why}.")


def _named(target: str, modules: set[str]) -> bool:
    """Whether the target is a module's name or the end of its path, as PEFT reads it."""
    return any(module == target or module.endswith(f".{target}") for module in modules)
