"""The limit on requests in flight grows with the answers and halves when the endpoint turns requests away."""

import asyncio
from datetime import UTC, datetime

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inoc_ray.endpoint.concurrency import RETRY_AFTER_MAX_S, START, ConcurrencyLimit, retry_after_s
from inoc_ray.endpoint.retry import Retry, with_retries
from inoc_ray.errors import TrialError

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("5", 5.0),
        (" 2.5 ", 2.5),
        ("0", 0.0),
        ("1000000", RETRY_AFTER_MAX_S),
        ("soon", None),
        ("", None),
        ("-3", None),
        ("٣", None),
        ("Thu, 01 Jan 2026 12:00:07 GMT", 7.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("Thu, 01 Jan 2026 12:00:07 -0000", 7.0),
        ("Fri, 01 Jan 2027 12:00:00 GMT", RETRY_AFTER_MAX_S),
        ("1.2.3", None),
        (".", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_within_bounds(header: str | None, seconds: float | None):
    assert retry_after_s(header, NOON) == seconds


@given(st.text())
def test_no_header_makes_the_wait_unbounded(header: str):
    wait = retry_after_s(header, NOON)
    assert wait is None or 0 <= wait <= RETRY_AFTER_MAX_S


def limits_while_answering(limit: ConcurrencyLimit, requests: int) -> list[int]:
    """Return the limit after each answer to many requests that are all ready at once."""
    limits: list[int] = []

    async def one() -> None:
        async with limit.slot() as sent_at:
            await asyncio.sleep(0)
            assert limit.in_flight <= limit.current
            limit.answered(sent_at)
            limits.append(limit.current)

    async def run() -> None:
        await asyncio.gather(*(one() for _ in range(requests)))

    asyncio.run(run())
    return limits


def test_the_limit_grows_with_each_answer_up_to_the_maximum_and_never_above():
    limit = ConcurrencyLimit(100)
    assert limit.current == START
    limits = limits_while_answering(limit, 1000)
    assert limits[:START] == [START + n for n in range(1, START + 1)]
    assert limits == sorted(limits)
    assert limits[-1] == 100
    assert ConcurrencyLimit(3).current == 3


def test_the_limit_does_not_grow_while_it_is_not_reached():
    limit = ConcurrencyLimit(100)
    for _ in range(20):
        limits_while_answering(limit, 5)
    assert limit.current == START


def test_a_push_back_halves_once_a_round_trip_and_growth_is_slow_afterwards():
    clock = Clock()
    limit = ConcurrencyLimit(64, start=64, clock=clock)
    for _ in range(40):
        limit.pushed_back(sent_at=99.0)
    assert (limit.current, limit.push_backs) == (32, 40)
    clock.now = 101.0
    # Sent before the limit was halved: it reports the same overload.
    limit.pushed_back(sent_at=99.5)
    assert limit.current == 32
    limit.pushed_back(sent_at=100.5)
    assert limit.current == 16
    for _ in range(20):
        clock.now += 1
        limit.pushed_back(sent_at=clock.now)
    assert limit.current == 1
    # One more each round: 1 + 1/1, + 1/2, + 1/2.5, …
    assert limits_while_answering(limit, 20)[:7] == [2, 2, 2, 3, 3, 3, 4]


def test_nothing_is_sent_while_the_endpoint_asked_to_wait():
    async def run() -> float:
        limit = ConcurrencyLimit(4)
        began = asyncio.get_running_loop().time()
        limit.pushed_back(limit._clock(), 0.15)
        async with limit.slot():
            return asyncio.get_running_loop().time() - began

    assert asyncio.run(run()) >= 0.14


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_no_turn_is_lost_when_waiting_requests_are_cancelled(cancelled: list[bool]):
    async def run() -> int:
        limit = ConcurrencyLimit(2)
        served = 0

        async def one() -> None:
            nonlocal served
            async with limit.slot():
                assert limit.in_flight <= 2
                await asyncio.sleep(0)
                served += 1

        tasks = [asyncio.create_task(one()) for _ in cancelled]
        await asyncio.sleep(0)
        for task, ends in zip(tasks, cancelled, strict=True):
            if ends:
                task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert limit.in_flight == 0
        return served

    assert asyncio.run(run()) >= cancelled.count(False)


def test_an_endpoint_that_turns_everything_away_is_given_up_after_the_patience():
    clock = Clock()
    sent: list[float] = []

    async def draw() -> None:
        clock.now += 1
        sent.append(clock.now)
        response = httpx.Response(429, request=httpx.Request("POST", "http://stub/v1"))
        raise openai.RateLimitError("slow down", response=response, body=None)  # type: ignore[arg-type]

    retry = Retry(tries=2, first_s=0.001, max_s=0.002, patience_s=20)
    with pytest.raises(TrialError, match=r"turned everything away for 21 s.*429"):
        asyncio.run(with_retries(draw, name="it", retry=retry, limit=ConcurrencyLimit(4, clock=clock), secret=None))
    # More than the tries: a 429 uses up none.
    assert len(sent) == 21
