"""Where a store's bytes lie: the few things that a store asks of a file system, and the local one.

A key is a path below the storage's root with "/" between its parts. Nothing here renames over what others read, locks a byte
range or appends to what somebody else wrote, beyond what an object store offers too: conditional writes, listings, whole
objects. So a bucket can stand behind this interface; see each method for what it would do there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from inoc_ray.config.identity import fsync_folder
from inoc_ray.store.lock import exclusive


class Stat(NamedTuple):
    """What is known of a file without reading it."""

    size: int
    """In bytes."""
    modified: float
    """When it was written last, in epoch seconds of the storage's clock."""
    version: str
    """Changes with every write: time of change and inode of a file, the ETag of an object."""


class Filesystem(ABC):
    """The files of one storage, by key. Methods raise `FileNotFoundError` for a file that is not there, `OSError` otherwise."""

    @property
    @abstractmethod
    def address(self) -> str:
        """What a study names as its storage: a folder, or a URI."""

    @abstractmethod
    def name_of(self, key: str) -> str:
        """Return the whole path or URI of a key, for people."""

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """Open a file to be read."""

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Write a file, durably: a reader sees the old content or the new, never a part. Folders are made as needed."""

    @abstractmethod
    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        """Write a file only if it still has that version (None: only if there is none); return False if it has another.

        On an object store a conditional write (`If-Match`, `If-None-Match`); of two that write at once, one succeeds.
        """

    @abstractmethod
    def append(self, key: str) -> BinaryIO:
        """Open a file to be added to by this process alone. What is flushed outlives the death of the process.

        On an object store every flush is an object of its own behind the ones before, which `open` gives as one.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete a file, if it is there."""

    @abstractmethod
    def delete_folder(self, key: str) -> None:
        """Delete everything below a key, if it is there."""

    @abstractmethod
    def move_folder(self, key: str, to: str, last: str) -> None:
        """Move everything below a key to another that is free; the file `last` (a path below the key) goes last.

        On an object store file by file, so that a move which was cut off still has `last` in the old place and can be done again.
        """

    @abstractmethod
    def stat(self, key: str) -> Stat | None:
        """Return what is known of a file; None for a folder and for what is not there."""

    @abstractmethod
    def is_folder(self, key: str) -> bool:
        """Return True if something lies below the key."""

    @abstractmethod
    def list(self, key: str) -> list[str]:
        """Return the names of what lies directly below a key, in any order; nothing where it is not there."""

    @abstractmethod
    def fetch(self, key: str) -> Path:
        """Return a path of this machine with the content of a file or a folder: its place, or a copy that is kept.

        For libraries that read paths (engines, MLflow); nothing may be written there.
        """

    @abstractmethod
    def staging(self, key: str) -> AbstractContextManager[Path]:
        """Give a new folder of this machine to be filled, from which `publish` makes a folder below `key`; it goes at the end."""

    @abstractmethod
    def publish(self, staging: Path, key: str, last: str) -> None:
        """Make a filled folder the content of a key, its file `last` at the end. Raises `OSError` where the key is taken.

        Locally one rename. On an object store the files are put there one by one, and `last` only if it is not there yet: what
        lies below the key without it does not count.
        """

    @abstractmethod
    def sweep(self, key: str, seconds: float) -> None:
        """Delete the staging folders of `key` that killed processes left more than so many seconds ago."""

    @abstractmethod
    def folder(self, key: str) -> AbstractContextManager[Path]:
        """Give a folder of this machine for libraries that write files: they lie below `key` when the block ends."""

    @abstractmethod
    def exclusive(self, key: str, timeout: float) -> AbstractContextManager[None]:
        """Hold a lock that one process on one machine has at a time; one whose process died is free.

        Raises `TimeoutError` after so many seconds. On an object store a conditional write of the key with a time of expiry.
        """


def write_atomically(path: Path, data: bytes) -> None:
    """Write a local file, durably: a reader sees the old content or the new, never a part."""
    staging = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with staging.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)
    fsync_folder(path.parent)


@dataclass(frozen=True)
class LocalFilesystem(Filesystem):
    """A POSIX folder, local or a shared mount whose rename is atomic and that locks files (NFS, Lustre, CephFS)."""

    root: Path

    @property
    def address(self) -> str:
        return str(self.root)

    def name_of(self, key: str) -> str:
        return str(self._path(key))

    def _path(self, key: str) -> Path:
        return self.root / key

    def open(self, key: str) -> BinaryIO:
        return self._path(key).open("rb")

    def write(self, key: str, data: bytes) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)

    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        if version is None:
            # A link is made only where there is none, and brings the whole content.
            staging = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
            try:
                write_atomically(staging, data)
                os.link(staging, path)
            except FileExistsError:
                return False
            finally:
                staging.unlink(missing_ok=True)
            return True
        # Of those that keep to this interface one at a time compares and writes.
        with exclusive(path.with_name(".write.lock")):
            now = self.stat(key)
            if now is None or now.version != version:
                return False
            write_atomically(path, data)
        return True

    def append(self, key: str) -> BinaryIO:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def delete_folder(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._path(key))

    def move_folder(self, key: str, to: str, last: str) -> None:
        os.rename(self._path(key), self._path(to))

    def stat(self, key: str) -> Stat | None:
        try:
            found = self._path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return Stat(found.st_size, found.st_mtime, f"{found.st_mtime_ns} {found.st_ino}")

    def is_folder(self, key: str) -> bool:
        return self._path(key).is_dir()

    def list(self, key: str) -> list[str]:
        try:
            return os.listdir(self._path(key))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def fetch(self, key: str) -> Path:
        return self._path(key)

    @contextlib.contextmanager
    def staging(self, key: str) -> Iterator[Path]:
        final = self._path(key)
        final.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place, so that it gets there by a rename.
        folder = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.tmp")
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, staging: Path, key: str, last: str) -> None:
        final = self._path(key)
        for path in staging.rglob("*"):
            # A crash of the machine must not leave a commit over files that never reached the disk.
            if path.is_file():
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
            else:
                fsync_folder(path)
        os.rename(staging, final)
        fsync_folder(final.parent)

    def sweep(self, key: str, seconds: float) -> None:
        final = self._path(key)
        for leftover in final.parent.glob(f".{final.name}.*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > seconds:
                    shutil.rmtree(leftover, ignore_errors=True)

    @contextlib.contextmanager
    def folder(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        path.mkdir(parents=True, exist_ok=True)
        yield path

    @contextlib.contextmanager
    def exclusive(self, key: str, timeout: float) -> Iterator[None]:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path, timeout):
            yield
