"""Handle requests that an endpoint refuses: a refusal ends one request, and repeated refusals end a model.

A model whose requests are refused several times in a row (its adapter cannot be served, its name is unknown) is not asked any
more, while the others on the endpoint are. One that has answered before gets more patience: its requests may be refused for
their content.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from inoc_ray.endpoint.errors import OF_ONE_REQUEST, NoReadableAnswer, RequestRefused

REFUSALS_IN_A_ROW = 8
"""After so many refusals before any answer, a model counts as refused."""
REFUSALS_OF_SOME = 64
"""After so many refusals in a row a model counts as refused, even if it answered before. A content filter that refuses half
of the requests does this by chance once in 10^19."""
OF_ONE_MODEL = 404
"""The HTTP status that concerns every request to one model."""


class Request(Protocol):
    """A request to one model."""

    @property
    def key(self) -> str:
        """The caller's id of the request."""
        ...

    @property
    def model(self) -> str:
        """The name of the model at the endpoint."""
        ...


R = TypeVar("R", bound=Request)
T = TypeVar("T")
OnRefused = Callable[[str, str], None]
"""Receives the key of a request without an answer, and the reason."""


def with_refusals(
    draw: Callable[[Sequence[R]], Coroutine[Any, Any, list[T]]], on_refused: OnRefused | None
) -> Callable[[Sequence[R]], Coroutine[Any, Any, list[T]]]:
    """Return `draw` with every refused request reported to `on_refused`; without one, `draw` itself, which raises."""
    return draw if on_refused is None else functools.partial(Refusals(on_refused).send, draw=draw)


class Refusals:
    """Sends lists of requests, each to one model, and reports every request without an answer to `on_refused`."""

    def __init__(self, on_refused: OnRefused) -> None:
        self._on_refused = on_refused
        self._answered: set[str] = set()
        self._in_a_row: dict[str, int] = {}
        self._ended: dict[str, str] = {}

    async def send(self, requests: Sequence[R], draw: Callable[[Sequence[R]], Coroutine[Any, Any, list[T]]]) -> list[T]:
        """Return the answers of `draw`; when a list is refused, send its requests one by one and return the answers to the rest.

        Raises what concerns more than a request or a model: a wrong key, an endpoint that does not answer.
        """
        model = requests[0].model
        if model in self._ended:
            return self._none(requests, self._ended[model])
        try:
            answers = await draw(requests)
        except NoReadableAnswer as error:
            reason = str(error)
        except RequestRefused as error:
            reason = str(error)
            if error.status == OF_ONE_MODEL:
                self._ended[model] = reason
                return self._none(requests, reason)
            if error.status not in OF_ONE_REQUEST:
                raise
        else:
            self._answered.add(model)
            self._in_a_row[model] = 0
            return answers
        if len(requests) > 1:
            return [answer for request in requests for answer in await self.send([request], draw)]
        self._in_a_row[model] = self._in_a_row.get(model, 0) + 1
        if self._in_a_row[model] >= (REFUSALS_OF_SOME if model in self._answered else REFUSALS_IN_A_ROW):
            self._ended[model] = reason
        return self._none(requests, reason)

    def _none(self, requests: Sequence[R], reason: str) -> list[T]:
        for request in requests:
            self._on_refused(request.key, reason)
        return []
