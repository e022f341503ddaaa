"""The snapshots of a trial in training: where each lies, when it counts, and which are deleted.

snapshots/TRIAL/STEP-TOKEN/ has a file of every rank and, written last, COMMIT.json: the size and SHA-256 of every file, and what
was said about the snapshot. Without COMMIT.json a folder is no snapshot; a killed writer leaves such a folder, and the next
snapshot of the trial deletes it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from inoc_ray.store import layout, seal
from inoc_ray.store.place import Place

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
    found = [place for place in folder.iterdir() if (place / layout.COMMIT).is_file()]
    yield from sorted(found, key=lambda place: (place.name, (place / layout.COMMIT).stat().modified), reverse=True)


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


def file_fault(place: Place, file: FileContent) -> str | None:
    """Read a file in full; return what is missing or damaged, or None."""
    try:
        found = (place / file.name).stat().size
        if found != file.bytes:
            return f"{file.name} has {found} bytes, but {file.bytes} were written"
        if seal.file_hash(place / file.name) != file.sha256:
            return f"{file.name} does not have the bytes that were written"
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror})"
    return None


def prune(folder: Place) -> None:
    """Delete everything in the folder of a trial's snapshots but the latest KEPT."""
    kept = {place.key for place in list(committed(folder))[:KEPT]}
    for place in list(folder.iterdir()):
        if place.key not in kept:
            place.filesystem.delete_folder(place.key)
