"""The stop of a command: the first Ctrl-C or SIGTERM ends it where nothing is lost, the second one at once.

The first signal raises KeyboardInterrupt in the main thread, wherever that is: every write to a store is atomic, so each place is
one at which a command may end. What would leave something behind if it were broken off is `deferred`. A thread keeps the time
and the second signal, since Python's handlers wait for the main thread, which may be in a call of a library for long.

Where the main thread is in a callback from which Python lets no exception out (a finalizer, `__del__`, the callback of a weak
reference, of ctypes or of the garbage collector), the one that was raised is lost, and raised again a moment later.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeVar

from inoc_ray.console import say

T = TypeVar("T")

SIGNALS: dict[int, str] = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
GRACE_SECONDS = 9.0
"""How long a command may take to end after the first signal; then it is ended where it stands."""
JOB_GRACE_SECONDS = 3.0
"""How long Ray lets a job end after `ray job stop`, unless RAY_JOB_STOP_WAIT_TIME_S says otherwise."""
ONE_SIGNAL_SECONDS = 0.5
"""Signals this close are one: a terminal sends Ctrl-C to a program and to its wrapper, which may pass it on."""
KEPT = "what was committed is kept. Run the command again to resume"
_SLACK_SECONDS = 0.5
"""What the last words take."""
_AGAIN_SECONDS, _LONGEST_AGAIN_SECONDS = 0.02, 0.5
"""After what time an exception that was lost is raised again, at first and at most: what lost it is to return first."""
_ON_ITS_WAY_SECONDS = 0.2
"""How long a signal that this process sends itself takes to be read, at most."""


@dataclass
class _Stop:
    """The stop of this process."""

    signum: int | None = None
    since: float = 0.0
    raised: bool = False
    deferred: int = 0
    """How many blocks are not to be broken off now."""
    installed: bool = False
    words: str = KEPT
    during: str = ""
    tell: list[Callable[[], None]] = field(default_factory=list)
    """What is called when it begins."""
    lost: bool = False
    """Whether the exception was raised where Python lets none out, so that it is to be raised again."""
    over: bool = False
    """Whether the block that may be stopped has ended, and nothing is raised any more."""
    pipe: int = -1
    """Where a byte wakes the watcher; signals write theirs there, too."""

    def begin(self, pipe: int) -> None:
        """Forget an earlier stop: a command begins."""
        self.pipe = pipe
        self.signum, self.raised, self.installed = None, False, True
        self.lost = self.over = False
        self.words, self.during, self.tell = KEPT, "", []

    def note(self, signum: int) -> None:
        """Note the first signal."""
        if self.signum is None:
            self.since, self.signum = time.monotonic(), signum

    def due(self) -> bool:
        """Whether KeyboardInterrupt is to be raised: there was a signal, it was not raised for that, or lost, and it may be now."""
        return self.signum is not None and (self.lost or not self.raised) and not self.deferred and not self.over

    def raise_once(self) -> None:
        """Raise KeyboardInterrupt if it is due. To be called in the main thread."""
        if self.due():
            self.raised, self.lost = True, False
            raise KeyboardInterrupt

    def lose(self) -> None:
        """Have the watcher see to it that the exception is raised again. Raises nothing and starts no thread, which would wait."""
        self.lost = True
        with contextlib.suppress(BlockingIOError):
            os.write(self.pipe, b"\0")


_stop = _Stop()


def _in_main_thread() -> bool:
    """Whether this is the thread that signals come to."""
    return threading.current_thread() is threading.main_thread()


def requested() -> bool:
    """Return whether a signal has told this command to stop."""
    return _stop.signum is not None


def check() -> None:
    """Raise KeyboardInterrupt if this command is to stop: a library may have swallowed the one that was raised."""
    if requested():
        if _in_main_thread():
            _stop.raised, _stop.lost = True, False
        raise KeyboardInterrupt


def exit_code() -> int:
    """Return the shell's code for a command that a signal ended: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (_stop.signum or signal.SIGINT)


