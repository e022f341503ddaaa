"""Folders for a process's own use on this machine: those of dead processes are deleted by the next one."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from inoc_ray.store.lock import exclusive

PREFIX = "inoc-ray-"
_OWNER = ".owner"
"""A file in each folder that its process holds a lock on."""


@contextlib.contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield a new folder that only this user can read, below `parent` or the folder for temporary files; delete it at the end."""
    parent = parent or Path(tempfile.gettempdir())
    reclaim(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    owner = folder / f"{_OWNER}-new"
    try:
        with exclusive(owner):
            # Named so when it is locked: nobody else can be the first to lock it.
            owner.rename(folder / _OWNER)
            yield folder
    finally:
        _delete(folder)


def reclaim(parent: Path) -> list[Path]:
    """Delete the folders below `parent` whose process is dead; return them. Those of other users stay."""
    gone = []
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if (folder / _OWNER).is_file():
                with exclusive(folder / _OWNER, timeout=0):
                    _delete(folder)
                gone.append(folder)
    return gone


def _delete(folder: Path) -> None:
    """Delete a folder as far as that goes, its owner's file last: what somebody still writes into it is deleted another time."""
    if not folder.is_dir():
        return
    for inside in folder.iterdir():
        if inside.is_dir() and not inside.is_symlink():
            shutil.rmtree(inside, ignore_errors=True)
        elif inside.name != _OWNER:
            with contextlib.suppress(OSError):
                inside.unlink()
    if all(inside.name == _OWNER for inside in folder.iterdir()):
        shutil.rmtree(folder, ignore_errors=True)
