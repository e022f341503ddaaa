"""The adaptive limit on requests in flight: as many as the endpoint can take, learned from its answers.

Additive increase and multiplicative decrease (Chiu & Jain 1989), with the quick start of TCP (RFC 5681): until the
first push-back each answer raises the limit by one, afterwards each full round of answers does. A push-back (429, 503, no
answer in time) halves the limit, at most once a round trip, since all requests in flight report the same overload.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

START = 16
"""Requests in flight at first: few enough for any public API."""
RETRY_AFTER_MAX_S = 120.0
"""The longest wait that one answer can impose; after it, requests find out whether the overload lasts."""


class ConcurrencyLimit:
    """The limit on requests in flight, each of which takes a `slot` and reports its outcome.

    The limit begins at `start` and never exceeds `maximum`. For one event loop; not thread-safe.
    """

    def __init__(self, maximum: int, *, start: int = START, clock: Callable[[], float] = time.monotonic) -> None:
        if maximum < 1:
            raise ValueError("maximum must be at least 1")
        self.maximum, self._clock = maximum, clock
        self._current = float(max(1, min(start, maximum)))
        self._quick = True
        self._halved_at = self._resume_at = self._full_at = float("-inf")
        self._answered_at: float | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.in_flight = 0
        self.push_backs = 0

    @property
    def current(self) -> int:
        """Requests that may be in flight now."""
        return int(self._current)

    @property
    def silent_s(self) -> float:
        """Seconds since the last answer, or since the first request when none was answered yet."""
        return 0.0 if self._answered_at is None else self._clock() - self._answered_at

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[float]:
        """Wait for room and hold it for one request; give the time of sending, for `answered` and `pushed_back`."""
        await self._room()
        self.in_flight += 1
        sent_at = self._clock()
        if self.in_flight >= self.current:
            self._full_at = sent_at
        if self._answered_at is None:
            self._answered_at = sent_at
        try:
            yield sent_at
        finally:
            self.in_flight -= 1
            self._wake()

    def answered(self, sent_at: float) -> None:
        """Note that a request sent at `sent_at` was answered. The limit grows only when it was reached since then."""
        self._answered_at = self._clock()
        if self._full_at >= sent_at:
            self._current = min(float(self.maximum), self._current + (1.0 if self._quick else 1.0 / self._current))

    def pushed_back(self, sent_at: float, wait_s: float | None = None) -> None:
        """Note that a request sent at `sent_at` was turned away; send nothing for `wait_s` seconds, if the endpoint said so."""
        now = self._clock()
        self.push_backs += 1
        if sent_at > self._halved_at:
            self._current, self._halved_at, self._quick = max(1.0, self._current / 2), now, False
        if wait_s is not None:
            self._resume_at = max(self._resume_at, now + min(wait_s, RETRY_AFTER_MAX_S))

    async def _room(self) -> None:
        while True:
            pause = self._resume_at - self._clock()
            if pause > 0:
                await asyncio.sleep(pause)
            elif self.in_flight < self.current:
                return
            else:
                turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.append(turn)
                try:
                    await turn
                except asyncio.CancelledError:
                    # A turn that was granted but is not used goes to the next request, or it would be lost.
                    self._wake()
                    raise
                finally:
                    with contextlib.suppress(ValueError):
                        self._waiting.remove(turn)

    def _wake(self) -> None:
        room = self.current - self.in_flight
        while room > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                room -= 1


def retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110: a number or a date), 0 to RETRY_AFTER_MAX_S.

    None for no header, and for one that is neither.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        wait = float(text)
    else:
        try:
            date = parsedate_to_datetime(text)
        except ValueError:
            return None
        # "-0000" parses as a time without a zone; HTTP dates are UTC.
        wait = (date.replace(tzinfo=date.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds()
    return min(max(0.0, wait), RETRY_AFTER_MAX_S)
