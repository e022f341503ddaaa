"""The one lock on local files: a process holds it, and its death releases it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

FOREVER = -1.0


@contextlib.contextmanager
def exclusive(path: Path, timeout: float = FOREVER) -> Iterator[None]:
    """Hold the lock on `path`, which is created if missing and otherwise left as it is.

    path: may be the very file that is written while the lock is held.
    timeout: seconds to wait; 0: one attempt; FOREVER.
    Raises `TimeoutError` if another process holds the lock for longer.
    """
    import filelock

    # The file is kept with its content and its rights (filelock before 4.2.2 empties it): it may be a journal, and deleting a
    # lock file would let two processes in.
    lock = filelock.FileLock(path, timeout=timeout, preserve_lock_file=True)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise TimeoutError(f"{path} is locked by another process") from error
    try:
        yield
    finally:
        lock.release()
