"""Reads a study from a YAML file and runs the plugins that it names."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from inoc_ray.config.base import first_message
from inoc_ray.config.reading import load_yaml, read_yaml_text
from inoc_ray.errors import InputError
from inoc_ray.settings.plugins import load_plugin
from inoc_ray.store.address import check_storage
from inoc_ray.store.store import Store
from inoc_ray.study.reference import places_of_key
from inoc_ray.study.study import Study

UNPACKED_JOBS = "/runtime_resources/working_dir_files/"
"""Where Ray unpacks the working folders of jobs, below the folder of its session on each node."""


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


def load_with_store(path: str | Path, storage: str | None) -> tuple[Study, Store]:
    """Return the study in a YAML file and its store; storage: what `--storage` gives instead of the study's.

    Raise InputError, naming file and field, or the option, if one is wrong.
    """
    given = None if storage is None else _checked(storage)
    study = load_study(path)
    store = Store(given or study.storage)
    check_stays(study, store)
    _check_folder(store, f"{path}: storage" if given is None else "--storage")
    return study, store


def store_at(storage: str, where: str = "--storage") -> Store:
    """Return the store of an address; `where` says where that stands. Raise InputError if it is none."""
    store = Store(_checked(storage, where))
    _check_folder(store, where)
    return store


def check_stays(study: Study, store: Store) -> None:
    """Raise InputError for results in the folder into which Ray unpacked a job: Ray deletes that, and nobody looks there."""
    lost = "is in the folder into which Ray unpacked this job, and is deleted with it"
    if UNPACKED_JOBS in store.address:
        raise InputError(
            f"storage: {store.address} {lost}; write s3://BUCKET/PREFIX, or the absolute path of a mount that every node has "
            "(also as --storage)."
        )
    kind, _, path = (study.tracking_uri or "").partition(":///")
    if kind.startswith("sqlite") and UNPACKED_JOBS in os.path.abspath(path):
        raise InputError(
            f"tracking_uri: {os.path.abspath(path)} {lost}; give the address of a tracking server (http://HOST:5000), or leave it "
            "out for an SQLite file in the storage."
        )


def _check_folder(store: Store, where: str) -> None:
    """Raise InputError for a storage that is a file or lies below one: everything would be missing there, and nothing be said."""
    folder = "" if store.is_bucket else store.address
    while folder and not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if folder and os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(f"{where}: {folder} is a file, not a folder; give another one.")


def _checked(storage: str, where: str = "--storage") -> str:
    try:
        return check_storage(storage)
    except ValueError as error:
        raise InputError(f"{where}: {error}.") from error
