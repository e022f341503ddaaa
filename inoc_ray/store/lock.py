"""The one lock on local files: held by a process, let go of by its death."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

FOREVER = -1.0


@contextlib.contextmanager
def exclusive(path: Path, timeout: float = FOREVER) -> Iterator[None]:
    """Hold the lock on `path`, which is made where it is missing and otherwise not touched.

    path: may be the very file that is written while the lock is held.
    timeout: seconds to wait; 0: one try; FOREVER.
    Raises `TimeoutError` when another holder keeps it longer.
    """
    import filelock

    # Kept: the file may be a journal, and deleting a lock file lets two processes in.
    lock = filelock.FileLock(path, timeout=timeout, mode=0o644, preserve_lock_file=True)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise TimeoutError(f"{path} is locked by another process") from error
    try:
        yield
    finally:
        lock.release()
