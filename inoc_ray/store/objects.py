"""Whole objects of a bucket: put, put on a condition, get, list, delete.

Every object carries two notes (user metadata): the SHA-256 of its bytes, and the id of the write that made it. The second makes
conditional writes safe to repeat: if an answer is lost, the note says whether the object is this write's.
"""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from inoc_ray.config.identity import file_hash
from inoc_ray.store.connection import Connection, connection

# Azure allows letters and digits alone.
SHA, WRITE, GROWS = "inocraysha256", "inocraywrite", "inocraygrows"
"""Names of the notes: the hash, the write, and the id of a file that is appended to (see `appended`)."""
_SINGLE_BYTES = 8 << 20
"""Larger files go in several parts, which take no condition."""
_PARTS_AT_ONCE = 4
"""They share the line to the storage, so that each of many would take longer than a request may."""
_PART_BYTES, _PARTS = 8 << 20, 9_000
"""S3 takes at most 10,000 parts of an object."""
_BLOCK = 4 << 20


@dataclass(frozen=True)
class Object:
    """What a bucket says about an object."""

    key: str
    size: int
    """In bytes."""
    modified: float
    """Epoch seconds of the storage's clock."""
    etag: str
    generation: str
    """Google's and versioned buckets' number of the write; "" elsewhere."""
    notes: Mapping[str, str]
    """Empty in a listing."""

    @property
    def version(self) -> str:
        """What a conditional write compares."""
        return f"{self.etag} {self.generation}".strip()


def _object(meta: Mapping[str, Any], notes: Mapping[str, str]) -> Object:
    return Object(
        key=meta["path"],
        size=meta["size"],
        # Listings have milliseconds, single objects seconds alone.
        modified=float(int(meta["last_modified"].timestamp())),
        etag=meta["e_tag"] or "",
        generation=meta["version"] or "",
        notes={name.lower(): value for name, value in notes.items()},
    )


class Content(io.RawIOBase):
    """The bytes of an object, wherever they are read from."""

    about: Object


