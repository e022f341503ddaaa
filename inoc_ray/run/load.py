"""Reads a study from a YAML file and runs the plugins that it names."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from inoc_ray.config.base import first_message
from inoc_ray.config.reading import load_yaml, read_yaml_text
from inoc_ray.errors import InputError
from inoc_ray.settings.plugins import load_plugin
from inoc_ray.study.reference import places_of_key
from inoc_ray.study.study import Study


def load_study(path: str | Path) -> Study:
    """Return the study in a YAML file. Raise InputError, naming file and field, if it is wrong.

    Its plugins run first, since they may register what the study names: a model, a preset.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise InputError(f"{path}: no such study file.")
    value = load_yaml(read_yaml_text(path, "a study file"), path)
    if value is None:
        raise InputError(f"{path}: the file is empty; write a mapping with name, settings, arms, recipes.")
    if not isinstance(value, dict):
        raise InputError(
            f"{path}: expected a mapping with name, settings, arms, recipes; found {type(value).__name__}."
        )
    plugins = value.get("plugins")
    # Anything but a list of strings is refused below, with the field's name.
    for plugin in plugins if isinstance(plugins, list) and all(isinstance(name, str) for name in plugins) else ():
        load_plugin(plugin, path.absolute().parent)
    try:
        return Study.model_validate(value)
    except ValidationError as error:
        raise InputError(f"{path}: {first_message(error, places=places_of_key)}") from error
