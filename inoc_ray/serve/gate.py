"""The ASGI application in front of vLLM's own: it checks the key, restricts the routes and loads adapters on demand."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from inoc_ray.endpoint.seeds import SEEDS, SEEDS_HEADER
from inoc_ray.errors import InputError, StorageError
from inoc_ray.serve.adapters import FolderCatalogue, check_adapter, model_id_of, trial_id_of
from inoc_ray.store.place import Place

MAX_BODY_BYTES = 64 << 20

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
LoadAdapter = Callable[[str, Path], Awaitable[None]]

_GENERATE = ("/v1/completions", "/v1/chat/completions")
_PASSED_ON = {("GET", "/health"), ("GET", "/version")}


class _Refused(Exception):
    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.param = status, kind, param

    def body(self) -> dict[str, Any]:
        """Return it in OpenAI's form."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}}


class Gate:
    """ASGI application around vLLM's that offers the base model and the catalogue's adapters, and nothing else of vLLM's.

    An adapter is looked up, checked and loaded when a request first names it. Errors have a body in OpenAI's form: 401 for a wrong
    key, 404 for an unknown route or model, 400 for an adapter that cannot be served or malformed seeds. Every answer also stops at
    `stop_token_ids` and `stop`, which requests need not name.
    """

    def __init__(
        self,
        app: App,
        *,
        base: str,
        catalogue: FolderCatalogue | None,
        max_rank: int,
        load: LoadAdapter,
        api_key: str | None,
        max_model_len: int,
        stop_token_ids: Sequence[int] = (),
        stop: Sequence[str] = (),
    ) -> None:
        self._app, self._base, self._catalogue, self._max_rank = app, base, catalogue, max_rank
        self._load, self._api_key, self._max_model_len = load, api_key, max_model_len
        self._stops: dict[str, list[Any]] = {"stop_token_ids": list(stop_token_ids), "stop": list(stop)}
        self._loaded: set[str] = set()
        self._loading = asyncio.Lock()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            # vLLM has a route for one (/v1/realtime), which would bypass the key and the catalogue.
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._answer(scope, receive, send)
        except StorageError as away:
            # It may answer a later request.
            refused = _Refused(503, "ServiceUnavailableError", str(away))
            await _send_json(send, 503, refused.body())
        except _Refused as refused:
            await _send_json(send, refused.status, refused.body())

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        method = scope["method"]
        path = str(scope["path"]).removeprefix(scope.get("root_path", "").rstrip("/"))
        if (method, path) in _PASSED_ON:
            await self._app(scope, receive, send)
            return
        self._check_key(scope)
        if method == "GET" and path == "/v1/models":
            await _send_json(send, 200, {"object": "list", "data": await asyncio.to_thread(self._cards)})
        elif method == "GET" and path.startswith("/v1/models/"):
            model_id = path.removeprefix("/v1/models/")
            if model_id != self._base and await asyncio.to_thread(self._find, model_id) is None:
                raise _unknown(model_id)
            await _send_json(send, 200, self._card(model_id))
        elif method == "POST" and path in _GENERATE:
            body = await _read(receive)
            prepared = await self._prepare(body)
            if prepared is not body:
                body = prepared
                length = (b"content-length", str(len(body)).encode())
                scope["headers"] = [*(h for h in scope["headers"] if h[0] != b"content-length"), length]
            await self._app(scope, _replay(body, receive), _with_header(send))
        else:
            raise _Refused(404, "NotFoundError", f"there is no {method} {path} here")

    def _check_key(self, scope: MutableMapping[str, Any]) -> None:
        if self._api_key is None:
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, f"Bearer {self._api_key}".encode()):
            raise _Refused(401, "AuthenticationError", "the API key is missing or wrong")

    async def _prepare(self, body: bytes) -> bytes:
        """Load the adapter that a request names, and add the model's end of turn to its stops.

        vLLM reports whatever else is wrong with the request.
        """
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            return body
        if not isinstance(request, dict):
            return body
        _check_seeds(request)
        model_id = request.get("model")
        if isinstance(model_id, str) and model_id != self._base and model_id not in self._loaded:
            await self._load_adapter(model_id)
        return self._with_stops(request, body)

    def _with_stops(self, request: dict[str, Any], body: bytes) -> bytes:
        """Return the body with the model's end of turn among the request's stops, if vLLM does not know it."""
        added = {name: stops for name, stops in self._stops.items() if stops}
        if not added or request.get("ignore_eos"):
            return body
        for name, stops in added.items():
            asked = request.get(name) or []
            asked = [asked] if isinstance(asked, str) else asked
            if not isinstance(asked, list):
                return body
            request[name] = [*asked, *(stop for stop in stops if stop not in asked)]
        return json.dumps(request).encode()

    async def _load_adapter(self, model_id: str) -> None:
        if await asyncio.to_thread(self._find, model_id) is None:
            raise _unknown(model_id)
        async with self._loading:
            if model_id in self._loaded:
                return
            try:
                folder = await asyncio.to_thread(self._fetch, model_id)
                check_adapter(folder, self._max_rank)
                await self._load(model_id, folder)
            except (InputError, ValueError) as error:
                raise _Refused(
                    400, "BadRequestError", f"adapter {model_id} cannot be served: {error}", "model"
                ) from error
            self._loaded.add(model_id)

    def _find(self, model_id: str) -> Place | None:
        trial_id = trial_id_of(self._base, model_id)
        return None if trial_id is None or self._catalogue is None else self._catalogue.find(trial_id)

    def _fetch(self, model_id: str) -> Path:
        trial_id = trial_id_of(self._base, model_id)
        assert trial_id is not None
        assert self._catalogue is not None
        return self._catalogue.fetch(trial_id)

    def _cards(self) -> list[dict[str, Any]]:
        ids = [] if self._catalogue is None else self._catalogue.ids()
        return [self._card(self._base), *(self._card(model_id_of(self._base, trial_id)) for trial_id in ids)]

    def _card(self, model_id: str) -> dict[str, Any]:
        parent = None if model_id == self._base else self._base
        return {
            "id": model_id,
            "object": "model",
            "created": 0,
            "owned_by": "inoc_ray",
            "parent": parent,
            "max_model_len": self._max_model_len,
        }


