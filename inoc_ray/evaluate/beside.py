"""A part of a run that goes on in a thread of its own while the main thread does another.

Evaluation beside the training, and the end of its engine beside the writing of results.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Generic, Self, TypeVar

from inoc_ray import stopping
from inoc_ray.serve.app import Endpoint, serving
from inoc_ray.serve.spec import ServeSpec

T = TypeVar("T")
_LOOK_SECONDS = 0.2
LEAVE_SECONDS = 1.5
"""How long a command that is stopped waits for it."""


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

    @property
    def is_over(self) -> bool:
        """Whether the work has ended, one way or another."""
        return not self._thread.is_alive()

    def leave(self) -> None:
        """Wait until the work has ended, whatever comes of it, or for LEAVE_SECONDS if the command is being stopped.

        It may be in a call of Ray's that nothing breaks off, such as the start of Serve; what that leaves goes with the cluster, or
        is the keeper's.
        """
        stopped_at: float | None = None
        while self._thread.is_alive():
            self._thread.join(_LOOK_SECONDS)
            if stopping.requested():
                stopped_at = stopped_at or time.monotonic()
                if time.monotonic() - stopped_at > min(LEAVE_SECONDS, stopping.seconds_left()):
                    return


class Lingering:
    """Engines that are not taken down where their `with` blocks end, but when another needs the place, or beside the results."""

    def __init__(self, serve: Callable[..., AbstractContextManager[Endpoint]] = serving) -> None:
        self._serve = serve
        self._idle: list[contextlib.ExitStack] = []
        self._ending: Beside[None] | None = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def serving(self, spec: ServeSpec, **options: Any) -> Iterator[Endpoint]:
        """Serve `spec` while a `with` block runs, and on, unless the block fails; end those whose block is over first.

        options: of `serve.app.serving`.
        """
        self.end()
        with contextlib.ExitStack() as held:
            yield held.enter_context(self._serve(spec, **options))
            self._idle.append(held.pop_all())

    def end(self) -> None:
        """Take down those whose block is over."""
        while held := self._one_that_is_idle():
            held.close()

    def _one_that_is_idle(self) -> contextlib.ExitStack | None:
        # Several may begin or end at once, each in its thread.
        with self._lock:
            return self._idle.pop() if self._idle else None

    def begin_to_end(self) -> None:
        """Begin to take them down, in another thread."""
        if self._idle:
            self._ending = Beside(self.end, "end of the engine")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._ending is None:
            self.end()
        elif kind is None:
            self._ending.result()
        else:
            self._ending.leave()