class Body(Content):
    """The bytes of an object, read as they arrive; where the connection breaks, the next one goes on behind what has come."""

    def __init__(self, key: str, connection: Connection) -> None:
        super().__init__()
        self._key, self._connection = key, connection
        self._come, self._block = 0, memoryview(b"")
        self._stream: Iterator[Any] | None
        self.about, self._stream = self._connection.call("read", self._open)

    def _open(self, options: Any = None) -> tuple[Object, Iterator[Any]]:
        import obstore

        found = obstore.get(self._connection.store, self._key, options=options)
        return _object(found.meta, found.attributes), iter(found.stream(_BLOCK))

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes. Raises `StorageError` if the storage stays away, `FileNotFoundError` if the object was replaced."""
        if not self._block and self._come < self.about.size:
            self._block = memoryview(self._connection.call("read", self._next))
            self._come += len(self._block)
        count = min(len(buffer), len(self._block))
        buffer[:count] = self._block[:count]
        self._block = self._block[count:]
        return count

    def _next(self) -> bytes:
        from obstore.exceptions import BaseError, PreconditionError

        try:
            if self._stream is None:
                # The same object, behind what has come.
                _, self._stream = self._open({"range": {"offset": self._come}, "if_match": self.about.etag})
            block = next(self._stream, b"")
        except PreconditionError:
            raise FileNotFoundError(2, "The file was replaced while it was read", self._key) from None
        except BaseError:
            self._stream = None
            raise
        if not block:
            self._stream = None
            raise ConnectionError(f"the answer ended {self.about.size - self._come} bytes early")
        return bytes(block)


class Bucket:
    """The objects below an address such as s3://bucket/prefix. Keys have "/" between their parts.

    Methods raise `StorageError` if the bucket cannot be reached or refuses.
    """

    def __init__(self, address: str) -> None:
        self._connection = connection(address)

    def put(self, key: str, data: bytes, notes: Mapping[str, str] | None = None) -> None:
        """Write an object, whatever is there."""
        import obstore

        noted = self._notes(hashlib.sha256(data).hexdigest(), notes)
        store = self._connection.store_for(len(data))
        self._connection.call(
            "write", lambda: obstore.put(store, key, data, attributes=noted, max_concurrency=_PARTS_AT_ONCE)
        )

    def put_file(self, key: str, path: Path) -> None:
        """Write a local file, whatever is there; in parts if it is large."""
        import obstore

        noted = self._notes(file_hash(path), None)
        size = path.stat().st_size
        part = max(_PART_BYTES, -(-size // _PARTS))
        store = self._connection.store_for(size)

        def request() -> None:
            obstore.put(store, key, path, attributes=noted, chunk_size=part, max_concurrency=_PARTS_AT_ONCE)

        self._connection.call("write", request)

    def put_if(self, key: str, data: bytes, version: str | None, notes: Mapping[str, str] | None = None) -> bool:
        """Write an object if it still has that version (None: if there is none); return False otherwise."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        noted = self._notes(hashlib.sha256(data).hexdigest(), notes)
        mode: Any = "create"
        if version is not None:
            etag, _, generation = version.partition(" ")
            mode = {"e_tag": etag, "version": generation} if generation else {"e_tag": etag}

        store = self._connection.store_for(len(data))

        def request() -> None:
            obstore.put(store, key, data, mode=mode, attributes=noted, use_multipart=False)

        try:
            self._connection.call("write", request)
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            # The first answer may have been lost on the way, and the second found the object that the first made.
            now = self.with_notes(key)
            return now is not None and now.notes.get(WRITE) == noted[WRITE]
        return True

    def _notes(self, sha: str, notes: Mapping[str, str] | None) -> dict[str, str]:
        return {SHA: sha, WRITE: uuid.uuid4().hex, **(notes or {})}

    def get(self, key: str) -> Content:
        """Open an object for reading. Raises `FileNotFoundError`."""
        return Body(key, self._connection)

    def read(self, key: str) -> bytes:
        """Return the bytes of an object; repeat the whole while the storage is away. Raises `FileNotFoundError`."""
        import obstore

        return self._connection.call("read", lambda: bytes(obstore.get(self._connection.store, key).bytes()))

    def head(self, key: str) -> Object | None:
        """Return what is known of an object without its bytes, or None."""
        return self.with_notes(key)

    def with_notes(self, key: str) -> Object | None:
        """Return `head` as the bucket has it now, with the notes that no listing has."""
        import obstore

        try:
            found = self._connection.call(
                "read", lambda: obstore.get(self._connection.store, key, options={"head": True})
            )
        except FileNotFoundError:
            return None
        return _object(found.meta, found.attributes)

    def names(self, key: str) -> tuple[list[str], list[str]]:
        """Return the keys of the objects directly below a key, and of the folders."""
        import obstore

        found = self._connection.call("list", lambda: obstore.list_with_delimiter(self._connection.store, key or None))
        return [one["path"] for one in found["objects"]], list(found["common_prefixes"])

    def below(self, key: str) -> Iterator[Object]:
        """Yield every object below a key, at any depth, by their keys."""
        import obstore

        # Collected before the first is yielded: a listing that breaks off in the middle starts again.
        found = self._connection.call("list", lambda: obstore.list(self._connection.store, key or None).collect())
        yield from sorted((_object(one, {}) for one in found), key=lambda one: one.key)

    def anything_below(self, key: str) -> bool:
        """Return True if there is an object below a key."""
        import obstore

        def request() -> bool:
            return any(obstore.list(self._connection.store, key or None, chunk_size=1))

        return self._connection.call("list", request)

    def copy(self, key: str, to: str) -> None:
        """Copy an object within the bucket, with its notes. Raises `FileNotFoundError`."""
        import obstore

        self._connection.call("write", lambda: obstore.copy(self._connection.store, key, to))

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, many with one request where the storage can; those that do not exist are passed over."""
        import obstore

        if not keys:
            return
        try:
            self._connection.call("delete", lambda: obstore.delete(self._connection.store, keys))
        except FileNotFoundError:
            if len(keys) > 1:
                for key in keys:
                    self.delete([key])


def is_large(size: int) -> bool:
    """Return True for a file of so many bytes that goes in several parts, and so takes no condition."""
    return size > _SINGLE_BYTES


def streamed(body: io.RawIOBase) -> BinaryIO:
    """Return an object's bytes as a buffered stream."""
    return io.BufferedReader(body, buffer_size=1 << 20)
