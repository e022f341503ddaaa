"""Where a store's bytes lie: the interface of a file system, as far as a store needs it, and the local one.

A key is a path below the storage's root with "/" between its parts. The interface needs only what an object store offers as well:
conditional writes, listings, whole objects: see `object_filesystem`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, NamedTuple

from inoc_ray.config.identity import fsync_folder
from inoc_ray.errors import InputError, StorageError
from inoc_ray.store.lock import exclusive

WRITE_SECONDS = 2.0
"""How long a conditional write waits for another one of the same file before it fails with `TimeoutError`."""


class Stat(NamedTuple):
    """Size, time and version of a file, known without reading it."""

    size: int
    """In bytes."""
    modified: float
    """When it was last written: epoch seconds of the storage's clock."""
    version: str
    """Changes with the content: time of change and inode of a file, the ETag of an object."""


def new_probe() -> str:
    """Return the key of a file that is written to try the storage, and deleted at once."""
    return f".probe-{uuid.uuid4().hex[:8]}"


class Filesystem(ABC):
    """The files of one storage, by key.

    Methods raise `FileNotFoundError` for a missing file, `OSError` for what else fails with a file, and `StorageError` where the
    storage as a whole cannot be reached or refuses.
    """

    is_bucket: ClassVar[bool] = False
    """Whether this is an object store: every look and write is a request, and it notices by itself if its bytes are damaged."""

    @property
    @abstractmethod
    def address(self) -> str:
        """What a study names as its storage: a folder, or a URI."""

    @abstractmethod
    def name_of(self, key: str) -> str:
        """Return the full path or URI of a key, for messages."""

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """Open a file for reading."""

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Write a file durably: a reader sees the old content or the new, never a part of it. Creates folders as needed."""

    @abstractmethod
    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        """Write a file only if it still has that version (None: only if it does not exist); return False otherwise.

        On an object store a conditional write (`If-Match`, `If-None-Match`). Of two simultaneous writes, one succeeds.
        """

    @abstractmethod
    def append(self, key: str) -> BinaryIO:
        """Open a file for appending, by one process at a time. What is flushed survives the death of the process.

        On an object store every flush is an object of its own; `open` joins them.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete a file, if it exists."""

    @abstractmethod
    def delete_folder(self, key: str) -> None:
        """Delete everything below a key, if there is anything."""

    @abstractmethod
    def move_folder(self, key: str, to: str, last: str) -> None:
        """Move everything below a key to another, free key; the file `last` (a path below the key) moves last.

        On an object store file by file: an interrupted move leaves `last` in its old place, and can be repeated.
        """

    @abstractmethod
    def stat(self, key: str) -> Stat | None:
        """Return size, time and version of a file; None for a folder, and if there is no such file."""

    @abstractmethod
    def is_folder(self, key: str) -> bool:
        """Return True if there is anything below the key."""

    @abstractmethod
    def list(self, key: str) -> list[str]:
        """Return the names directly below a key, in any order; empty if there are none."""

    def below(self, key: str) -> dict[str, Stat]:
        """Return path below the key → `stat` of every file there, at any depth; on an object store one listing."""
        found: dict[str, Stat] = {}
        for name in self.list(key):
            inner = f"{key}/{name}" if key else name
            stat = self.stat(inner)
            if stat is None:
                found |= {f"{name}/{path}": one for path, one in self.below(inner).items()}
            else:
                found[name] = stat
        return found

    def known_sha256(self, key: str) -> str | None:
        """Return the SHA-256 of a file where the storage keeps it, so that the file need not be read; else None."""
        return None

    @abstractmethod
    def fetch(self, key: str) -> Path:
        """Return a path on this machine with the content of a file or folder: the original, or a cached copy.

        For libraries that read paths (engines, MLflow). Do not write there.
        """

    @abstractmethod
    def machine_folder(self, key: str) -> Path:
        """Return the path of a folder for what no bucket can hold, such as a database; it need not exist.

        In a folder it is the place of the key, else a folder of this machine that other machines do not see.
        """

    @abstractmethod
    def staging(self, key: str) -> AbstractContextManager[Path]:
        """Yield a new folder on this machine to fill, which `publish` makes the content of `key`; delete it at the end."""

    @abstractmethod
    def publish(self, staging: Path, key: str, last: str) -> None:
        """Make a filled folder the content of a key, with its file `last` written last. Raises `OSError` if the key is taken.

        It is taken if it has the file `last`; what is below it otherwise was never published, and is deleted. Locally one rename.
        On an object store the files are written one by one, and `last` only if it does not exist yet.
        """

    @abstractmethod
    def sweep(self, key: str, seconds: float) -> None:
        """Delete the staging folders of `key` that killed processes left more than `seconds` ago."""

    @abstractmethod
    def discard_staged(self, key: str, names: Collection[str]) -> None:
        """Delete the staging folders of such names directly below `key`, left by killed processes: nobody is to be filling one."""

    @abstractmethod
    def folder(self, key: str) -> AbstractContextManager[Path]:
        """Yield a folder on this machine for libraries that write files; its files are below `key` when the block ends."""

    @abstractmethod
    def exclusive(self, key: str, timeout: float) -> AbstractContextManager[None]:
        """Hold a lock that one process has at a time; the death of the process releases it.

        timeout: seconds; negative: for ever. Raises `TimeoutError`. On an object store a conditional write of the key, again and
        again, which expires if it stops.
        """

    @property
    def inspected_bytes(self) -> int:
        """Files of more bytes need no hash where they are only inspected: their size and time say enough.

        A bucket keeps an object as it was written, and checks that by itself: none, not even an empty one, is hashed.
        """
        return -1

    @abstractmethod
    def now(self) -> float:
        """Return the time by the clock that `Stat.modified` is taken from, to about a second: epoch seconds."""

    def glance(self, folders: Iterable[str], early: Callable[[str], bool]) -> AbstractContextManager[None]:
        """Look at some folders at once, and answer this thread's questions about them from that while the block runs.

        folders: keys of one or two parts. early: True for the names of files that will be read. Only a bucket needs it: what
        others write meanwhile may not be seen.
        """
        del folders, early
        return contextlib.nullcontext()

    def check(self) -> None:
        """Write, read and delete a probe. Raises `InputError` if the storage does not keep what it is given."""
        probe = new_probe()
        try:
            self.write(probe, b"probe")
            with self.open(probe) as stream:
                kept = stream.read() == b"probe"
        finally:
            with contextlib.suppress(OSError, StorageError):
                self.delete(probe)
        if not kept:
            raise InputError(
                f"storage: {self.address} does not return the bytes that were written; choose another one."
            )


def write_atomically(path: Path, data: bytes) -> None:
    """Write a local file durably: a reader sees the old content or the new, never a part of it."""
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
    def inspected_bytes(self) -> int:
        """A disk may change a byte: 16 MiB, which take some milliseconds."""
        return 16 << 20

    @property
    def address(self) -> str:
        """The folder."""
        return str(self.root)

    def name_of(self, key: str) -> str:
        """Return the path of a key as text."""
        # A plan looks at tens of thousands of files: without a Path for each.
        return os.path.join(self.root, key) if key else str(self.root)

    def _path(self, key: str) -> Path:
        return self.root / key

    def open(self, key: str) -> BinaryIO:
        """Open a file for reading."""
        return open(self.name_of(key), "rb")

    def write(self, key: str, data: bytes) -> None:
        """Write a file beside its place, sync it, and rename it."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)

    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        """Compare and write under a lock; make a new file by a link, which fails if there is one."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        if version is None:
            # A link fails if the name exists, and the file behind it is whole.
            staging = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
            try:
                write_atomically(staging, data)
                os.link(staging, path)
            except FileExistsError:
                return False
            finally:
                staging.unlink(missing_ok=True)
            return True
        # Of the processes that use this interface, one at a time compares and writes this file. A process that is stopped in
        # the middle must not hold up the others for ever: their heartbeats come through here.
        with exclusive(path.with_name(f".{path.name}.lock"), timeout=WRITE_SECONDS):
            now = self.stat(key)
            if now is None or now.version != version:
                return False
            write_atomically(path, data)
        return True

    def append(self, key: str) -> BinaryIO:
        """Open a file for appending."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")

    def delete(self, key: str) -> None:
        """Delete a file, if it exists."""
        self._path(key).unlink(missing_ok=True)

    def delete_folder(self, key: str) -> None:
        """Delete a folder with its content, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._path(key))

    def move_folder(self, key: str, to: str, last: str) -> None:
        """Rename a folder."""
        os.rename(self._path(key), self._path(to))

    def stat(self, key: str) -> Stat | None:
        """Return the size, the time and the version of a file."""
        try:
            found = os.stat(self.name_of(key))
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return Stat(found.st_size, found.st_mtime, f"{found.st_mtime_ns} {found.st_ino}")

    def is_folder(self, key: str) -> bool:
        """Return True for a folder."""
        return os.path.isdir(self.name_of(key))

    def list(self, key: str) -> list[str]:
        """Return the names in a folder."""
        try:
            return os.listdir(self.name_of(key))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def fetch(self, key: str) -> Path:
        """Return the path itself."""
        return self._path(key)

    def machine_folder(self, key: str) -> Path:
        """Return the path itself."""
        return self._path(key)

    @contextlib.contextmanager
    def staging(self, key: str) -> Iterator[Path]:
        """Yield a new folder beside the place of `key`."""
        final = self._path(key)
        final.parent.mkdir(parents=True, exist_ok=True)
        # Beside its final place, so that a rename can move it.
        folder = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.tmp")
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, staging: Path, key: str, last: str) -> None:
        """Sync a folder with all that is in it, then rename it."""
        final = self._path(key)
        for path in (*staging.rglob("*"), staging):
            # A crash of the machine must not leave a commit over files that never reached the disk.
            if path.is_file():
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
            else:
                fsync_folder(path)
        try:
            os.rename(staging, final)
        except OSError:
            if (final / last).exists():
                raise
            # Left half-written by a crash of the machine.
            self.delete_folder(key)
            os.rename(staging, final)
        fsync_folder(final.parent)

    def sweep(self, key: str, seconds: float) -> None:
        """Delete staging folders of `key` that are older than `seconds`."""
        final = self._path(key)
        for leftover in final.parent.glob(f".{final.name}.*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > seconds:
                    shutil.rmtree(leftover, ignore_errors=True)

    def discard_staged(self, key: str, names: Collection[str]) -> None:
        """Delete the staging folders of such names below a key."""
        wanted = set(names)
        for leftover in self._path(key).glob(".*.tmp"):
            # As `staging` names it: .NAME.HEX.tmp
            if leftover.name[1:].rsplit(".", 2)[0] in wanted:
                shutil.rmtree(leftover, ignore_errors=True)

    @contextlib.contextmanager
    def folder(self, key: str) -> Iterator[Path]:
        """Yield the folder itself."""
        path = self._path(key)
        path.mkdir(parents=True, exist_ok=True)
        yield path

    @contextlib.contextmanager
    def exclusive(self, key: str, timeout: float) -> Iterator[None]:
        """Hold a file lock."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path, timeout):
            yield

    def now(self) -> float:
        """Return the time of the machine that has the folder: that of a file written for it."""
        probe = self._path(new_probe())
        try:
            probe.touch()
            return probe.stat().st_mtime
        except OSError:
            # Whoever may only read has the clock of this machine.
            return time.time()
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
