"""The folder of a trial: how it is committed, checked and read.

COMMIT.json, written last, has the size and SHA-256 of every file. A trial is done only if its COMMIT.json exists and matches
the files. Files that are *used* (served, trained further, logged) are hashed in full every time. Files that are only *inspected*
(plan, status) are hashed up to 16 MiB on a disk, not at all in a bucket; a file that changed after its commit is hashed, and every
other one checked by its size.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from inoc_ray.config.identity import file_hash
from inoc_ray.errors import InputError
from inoc_ray.store import layout, seal
from inoc_ray.store.filesystem import Stat, write_atomically
from inoc_ray.store.place import Place, at, json_bytes

_DAMAGED = "the trial is damaged; delete this folder and run the study again"
# A trial id is one path component that cannot climb out of its folder.
_WEIGHTS_NAME = re.compile(r"(?P<trial>[A-Za-z0-9_-][A-Za-z0-9._-]*)(@(?P<step>[1-9][0-9]{0,7}))?")


def weights_name(trial_id: str, step: int) -> str:
    """Return the name TRIAL@STEP of the weights that a trial kept after a step."""
    return f"{trial_id}@{step}"


def trial_and_step(name: str) -> tuple[str, int | None] | None:
    """Return the trial and the step in the name of weights, without a step for a trial's final ones; None for other names."""
    match = _WEIGHTS_NAME.fullmatch(name)
    return None if match is None else (match["trial"], int(match["step"]) if match["step"] else None)


def weights_in(staging: Path) -> Path:
    """Return the folder for the weights in the staging folder of a trial."""
    return staging / layout.ADAPTER


def checkpoint_in(folder: Path, step: int) -> Path:
    """Return the folder, in a trial's folder or its staging folder, for the weights that are kept of a step."""
    return folder / layout.CHECKPOINTS / f"{step:08d}"


def checkpoint_steps(folder: Place) -> list[int]:
    """Return the steps of which a committed trial has kept weights. Raises `InputError` if the commit is damaged."""
    parts = [name.split("/") for name in committed_files(folder)]
    return sorted({int(part[1]) for part in parts if part[0] == layout.CHECKPOINTS})


def write_trial(staging: Path, record: Mapping[str, Any], curve: Iterable[Mapping[str, Any]]) -> None:
    """Write the record of a trial and its training curve (one entry per optimizer step) into its staging folder."""
    write_atomically(staging / layout.TRIAL, json_bytes(dict(record)))
    lines = "".join(f"{json.dumps(step, sort_keys=True)}\n" for step in curve)
    (staging / layout.CURVES).write_text(lines, encoding="utf-8")


def write_commit(staging: Path) -> None:
    """Write COMMIT.json, with the size and SHA-256 of every file in the folder."""
    files = {
        str(path.relative_to(staging)): {"bytes": path.stat().st_size, "sha256": file_hash(path)}
        for path in sorted(staging.rglob("*"))
        if path.is_file()
    }
    value = seal.sealed_json({"files": files, "committed_at": time.time()})
    write_atomically(staging / layout.COMMIT, json_bytes(value))


def is_read_by_engines(name: str) -> bool:
    """Return True for the names of the files that an engine reads of every trial: what says whether it can serve it."""
    return name in (layout.COMMIT, layout.TRIAL)


def commit_fault(folder: Place | Path, *, verify: bool = False) -> str | None:
    """Return what is missing or damaged in the folder of a trial, as text; None if nothing is.

    `verify` reads and hashes every file; without it this is an inspection as described in the module's docstring.
    """
    folder = at(folder)
    try:
        value = (folder / layout.COMMIT).read_json()
        if not seal.agrees(value) or layout.TRIAL not in value["files"]:
            return f"{layout.COMMIT} is damaged"
        there = folder.filesystem.below(folder.key)
        committed = there[layout.COMMIT].modified
        for name, expected in value["files"].items():
            stat = there.get(name)
            if stat is None:
                return f"{name} is missing"
            if stat.size != expected["bytes"]:
                return f"{name} has {stat.size} bytes, but {expected['bytes']} were committed"
            found = _hash_of(folder / name, stat, committed, verify=verify)
            if found not in (None, expected["sha256"]):
                return f"{name} does not have the bytes that were committed"
    except FileNotFoundError:
        return f"there is no {layout.COMMIT}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{layout.COMMIT} is damaged"
    return None


