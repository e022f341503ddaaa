"""A bucket as a store's file system: s3://, gs://, az:// or abfs://."""

from __future__ import annotations

import builtins
import contextlib
import io
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar

from inoc_ray.errors import InputError, StorageError
from inoc_ray.store.appended import Appended, copy_version, delete_pieces, file_of, is_pieces, pieces, stat_of, whole
from inoc_ray.store.filesystem import Filesystem, Stat, new_probe
from inoc_ray.store.glance import Glance
from inoc_ray.store.local_copies import LocalCopies
from inoc_ray.store.object_lock import ObjectLock, locked
from inoc_ray.store.objects import GROWS, SHA, Bucket, Object, is_large, streamed

_PUBLISHING = ".publishing"
_PUBLISHING_TRIES = 5
_CLOCK_SECONDS = 600.0
"""How long the difference between the storage's clock and this process's is taken for the same."""
_looking = threading.local()
"""Of a thread: `glances`, by address."""
_clocks: dict[str, tuple[float, float]] = {}
"""By address: when it was measured, and the storage's time less this process's, both by `time.monotonic`."""


@dataclass(frozen=True)
class ObjectFilesystem(Filesystem):
    """The objects below an address such as s3://bucket/prefix. It can be pickled: it is nothing but its address.

    Needs conditional writes (`If-Match`, `If-None-Match`), as S3, Google Cloud Storage, Azure, R2, Ceph and MinIO offer them.
    """

    uri: str
    is_bucket: ClassVar[bool] = True

    @property
    def address(self) -> str:
        """The URI."""
        return self.uri

    @property
    def _bucket(self) -> Bucket:
        glances: dict[str, Glance] = getattr(_looking, "glances", {})
        return glances.get(self.uri) or Bucket(self.uri)

    @property
    def _copies(self) -> LocalCopies:
        return LocalCopies(self.uri)

    def name_of(self, key: str) -> str:
        """Return the URI of a key."""
        return f"{self.uri}/{key}" if key else self.uri

    def open(self, key: str) -> BinaryIO:
        """Open a file for reading; a large one is read as it arrives."""
        try:
            body = self._bucket.get(key)
            return io.BytesIO(whole(self._bucket, body)) if GROWS in body.about.notes else streamed(body)
        except FileNotFoundError:
            raise FileNotFoundError(2, "No such file", self.name_of(key)) from None

    def write(self, key: str, data: bytes) -> None:
        """Put an object. What was appended before is no part of it from that moment."""
        # On a condition it would go in one request, which is too slow for a large one.
        if not is_large(len(data)) and self._bucket.put_if(key, data, None):
            return
        before = self._bucket.head(key)
        self._bucket.put(key, data)
        if before is not None and GROWS in before.notes:
            delete_pieces(self._bucket, key)

    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        """Put an object on the condition If-Match or If-None-Match."""
        return self._bucket.put_if(key, data, version)

    def append(self, key: str) -> BinaryIO:
        """Open a file for appending: see `appended`."""
        return Appended(self._bucket, key)  # type: ignore[return-value]

    def delete(self, key: str) -> None:
        """Delete an object, and what was appended to it."""
        delete_pieces(self._bucket, key)
        self._bucket.delete([key])

    def delete_folder(self, key: str) -> None:
        """Delete every object below a key."""
        self._bucket.delete([found.key for found in self._bucket.below(key)])
        self._copies.keep_only(key, set())

    def move_folder(self, key: str, to: str, last: str) -> None:
        """Copy every object below a key and delete it, one by one."""
        for found in sorted(self._bucket.below(key), key=lambda one: one.key == f"{key}/{last}"):
            self._bucket.copy(found.key, f"{to}{found.key[len(key) :]}")
            self._bucket.delete([found.key])

    def stat(self, key: str) -> Stat | None:
        """Return the size, the time and the version of an object."""
        found = self._bucket.head(key) if key else None
        return None if found is None else Stat(*stat_of(found, pieces(self._bucket, found)))

    def is_folder(self, key: str) -> bool:
        """Return True if there is an object below the key."""
        return self._bucket.anything_below(key)

    def list(self, key: str) -> list[str]:
        """Return the names directly below a key."""
        files, folders = self._bucket.names(key)
        names = (found.rpartition("/")[2] for found in [*files, *folders])
        return list(dict.fromkeys(name for name in names if name and not is_pieces(name)))

    def fetch(self, key: str) -> Path:
        """Return the path of a copy on this machine: see `local_copies`."""
        copies = self._copies
        with copies.one_at_a_time(key):
            file = self._bucket.head(key) if key else None
            versions = self._versions(key) if file is None else {key: copy_version(file, pieces(self._bucket, file))}
            new = [one for one, version in versions.items() if not copies.has(one, version)]
            if new:
                copies.forget_old()
            for one in new:
                with self.open(one) as stream:
                    body = getattr(stream, "raw", None)
                    copies.keep(one, versions[one], stream, None if body is None else body.about.notes.get(SHA))
            if file is None:
                copies.path(key).mkdir(parents=True, exist_ok=True)
                copies.keep_only(key, set(versions))
        return copies.path(key)

    def _versions(self, key: str) -> dict[str, str]:
        """Return the key → the version of every file below a folder."""
        firsts, further = self._files(key)
        return {one: copy_version(first, further.get(one, [])) for one, first in firsts.items()}

    def _files(self, key: str) -> tuple[dict[str, Object], Mapping[str, Sequence[Object]]]:
        """Return the key → the first object, and the further ones, of every file below a folder."""
        firsts: dict[str, Object] = {}
        further: defaultdict[str, builtins.list[Object]] = defaultdict(builtins.list)
        for found in self._bucket.below(key):
            folder = found.key.rpartition("/")[0].rpartition("/")[0]
            if is_pieces(folder):
                further[file_of(folder)].append(found)
            else:
                firsts[found.key] = found
        return firsts, further

    def below(self, key: str) -> dict[str, Stat]:
        """Return every file below a key, by one listing."""
        firsts, further = self._files(key)
        inside = f"{key}/" if key else ""
        return {one.removeprefix(inside): Stat(*stat_of(first, further.get(one, []))) for one, first in firsts.items()}

    def known_sha256(self, key: str) -> str | None:
        """Return the SHA-256 in the object's notes; None for a file that was appended to, or that somebody else put there."""
        found = self._bucket.with_notes(key)
        return None if found is None or GROWS in found.notes else found.notes.get(SHA)

    def machine_folder(self, key: str) -> Path:
        """Return a folder beside the copies."""
        return self._copies.own(key)

    def staging(self, key: str) -> contextlib.AbstractContextManager[Path]:
        """Yield a new folder on this machine."""
        return self._copies.staging(key)

    def publish(self, staging: Path, key: str, last: str) -> None:
        """Put every file, `last` at the end and only if it does not exist; one process at a time.

        What others have left below the key without `last` was never published, and is deleted.
        """
        mark = f"{key}/{_PUBLISHING}"
        for _ in range(_PUBLISHING_TRIES):
            with locked(self, mark, timeout=-1) as lock:
                published = self._publish(staging, key, last, lock)
            is_there = published or self._bucket.head(f"{key}/{last}") is not None
            if is_there:
                # From now on nobody can publish here, so that nobody needs the lock.
                self._bucket.delete([mark])
            if published:
                return
            if is_there:
                raise FileExistsError(17, "Another process has published it", self.name_of(key))
            # Another process took the lock, and publishes or has died of it: wait for it, and begin anew.
        raise StorageError(
            f"storage: {self.name_of(key)}: other processes took over {_PUBLISHING_TRIES} times while this one wrote there, as if "
            "it were dead; see whether the storage answers in time."
        )

    def _publish(self, staging: Path, key: str, last: str, lock: ObjectLock) -> bool:
        """Put the files, unless another process has or does; return True if they are published."""
        if self._bucket.head(f"{key}/{last}") is not None:
            return False
        mark = f"{key}/{_PUBLISHING}"
        self._bucket.delete([found.key for found in self._bucket.below(key) if found.key != mark])
        files = [path for path in sorted(staging.rglob("*")) if path.is_file() and path != staging / last]
        for path in [*files, staging / last]:
            # A process that slept while another one took over must not write over what that has published.
            if not lock.keep() or not self._put_new(path, f"{key}/{path.relative_to(staging).as_posix()}"):
                return False
        return True

    def _put_new(self, path: Path, key: str) -> bool:
        if is_large(path.stat().st_size):
            self._bucket.put_file(key, path)
            return True
        return self._bucket.put_if(key, path.read_bytes(), None)

    def sweep(self, key: str, seconds: float) -> None:
        """Delete the folders on this machine that killed processes left."""
        self._copies.sweep(seconds)

    def discard_staged(self, key: str, names: Collection[str]) -> None:
        """Delete the folders on this machine whose processes are dead."""
        self._copies.sweep(math.inf)

    @contextlib.contextmanager
    def folder(self, key: str) -> Iterator[Path]:
        """Yield a new folder on this machine, and put its files when the block ends without an error."""
        with self._copies.staging(key) as scratch:
            yield scratch
            for path in sorted(scratch.rglob("*")):
                if path.is_file():
                    self._bucket.put_file(f"{key}/{path.relative_to(scratch).as_posix()}", path)

    @contextlib.contextmanager
    def exclusive(self, key: str, timeout: float) -> Iterator[None]:
        """Hold a lock: see `object_lock`."""
        with locked(self, key, timeout):
            yield

    def now(self) -> float:
        """Return the time of the storage's clock, to about a second: that of an object written for it.

        Whoever may only read has the clock of this machine.
        """
        measured = _clocks.get(self.uri)
        if measured is None or time.monotonic() - measured[0] > _CLOCK_SECONDS:
            probe = new_probe()
            before = time.monotonic()
            try:
                self._bucket.put(probe, b"")
                found = self._bucket.head(probe)
                self._bucket.delete([probe])
            except StorageError:
                found = None
            measured = (before, (time.time() if found is None else found.modified) - before)
            _clocks[self.uri] = measured
        return time.monotonic() + measured[1]

    @contextlib.contextmanager
    def glance(self, folders: Iterable[str], early: Callable[[str], bool]) -> Iterator[None]:
        """Answer this thread's questions about some folders from one listing of each: see `glance`."""
        before: dict[str, Glance] = getattr(_looking, "glances", {})
        folders = list(folders)
        if self.uri in before and before[self.uri].covers(folders):
            yield
            return
        _looking.glances = {**before, self.uri: Glance(self.uri, folders, early)}
        try:
            yield
        finally:
            _looking.glances = before

    def check(self) -> None:
        """Write, read, list and delete a probe, and try whether conditions are kept."""
        super().check()
        self.list("")
        probe = new_probe()
        try:
            kept = self.write_if(probe, b"1", None) and not self.write_if(probe, b"2", None)
            stat = self.stat(probe)
            assert stat is not None
            kept = kept and self.write_if(probe, b"3", stat.version) and not self.write_if(probe, b"4", stat.version)
        finally:
            self.delete(probe)
        if not kept:
            raise InputError(
                f"storage: {self.uri} takes no notice of the conditions If-Match and If-None-Match, by which several commands "
                "share a storage; use another one."
            )
