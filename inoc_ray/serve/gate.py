"""The ASGI application in front of vLLM's own: it checks the key, restricts the routes and loads adapters on demand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from inoc_ray.endpoint.seeds import SEEDS, SEEDS_HEADER
from inoc_ray.errors import InputError, StorageError
from inoc_ray.serve.adapters import Catalogue, check_adapter, model_id_of, trial_id_of
from inoc_ray.serve.asgi import (
    App,
    Message,
    Receive,
    Refused,
    Scope,
    Send,
    check_key,
    path_of,
    read,
    replay,
    send_json,
    unknown_model,
    with_length,
)
from inoc_ray.store.place import Place

LoadAdapter = Callable[[str, Path], Awaitable[None]]

_GENERATE = ("/v1/completions", "/v1/chat/completions")
_PASSED_ON = {("GET", "/health"), ("GET", "/version")}
_RESPONSES = "/v1/responses"


class Gate:
    """ASGI application around vLLM's that offers the base model and the catalogue's adapters, and nothing else of vLLM's.

    An adapter is looked up, checked and loaded when a request first names it. Errors have a body in OpenAI's form: 401 for a wrong
    key, 404 for an unknown route or model, 400 for an adapter that cannot be served, tools or malformed seeds, 501 for the
    Responses API. Every answer also stops at `stop_token_ids` and `stop`, which requests need not name.
    """

    def __init__(
        self,
        app: App,
        *,
        base: str,
        catalogue: Catalogue | None,
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            refused = Refused(503, "ServiceUnavailableError", str(away))
            await send_json(send, 503, refused.body())
        except Refused as refused:
            await send_json(send, refused.status, refused.body())

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        path = path_of(scope)
        if (method, path) in _PASSED_ON:
            await self._app(scope, receive, send)
            return
        check_key(scope, self._api_key)
        if method == "GET" and path == "/v1/models":
            await send_json(send, 200, {"object": "list", "data": await asyncio.to_thread(self._cards)})
        elif method == "GET" and path.startswith("/v1/models/"):
            model_id = path.removeprefix("/v1/models/")
            if model_id != self._base and await asyncio.to_thread(self._find, model_id) is None:
                raise unknown_model(model_id)
            await send_json(send, 200, self._card(model_id))
        elif method == "POST" and path in _GENERATE:
            body = await read(receive)
            prepared = await self._prepare(body)
            if prepared is not body:
                body = prepared
                scope = with_length(scope, body)
            await self._app(scope, replay(body, receive), _with_header(send))
        elif path == _RESPONSES or path.startswith(f"{_RESPONSES}/"):
            raise Refused(
                501, "NotImplementedError", "the Responses API is not served; use POST /v1/chat/completions instead"
            )
        else:
            raise Refused(404, "NotFoundError", f"there is no {method} {path} here")

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
        _check_tools(request)
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
            raise unknown_model(model_id)
        async with self._loading:
            if model_id in self._loaded:
                return
            try:
                folder = await asyncio.to_thread(self._fetch, model_id)
                check_adapter(folder, self._max_rank)
                await self._load(model_id, folder)
            except (InputError, ValueError) as error:
                raise Refused(
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


def _check_tools(request: dict[str, Any]) -> None:
    """Raise `Refused` for a request with tools: vLLM would read their calls with a parser for each family of models."""
    for field in ("tools", "functions"):
        if request.get(field):
            raise Refused(
                400,
                "BadRequestError",
                f"tools are not served: a study's models answer in text alone; send the request without `{field}`",
                field,
            )


def _check_seeds(request: dict[str, Any]) -> None:
    extra = request.get("vllm_xargs")
    seeds = extra.get(SEEDS) if isinstance(extra, dict) else None
    if seeds is None:
        return
    prompts = request.get("prompt")
    count = len(prompts) if isinstance(prompts, list) and all(isinstance(p, str | list) for p in prompts) else 1
    if prompts is None:
        raise Refused(400, "BadRequestError", f"vllm_xargs.{SEEDS} is for prompts; a chat has the field seed", SEEDS)
    # vLLM checks its own seeds only; one beyond 64 bits would kill the engine for every client.
    right = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < 1 << 63 for seed in seeds)
    if not right or len(seeds) != count:
        raise Refused(
            400,
            "BadRequestError",
            f"vllm_xargs.{SEEDS} must be a list of {count} integers from 0 to 2**63 - 1, one for each prompt",
            SEEDS,
        )


def _with_header(send: Send) -> Send:
    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), (SEEDS_HEADER.encode(), b"1")]
        await send(message)

    return marked
