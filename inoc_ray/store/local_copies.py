"""Copies of a bucket's files on this machine, for libraries that read paths.

They lie in $INOC_RAY_CACHE (default: $XDG_CACHE_HOME/inoc_ray or ~/.cache/inoc_ray), which may be deleted when nothing runs. A
copy counts while the bucket has the version of which it was made, and while nobody changed the copy; a new one must have the
SHA-256 that the file was written with. Copies that nobody asked for in KEPT_SECONDS go when a new one comes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from inoc_ray.config.identity import file_hash
from inoc_ray.errors import StorageError
from inoc_ray.store.lock import exclusive
from inoc_ray.store.processes import is_dead, this_process

KEPT_SECONDS = 14 * 86_400.0
"""How long a copy stays that nobody asks for."""
_FILES, _RECORDS, _ARRIVING, _STAGING, _LOCKS, _OWN = "files", "records", "arriving", "staging", "locks", "own"
_ARRIVING_SECONDS = 86_400.0
_BLOCK = 1 << 20
_REHASHED_BYTES = 16 << 20
"""Copies up to this size are hashed whenever they are asked for; larger ones if their size or time has changed."""


def cache_folder() -> Path:
    """Return the folder of this machine for what can be had again from elsewhere; it need not exist."""
    own = os.environ.get("INOC_RAY_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(own or f"{base}/inoc_ray").absolute()


def folder_of(address: str) -> Path:
    """Return the folder for the copies of a storage; it need not exist."""
    return cache_folder() / hashlib.sha256(address.encode()).hexdigest()[:16]


class LocalCopies:
    """The copies of one storage's files on this machine."""

    def __init__(self, address: str) -> None:
        self._folder = folder_of(address)

    def path(self, key: str) -> Path:
        """Return where the copy of a file or folder lies."""
        return self._folder / _FILES / key

    def own(self, key: str) -> Path:
        """Return a folder for what belongs to the storage on this machine alone."""
        return self._folder / _OWN / key

    def _record(self, key: str) -> Path:
        return self._folder / _RECORDS / f"{key}.json"

    @contextlib.contextmanager
    def one_at_a_time(self, key: str) -> Iterator[None]:
        """Keep the other processes of this machine from fetching the same file or folder at the same time."""
        lock = self._folder / _LOCKS / hashlib.sha256(key.encode()).hexdigest()[:16]
        lock.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(lock):
            yield

    def has(self, key: str, version: str) -> bool:
        """Return True if there is an intact copy of that version of a file, and note that it is used."""
        path = self.path(key)
        try:
            record = json.loads(self._record(key).read_bytes())
            stat = path.stat()
            if record["version"] != version or stat.st_size != record["bytes"]:
                return False
            seen_before = stat.st_mtime_ns == record["modified"]
            if (stat.st_size <= _REHASHED_BYTES or not seen_before) and file_hash(path) != record["sha256"]:
                return False
            os.utime(self._record(key))
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return True

    def keep(self, key: str, version: str, content: BinaryIO, sha256: str | None) -> None:
        """Make a copy of a file. sha256: of its bytes, where it is known. Raises `StorageError` if they are others."""
        path = self.path(key)
        if path.is_dir():
            shutil.rmtree(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = self._folder / _ARRIVING / uuid.uuid4().hex
        staging.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        try:
            with staging.open("wb") as stream:
                while block := content.read(_BLOCK):
                    digest.update(block)
                    stream.write(block)
            if sha256 not in (None, digest.hexdigest()):
                raise StorageError(
                    f"storage: {key} does not have the bytes that were written; delete it and run the command again."
                )
            stat = staging.stat()
            record = {
                "version": version,
                "bytes": stat.st_size,
                "modified": stat.st_mtime_ns,
                "sha256": digest.hexdigest(),
            }
            os.replace(staging, path)
        finally:
            staging.unlink(missing_ok=True)
        note = self._record(key)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(record))

    def keep_only(self, key: str, keys: set[str]) -> None:
        """Delete the copies below a folder that the bucket has no more."""
        for path in [path for path in self.path(key).rglob("*") if path.is_file()]:
            if path.relative_to(self._folder / _FILES).as_posix() not in keys:
                path.unlink(missing_ok=True)

    def forget_old(self) -> None:
        """Delete the copies that nobody has asked for in KEPT_SECONDS, and what killed processes began to copy."""
        for path in (self._folder / _ARRIVING).glob("*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ARRIVING_SECONDS:
                    path.unlink()
        for note in (self._folder / _RECORDS).rglob("*.json"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - note.stat().st_mtime > KEPT_SECONDS:
                    key = note.relative_to(self._folder / _RECORDS).as_posix().removesuffix(".json")
                    self.path(key).unlink(missing_ok=True)
                    note.unlink()

    # -- folders to fill ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def staging(self, key: str) -> Iterator[Path]:
        """Yield a new folder to fill, and delete it at the end."""
        folder = self._folder / _STAGING / f"{key.replace('/', '+')}.{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        owner = folder.with_name(f"{folder.name}.json")
        owner.write_text(json.dumps(this_process()))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            owner.unlink(missing_ok=True)

    def sweep(self, seconds: float) -> None:
        """Delete the folders to fill whose processes are dead, or that are older than `seconds`."""
        for owner in (self._folder / _STAGING).glob("*.json"):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                if is_dead(json.loads(owner.read_bytes())) or time.time() - owner.stat().st_mtime > seconds:
                    shutil.rmtree(owner.with_suffix(""), ignore_errors=True)
                    owner.unlink(missing_ok=True)
