"""A part of a run that goes on in a thread of its own while the main thread does another: evaluation beside the training."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from inoc_ray import stopping

T = TypeVar("T")
_LOOK_SECONDS = 0.2
LEAVE_SECONDS = 1.0
"""What a command that is stopped needs after it."""


class Beside(Generic[T]):
    """Work that begins at once in a thread; `result` waits for it.

    When the command is told to stop, the work ends by itself (`stopping.check` and `stopping.run` raise KeyboardInterrupt in it).
    """

    def __init__(self, work: Callable[[], T], name: str) -> None:
        self._work = work
        self._found: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._do, daemon=True, name=name)
        self._thread.start()

    def _do(self) -> None:
        try:
            self._found.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            self._error = error

    def result(self) -> T:
        """Wait for the work and return what it returned; raise what it raised."""
        while self._thread.is_alive():
            # In pieces: a signal is handled between two.
            self._thread.join(_LOOK_SECONDS)
        if self._error is not None:
            raise self._error
        return self._found[0]

    def leave(self) -> None:
        """Wait until the work has ended, whatever comes of it, or while there is time if the command is being stopped.

        What it works with is taken down next.
        """
        while self._thread.is_alive() and not (stopping.requested() and stopping.seconds_left() <= LEAVE_SECONDS):
            self._thread.join(_LOOK_SECONDS)
