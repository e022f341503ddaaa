"""One request, sent again while another try may help: which answers deserve a try, how many there are, how long the waits.

The wait between two tries is this request's own. How many requests are under way at all, and that nothing is sent while the
endpoint asks everybody to wait, is for the adaptive limit in concurrency.py.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from inoc_ray.config.identity import as_text
from inoc_ray.endpoint.auth import redact
from inoc_ray.endpoint.concurrency import ConcurrencyLimit, retry_after_s
from inoc_ray.endpoint.errors import NoReadableAnswer, RequestRefused, UnusableAnswer
from inoc_ray.errors import TrialError

T = TypeVar("T")
SHOWN = 500
"""Characters of a server's message that a message of ours shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how patiently a request is sent again.

    "Too many requests" (429) is no failure of the request and takes up no try, unless no request at all has been answered
    for `patience_s`.
    """

    tries: int = 10
    """In all. Ten wait about 90 s together: longer than a replica that died takes to come back."""
    first_s: float = 0.5
    """The first wait; each further one is twice as long, up to `max_s`."""
    max_s: float = 30.0
    timeout_s: float = 600.0
    """Seconds until an answer must be there."""
    patience_s: float = 900.0

    def wait_s(self, failures: int) -> float:
        """Return the wait after so many failures (1 or more), with jitter so that clients do not return together."""
        return min(self.max_s, self.first_s * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)


PATIENT = Retry()


async def with_retries(
    draw: Callable[[], Awaitable[T]], *, name: str, retry: Retry, limit: ConcurrencyLimit, secret: str | None
) -> T:
    """Return what `draw` gives, which sends one request; try again while another try may help, each time through `limit`.

    Raises RequestRefused when the endpoint says that the request itself is wrong (or that nothing is left to pay it with),
    NoReadableAnswer when the tries are used up and the last answer could not be read, and TrialError when they are used up
    otherwise. Each names the request, and none holds the `secret`, nor do the errors that they come from: these are not kept.
    """
    from tenacity import AsyncRetrying, RetryCallState, retry_if_result

    tries = _Tries(retry, limit)

    def last(state: RetryCallState) -> _Success[T] | _Failure:
        assert state.outcome is not None
        outcome: _Success[T] | _Failure = state.outcome.result()
        return outcome

    retrying = AsyncRetrying(
        retry=retry_if_result(lambda outcome: isinstance(outcome, _Failure) and outcome.refused is None),
        after=lambda state: tries.count(last(state)),
        stop=lambda state: tries.used_up(last(state)),
        wait=lambda state: tries.wait_s(last(state)),
        retry_error_callback=last,
    )
    outcome: _Success[T] | _Failure = await retrying(_try, draw, limit, secret)
    if isinstance(outcome, _Failure):
        # Raised out here and not where it was caught: the client's errors hold the request with its key.
        raise tries.error(name, outcome)
    return outcome.result


@dataclass(frozen=True, slots=True)
class _Success(Generic[T]):
    result: T


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    problem: str
    refused: int | None = None
    """HTTP's status, where the request is wrong."""
    crowded: bool = False
    unreadable: bool = False
    told_wait: bool = False
    """Whether the endpoint said for how long to wait: the limit then keeps everybody back."""


class _Tries:
    """The tries of one request. A crowd (429) takes none, but ends the patience when nobody is answered."""

    def __init__(self, retry: Retry, limit: ConcurrencyLimit) -> None:
        self._retry, self._limit = retry, limit
        self._failures = self._crowds = 0

    def count(self, outcome: Any) -> None:
        if outcome.crowded:
            self._crowds += 1
        else:
            self._failures += 1

    def used_up(self, outcome: Any) -> bool:
        if outcome.crowded:
            return self._limit.silent_s > self._retry.patience_s
        return self._failures == self._retry.tries

    def wait_s(self, outcome: Any) -> float:
        return 0.0 if outcome.told_wait else self._retry.wait_s(max(1, self._failures, self._crowds))

    def error(self, name: str, outcome: _Failure) -> Exception:
        if outcome.refused is not None:
            return RequestRefused(f"the endpoint refused {name}: {outcome.problem}", outcome.refused)
        if outcome.crowded:
            return TrialError(
                f"{name} failed: the endpoint has turned everything away for {self._limit.silent_s:.0f} s, "
                f"at last with: {outcome.problem}"
            )
        kind = NoReadableAnswer if outcome.unreadable else TrialError
        return kind(f"{name} failed {self._failures} times, the last time with: {outcome.problem}")


async def _try(draw: Callable[[], Awaitable[T]], limit: ConcurrencyLimit, secret: str | None) -> _Success[T] | _Failure:
    """Send one request; tell the limit what became of it."""
    from openai import APIConnectionError, APIResponseValidationError, APIStatusError, APITimeoutError

    async with limit.slot() as sent_at:
        try:
            result = await draw()
        except APIStatusError as error:
            status = error.status_code
            problem = f"{status} {excerpt(_server_message(error), secret)}"
            # Of an empty account OpenAI says 429, too, but waiting fills none.
            refused = (status not in (408, 409, 429) and status < 500) or error.code == "insufficient_quota"
            if refused:
                return _Failure(problem=problem, refused=status)
            wait_s = retry_after_s(error.response.headers.get("retry-after")) if status in (429, 503) else None
            if status in (408, 429, 503):
                limit.pushed_back(sent_at, wait_s)
            return _Failure(problem=problem, crowded=status == 429, told_wait=wait_s is not None)
        except APITimeoutError:
            limit.pushed_back(sent_at)
            return _Failure(problem="no answer in time")
        except (APIConnectionError, APIResponseValidationError, UnusableAnswer, ValueError) as error:
            # ValueError: a body that is not the JSON its headers promise.
            problem = excerpt(f"{type(error).__name__}: {error}", secret)
            return _Failure(problem=problem, unreadable=not isinstance(error, APIConnectionError))
        limit.answered(sent_at)
        return _Success(result)


def excerpt(text: str, secret: str | None, shown: int = SHOWN) -> str:
    """Return the beginning of a text for a message, without the secret (taken out first: the cut could leave half of it)."""
    return as_text(redact(secret, text)[:shown])


def _server_message(error: Any) -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or error.message)
