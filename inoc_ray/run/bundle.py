"""A study with every file that it names, in one folder, so that a job finds them wherever its driver runs.

Which fields name files is declared beside them (`runtime(path=…)`, identity.py), and the model of the study is walked for
them: a new field that names a file travels without a line here. What is too large to send with each job stays where it is if
it has an absolute path, which the cluster must then have, too; the storage folder is always named so.
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
from inoc_ray.study.named import is_named
from inoc_ray.study.study import Study

STUDY = "study.yaml"
MAX_ONE = 64 << 20
"""Bytes of what one field names (a file, a model, a plugin with the files beside it) that travel with a job."""
MAX_ALL = 400 << 20
"""Of all of it: Ray takes 500 MiB as a job's working folder."""
_MAX_FILES = 1000

Put = Callable[[str, PathKind, str], str]
"""(text of a field, what it names, where it stands) → the text in its place."""


def with_paths(config: BaseModel, put: Put, place: str = "") -> dict[str, Any]:
    """The fields of a configuration that were set, as plain values, every path in them replaced by what `put` gives."""
    out: dict[str, Any] = {}
    for name in type(config).model_fields:
        if name in config.model_fields_set:
            kind = path_kind_of(type(config), name)
            out[name] = _plain(getattr(config, name), kind, put, f"{place}.{name}" if place else name)
    return out


def _plain(value: Any, kind: PathKind | None, put: Put, place: str) -> Any:
    if isinstance(value, BaseModel):
        return with_paths(value, put, place)
    if isinstance(value, str):
        return value if kind is None else put(value, kind, place)
    if isinstance(value, Mapping):
        return {name: _plain(inner, kind, put, f"{place}.{name}") for name, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(inner, kind, put, f"{place}[{number}]") for number, inner in enumerate(value)]
    return value


def pack(folder: Path, path: Path, study: Study, store: Store) -> str:
    """Puts the study (read from `path`) and what it names into `folder`; returns 16 hex digits over all of it.

    Raises InputError for a file that is not there, and for one that is too large to travel and has no absolute path.
    """
    packer = _Packer(folder, path.absolute().parent, store)
    value = with_paths(study, packer.put)
    # Named even where the study leaves it to the default: a job has a working folder of its own.
    value["storage"] = store.address
    (folder / STUDY).write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), encoding="utf-8")
    packed = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    if (size := sum(file.stat().st_size for file in packed)) > MAX_ALL:
        largest = max(packed, key=lambda file: file.stat().st_size)
        raise InputError(
            f"the files that the study names have {_mib(size)} together, and a job takes {_mib(MAX_ALL)} along (the largest is "
            f"{largest.name}); put the large ones on a mount that every node has, and give their absolute paths."
        )
    return content_id({file.relative_to(folder).as_posix(): file_hash(file) for file in packed})


class _Packer:
    """Copies what a study names, each into a folder of its own, so that files keep their names."""

    def __init__(self, folder: Path, beside: Path, store: Store) -> None:
        self.folder, self.beside, self.store = folder, beside, store
        self.packed: dict[tuple[str, PathKind], str] = {}

    def put(self, source: str, kind: PathKind, place: str) -> str:
        """Where the job finds what `source` names."""
        if (source, kind) not in self.packed:
            self.packed[(source, kind)] = self._put(source, kind, place)
        return self.packed[(source, kind)]

    def _put(self, source: str, kind: PathKind, place: str) -> str:
        if kind == "storage":
            return self.store.address
        if is_hub(source) or (kind == "model" and is_named(source)):
            return source
        if kind == "task":
            found = task_file(source)
            return source if found is None else self._copy(source, place, found, found.parent, task_files(found))
        path = Path(os.path.expanduser(source)).absolute()
        if kind == "model":
            return self._copy(source, place, path, path.parent, model_files(path))
        if kind == "plugin":
            path = self.beside / source
            return self._copy(source, place, path, path.parent, self._beside(path, place))
        return self._copy(source, place, path, path.parent, [path])

    def _copy(self, source: str, place: str, path: Path, root: Path, files: Iterable[Path]) -> str:
        """Copies files below `root`, of which `path` is the one (or the folder) that is named; returns its new place."""
        wanted = list(files)
        try:
            size = sum(file.stat().st_size for file in wanted)
            if size > MAX_ONE:
                return self._left(source, place, path, size)
            target = self.folder / "files" / str(len(self.packed))
            for file in wanted:
                copy = target / file.relative_to(root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
        except OSError as error:
            raise InputError(f"{place}: {path}: cannot be sent along ({error.strerror}).") from error
        return (target / path.relative_to(root)).relative_to(self.folder).as_posix()

    def _left(self, source: str, place: str, path: Path, size: int) -> str:
        if not Path(source).is_absolute():
            hub = ", or hf://OWNER/NAME@COMMIT for a model of the hub" if path.is_dir() else ""
            raise InputError(
                f"{place}: {path} has {_mib(size)}, too much to send with a job (at most {_mib(MAX_ONE)}); give its absolute path "
                f"on a mount that every node of the cluster has{hub}."
            )
        say(f"{place}: {source} ({_mib(size)}) does not travel with the job; the cluster must have it under this path")
        return source

    def _beside(self, path: Path, place: str) -> list[Path]:
        """A plugin with all files beside and below it, of which it may import or read any."""
        found: list[Path] = []
        for base, folders, files in os.walk(path.parent):
            folders[:] = sorted(
                f
                for f in folders
                if not f.startswith((".", "__pycache__")) and str(Path(base, f)) != self.store.address
            )
            found += [Path(base, f) for f in sorted(files) if not f.startswith(".") and Path(base, f).is_file()]
            if len(found) > _MAX_FILES or sum(f.stat().st_size for f in found) > MAX_ONE:
                raise InputError(
                    f"{place}: beside {path} lie more than {_MAX_FILES} files or {_mib(MAX_ONE)}, all of which would travel with "
                    "it; put the plugin and the files that it needs in a folder of their own."
                )
        if not path.is_file():
            raise InputError(f"{place}: there is no Python file {path}.")
        return found


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"
