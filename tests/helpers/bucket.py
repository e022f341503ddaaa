"""A bucket in memory as a store's file system, through fsspec: whole objects, conditional writes, no paths, no renames.

It stands in for an object store where the test is whether anything reaches a store past its interface: there is no folder that
it could reach.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from inoc_ray.store.filesystem import Filesystem, Stat


class Bucket(Filesystem):
    """Objects below a prefix of fsspec's memory file system, shared by all threads of this process."""

    def __init__(self) -> None:
        self._fs: Any = fsspec.filesystem("memory")
        self._prefix = f"/bucket-{uuid.uuid4().hex}"
        self._conditional = threading.Lock()
        self._cache = tempfile.TemporaryDirectory(prefix="cache-")

    @property
    def address(self) -> str:
        return f"memory:/{self._prefix}"

    def name_of(self, key: str) -> str:
        return f"{self.address}/{key}"

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key}" if key else self._prefix

    def keys_below(self, key: str = "") -> list[str]:
        """Every object below a key."""
        return sorted(found.removeprefix(f"{self._prefix}/") for found in self._fs.find(self._path(key)))

    def open(self, key: str) -> BinaryIO:
        return io.BytesIO(self._fs.cat_file(self._path(key)))

    def write(self, key: str, data: bytes) -> None:
        self._fs.pipe_file(self._path(key), data)

    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        with self._conditional:
            now = self.stat(key)
            if (None if now is None else now.version) != version:
                return False
            self.write(key, data)
            return True

    def append(self, key: str) -> BinaryIO:
        return _Appended(self, key)

    def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(key))

    def delete_folder(self, key: str) -> None:
        for found in self.keys_below(key):
            self.delete(found)

    def move_folder(self, key: str, to: str, last: str) -> None:
        for found in sorted(self.keys_below(key), key=lambda one: one == f"{key}/{last}"):
            self.write(f"{to}/{found.removeprefix(f'{key}/')}", self.open(found).read())
            self.delete(found)

    def stat(self, key: str) -> Stat | None:
        if not self._fs.isfile(self._path(key)):
            return None
        data = self._fs.cat_file(self._path(key))
        modified = self._fs.modified(self._path(key)).timestamp()
        return Stat(len(data), modified, f"{hashlib.md5(data).hexdigest()} {modified}")

    def is_folder(self, key: str) -> bool:
        return any(found != key for found in self.keys_below(key))

    def list(self, key: str) -> list[str]:
        inside = f"{key}/" if key else ""
        return list(dict.fromkeys(k.removeprefix(inside).split("/")[0] for k in self.keys_below(key) if k != key))

    def fetch(self, key: str) -> Path:
        for found in self.keys_below(key):
            copy = Path(self._cache.name, found)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(self.open(found).read())
        return Path(self._cache.name, key)

    def machine_folder(self, key: str) -> Path:
        return Path(self._cache.name, "own", key)

    @contextlib.contextmanager
    def staging(self, key: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)

    def publish(self, staging: Path, key: str, last: str) -> None:
        files = [str(path.relative_to(staging)) for path in sorted(staging.rglob("*")) if path.is_file()]
        for name in files:
            if name != last:
                self.write(f"{key}/{name}", (staging / name).read_bytes())
        if not self.write_if(f"{key}/{last}", (staging / last).read_bytes(), None):
            raise FileExistsError(key)

    def sweep(self, key: str, seconds: float) -> None:
        """Nothing is staged in the bucket."""

    @contextlib.contextmanager
    def folder(self, key: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
            for path in sorted(Path(scratch).rglob("*")):
                if path.is_file():
                    self.write(f"{key}/{path.relative_to(scratch)}", path.read_bytes())

    @contextlib.contextmanager
    def exclusive(self, key: str, timeout: float) -> Iterator[None]:
        deadline = None if timeout < 0 else time.monotonic() + timeout
        while not self.write_if(key, b"held", None):
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(key)
            time.sleep(0.01)
        try:
            yield
        finally:
            self.delete(key)


class _Appended(io.BytesIO):
    """What is written goes behind the object at each flush."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        super().__init__()
        self._bucket, self._key = bucket, key

    def flush(self) -> None:
        added = self.getvalue()
        if added:
            before = self._bucket.open(self._key).read() if self._bucket.stat(self._key) else b""
            self._bucket.write(self._key, before + added)
            self.seek(0)
            self.truncate()

    def close(self) -> None:
        if not self.closed:
            self.flush()
        super().close()
