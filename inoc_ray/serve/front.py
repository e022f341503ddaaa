"""The ASGI application of `inoc-ray serve`: models of several engines under readable names, and a page to chat with them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from inoc_ray.serve.asgi import (
    App,
    Headers,
    Receive,
    Refused,
    Scope,
    Send,
    check_key,
    get_json,
    path_of,
    read,
    replay,
    send_bytes,
    send_json,
    unknown_model,
    with_length,
)
from inoc_ray.serve.chat_page import chat_page
from inoc_ray.serve.listing import OWN, Listing, ServedModel

_MODELS = "/v1/models"
_AWAY = "ServiceUnavailableError"
LIST_SECONDS = 3.0
"""How long an engine may take to say which models it has; one that restarts would answer when it is up again."""


class Front:
    """ASGI application in front of engines that translates names to engines and ids.

    Each engine is an application that knows its models by ids (`gate.Gate`, or `forward.Forward` to one elsewhere). A request's
    `model` becomes the id on its engine, which the answer then has, as with OpenAI's own aliases. Routes that concern no model go
    to the engine that the endpoint is on.
    """

    def __init__(self, listing: Listing, engines: Mapping[str, App], *, api_key: str | None) -> None:
        self._listing, self._engines, self._api_key = listing, engines, api_key
        self._seen: set[tuple[str, str]] = set()
        """(engine, id) of the models that were there when they were asked for."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._engines[OWN](scope, receive, send)
            return
        try:
            await self._answer(scope, receive, send)
        except Refused as refused:
            await send_json(send, refused.status, refused.body())

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], path_of(scope)
        if method == "GET" and path in ("", "/"):
            # It holds no data: what it shows it asks for, with the key.
            page = chat_page()
            await send_bytes(send, 200, page.body, page.headers)
        elif method == "GET" and path == _MODELS:
            check_key(scope, self._api_key)
            await send_json(send, 200, await self._list(scope["headers"]))
        elif method == "GET" and path.startswith(f"{_MODELS}/"):
            check_key(scope, self._api_key)
            await send_json(send, 200, await self._card(path.removeprefix(f"{_MODELS}/"), scope["headers"]))
        elif method == "POST" and path in ("/v1/completions", "/v1/chat/completions"):
            check_key(scope, self._api_key)
            await self._generate(scope, receive, send)
        else:
            await self._engines[OWN](scope, receive, send)

    async def _generate(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read(receive)
        engine = OWN
        request = _parsed(body)
        if isinstance(request, dict) and isinstance(name := request.get("model"), str):
            engine, model_id = await self._find(name, scope["headers"])
            if model_id != name:
                body = json.dumps({**request, "model": model_id}).encode()
                scope = with_length(scope, body)
        # The engine says what is wrong with any other request.
        await self._engines[engine](scope, replay(body, receive), send)

    async def _find(self, name: str, headers: Headers) -> tuple[str, str]:
        """Return engine and id of a model that is there. Raises `Refused` if it is not."""
        found = self._listing.find(name)
        if found is None:
            raise unknown_model(name, self._listing.like(name))
        engine, model_id = found
        if found not in self._seen:
            status, answer = await get_json(self._engines[engine], f"{_MODELS}/{model_id}", headers)
            if status == 404:
                raise unknown_model(name, "" if name == model_id else f": there are no weights of {model_id} (yet)")
            if status != 200:
                raise _passed_on(status, answer)
            self._seen.add(found)
        return found

    async def _card(self, name: str, headers: Headers) -> dict[str, Any]:
        engine, model_id = await self._find(name, headers)
        status, card = await get_json(self._engines[engine], f"{_MODELS}/{model_id}", headers)
        if status != 200:
            raise _passed_on(status, card)
        listed = next((m for m in self._listing.models if (m.engine, m.model_id) == (engine, model_id)), None)
        return card if listed is None else _listed(listed, card)

    async def _list(self, headers: Headers) -> dict[str, Any]:
        """Return a card for each listed model whose weights are there; and the models of engines that are away, with the reason.

        Raises `Refused` if no engine answers.
        """
        engines = self._listing.engines
        found = await asyncio.gather(*(self._cards_of(engine, headers) for engine in engines))
        answers = dict(zip(engines, found, strict=True))
        away = {engine: answer for engine, answer in answers.items() if isinstance(answer, Refused)}
        if len(away) == len(engines):
            raise next(iter(away.values()))
        listed: list[dict[str, Any]] = []
        missing: list[dict[str, Any]] = []
        for model in self._listing.models:
            answer = answers[model.engine]
            if isinstance(answer, Refused):
                missing.append({"id": model.name, "error": str(answer)})
            elif model.model_id in answer:
                listed.append(_listed(model, answer[model.model_id]))
        return {"object": "list", "data": listed, **({"missing": missing} if missing else {})}

    async def _cards_of(self, engine: str, headers: Headers) -> dict[str, dict[str, Any]] | Refused:
        """Return the engine's cards by id, or why it does not answer now. Raises `Refused` for a request that is at fault."""
        try:
            async with asyncio.timeout(LIST_SECONDS):
                status, answer = await get_json(self._engines[engine], _MODELS, headers)
        except TimeoutError:
            return Refused(
                503, _AWAY, f"the model's engine has not answered for {LIST_SECONDS:g} s; it may be restarting"
            )
        except Refused as away:
            return away
        if status == 200:
            return {card["id"]: card for card in answer["data"]}
        if status >= 500:
            return _passed_on(status, answer)
        raise _passed_on(status, answer)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _listed(model: ServedModel, card: Mapping[str, Any]) -> dict[str, Any]:
    """Return an engine's card of a model under the model's name; `root` is the id there, as in vLLM's own cards."""
    return {**card, "id": model.name, "root": model.model_id, "parent": model.base, **model.about}


def _passed_on(status: int, answer: Any) -> Refused:
    """Return an engine's error as one of the endpoint's."""
    error = answer["error"]
    return Refused(status, error["type"], error["message"], error["param"])
