"""A study with every file that it names, in one folder, so that a job finds them wherever its driver runs.

Fields that name files declare it (`runtime(path=…)`, `config/identity.py`), so a new one travels without a line here. A file
that is too large to send stays where it is if its path is absolute, and the cluster must then have it under the same path; so
does the storage folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from inoc_ray.config.identity import PathKind, content_id, file_hash, path_kind_of
from inoc_ray.console import say
from inoc_ray.errors import InputError
from inoc_ray.evaluate.harness_task import task_file, task_files
from inoc_ray.models.hub import is_hub
from inoc_ray.models.resolve import model_files
from inoc_ray.store.store import Store
from inoc_ray.study.registered import is_named
from inoc_ray.study.study import Study

STUDY_FILE = "study.yaml"
MAX_FIELD_BYTES = 64 << 20
"""Most bytes that travel with a job for one field (a file, a model, a plugin with the files beside it)."""
MAX_TOTAL_BYTES = 400 << 20
"""Most bytes in all: Ray accepts 500 MiB as a job's working folder."""
_MAX_FILES = 1000

ReplacePath = Callable[[str, PathKind, str], str]
"""(text of a field, what it names, its place in the study) → the text in its place."""


def replace_paths(config: BaseModel, replace: ReplacePath, place: str = "") -> dict[str, Any]:
    """Return the fields of a configuration that were set, as plain values, with every path passed through `replace`."""
    out: dict[str, Any] = {}
    for name in type(config).model_fields:
        if name in config.model_fields_set:
            kind = path_kind_of(type(config), name)
            out[name] = _plain(getattr(config, name), kind, replace, f"{place}.{name}" if place else name)
    return out


def _plain(value: Any, kind: PathKind | None, replace: ReplacePath, place: str) -> Any:
    if isinstance(value, BaseModel):
        return replace_paths(value, replace, place)
    if isinstance(value, str):
        return value if kind is None else replace(value, kind, place)
    if isinstance(value, Mapping):
        return {name: _plain(inner, kind, replace, f"{place}.{name}") for name, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(inner, kind, replace, f"{place}[{number}]") for number, inner in enumerate(value)]
    return value


def pack(folder: Path, path: Path, study: Study, store: Store) -> str:
    """Copy the study (read from `path`) and what it names into `folder`; return 16 hex digits over all of it.

    Raise InputError for a missing file, and for one that is too large to travel and has no absolute path.
    """
    packer = _Packer(folder, path.absolute().parent, store)
    value = replace_paths(study, packer.pack)
    # Written even if the study leaves it to the default, which is relative to the working folder.
    value["storage"] = store.address
    (folder / STUDY_FILE).write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), encoding="utf-8")
    packed = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    if (size := sum(file.stat().st_size for file in packed)) > MAX_TOTAL_BYTES:
        largest = max(packed, key=lambda file: file.stat().st_size)
        raise InputError(
            f"the files that the study names have {_mib(size)}, more than a job can carry ({_mib(MAX_TOTAL_BYTES)}; the largest "
            f"is {largest.name}); put large ones on a mount that every node has, and give their absolute paths."
        )
    return content_id({file.relative_to(folder).as_posix(): file_hash(file) for file in packed})


class _Packer:
    """Copies what a study names, each item into its own folder, so that files keep their names."""

    def __init__(self, folder: Path, beside: Path, store: Store) -> None:
        self.folder, self.beside, self.store = folder, beside, store
        self.packed: dict[tuple[str, PathKind], str] = {}

    def pack(self, source: str, kind: PathKind, place: str) -> str:
        """Copy what `source` names; return where the job finds it."""
        if (source, kind) not in self.packed:
            self.packed[(source, kind)] = self._pack(source, kind, place)
        return self.packed[(source, kind)]

    def _pack(self, source: str, kind: PathKind, place: str) -> str:
        if kind == "storage":
            return self.store.address
        if is_hub(source) or (kind == "model" and is_named(source)):
            return source
        if kind == "task":
            found = task_file(source)
            return source if found is None else self._copy(source, place, found, task_files(found))
        path = Path(os.path.expanduser(source)).absolute()
        if kind == "model":
            return self._copy(source, place, path, model_files(path))
        if kind == "plugin":
            path = self.beside / source
            return self._copy(source, place, path, self._beside(path, place))
        return self._copy(source, place, path, [path])

    def _copy(self, source: str, place: str, path: Path, files: Iterable[Path]) -> str:
        """Copy the files, all beside or below `path`, which the study names; return its new place."""
        sources = list(files)
        try:
            size = sum(file.stat().st_size for file in sources)
            if size > MAX_FIELD_BYTES:
                return self._leave(source, place, path, size)
            target = self.folder / "files" / str(len(self.packed))
            for file in sources:
                copy = target / file.relative_to(path.parent)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
        except OSError as error:
            raise InputError(f"{place}: {path}: cannot be packed for the job ({error.strerror}).") from error
        return (target / path.name).relative_to(self.folder).as_posix()

    def _leave(self, source: str, place: str, path: Path, size: int) -> str:
        if not Path(source).is_absolute():
            hub = ", or hf://OWNER/NAME@COMMIT for a model from the hub" if path.is_dir() else ""
            raise InputError(
                f"{place}: {path} has {_mib(size)}, too much to send with a job (at most {_mib(MAX_FIELD_BYTES)}); give its "
                f"absolute path on a mount that every node of the cluster has{hub}."
            )
        say(f"{place}: {source} ({_mib(size)}) is not sent with the job; every node must have it under this path")
        return source

    def _beside(self, path: Path, place: str) -> list[Path]:
        """Return a plugin with all files beside and below it, since it may import or read any of them."""
        found: list[Path] = []
        for base, folders, files in os.walk(path.parent):
            folders[:] = sorted(
                f
                for f in folders
                if not f.startswith((".", "__pycache__")) and str(Path(base, f)) != self.store.address
            )
            found += [Path(base, f) for f in sorted(files) if not f.startswith(".") and Path(base, f).is_file()]
            if len(found) > _MAX_FILES or sum(f.stat().st_size for f in found) > MAX_FIELD_BYTES:
                raise InputError(
                    f"{place}: beside {path} are more than {_MAX_FILES} files or {_mib(MAX_FIELD_BYTES)}, and all of them "
                    "would travel with it; move the plugin and the files that it needs to a folder of their own."
                )
        if not path.is_file():
            raise InputError(f"{place}: there is no Python file {path}.")
        return found


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"
