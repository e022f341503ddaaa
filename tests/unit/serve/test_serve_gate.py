"""Promises about what the endpoint lets through to vLLM."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from inoc_ray.serve.adapters import FolderCatalogue
from inoc_ray.serve.gate import Gate

KEY = {"authorization": "Bearer secret"}


class Passed(Exception):
    """The request reached vLLM."""


async def vllm(scope: Any, receive: Any, send: Any) -> None:
    raise Passed


async def load(model_id: str, folder: Path) -> None:
    return None


def ask(method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, kind: str = "http") -> Any:
    """The messages that the gate sends for one request."""
    catalogue = FolderCatalogue(Path("no such folder"))
    gate = Gate(vllm, base="base", catalogue=catalogue, max_rank=8, load=load, api_key="secret", max_model_len=10)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": json.dumps(body).encode()}

    named = [(k.encode(), v.encode()) for k, v in (KEY if headers is None else headers).items()]
    asyncio.run(gate({"type": kind, "method": method, "path": path, "headers": named}, receive, send))
    return sent


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}])
def test_without_the_key_nothing_is_generated_or_listed(headers: dict[str, str]):
    for method, path in (("POST", "/v1/completions"), ("GET", "/v1/models"), ("GET", "/metrics")):
        assert ask(method, path, {"model": "base"}, headers)[0]["status"] == 401


def test_a_websocket_is_closed_and_never_reaches_vllm():
    assert ask("GET", "/v1/realtime", kind="websocket")[0]["type"] == "websocket.close"


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/embeddings", "/v1/models/../x", "/tokenize"])
def test_other_routes_of_vllm_are_not_there(path: str):
    assert ask("POST", path, {"model": "base"})[0]["status"] == 404


@pytest.mark.parametrize("seeds", [[1], [1, 2, 3], [1, -1], [1, 1 << 63], [1, True], [1, "2"], "12", {}])
def test_seeds_that_would_end_the_engine_or_do_not_fit_the_prompts_are_refused(seeds: Any):
    body = {"model": "base", "prompt": ["a", "b"], "vllm_xargs": {"seeds": seeds}}
    assert ask("POST", "/v1/completions", body)[0]["status"] == 400


def test_seeds_for_each_prompt_are_let_through():
    with pytest.raises(Passed):
        ask("POST", "/v1/completions", {"model": "base", "prompt": ["a", "b"], "vllm_xargs": {"seeds": [1, 2]}})


def test_a_chat_with_a_list_of_seeds_is_refused():
    body = {"model": "base", "messages": [], "vllm_xargs": {"seeds": [1]}}
    assert ask("POST", "/v1/chat/completions", body)[0]["status"] == 400


def test_every_answer_stops_at_the_models_end_of_turn_whatever_a_request_names():
    seen: list[Any] = []

    async def reads(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert int(dict(scope["headers"])[b"content-length"]) == len(message["body"])
        seen.append(json.loads(message["body"]))

    gate = Gate(
        reads,
        base="base",
        catalogue=None,
        max_rank=8,
        load=load,
        api_key=None,
        max_model_len=10,
        stop_token_ids=(2,),
        stop=("</s>",),
    )
    for path, more in (
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": [], "stop": "x", "stop_token_ids": [5, 2]}),
        ("/v1/completions", {"prompt": "a", "ignore_eos": True}),
    ):
        body = json.dumps({"model": "base", **more}).encode()
        headers = [(b"content-length", str(len(body)).encode())]

        async def receive(body: bytes = body) -> Any:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            return None

        scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        asyncio.run(gate(scope, receive, send))
    assert [(s.get("stop"), s.get("stop_token_ids")) for s in seen] == [
        (["</s>"], [2]),
        (["x", "</s>"], [5, 2]),
        (None, None),
    ]
