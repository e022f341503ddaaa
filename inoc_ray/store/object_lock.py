"""A lock in a bucket: an object that its holder writes again and again, on the condition that nobody else has.

It is free if there is none, if it says so, if its holder is a dead process of this machine, or if it was not written for
EXPIRY_SECONDS of the storage's clock. No clock of a machine takes part.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from inoc_ray.errors import StorageError
from inoc_ray.store.filesystem import Filesystem
from inoc_ray.store.processes import is_dead, this_process

EXPIRY_SECONDS = 30.0
"""A lock that was not written for so long is free: its holder is gone. It is written three times as often."""
_FREE: dict[str, Any] = {"holder": None}


class ObjectLock:
    """A lock that this process holds, or has lost."""

    def __init__(self, filesystem: Filesystem, key: str) -> None:
        self._filesystem, self._key = filesystem, key
        self._mine: dict[str, Any] = {**this_process(), "token": uuid.uuid4().hex}
        self._beats = 0
        self._last = 0.0
        # Of two beats at once, one would take the other's writing for somebody else's.
        self._beating = threading.Lock()
        self.lost = False

    def acquire(self, timeout: float) -> None:
        """Wait for the lock. timeout: seconds; negative: for ever. Raises `TimeoutError`."""
        deadline = time.monotonic() + timeout
        pause = 0.05
        while not self._try():
            if timeout >= 0 and time.monotonic() + pause > deadline:
                raise TimeoutError(f"{self._filesystem.name_of(self._key)} is locked by another process")
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _try(self) -> bool:
        stat = self._filesystem.stat(self._key)
        if stat is None:
            return self._write(None)
        holder = self._holder()
        alive = holder is not None and not is_dead(holder)
        if alive and self._filesystem.now() - stat.modified <= EXPIRY_SECONDS:
            return False
        # The version is from before the look at the holder: who took it meanwhile has changed it.
        return self._write(stat.version)

    def _holder(self) -> dict[str, Any] | None:
        """Return what the lock says of its holder; None for a free one."""
        try:
            with self._filesystem.open(self._key) as stream:
                found = json.loads(stream.read())["holder"]
            return None if found is None else {**found}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            # Of a file that says nothing only its age counts.
            return {}

    def _write(self, version: str | None) -> bool:
        # Each writing has other bytes, so that its ETag, a hash of them, is another one.
        self._beats += 1
        value = {"holder": {**self._mine, "beat": self._beats}}
        began = time.monotonic()
        done = self._filesystem.write_if(self._key, json.dumps(value).encode(), version)
        if done:
            self._last = began
        return done

    def beat(self) -> None:
        """Write the lock again, unless somebody else has."""
        with self._beating:
            stat = self._filesystem.stat(self._key)
            holder = self._holder()
            if (
                stat is None
                or holder is None
                or holder.get("token") != self._mine["token"]
                or not self._write(stat.version)
            ):
                self.lost = True

    def is_held(self) -> bool:
        """Return True if nobody can have taken the lock, by the clock of this process's own waiting."""
        return not self.lost and time.monotonic() - self._last < EXPIRY_SECONDS / 2

    def keep(self) -> bool:
        """Return True if the lock is held; beat first if that is not certain, as after a time without the storage."""
        if not self.is_held():
            self.beat()
        return not self.lost

    def release(self) -> None:
        """Make the lock free, if it still is this process's. The object stays, like the file of a local lock."""
        stat = self._filesystem.stat(self._key)
        holder = self._holder()
        if stat is not None and holder is not None and holder.get("token") == self._mine["token"]:
            self._filesystem.write_if(self._key, json.dumps(_FREE).encode(), stat.version)


@contextlib.contextmanager
def locked(filesystem: Filesystem, key: str, timeout: float) -> Iterator[ObjectLock]:
    """Hold the lock at `key` while the block runs. Raises `TimeoutError` after `timeout` seconds (negative: never)."""
    lock = ObjectLock(filesystem, key)
    lock.acquire(timeout)
    stop = threading.Event()

    def beat() -> None:
        while not lock.lost and not stop.wait(EXPIRY_SECONDS / 3):
            # A storage that is away for a while costs the lock only if somebody else asks for it.
            with contextlib.suppress(StorageError, OSError):
                lock.beat()

    thread = threading.Thread(target=beat, daemon=True, name=f"lock-{key}")
    thread.start()
    try:
        yield lock
    finally:
        stop.set()
        thread.join()
        # What cannot be released expires, and must not hide the error that ended the block.
        with contextlib.suppress(StorageError, OSError):
            lock.release()
