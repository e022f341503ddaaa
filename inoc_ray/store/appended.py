"""A file of a bucket that grows: its first object, and one object for every further flush.

The first object has the note GROWS with a random id; what is flushed later lies below KEY.appended/ID/, numbered. To replace the
file is to write its first object anew: the new one has another id, or none, so that the old pieces are no part of it from that very
moment, even if nobody lives to delete them. A reader that finds no such note needs no further request.
"""

from __future__ import annotations

import contextlib
import io
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from inoc_ray.errors import StorageError
from inoc_ray.store.objects import GROWS, Bucket, Content, Object, streamed

PIECES = ".appended"
"""Ends the name of the folder with the pieces of a file."""
_JOINED = 32
"""When a file with more pieces is closed, it becomes one object again."""
_AT_ONCE = 16
_READING_TRIES = 10


def is_pieces(name: str) -> bool:
    """Return True for the name or key of a folder with the pieces of a file."""
    return name.endswith(PIECES)


def file_of(folder: str) -> str:
    """Return the key of the file whose pieces are below this folder."""
    return folder.removesuffix(PIECES)


def pieces(bucket: Bucket, first: Object) -> list[Object]:
    """Return the further objects of a file, in order."""
    grows = first.notes.get(GROWS)
    return [] if grows is None else list(bucket.below(f"{first.key}{PIECES}/{grows}"))


def stat_of(first: Object, further: Sequence[Object]) -> tuple[int, float, str]:
    """Return the size, the time and the version of a file."""
    if not further:
        return first.size, first.modified, first.version
    size = first.size + sum(piece.size for piece in further)
    # No conditional write takes this version: it would not notice another piece.
    return (
        size,
        max(first.modified, *(piece.modified for piece in further)),
        f"{len(further)} pieces, {size}: {first.version}",
    )


def copy_version(first: Object, further: Sequence[Object]) -> str:
    """Return what a copy of the file is a copy of; a listing knows it as well."""
    return " ".join([first.etag, *(f"{piece.key.rpartition('/')[2]} {piece.etag}" for piece in further)])


def whole(bucket: Bucket, body: Content) -> bytes:
    """Return the content of a file whose first object was opened, as it was at one moment.

    Raises `FileNotFoundError` if it is deleted meanwhile, `StorageError` if it is replaced again and again.
    """
    for _ in range(_READING_TRIES):
        first = body.about
        with contextlib.suppress(FileNotFoundError):
            data = joined(bucket, streamed(body).read(), pieces(bucket, first))
            # A writer that makes one object of the pieces replaces the first and then deletes them: some may have been gone.
            now = bucket.with_notes(first.key)
            if now is not None and _write_of(now) == _write_of(first):
                return data
        body = bucket.get(first.key)
    raise StorageError(f"storage: {first.key} was written anew {_READING_TRIES} times while it was read; try again.")


def _write_of(first: Object) -> tuple[str, str | None]:
    """Return what tells a first object from the one that replaces it, be it with the same bytes."""
    return first.version, first.notes.get(GROWS)


def joined(bucket: Bucket, first: bytes, further: Sequence[Object]) -> bytes:
    """Return the content of a file, whose first object has these bytes."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return b"".join([first, *pool.map(bucket.read, (piece.key for piece in further))])


def delete_pieces(bucket: Bucket, key: str, of: str = "") -> None:
    """Delete the pieces of a file: those of one id, or all."""
    folder = f"{key}{PIECES}/{of}".rstrip("/")
    # The last one first, so that a reader meanwhile sees a beginning of the file.
    bucket.delete([piece.key for piece in bucket.below(folder)][::-1])


class Appended(io.RawIOBase):
    """A file opened for appending, by one process at a time. What is flushed is in the bucket."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        super().__init__()
        self._bucket, self._key = bucket, key
        self._waiting = bytearray()
        self._grows: str | None = None
        self._count = 0

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Keep bytes for the next flush."""
        self._waiting += data
        return len(data)

    def flush(self) -> None:
        """Put what was written since the last flush into the bucket. Raises `StorageError`; a later flush tries again."""
        data = bytes(self._waiting)
        if self.closed or not data:
            return
        if self._grows is None and self._begin(data):
            self._waiting.clear()
            return
        # Of two that append at the same time, each keeps what it wrote.
        while not self._bucket.put_if(f"{self._key}{PIECES}/{self._grows}/{self._count:08d}", data, None):
            self._count += 1
        self._count += 1
        self._waiting.clear()

    def _begin(self, data: bytes) -> bool:
        """Find the file's id, or give it one; return True if that has written the data."""
        while True:
            first = self._bucket.head(self._key)
            grows = uuid.uuid4().hex
            if first is None:
                if self._bucket.put_if(self._key, data, None, {GROWS: grows}):
                    self._grows = grows
                    return True
            elif GROWS in first.notes:
                self._grows = first.notes[GROWS]
                self._count = len(pieces(self._bucket, first))
                return False
            elif self._bucket.put_if(self._key, self._bucket.read(self._key) + data, first.version, {GROWS: grows}):
                # It was one plain object.
                self._grows = grows
                return True

    def close(self) -> None:
        """Flush; make one object of a file with many pieces."""
        if not self.closed:
            try:
                self.flush()
                if self._count > _JOINED:
                    self._join()
            finally:
                super().close()

    def _join(self) -> None:
        first = self._bucket.head(self._key)
        if first is None or first.notes.get(GROWS) != self._grows:
            return
        data = joined(self._bucket, self._bucket.read(self._key), pieces(self._bucket, first))
        if self._bucket.put_if(self._key, data, first.version, {GROWS: uuid.uuid4().hex}):
            delete_pieces(self._bucket, self._key, first.notes[GROWS])
