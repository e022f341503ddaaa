"""What becomes of requests that an endpoint refuses: one refusal ends one request, and a model that is always refused ends.

A model that gets nothing but refusals several times in a row (its adapter cannot be served, its name is not known) is not asked
any more; the others on the endpoint are. One that has been answered before gets more patience: its requests may be refused for
what they say.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from inoc_ray.endpoint.errors import OF_ONE_REQUEST, NoReadableAnswer, RequestRefused

REFUSALS_IN_A_ROW = 8
"""After so many refusals before any answer, everything is taken to be refused."""
REFUSALS_OF_SOME = 64
"""After so many refusals one after another everything is taken to be refused, even if some questions were answered before. A filter
that refuses half of what is harmful does so by chance once in 10^19."""
OF_ONE_MODEL = 404


class Request(Protocol):
    """What refusals need to know of a request."""

    @property
    def key(self) -> str: ...
    @property
    def model(self) -> str: ...


R = TypeVar("R", bound=Request)
T = TypeVar("T")
OnRefused = Callable[[str, str], None]
"""Is told a request's key, and why there will be no answer to it."""


def with_refusals(
    draw: Callable[[Sequence[R]], Coroutine[Any, Any, list[T]]], on_refused: OnRefused | None
) -> Callable[[Sequence[R]], Coroutine[Any, Any, list[T]]]:
    """Return `draw`, with every refused request handed to `on_refused`; without one, `draw` itself, which raises."""
    return draw if on_refused is None else functools.partial(Refusals(on_refused).ask, draw=draw)


class Refusals:
    """Asks lists of requests of one model each, and hands every request without an answer to `on_refused`."""

    def __init__(self, on_refused: OnRefused) -> None:
        self._on_refused = on_refused
        self._answered: set[str] = set()
        self._in_a_row: dict[str, int] = {}
        self._ended: dict[str, str] = {}

    async def ask(self, requests: Sequence[R], draw: Callable[[Sequence[R]], Coroutine[Any, Any, list[T]]]) -> list[T]:
        """Return the answers that `draw` gives; of a list that is refused, those to the requests that are not, one by one.

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
            return [answer for request in requests for answer in await self.ask([request], draw)]
        self._in_a_row[model] = self._in_a_row.get(model, 0) + 1
        if self._in_a_row[model] >= (REFUSALS_OF_SOME if model in self._answered else REFUSALS_IN_A_ROW):
            self._ended[model] = reason
        return self._none(requests, reason)

    def _none(self, requests: Sequence[R], reason: str) -> list[T]:
        for request in requests:
            self._on_refused(request.key, reason)
        return []
