"""How many requests are under way at once: as many as the endpoint bears, found out while it answers.

Additive increase and multiplicative decrease (Chiu & Jain 1989), with the quick start of TCP (RFC 5681): up to the first
push-back each answer lets one more request out, afterwards each full round of answers does. A push-back (429, 503, no answer
in time) halves the number, at most once a round trip, since the requests that were under way together all hear of one crowd.
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
"""Requests under way at first: no public API takes these for a flood."""
RETRY_AFTER_MAX_S = 120.0
"""The longest wait that an endpoint is believed in one answer; behind it one request tries whether it still holds."""


class ConcurrencyLimit:
    """A gate that requests pass by `slot`, and that is told what became of them.

    `maximum` is never exceeded; `start` is where the number begins. Of one event loop; not for several threads.
    """

    def __init__(self, maximum: int, *, start: int = START, clock: Callable[[], float] = time.monotonic) -> None:
        if maximum < 1:
            raise ValueError("at least one request must be allowed")
        self.maximum, self._clock = maximum, clock
        self._current = float(max(1, min(start, maximum)))
        self._quick = True
        self._halved_at = self._resume_at = self._full_at = float("-inf")
        self._answered_at: float | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.under_way = 0
        self.push_backs = 0

    @property
    def current(self) -> int:
        """Requests that may be under way now."""
        return int(self._current)

    @property
    def silent_s(self) -> float:
        """Seconds since the last answer, or since the first request where there was none yet."""
        return 0.0 if self._answered_at is None else self._clock() - self._answered_at

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[float]:
        """Room for one request, when there is some; gives the time at which it is sent, for `answered` and `pushed_back`."""
        await self._room()
        self.under_way += 1
        sent_at = self._clock()
        if self.under_way >= self.current:
            self._full_at = sent_at
        if self._answered_at is None:
            self._answered_at = sent_at
        try:
            yield sent_at
        finally:
            self.under_way -= 1
            self._wake()

    def answered(self, sent_at: float) -> None:
        """Note that a request sent at `sent_at` was answered. The limit grows only where it was reached since then."""
        self._answered_at = self._clock()
        if self._full_at >= sent_at:
            self._current = min(float(self.maximum), self._current + (1.0 if self._quick else 1.0 / self._current))

    def pushed_back(self, sent_at: float, wait_s: float | None = None) -> None:
        """Note that a request sent at `sent_at` was turned away; send nothing for `wait_s` seconds, where the endpoint said so."""
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
            elif self.under_way < self.current:
                return
            else:
                turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.append(turn)
                try:
                    await turn
                except asyncio.CancelledError:
                    # A turn that was given and is not used goes to the next one, or it would be lost.
                    self._wake()
                    raise
                finally:
                    with contextlib.suppress(ValueError):
                        self._waiting.remove(turn)

    def _wake(self) -> None:
        room = self.current - self.under_way
        while room > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                room -= 1


def retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110: a number of seconds, or a date), 0 to RETRY_AFTER_MAX_S.

    None where there is no header, or one that is neither.
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
        # "-0000" gives a time without a zone, which HTTP's dates take for UTC.
        wait = (date.replace(tzinfo=date.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds()
    return min(max(0.0, wait), RETRY_AFTER_MAX_S)
