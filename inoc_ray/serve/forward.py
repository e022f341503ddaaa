"""Another engine of an endpoint as an ASGI application: its requests go over Ray, from whatever node to whatever node."""

from __future__ import annotations

import asyncio
from typing import Any

from inoc_ray.serve.asgi import Receive, Refused, Scope, Send, path_of, read


class Forward:
    """ASGI application that has a Serve application of ours answer, through the method `answer` of its replicas.

    Serve spreads the requests over them. When a client goes, its request is broken off there. Raises `Refused` (503) if no
    replica answers.
    """

    def __init__(self, application: str) -> None:
        self._application = application
        self._handle: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = await read(receive)
        if self._handle is None:
            # It asks Serve's controller.
            self._handle = await asyncio.to_thread(_handle_of, self._application)
        answer = self._handle.answer.remote(scope["method"], path_of(scope), list(scope["headers"]), body)
        left = asyncio.create_task(_break_off(receive, answer))
        begun = False
        try:
            async for message in answer:
                begun = True
                await send(message)
        except asyncio.CancelledError:
            answer.cancel()
            raise
        except Exception as error:
            # Whatever Ray or Serve raise for an engine that is lost.
            if begun:
                raise
            raise Refused(503, "ServiceUnavailableError", f"the model's engine does not answer: {error}") from error
        finally:
            left.cancel()


def _handle_of(application: str) -> Any:
    from ray import serve

    return serve.get_app_handle(application).options(stream=True)


async def _break_off(receive: Receive, answer: Any) -> None:
    """Break an answer off when its client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    answer.cancel()
