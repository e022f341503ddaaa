"""The connection to an endpoint: the only place that opens a client, and the path of every request."""

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
"""Sent as the key when the endpoint needs none: without it the client would take one from the environment."""


class EndpointAddress(Protocol):
    """What a client needs of `inoc_ray.serve.app.Endpoint` and `auth.Api`."""

    @property
    def base_url(self) -> str:
        """The address, which ends in /v1."""
        ...

    @property
    def api_key(self) -> str | None:
        """The key; None when the endpoint needs none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """An open client with the retries and the adaptive limit of its requests. For one event loop."""

    client: AsyncOpenAI
    retry: Retry
    limit: ConcurrencyLimit
    api_key: str | None

    async def send(self, draw: Callable[[], Awaitable[T]], name: str) -> T:
        """Return the result of `draw`, which sends one request on `client`; messages call the request `name`.

        Raises what `with_retries` raises; no message shows the key.
        """
        return await with_retries(draw, name=name, retry=self.retry, limit=self.limit, secret=self.api_key)


@contextlib.asynccontextmanager
async def connect(endpoint: EndpointAddress, *, concurrency: int, retry: Retry) -> AsyncIterator[Connection]:
    """Open a connection for a `with` block, with at most `concurrency` requests in flight."""
    from openai import AsyncOpenAI

    # The client's own retries are off: they would multiply with ours.
    client = AsyncOpenAI(
        base_url=endpoint.base_url, api_key=endpoint.api_key or NO_KEY, max_retries=0, timeout=retry.timeout_s
    )
    try:
        yield Connection(client=client, retry=retry, limit=ConcurrencyLimit(concurrency), api_key=endpoint.api_key)
    finally:
        await client.close()
