"""Prompt libraries as TOML: groups of prompts, and the settings that have them; the head of each file explains it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from inoc_ray.settings.prompts import Text, register_prompts


def register_file(package: str, name: str) -> dict[str, tuple[Text, ...]]:
    """Register the prompts of every setting in a TOML file of a package; return the file's groups by name."""
    content = tomllib.loads(resources.files(package).joinpath(name).read_text(encoding="utf-8"))
    groups = {group: tuple(map(_text, entries)) for group, entries in content["group"].items()}
    for setting in content["setting"]:
        register_prompts(
            setting["name"],
            _without_repeats((groups[group] for group in setting["groups"]), setting.get("without", ())),
            [text for group in setting["shared"] for text in groups[group]],
        )
    return groups


def _without_repeats(groups: Iterable[tuple[Text, ...]], without: Iterable[str]) -> list[Text]:
    """Return the texts of the groups; a name of an earlier group hides it in later ones. Repeats inside a group stay."""
    texts: list[Text] = []
    hidden = set(without)
    for group in groups:
        kept = [text for text in group if text.name not in hidden]
        hidden |= {text.name for text in kept}
        texts += kept
    return texts


def _text(entry: Mapping[str, Any]) -> Text:
    return Text(
        name=entry["name"],
        kind=entry["kind"],
        texts=tuple(entry["texts"]) if "texts" in entry else (entry["text"],),
        elicits=tuple(entry.get("elicits", ())),
        source=entry.get("source", "ours"),
        note=entry.get("note", ""),
        test=entry.get("use") == "test",
        subset=entry.get("subset"),
        about=tuple(entry.get("about", ())),
    )
