"""The snapshots of a trial in training: where each lies, when it counts, and which are deleted.

Beside them, snapshots/TRIAL/checkpoint-STEP/ has weights that are kept: they move to the trial's folder when that is committed.

snapshots/TRIAL/STEP-TOKEN/ has a file of every rank and, written last, COMMIT.json: the size and SHA-256 of every file, and what
was said about the snapshot. Without COMMIT.json a folder is no snapshot; a killed writer leaves such a folder, and the next
snapshot of the trial deletes it.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inoc_ray.config.identity import file_hash
from inoc_ray.store import layout, seal
from inoc_ray.store.commit import checkpoint_in
from inoc_ray.store.place import Place, at

_KEPT = "checkpoint-"
KEPT = 2
"""Snapshots of a trial that are kept: the older one is for the case that the newest is damaged."""


@dataclass(frozen=True, kw_only=True)
class FileContent:
    """What a file of a snapshot must be."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A committed snapshot, its files unread."""

    place: Place
    files: tuple[FileContent, ...]
    about: Mapping[str, Any]
    """What `commit` was told about it: JSON."""


def new_name(step: int) -> str:
    """Return the name of a new snapshot of the state after that step; no two are the same."""
    return f"{step:08d}-{uuid.uuid4().hex[:8]}"


def shard_name(rank: int) -> str:
    """Return the name of a rank's file in a snapshot."""
    return f"rank-{rank:05d}.safetensors"


def commit(place: Place, files: Iterable[FileContent], about: Mapping[str, Any]) -> None:
    """Make the folder a snapshot; everything in it must be on disk."""
    content = {file.name: {"bytes": file.bytes, "sha256": file.sha256} for file in files}
    (place / layout.COMMIT).write_json(seal.sealed_json({"files": content, "about": dict(about)}))


def committed(folder: Place) -> Iterator[Place]:
    """Yield the snapshots of a trial, by the step of their state, latest first; their files may be damaged."""
    # Asked once: the workers may delete an old snapshot while a driver looks.
    found = []
    for path, stat in folder.filesystem.below(folder.key).items():
        name, _, file = path.partition("/")
        if file == layout.COMMIT and not _is_kept(folder / name):
            found.append((name, stat.modified))
    yield from (folder / name for name, _ in sorted(found, reverse=True))


def latest_step(folder: Place) -> int:
    """Return the step of a trial's latest snapshot; 0 without one."""
    found = next(committed(folder), None)
    return 0 if found is None else int(found.name.partition("-")[0])


def read(place: Place) -> Snapshot:
    """Read what was committed. Raises `ValueError` if COMMIT.json is damaged."""
    try:
        value = (place / layout.COMMIT).read_json()
        if not seal.agrees(value):
            raise ValueError("it does not match its seal")
        files = tuple(FileContent(name=name, **content) for name, content in value["files"].items())
        return Snapshot(place=place, files=files, about={**value["about"]})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{layout.COMMIT} is damaged ({error})") from error


def checkpoint(folder: Place, step: int) -> Place:
    """Return the folder, among a trial's snapshots, for the weights that are kept of a step."""
    return folder / f"{_KEPT}{step:08d}"


def _is_kept(place: Place) -> bool:
    return place.name.startswith(_KEPT)


def contents(folder: Path) -> list[FileContent]:
    """Return what lies in a folder on this machine, after syncing every file."""
    files = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != layout.COMMIT:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            name = path.relative_to(folder).as_posix()
            files.append(FileContent(name=name, bytes=path.stat().st_size, sha256=file_hash(path)))
    return files


def fault(place: Place, about: Mapping[str, Any]) -> str | None:
    """Return what is missing or damaged in a folder that `commit` committed with that `about`, or None."""
    if not (place / layout.COMMIT).is_file():
        return "it is missing"
    try:
        found = read(place)
    except ValueError as error:
        return str(error)
    if found.about != about:
        return "it is of another trial, recipe or rows"
    return next((text for file in found.files if (text := file_fault(place, file)) is not None), None)


def move_checkpoints(folder: Place, steps: Iterable[int], trial: Path) -> None:
    """Put the weights that were kept of these steps into the staging folder of their trial, by links where that is possible."""
    for step in steps:
        place = checkpoint(folder, step)
        target = checkpoint_in(trial, step)
        for file in read(place).files:
            path = target / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            # The original in a folder on this machine, else a copy of it that nobody writes to.
            source = (place / file.name).fetch()
            try:
                os.link(source, path)
            except OSError:
                shutil.copyfile(source, path)


def file_fault(place: Place, file: FileContent, *, fetched: bool = False) -> str | None:
    """Read a file of that place in full; return what is missing or damaged, or None.

    fetched: read what `fetch` gives, for a library that is going to read that.
    """
    try:
        path = place / file.name
        if fetched:
            path = at(path.fetch())
        found = path.stat().size
        if found != file.bytes:
            return f"{file.name} has {found} bytes, but {file.bytes} were written"
        if seal.file_hash(path) != file.sha256:
            return f"{file.name} does not have the bytes that were written"
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror})"
    return None


def prune(folder: Place, unused: Collection[str] = ()) -> None:
    """Delete everything in the folder of a trial's snapshots but the latest KEPT.

    unused: the names of those that could not be gone on from. They may be of later steps than what was taken since, and do
    not count.
    """
    kept = {place.key for place in [one for one in committed(folder) if one.name not in unused][:KEPT]}
    for place in list(folder.iterdir()):
        if place.key not in kept and not _is_kept(place):
            place.filesystem.delete_folder(place.key)
