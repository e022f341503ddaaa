"""Retry one request while another try may help: which answers deserve a try, how many tries, and how long between them.

The wait between two tries concerns this request alone. How many requests are in flight, and that none is sent while the
endpoint asks all clients to wait, is up to the adaptive limit in concurrency.py.
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
"""Characters of a server's message that our messages show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how patiently a request is sent again.

    "Too many requests" (429) does not use up a try, but ends the tries when the endpoint has answered no request at all for
    `patience_s`.
    """

    tries: int = 10
    """Tries in all. The waits between ten add up to about 90 s, longer than a replica that died takes to return."""
    first_s: float = 0.5
    """Seconds of the first wait; each further one is twice as long, up to `max_s`."""
    max_s: float = 30.0
    timeout_s: float = 600.0
    """Seconds until an answer must have come."""
    patience_s: float = 900.0
    """Seconds without any answer after which an endpoint that says "too many requests" is given up."""

    def wait_s(self, failures: int) -> float:
        """Return the wait in seconds after so many failures (1 or more), with jitter so that clients do not return together."""
        return min(self.max_s, self.first_s * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)


PATIENT = Retry()


async def with_retries(
    draw: Callable[[], Awaitable[T]], *, name: str, retry: Retry, limit: ConcurrencyLimit, secret: str | None
) -> T:
    """Return the result of `draw`, which sends one request; retry while another try may help, each time within `limit`.

    Raises RequestRefused when the endpoint says that the request itself is wrong (or that nothing is left to pay it with),
    NoReadableAnswer when the tries are used up and the last answer could not be read, and TrialError when they are used up
    otherwise. Each names the request, and none contains the `secret`; the client's own errors, which might, are not chained.
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
        # Raised here and not where it was caught: the client's errors hold the request with its key.
        raise tries.error(name, outcome)
    return outcome.result


@dataclass(frozen=True, slots=True)
class _Success(Generic[T]):
    result: T


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    problem: str
    refused: int | None = None
    """The HTTP status, when the request is wrong."""
    overloaded: bool = False
    unreadable: bool = False
    has_wait: bool = False
    """Whether the endpoint said how long to wait: the limit then holds all requests back."""


class _Tries:
    """The tries of one request. Overload (429) uses up none, but ends them when no request is answered for too long."""

    def __init__(self, retry: Retry, limit: ConcurrencyLimit) -> None:
        self._retry, self._limit = retry, limit
        self._failures = self._overloads = 0

    def count(self, outcome: Any) -> None:
        if outcome.overloaded:
            self._overloads += 1
        else:
            self._failures += 1

    def used_up(self, outcome: Any) -> bool:
        if outcome.overloaded:
            return self._limit.silent_s > self._retry.patience_s
        return self._failures == self._retry.tries

    def wait_s(self, outcome: Any) -> float:
        return 0.0 if outcome.has_wait else self._retry.wait_s(max(1, self._failures, self._overloads))

    def error(self, name: str, outcome: _Failure) -> Exception:
        if outcome.refused is not None:
            return RequestRefused(f"the endpoint refused {name}: {outcome.problem}", outcome.refused)
        if outcome.overloaded:
            return TrialError(
                f"{name} failed: the endpoint has turned everything away for {self._limit.silent_s:.0f} s, "
                f"at last with: {outcome.problem}"
            )
        kind = NoReadableAnswer if outcome.unreadable else TrialError
        return kind(f"{name} failed {self._failures} times, the last time with: {outcome.problem}")


async def _try(draw: Callable[[], Awaitable[T]], limit: ConcurrencyLimit, secret: str | None) -> _Success[T] | _Failure:
    """Send one request and report its outcome to the limit."""
    from openai import APIConnectionError, APIResponseValidationError, APIStatusError, APITimeoutError

    async with limit.slot() as sent_at:
        try:
            result = await draw()
        except APIStatusError as error:
            status = error.status_code
            problem = f"{status} {excerpt(_server_message(error), secret)}"
            # OpenAI also answers 429 for an empty account, which waiting does not fill.
            refused = (status not in (408, 409, 429) and status < 500) or error.code == "insufficient_quota"
            if refused:
                return _Failure(problem=problem, refused=status)
            wait_s = retry_after_s(error.response.headers.get("retry-after")) if status in (429, 503) else None
            if status in (408, 429, 503):
                limit.pushed_back(sent_at, wait_s)
            return _Failure(problem=problem, overloaded=status == 429, has_wait=wait_s is not None)
        except APITimeoutError:
            limit.pushed_back(sent_at)
            return _Failure(problem="no answer in time")
        except (APIConnectionError, APIResponseValidationError, UnusableAnswer, ValueError) as error:
            # ValueError: the body is not the JSON that its headers promise.
            problem = excerpt(f"{type(error).__name__}: {error}", secret)
            return _Failure(problem=problem, unreadable=not isinstance(error, APIConnectionError))
        limit.answered(sent_at)
        return _Success(result)


def excerpt(text: str, secret: str | None, shown: int = SHOWN) -> str:
    """Return the beginning of a text for a message, without the secret (removed first: the cut could leave half of it)."""
    return as_text(redact(secret, text)[:shown])


def _server_message(error: Any) -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or error.message)
