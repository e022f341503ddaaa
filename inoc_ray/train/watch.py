"""What the driver asks of a trial's workers while they train: files of the store, looked for in a thread.

A look at a bucket takes as long as a step of a small model; training does not wait for it.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Self

from inoc_ray.errors import StorageError
from inoc_ray.store.place import Place

LOOK_SECONDS = 0.5
"""Time between two looks."""


class Watch:
    """The requests to one trial, for its first rank, in a `with` block.

    ask: a file that asks for a snapshot, which is deleted when it was seen. grow: a file that stays.
    """

    def __init__(self, ask: Place, grow: Place) -> None:
        self._ask, self._grow = ask, grow
        self._asked, self._grows, self._over = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="watch-requests")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def taken(self) -> tuple[bool, bool]:
        """Return whether a snapshot was asked for since the last call, and whether there is room for more workers."""
        asked = self._asked.is_set()
        if asked:
            # Not in any case: what was asked since the line above is for the next call.
            self._asked.clear()
        return asked, self._grows.is_set()

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            # A storage that does not answer for a moment is asked again; what else it fails at is the trial's to say.
            with contextlib.suppress(OSError, StorageError):
                if self._ask.is_file():
                    self._ask.unlink(missing_ok=True)
                    self._asked.set()
                if self._grow.is_file():
                    self._grows.set()
