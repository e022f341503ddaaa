"""Pieces of ASGI applications: errors in OpenAI's form, whole bodies, and an application asked without a server."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import aclosing
from typing import Any

MAX_BODY_BYTES = 64 << 20

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]


class Refused(Exception):
    """A request that is answered with an error: its HTTP status, OpenAI's type of error, and the field at fault."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.param = status, kind, param

    def body(self) -> dict[str, Any]:
        """Return it in OpenAI's form."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}}


def unknown_model(model_id: str, why: str = "") -> Refused:
    """Return the refusal of a model that is not there."""
    return Refused(404, "NotFoundError", f"The model `{model_id}` does not exist{why}.", "model")


def path_of(scope: Scope) -> str:
    """Return the path of a request below the route of its application."""
    return str(scope["path"]).removeprefix(scope.get("root_path", "").rstrip("/"))


def check_key(scope: Scope, api_key: str | None) -> None:
    """Raise `Refused` unless the request carries the key; None asks for none."""
    if api_key is None:
        return
    given = dict(scope["headers"]).get(b"authorization", b"")
    if not hmac.compare_digest(given, f"Bearer {api_key}".encode()):
        raise Refused(401, "AuthenticationError", "the API key is missing or wrong")


async def read(receive: Receive) -> bytes:
    """Return the body of a request. Raises `Refused` for more than MAX_BODY_BYTES."""
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False)
        if size > MAX_BODY_BYTES:
            raise Refused(413, "BadRequestError", f"the request body is larger than {MAX_BODY_BYTES} bytes")
    return b"".join(chunks)


def replay(body: bytes, receive: Receive) -> Receive:
    """Return what an application reads `body` from, and then what `receive` gives."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def with_length(scope: Scope, body: bytes) -> Scope:
    """Return the scope of a request whose body was replaced."""
    length = (b"content-length", str(len(body)).encode())
    return {**scope, "headers": [*(h for h in scope["headers"] if h[0] != b"content-length"), length]}


async def send_json(send: Send, status: int, value: Any) -> None:
    """Answer with a JSON value."""
    await send_bytes(send, status, json.dumps(value).encode(), {"content-type": "application/json"})


async def send_bytes(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    """Answer with a whole body."""
    named = {**headers, "content-length": str(len(body))}
    pairs = [(name.encode(), value.encode()) for name, value in named.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def messages_of(
    app: App, method: str, path: str, headers: Headers, body: bytes = b""
) -> AsyncGenerator[Message, None]:
    """Yield what an application answers to a request that comes from no server.

    When the generator is closed early, the application sees a client that has gone, and is cancelled.
    """
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": list(headers),
        "client": None,
        "server": None,
    }
    answers: asyncio.Queue[Message | None] = asyncio.Queue()
    gone = asyncio.Event()

    async def no_more() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        try:
            await app(scope, replay(body, no_more), answers.put)
        finally:
            answers.put_nowait(None)

    task = asyncio.create_task(run())
    try:
        while (message := await answers.get()) is not None:
            yield message
        await task
    finally:
        gone.set()
        task.cancel()


async def get_json(app: App, path: str, headers: Headers) -> tuple[int, Any]:
    """Return status and JSON value of an application's answer to GET."""
    status, chunks = 500, []
    async with aclosing(messages_of(app, "GET", path, headers)) as messages:
        async for message in messages:
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                chunks.append(message.get("body", b""))
    return status, json.loads(b"".join(chunks))
