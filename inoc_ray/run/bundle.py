"""A study with every file that it names, in one folder, so that a job finds them wherever its driver runs.

Fields that name files declare it (`runtime(path=…)`, `config/identity.py`), so a new one travels without a line here. An absolute
path that does not exist here, or that holds more than may travel, is the cluster's: it stays as it is, and so does the storage.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from inoc_ray.config.identity import PathKind, content_id, file_hash, path_kind_of
from inoc_ray.config.reading import check_no_address, check_regular
from inoc_ray.console import say
from inoc_ray.data.sources import ROWS_INSTEAD
from inoc_ray.errors import InputError, hide_password, said_of
from inoc_ray.evaluate.harness_task import task_file, task_files
from inoc_ray.models.hub import is_hub
from inoc_ray.models.package import is_packaged
from inoc_ray.models.resolve import MODEL_INSTEAD, model_files
from inoc_ray.store.store import Store
from inoc_ray.study.registered import is_named
from inoc_ray.study.study import Study

STUDY_FILE = "study.yaml"
MAX_BYTES = 5_000_000
"""Most bytes that travel with a job."""
_MAX_FILES = 1000
_SHOWN_FILES = 10

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

    No path of this machine is part of the id, only the content behind it; what only the cluster has counts by its path.
    Raise InputError for a missing file, and, before anything is copied, for an address with a password and for more than MAX_BYTES
    in all.
    """
    _refuse_passwords(study)
    finder = _Finder(path.absolute().parent, store)
    replace_paths(study, finder.find)
    found = [item for item in finder.found.values() if item is not None]
    _check_size(found)
    for item in found:
        item.copy(folder)

    def put(source: str, kind: PathKind, place: str) -> str:
        item = finder.found.get((source, kind))
        return item.packed if item else store.address if kind == "storage" else source

    def name_content(source: str, kind: PathKind, place: str) -> str:
        item = finder.found.get((source, kind))
        return item.content if item else put(source, kind, place)

    # The storage is written even if the study leaves it to the default, which is relative to the working folder.
    value = {**replace_paths(study, put), "storage": store.address}
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    (folder / STUDY_FILE).write_text(text, encoding="utf-8")
    content = {**replace_paths(study, name_content), "storage": store.address}
    return content_id(content)


def _refuse_passwords(study: Study) -> None:
    """Raise InputError for an address with a password or a token: everybody who may see the cluster's jobs could read it."""
    addresses = {"tracking_uri": study.tracking_uri}
    addresses |= {f"judges.{name}.endpoint": judge.endpoint for name, judge in study.judges.items()}
    for place, address in addresses.items():
        if address is not None and (shown := hide_password(address)) != address:
            raise InputError(
                f"{place}: {shown} holds a password or a token, which does not travel with a job; leave it out, and set it in the "
                "environment of the cluster's nodes: PGPASSWORD or PGPASSFILE for PostgreSQL, MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD for a tracking server, a judge's api_key_env."
            )


class _Item:
    """Something that travels: what a field of the study names, with the files that belong to it."""

    def __init__(self, place: str, path: Path, files: Sequence[Path], *, named: bool) -> None:
        """`path`: what the study names. `files`: all beside or below it. `named`: whether its own name matters."""
        self.place, self.path, self.files, self._named = place, path, files, named
        with _readable(place, path):
            self.sizes = {file: file.stat().st_size for file in files}
        self.content = ""

    @property
    def packed(self) -> str:
        """Where the job finds it, in the folder that travels. Valid after `copy`."""
        return f"files/{self.content}/{self.path.name}"

    def copy(self, folder: Path) -> None:
        """Copy the files below the hash of their content."""
        with _readable(self.place, self.path):
            self.content = self._content()
            for file in self.files:
                target = folder / "files" / self.content / file.relative_to(self.path.parent)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)

    def _content(self) -> str:
        if not self._named and not self.path.is_dir():
            # A file of rows is what is in it, whatever its name.
            return content_id(file_hash(self.path))
        inside = self.path if self.path.is_dir() else self.path.parent
        files = {file.relative_to(inside).as_posix(): file_hash(file) for file in self.files}
        # A plugin is one of several files, and its name says which.
        return content_id({"file": self.path.name if self._named else "", "files": files})