def _hash_of(path: Place, stat: Stat, committed: float, *, verify: bool) -> str | None:
    """Return the SHA-256 of a file; None if an inspection does not ask for it."""
    if not verify and stat.size > path.filesystem.inspected_bytes and stat.modified <= committed:
        return None
    if (known := path.filesystem.known_sha256(path.key)) is not None:
        return known
    return seal.file_hash(path) if verify else seal.cached_hash(path)


def committed_fault(weights: Path) -> str | None:
    """Hash every file of the trial that these weights belong to; return what is damaged.

    None if everything is intact, or if no trial committed the folder.
    """
    folder = weights.parent
    return commit_fault(folder, verify=True) if (folder / layout.COMMIT).is_file() else None


def committed_files(folder: Place) -> dict[str, str]:
    """Return file (relative to the trial's folder) → committed SHA-256. Raises `InputError` if the commit is damaged."""
    try:
        files = (folder / layout.COMMIT).read_json()["files"]
        return {name: str(expected["sha256"]) for name, expected in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: {_DAMAGED} ({type(error).__name__}: {error}).") from error


def read_trial(folder: Place) -> dict[str, Any]:
    """Return trial.json of a committed trial, with `committed_at` (epoch seconds) added.

    Raises `InputError` if it is damaged.
    """
    try:
        value: dict[str, Any] = {**(folder / layout.TRIAL).read_json()}
        value["committed_at"] = float((folder / layout.COMMIT).read_json()["committed_at"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: {_DAMAGED} ({type(error).__name__}: {error}).") from error
    return value


def read_curves(folder: Place) -> list[dict[str, Any]]:
    """Return the training curve of a committed trial: one entry per optimizer step; empty if none was kept.

    Raises `InputError` if it is damaged.
    """
    path = folder / layout.CURVES
    if not path.is_file():
        return []
    try:
        return [{**json.loads(line)} for line in path.read_text().splitlines() if line]
    except (ValueError, TypeError) as error:
        raise InputError(f"{folder}: {_DAMAGED} ({path.name}: {error}).") from error


def set_aside(folder: Place, fault: str) -> None:
    """Make a damaged trial count as missing: move its commit into a note that says what is damaged."""
    commit = folder / layout.COMMIT
    if commit.is_file():
        (folder / layout.DAMAGED).write_json({"fault": fault, "commit": commit.read_text(errors="replace")})
        commit.unlink()


def fault_note(folder: Place) -> str | None:
    """Return the fault that `set_aside` noted, or None."""
    try:
        return str((folder / layout.DAMAGED).read_json()["fault"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


# -- a folder of trials, in which an engine looks for weights ----------------------------------------------------------


def adapter_of(trials: Place | Path, trial_id: str, step: int | None = None) -> Place | None:
    """Return the place of the weights of a trial that is done, by inspection; None if it is not done.

    step: of weights that were kept on the way; None for the final ones.
    """
    folder = at(trials) / trial_id
    weights = _weights_of(folder, step)
    return weights if weights.is_dir() and commit_fault(folder) is None else None


def fetch_weights(trials: Place | Path, trial_id: str, step: int | None = None) -> Path:
    """Return the folder, on this machine, with weights of a committed trial, every file of which was hashed here.

    step: as for `adapter_of`. Raises `InputError` if the trial is not committed, or if a file is not what was committed.
    """
    folder = at(trials) / trial_id
    weights = _weights_of(folder, step)
    inside = weights.key.removeprefix(f"{folder.key}/")
    files = {
        name.removeprefix(f"{inside}/"): sha256
        for name, sha256 in committed_files(folder).items()
        if name.startswith(f"{inside}/")
    }
    found = weights.fetch()
    for name, sha256 in files.items():
        try:
            fault = None if file_hash(found / name) == sha256 else "does not have the bytes that were committed"
        except OSError as error:
            fault = f"cannot be read ({error.strerror})"
        if fault is not None:
            raise InputError(f"trial {trial_id} is damaged: {inside}/{name} {fault}; run its study again")
    return found


def _weights_of(folder: Place, step: int | None) -> Place:
    return folder / layout.ADAPTER if step is None else folder / f"{layout.CHECKPOINTS}/{step:08d}"


def record_of(trials: Place | Path, trial_id: str) -> dict[str, Any]:
    """Return trial.json of a trial, committed or not; {} if it is missing or damaged."""
    try:
        return {**(at(trials) / trial_id / layout.TRIAL).read_json()}
    except (OSError, ValueError, TypeError):
        return {}
