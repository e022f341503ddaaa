"""The task of lm-evaluation-harness that a capability names, and the content that identifies it.

A user's task file can name Python functions (`!function`), which then run: it is the user's own code, as a plugin is.
"""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import dataclass
from pathlib import Path

from inoc_ray.config.base import nearest
from inoc_ray.config.identity import FORMAT, content_id, file_hash, identity_fields
from inoc_ray.errors import InputError
from inoc_ray.study.evaluation import Capability
from inoc_ray.study.registered import TASKS

_MAX_FILES, _MAX_BYTES = 1000, 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessTask:
    """The task that a capability names, with an id of its content."""

    capability: Capability
    source: str
    """A name that the harness knows, or the absolute path of a task file."""
    content: str
    """The name, or a hash over the files in the task file's folder."""

    def id(self, precision: str) -> str:
        """Return 16 hex digits that identify the task, its options, the harness's version and the engine's precision."""
        return content_id(
            {
                "format": FORMAT,
                "task": self.content,
                "asked": identity_fields(self.capability),
                "harness": importlib.metadata.version("lm_eval"),
                "precision": precision,
            }
        )


def find_task(capability: Capability) -> HarnessTask:
    """Return the task of a capability. Raises InputError for a file that does not exist or lies among too many others.

    Whether the harness knows a name only shows when it runs: reading its list takes 9 s.
    """
    name = capability.task
    path = TASKS.get(name) or task_file(name)
    if path is None:
        return HarnessTask(capability=capability, source=name, content=name)
    return HarnessTask(capability=capability, source=str(path), content=_folder_hash(path))


def task_file(name: str) -> Path | None:
    """Return the user's task file that a name refers to; None for a registered task and for one of the harness's own.

    Raises InputError for a file that does not exist, and for a misspelt name of a registered task.
    """
    if name in TASKS or not (name.endswith((".yaml", ".yml")) or "/" in name):
        return None
    path = Path(os.path.expanduser(name)).absolute()
    if not path.is_file() or path.suffix not in (".yaml", ".yml"):
        raise InputError(
            f"capabilities: there is no task {name!r}{nearest(name, TASKS.names())} and no task file {path}; give the name of a "
            "task that lm-eval knows, or the path of a .yaml file."
        )
    return path


def _folder_hash(path: Path) -> str:
    """Return a hash over the task file's name and everything that it may use."""
    files = {file.relative_to(path.parent).as_posix(): file_hash(file) for file in task_files(path)}
    return content_id({"file": path.name, "files": files})


def task_files(path: Path) -> list[Path]:
    """Return a task file and all files beside and below it, since it may include, read or import any of them.

    Raises InputError when there are too many.
    """
    found: list[Path] = []
    size = 0
    for file in sorted(path.parent.rglob("*")):
        inner = file.relative_to(path.parent)
        if not file.is_file() or "__pycache__" in inner.parts or any(part.startswith(".") for part in inner.parts):
            continue
        size += file.stat().st_size
        if len(found) == _MAX_FILES or size > _MAX_BYTES:
            raise InputError(
                f"capabilities: {path}: its folder holds more than {_MAX_FILES} files or 1 GiB, all of which belong to the task; "
                "put the task file and its data in a folder of their own."
            )
        found.append(file)
    return found