def _unknown(model_id: str) -> _Refused:
    return _Refused(404, "NotFoundError", f"The model `{model_id}` does not exist.", "model")


def _check_seeds(request: dict[str, Any]) -> None:
    extra = request.get("vllm_xargs")
    seeds = extra.get(SEEDS) if isinstance(extra, dict) else None
    if seeds is None:
        return
    prompts = request.get("prompt")
    count = len(prompts) if isinstance(prompts, list) and all(isinstance(p, str | list) for p in prompts) else 1
    if prompts is None:
        raise _Refused(400, "BadRequestError", f"vllm_xargs.{SEEDS} is for prompts; a chat has the field seed", SEEDS)
    # vLLM checks its own seeds only; one beyond 64 bits would kill the engine for every client.
    right = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < 1 << 63 for seed in seeds)
    if not right or len(seeds) != count:
        raise _Refused(
            400,
            "BadRequestError",
            f"vllm_xargs.{SEEDS} must be a list of {count} integers from 0 to 2**63 - 1, one for each prompt",
            SEEDS,
        )


async def _read(receive: Receive) -> bytes:
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False)
        if size > MAX_BODY_BYTES:
            raise _Refused(413, "BadRequestError", f"the request body is larger than {MAX_BODY_BYTES} bytes")
    return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _with_header(send: Send) -> Send:
    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), (SEEDS_HEADER.encode(), b"1")]
        await send(message)

    return marked


async def _send_json(send: Send, status: int, value: Any) -> None:
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
