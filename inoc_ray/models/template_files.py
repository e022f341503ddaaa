"""The chat template in a model folder, read without its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inoc_ray.errors import InputError
from inoc_ray.models.template import ChatTemplate


def template_in(folder: Path, enable_thinking: bool | None = None) -> ChatTemplate | None:
    """Return the chat template in a model folder, or None where no file has one.

    Special tokens that tokenizer_config.json does not name are missing from what it renders. Raises InputError for a
    template that cannot be read.
    """
    settings = {**_json(folder / "special_tokens_map.json"), **_json(folder / "tokenizer_config.json")}
    source = template_file(folder) or settings.get("chat_template")
    if isinstance(source, list):
        named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
        source = named.get("default")
    if not isinstance(source, str) or not source:
        return None
    special = {}
    for name, value in settings.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            special[name] = text
    return ChatTemplate(source, special, name=str(folder), enable_thinking=enable_thinking)


def template_file(folder: Path) -> str | None:
    """Return the text of the folder's chat_template.jinja, or None without one.

    Raises InputError for a file that cannot be read or is not UTF-8.
    """
    path = folder / "chat_template.jinja"
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); save it as UTF-8, or fetch the model again.") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        # Loading the tokenizer reports what is wrong with the file.
        return {}
    return found if isinstance(found, dict) else {}
