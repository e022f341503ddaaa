"""A user's plugin file: Python that registers settings, prompts, rules, builders, models and whatever else has a registry."""

from __future__ import annotations

import hashlib
import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from inoc_ray.config.registry import Added, recorded, withdraw
from inoc_ray.data.classify import CLASSIFIERS
from inoc_ray.errors import InputError, shown
from inoc_ray.scoring.rule_base import RULES
from inoc_ray.settings.prompts import PROMPTS
from inoc_ray.settings.registry import SETTINGS

_LOADED: dict[Path, tuple[str, Added]] = {}
"""Plugin file → (hash of its text, what it registered)."""


def load_plugin(name: str, folder: Path) -> None:
    """Run the Python file `name` (inside `folder`, or an absolute path), which must register something.

    The hash of the file's text becomes part of the judge version of each setting that it registers, and of the identity of
    each rule: stored samples are scored again by a judge that was edited. A file that was loaded before is run again only if
    its text has changed. Raises InputError when there is no such file, when it lies outside the study's folder, when it
    fails, and when it registers nothing.
    """
    where = f"plugins: {shown(name)}"
    if "\0" in name:
        raise InputError(f"{where}: contains a NUL character; remove it.")
    path = Path(name) if Path(name).is_absolute() else (folder / name).resolve()
    if not Path(name).is_absolute() and not path.is_relative_to(folder.resolve()):
        raise InputError(f"{where}: leads out of the study file's folder; give an absolute path for a file elsewhere.")
    # The function says no to a name that no file can have, where the method raises.
    if path.suffix != ".py" or not os.path.isfile(path):
        raise InputError(f"{where}: there is no Python file {str(path)[:500]}.")
    text = path.read_bytes()
    version = hashlib.sha256(text).hexdigest()[:16]
    known, before = _LOADED.get(path, ("", []))
    if known == version:
        return
    withdraw(before)
    _LOADED.pop(path, None)
    _load_own()
    try:
        with recorded(version) as added:
            _run(text, path, version)
    except (Exception, SystemExit) as error:  # A plugin that ends the program would end a command in silence.
        line = next(
            (f.lineno for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == str(path)), None
        )
        at = f", line {line}" if line else ""
        raise InputError(f"{where}: {path}{at}: {type(error).__name__}: {error}") from error
    if not added:
        raise InputError(
            f"{where}: {path} registers nothing; call inoc_ray.settings.register(Setting(…)) in it, or what else docs/plugins.md "
            "says for what it brings."
        )
    for registry, entry in added:
        if registry is SETTINGS:
            setting = SETTINGS[entry]
            SETTINGS.replace(entry, replace(setting, judge_version=f"{setting.judge_version}+{version}"))
    _LOADED[path] = (version, added)


def _load_own() -> None:
    """Load what the package registers itself: a plugin that imports a module of it must not pass for its author."""
    for registry in (SETTINGS, PROMPTS, RULES, CLASSIFIERS):
        registry.load()


def _run(text: bytes, path: Path, version: str) -> None:
    # Compiled here and not imported: an import would leave a __pycache__ beside the user's file, and `inoc-ray plan`
    # writes nothing. Dataclasses look their module up by name, so it has to be known.
    module = ModuleType(f"inoc_ray_plugin_{version}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    exec(compile(text, str(path), "exec"), module.__dict__)
