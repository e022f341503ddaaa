"""The study in a YAML file, with the plugins that it names."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from inoc_ray.config.base import first_message
from inoc_ray.config.reading import load_yaml, read_yaml_text
from inoc_ray.errors import InputError
from inoc_ray.settings.plugins import load_plugin
from inoc_ray.study.study import Study


def load_study(path: Path) -> Study:
    """The study in a YAML file. Raises InputError that names the file and field and says what to change."""
    if not os.path.exists(path):
        raise InputError(f"{path}: there is no such study file.")
    value = load_yaml(read_yaml_text(path, "a study file"), path)
    if value is None:
        raise InputError(f"{path}: the file is empty; write a mapping with name, settings, arms, recipes.")
    if not isinstance(value, dict):
        raise InputError(
            f"{path}: expected a mapping with name, settings, arms, recipes; found {type(value).__name__}."
        )
    try:
        study = Study.model_validate(value)
    except ValidationError as error:
        raise InputError(f"{path}: {first_message(error)}") from error
    for plugin in study.plugins:
        load_plugin(plugin, path.absolute().parent)
    return study
