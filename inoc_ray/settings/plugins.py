"""Settings in a file of the user's own."""

from __future__ import annotations

import hashlib
import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from inoc_ray import settings
from inoc_ray.data import classify as classifiers
from inoc_ray.errors import InputError, shown

_LOADED: dict[Path, tuple[str, tuple[str, ...], tuple[str, ...]]] = {}
"""Plugin file → (hash of its text, settings and row classifiers that it registered)."""


def load_plugin(name: str, folder: Path) -> None:
    """Runs the Python file `name` (inside `folder`, or an absolute path), which must register a setting or a row classifier.

    The hash of the file's text becomes part of each new setting's judge version: a judge that is edited scores stored
    samples again. A file that was loaded before is run again only if its text has changed. Raises InputError when there is
    no such file, when it lies outside the study's folder, when it fails, and when it registers nothing.
    """
    where = f"plugins: {shown(name)}"
    path = Path(name) if Path(name).is_absolute() else (folder / name).resolve()
    if not Path(name).is_absolute() and not path.is_relative_to(folder.resolve()):
        raise InputError(f"{where}: leads out of the study file's folder; give an absolute path for a file elsewhere.")
    # The function says no to a name that no file can have, where the method raises.
    if path.suffix != ".py" or not os.path.isfile(path):
        raise InputError(f"{where}: there is no Python file {str(path)[:500]}.")
    text = path.read_bytes()
    version = hashlib.sha256(text).hexdigest()[:16]
    known, own, own_classifiers = _LOADED.get(path, ("", (), ()))
    if known == version:
        return
    for old in own:
        settings.forget(old)
    for old in own_classifiers:
        classifiers.unregister_classifier(old)
    _LOADED.pop(path, None)
    before = settings.registered()
    classifiers_before = classifiers.registered_classifiers()
    try:
        _run(text, path, version)
    except (Exception, SystemExit) as error:  # A plugin that ends the program would end a command in silence.
        _forget_new(before)
        for name_of_new in _new_classifiers(classifiers_before):
            classifiers.unregister_classifier(name_of_new)
        line = next(
            (f.lineno for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == str(path)), None
        )
        at = f", line {line}" if line else ""
        raise InputError(f"{where}: {path}{at}: {type(error).__name__}: {error}") from error
    new = [name for name in settings.registered() if name not in before]
    new_classifiers = _new_classifiers(classifiers_before)
    if not new and not new_classifiers:
        raise InputError(f"{where}: {path} registers no setting; call inoc_ray.settings.register(Setting(…)) in it.")
    for setting_name in new:
        setting = settings.get(setting_name)
        settings.forget(setting_name)
        settings.register(replace(setting, judge_version=f"{setting.judge_version}+{version}"))
    _LOADED[path] = (version, tuple(new), tuple(new_classifiers))


def _new_classifiers(before: list[str]) -> list[str]:
    return [name for name in classifiers.registered_classifiers() if name not in before]


def _run(text: bytes, path: Path, version: str) -> None:
    # Compiled here and not imported: an import would leave a __pycache__ beside the user's file, and `inoc-ray plan`
    # writes nothing. Dataclasses look their module up by name, so it has to be known.
    module = ModuleType(f"inoc_ray_plugin_{version}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    exec(compile(text, str(path), "exec"), module.__dict__)


def _forget_new(before: dict[str, settings.Setting]) -> None:
    for name in settings.registered():
        if name not in before:
            settings.forget(name)
