"""A connection to an endpoint: the only place that makes a client, and the way on which every request is sent."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from inoc_ray.endpoint.concurrency import ConcurrencyLimit
from inoc_ray.endpoint.retry import Retry, with_retries

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")
NO_KEY = "none"
"""Stands for a key where the endpoint wants none: without it the client would take one from the environment."""


class EndpointAddress(Protocol):
    """The part of `inoc_ray.serve.app.Endpoint` and `auth.Api` that a client needs; `base_url` ends in /v1."""

    @property
    def base_url(self) -> str:
        """The address, which ends in /v1."""
        ...

    @property
    def api_key(self) -> str | None:
        """The key; None where the endpoint wants none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """An open client with the tries and the adaptive limit of its requests. Of one event loop."""

    client: AsyncOpenAI
    retry: Retry
    limit: ConcurrencyLimit
    api_key: str | None

    async def send(self, draw: Callable[[], Awaitable[T]], name: str) -> T:
        """Return what `draw` gives, which sends one request on `client`; `name` is the request's in messages.

        Raises what `with_retries` does; no message holds the key.
        """
        return await with_retries(draw, name=name, retry=self.retry, limit=self.limit, secret=self.api_key)


@contextlib.asynccontextmanager
async def connect(where: EndpointAddress, *, concurrency: int, retry: Retry) -> AsyncIterator[Connection]:
    """Open a connection for the length of a `with` block, with at most `concurrency` requests under way."""
    from openai import AsyncOpenAI

    # The client's own retries are off: they would multiply with ours.
    client = AsyncOpenAI(
        base_url=where.base_url, api_key=where.api_key or NO_KEY, max_retries=0, timeout=retry.timeout_s
    )
    try:
        yield Connection(client=client, retry=retry, limit=ConcurrencyLimit(concurrency), api_key=where.api_key)
    finally:
        await client.close()