def seconds_left() -> float:
    """Return how long the work of stopping may still take; before a stop, how long it may take in all."""
    grace = GRACE_SECONDS
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        # The command of a Ray job: SIGKILL comes next.
        grace = min(grace, float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S") or JOB_GRACE_SECONDS))
    gone = time.monotonic() - _stop.since if requested() else 0.0
    return max(0.0, grace - _SLACK_SECONDS - gone)


def keep_in_words(words: str, during: str = "") -> None:
    """Set what the message at the end says: `during` what the command was stopped ("while training"), and what is kept."""
    _stop.words, _stop.during = words, during


@contextlib.contextmanager
def told(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell`, which must return at once, when a stop begins during the block: for work that another thread does meanwhile."""
    _stop.tell.append(tell)
    try:
        yield
    finally:
        _stop.tell.remove(tell)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, as `asyncio.run` does, so that a stop of the command breaks it off in any thread.

    In the main thread the signal itself does so. Raises KeyboardInterrupt then.
    """
    import asyncio

    if _in_main_thread():
        return asyncio.run(work)

    async def breakable() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)

        def cancel() -> None:
            # The loop may have ended meanwhile.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(task.cancel)

        with told(cancel):
            if requested():
                task.cancel()
            return await task

    try:
        return asyncio.run(breakable())
    except asyncio.CancelledError:
        check()
        raise


def message() -> str:
    """Return the message of a command that was stopped."""
    by = f"stopped by {SIGNALS[_stop.signum or signal.SIGINT]}"
    return f"{by}{_stop.during and ' '}{_stop.during}; {_stop.words}."


@contextlib.contextmanager
def stoppable(end: Callable[[str], None]) -> Iterator[None]:
    """Let the first signal raise KeyboardInterrupt in the block; the second, or GRACE_SECONDS, end the process.

    end: says the last message of a process that is ended so. A signal that this process was started to ignore is ignored, as
    for commands in the background of a script.
    """
    if not _in_main_thread() or _stop.installed:
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    hook = sys.unraisablehook
    heard, tell = os.pipe()
    os.set_blocking(tell, False)
    wakeup = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    _stop.begin(tell)
    threading.Thread(target=_watch, args=(heard, end), daemon=True, name="stop").start()
    install()
    sys.unraisablehook = functools.partial(_unraisable, hook)
    try:
        yield
    finally:
        _stop.over = True
        sys.unraisablehook = hook
        if not requested():
            # Otherwise the process is ending, and how long that may take still counts.
            for signum, handler in before.items():
                signal.signal(signum, handler)
            signal.set_wakeup_fd(wakeup)
            _stop.installed = False
            os.close(tell)


def install() -> None:
    """Install the handlers, again if need be: Ray puts others in their place when it starts, and the default when it ends.

    Does nothing outside of `stoppable`.
    """
    if not _stop.installed or not _in_main_thread():
        return
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _on_signal)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Do not break off the block: a stop that is requested meanwhile is raised at its end."""
    if not _in_main_thread():
        yield
        return
    _stop.deferred += 1
    try:
        yield
    finally:
        _stop.deferred -= 1
        _stop.raise_once()


def _on_signal(signum: int, frame: FrameType | None) -> None:
    _stop.note(signum)
    while frame is not None:
        if frame.f_code is _unraisable.__code__:
            # Python lets no exception out of the hook either, and does not tell it.
            _stop.lose()
            return
        frame = frame.f_back
    _stop.raise_once()


def _unraisable(hook: Callable[[sys.UnraisableHookArgs], object], args: sys.UnraisableHookArgs) -> None:
    """Note it if the exception of a stop was lost; leave anything else to the `hook` before."""
    if _in_main_thread() and requested() and issubclass(args.exc_type, KeyboardInterrupt):
        _stop.lose()
    else:
        hook(args)


class _Again:
    """Sends the signal again whose exception was lost, since the main thread may be about to wait in a system call."""

    def __init__(self) -> None:
        self.pause = _AGAIN_SECONDS
        self.own: list[tuple[int, float]] = []
        """Signals that were sent from here, and when."""

    def send(self) -> None:
        """Send it, unless it may not be raised now; nor to a handler of Ray's, which may stand there, and would end the process."""
        signum, main = _stop.signum or signal.SIGINT, threading.main_thread().ident
        if _stop.due() and main and signal.getsignal(signum) is _on_signal:
            self.own.append((signum, time.monotonic()))
            signal.pthread_kill(main, signum)
            self.pause = min(2 * self.pause, _LONGEST_AGAIN_SECONDS)

    def sent(self, signum: int) -> bool:
        """Whether a signal that was read is one of these."""
        now = time.monotonic()
        self.own = [(number, then) for number, then in self.own if now - then < _ON_ITS_WAY_SECONDS]
        mine = next((one for one in self.own if one[0] == signum), None)
        if mine:
            self.own.remove(mine)
        return mine is not None


def _watch(heard: int, end: Callable[[str], None]) -> None:
    """Read the signals as they come, and end the process at the second one, or if it does not end by itself."""
    first: float | None = None
    said = False
    again = _Again()
    while True:
        gone = 0.0 if first is None else time.monotonic() - first
        left = None if first is None else max(0.0, (GRACE_SECONDS if said else ONE_SIGNAL_SECONDS) - gone)
        resends = _stop.lost and left is not None and again.pause < left
        if not select.select([heard], [], [], again.pause if resends else left)[0]:
            if resends:
                again.send()
                continue
            if said:
                _end_now(end, f"It did not end within {GRACE_SECONDS:.0f} s and was broken off")
            said = True
            _announce()
            continue
        found = os.read(heard, 64)
        if not found:
            os.close(heard)
            return
        for signum in found:
            if signum not in SIGNALS or again.sent(signum):
                continue
            if first is None:
                first = time.monotonic()
                _begin(signum)
            elif time.monotonic() - first > ONE_SIGNAL_SECONDS:
                _end_now(end, "The second signal ended it at once")


def _announce() -> None:
    """Say that it takes a moment, so that somebody may wonder; not behind the end, whose message is the last one."""
    if not _stop.over:
        say("stopping … (a second signal ends it at once)")


def _begin(signum: int) -> None:
    """Tell all who want to know that a stop begins; not in the handler, which may have interrupted what they need."""
    _stop.note(signum)
    for tell in list(_stop.tell):
        tell()


def _end_now(end: Callable[[str], None], why: str) -> None:
    """End this process from a thread, whatever the others are doing; say why if that is possible."""
    # The stream for messages may be held by the main thread.
    last = threading.Thread(target=end, args=(f"{message()} {why}.",), daemon=True)
    last.start()
    last.join(_SLACK_SECONDS)
    os._exit(exit_code())
