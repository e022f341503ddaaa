"""A place in a store: like `pathlib.Path`, but everything that is read or written goes through the store's file system.

It is not an `os.PathLike`: `open(place)` fails everywhere, and not only if the storage is a bucket.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from inoc_ray.store.filesystem import Filesystem, LocalFilesystem, Stat


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder of a store, which need not exist."""

    filesystem: Filesystem
    key: str
    """Parts with "/" between them; "" is the whole storage."""

    def __str__(self) -> str:
        return self.filesystem.name_of(self.key)

    def __lt__(self, other: Place) -> bool:
        return self.key.split("/") < other.key.split("/")

    def __truediv__(self, inner: str) -> Place:
        return Place(self.filesystem, f"{self.key}/{inner}" if self.key else inner)

    @property
    def name(self) -> str:
        """The last part."""
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The last part without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The end of the name, from its last dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Place:
        """The folder around it."""
        return Place(self.filesystem, self.key.rpartition("/")[0])

    def with_name(self, name: str) -> Place:
        """Return the place with that name in the same folder."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> Place:
        """Return the place with another suffix in the same folder."""
        return self.with_name(f"{self.stem}{suffix}")

    # -- looking --------------------------------------------------------------------------------------------

    def stat(self) -> Stat:
        """Return size, time and version of a file. Raises `FileNotFoundError`."""
        found = self.filesystem.stat(self.key)
        if found is None:
            raise FileNotFoundError(2, "No such file", str(self))
        return found

    def is_file(self) -> bool:
        """Return True for a file."""
        return self.filesystem.stat(self.key) is not None

    def is_dir(self) -> bool:
        """Return True for a folder."""
        return self.filesystem.is_folder(self.key)

    def exists(self) -> bool:
        """Return True for a file or folder."""
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator[Place]:
        """Yield the content of a folder, sorted by name; nothing if there is no folder."""
        for name in sorted(self.filesystem.list(self.key)):
            yield self / name

    def glob(self, pattern: str) -> Iterator[Place]:
        """Yield the content of a folder whose names match an `fnmatch` pattern, sorted by name."""
        return (found for found in self.iterdir() if fnmatchcase(found.name, pattern))

    # -- reading and writing --------------------------------------------------------------------------------

    def open(self) -> BinaryIO:
        """Open a file for reading."""
        return self.filesystem.open(self.key)

    def read_bytes(self) -> bytes:
        """Return the content of a file."""
        with self.open() as stream:
            return stream.read()

    def read_text(self, errors: str = "strict") -> str:
        """Return the content of a file, decoded as UTF-8."""
        return self.read_bytes().decode("utf-8", errors)

    def read_json(self) -> Any:
        """Return the JSON value in a file. Raises `OSError`, or `ValueError` if it is not JSON in UTF-8."""
        return json.loads(self.read_bytes().decode("utf-8"))

    def write_bytes(self, data: bytes) -> None:
        """Write a file atomically; creates the folders around it."""
        self.filesystem.write(self.key, data)

    def write_text(self, text: str) -> None:
        """Write a text atomically, as UTF-8."""
        self.write_bytes(text.encode("utf-8"))

    def write_json(self, value: Any) -> None:
        """Write a value atomically, as indented JSON with sorted keys."""
        self.write_bytes(json_bytes(value))

    def append(self) -> BinaryIO:
        """Open a file for appending, by one process at a time."""
        return self.filesystem.append(self.key)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete a file. Raises `FileNotFoundError` unless it may be missing."""
        if not missing_ok:
            self.stat()
        self.filesystem.delete(self.key)

    # -- for libraries that want paths ----------------------------------------------------------------------

    def fetch(self) -> Path:
        """Return a path on this machine with the content of the file or folder, for reading only."""
        return self.filesystem.fetch(self.key)

    def folder(self) -> AbstractContextManager[Path]:
        """Yield a folder on this machine to write into; its files are in this place when the block ends."""
        return self.filesystem.folder(self.key)

    def exclusive(self, timeout: float) -> AbstractContextManager[None]:
        """Hold the lock of this place, one process at a time. Raises `TimeoutError` after `timeout` seconds."""
        return self.filesystem.exclusive(self.key, timeout)


def json_bytes(value: Any) -> bytes:
    """Return a value as indented JSON with sorted keys, with a final line break."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def at(path: Path | Place) -> Place:
    """Return the place of a local path; a place is returned unchanged."""
    return Place(LocalFilesystem(Path("/")), str(path.absolute()).lstrip("/")) if isinstance(path, Path) else path
