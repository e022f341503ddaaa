"""How many requests are under way at once: as many as allowed, fewer when the other side asks for patience.

Additive increase, multiplicative decrease (Chiu and Jain 1989): each round trip without complaint allows one more, a complaint
(429, 503, a time-out) halves, at most once per round trip.
"""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

MAX_PAUSE_S = 120.0
"""A server that asks for a longer pause is asked again after this."""


class Pace:
    """At most `most` at once; `async with pace.turn() as begun:` around a request, then `answered` or `complained`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.allowed = float(most)
        self.under_way = 0
        self._not_before = 0.0
        self._halved = 0.0
        self._changed = asyncio.Condition()
        self.last_answer = time.monotonic()

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[float]:
        """Waits until one more may be sent; gives the moment at which it begins."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self.under_way < max(1, int(self.allowed)))
                pause = self._not_before - time.monotonic()
                if pause <= 0:
                    self.under_way += 1
                    break
            await asyncio.sleep(pause)
        try:
            yield time.monotonic()
        finally:
            async with self._changed:
                self.under_way -= 1
                self._changed.notify_all()

    def answered(self) -> None:
        """A request was answered: one more may be under way after as many answers as are under way."""
        self.last_answer = time.monotonic()
        self.allowed = min(float(self.most), self.allowed + 1.0 / self.allowed)

    def complained(self, begun: float, pause_s: float = 0.0) -> None:
        """The other side asked for patience for a request that was begun at `begun`, and for a pause of so many seconds.

        Requests that were under way already when the number was halved say nothing new.
        """
        now = time.monotonic()
        self._not_before = max(self._not_before, now + min(pause_s, MAX_PAUSE_S))
        if begun >= self._halved:
            self._halved = now
            self.allowed = max(1.0, self.allowed / 2)


def pause_of(headers: Mapping[str, str], now: float | None = None) -> float:
    """The seconds that a response's Retry-After asks for: a number of them, or an HTTP date; 0 where it has none or rubbish."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.replace(".", "", 1).isdigit():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return 0.0
    return max(0.0, when.timestamp() - (time.time() if now is None else now))
