"""Numbers of a model's config.json, at the top level or nested.

Text models have them at the top level. Models for pictures or sound keep the language model's numbers in a nested
configuration, and older families have other names for the context window.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from inoc_ray.errors import InputError

LANGUAGE_MODEL = ("text_config", "llm_config", "language_config", "thinker_config", "decoder")
"""Keys under which a configuration of several parts keeps that of the language model."""

WINDOW = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "max_seq_length",
    "n_ctx",
    "seq_length",
    "seq_len",
)
"""Names of the context window (in tokens), the most common first."""


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """Return the model's config.json, or another such file. Raises InputError when it is missing or not a JSON object."""
    path = folder / name
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fetch the model again.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); fetch the model again.") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(config).__name__}; fetch the model again.")
    return config


def parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the configuration itself, then those of its language model, from the outside to the inside."""
    yield config
    for name in LANGUAGE_MODEL:
        inner = config.get(name)
        if isinstance(inner, Mapping):
            yield from parts(inner)


def number(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """Return the first integer above zero under one of `names`, from the outermost part that has one, or None."""
    for part in parts(config):
        for name in names:
            value = part.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def context_window(folder: Path) -> int:
    """Return how many tokens the model in `folder` can see. Raises InputError when its config.json does not say."""
    window = number(read_config(folder), WINDOW)
    if window is None:
        raise InputError(
            f"{folder}/config.json: does not say how many tokens the model can see (looked for {', '.join(WINDOW)}, also "
            f"inside {', '.join(LANGUAGE_MODEL)}); write max_position_embeddings there."
        )
    return window


def end_ids(folder: Path) -> frozenset[int]:
    """Return the token ids at which an engine stops by itself: `eos_token_id` of generation_config.json, else config.json.

    Raises InputError for a damaged file.
    """
    found: set[int] = set()
    # Without a generation_config.json the engine makes one from config.json; with one it reads only that.
    name = "generation_config.json"
    exists = (folder / name).exists()
    sources = [read_config(folder, name)] if exists else list(parts(read_config(folder)))
    for source in sources:
        ids = source.get("eos_token_id")
        found |= {i for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int)}
    return frozenset(found)