@contextlib.contextmanager
def _readable(place: str, path: Path) -> Iterator[None]:
    """Raise InputError, naming the field, for an OSError of the block."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{place}: {path}: cannot be packed for the job ({error.strerror}).") from error


class _Finder:
    """Finds what travels: each thing that the study names, once."""

    def __init__(self, beside: Path, store: Store) -> None:
        self._beside, self._store = beside, store
        self.found: dict[tuple[str, PathKind], _Item | None] = {}

    def find(self, source: str, kind: PathKind, place: str) -> str:
        """Note what `source` names; return it unchanged."""
        if (source, kind) not in self.found:
            self.found[(source, kind)] = self._find(source, kind, place)
        return source

    def _find(self, source: str, kind: PathKind, place: str) -> _Item | None:
        if kind == "storage" or is_hub(source) or is_packaged(source) or (kind == "model" and is_named(source)):
            return None
        if kind == "plugin":
            path = self._beside / source
            return _Item(place, path, self._files_beside(path, place), named=True)
        if os.path.isabs(source) and not os.path.exists(source):
            _say_left(source, place, "is not on this machine")
            return None
        if kind == "task":
            task = task_file(source)
            return None if task is None else _Item(place, task, task_files(task), named=True)
        path = Path(os.path.expanduser(source)).absolute()
        with said_of(place):
            check_no_address(source, MODEL_INSTEAD if kind == "model" else ROWS_INSTEAD)
            check_regular(path)
        with _readable(place, path):
            item = _Item(place, path, model_files(path) if kind == "model" else [path], named=False)
        if os.path.isabs(source) and (size := sum(item.sizes.values())) > MAX_BYTES:
            _say_left(source, place, f"({_size(size)}) is not sent with the job")
            return None
        return item

    def _files_beside(self, path: Path, place: str) -> list[Path]:
        """Return a plugin with all files beside and below it, since it may import or read any of them."""
        found: list[Path] = []
        # A folder that is a link is what the plugin reads there.
        for base, folders, files in os.walk(path.parent, followlinks=True):
            folders[:] = sorted(
                f for f in folders if not f.startswith((".", "__pycache__")) and not self._leads_away(Path(base, f))
            )
            found += [Path(base, f) for f in sorted(files) if not f.startswith(".") and Path(base, f).is_file()]
            if len(found) > _MAX_FILES:
                raise InputError(
                    f"{place}: beside {path} are more than {_MAX_FILES} files, and all of them would travel with it; move the "
                    "plugin and the files that it needs to a folder of their own."
                )
        if not path.is_file():
            raise InputError(f"{place}: there is no Python file {path}.")
        return found

    def _leads_away(self, folder: Path) -> bool:
        """Return whether a folder is the storage, or a link back to a folder that it stands in: nothing of the plugin's."""
        if str(folder) == self._store.address:
            return True
        target = os.path.realpath(folder)
        if not self._store.is_bucket and target == os.path.realpath(self._store.address):
            return True
        return folder.is_symlink() and any(
            os.path.commonpath([target, inside]) == target for inside in map(os.path.realpath, folder.parents)
        )


def _say_left(source: str, place: str, why: str) -> None:
    say(f"{place}: {source} {why}; every node of the cluster must have it under this path")


def _check_size(items: Sequence[_Item]) -> None:
    """Raise InputError, with the largest files, if the items are too large to travel."""
    files = {file: (size, item.place) for item in items for file, size in item.sizes.items()}
    total = sum(size for size, _ in files.values())
    if total <= MAX_BYTES:
        return
    largest = sorted(((size, place, file) for file, (size, place) in files.items()), reverse=True)[:_SHOWN_FILES]
    more = len(files) - len(largest)
    raise InputError(
        f"the study names {_size(total)} of files, and at most {_size(MAX_BYTES)} travel with a job:\n"
        + "\n".join(f"  {_size(size):>9}  {place}: {file}" for size, place, file in largest)
        + (f"\n  … and {more} more\n" if more else "\n")
        + "Put what is large on a mount that every node has and give its absolute path there, or name it on the hub "
        "(hf://OWNER/NAME@COMMIT for a model, hf://datasets/OWNER/NAME@COMMIT/FILE for rows). All files beside a plugin or a task "
        "travel with it; give it a folder of its own."
    )


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
