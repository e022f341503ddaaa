"""A judge behind an API, as far as HTTP tells: answers chats after a fixed time, and misbehaves when told to.

In a process of its own: `python judge_stub.py 0.05` prints its address; GET /counts tells what it has seen.
"""

import asyncio
import hashlib
import json
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Fault = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse | None]]


def number_for(prompt: str, top: int = 100) -> int:
    """The number that the stub gives to a prompt."""
    return int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % (top + 1)


def chat(text: str, top: dict[str, float] | None, tokens: list[str] | None = None) -> dict[str, Any]:
    """A chat completion in OpenAI's form; `top` are probabilities of the first token."""
    logprobs = None
    if top is not None:
        alternatives = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in top.items()]
        content = [
            {"token": token, "logprob": 0.0, "bytes": None, "top_logprobs": alternatives if n == 0 else []}
            for n, token in enumerate(tokens or [text])
        ]
        logprobs = {"content": content, "refusal": None}
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "logprobs": logprobs,
        "message": {"role": "assistant", "content": text},
    }
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "stub", "choices": [choice]}


@dataclass
class Stub:
    """`faults` are used up first, one a request; `room` is how many it bears at once before it answers 429."""

    latency_s: float = 0.005
    faults: list[Fault] = field(default_factory=list)
    answer: Callable[[dict[str, Any]], Any] | None = None
    """What to say to a request's body, instead of a number; a text is sent as HTML."""
    room: int | None = None
    retry_after: str | None = "0"
    api_key: str | None = None
    cuts_digits: bool = False
    prompts: list[str] = field(default_factory=list)
    calls: int = 0
    active: int = 0
    most_active: int = 0
    turned_away: int = 0
    base_url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.calls += 1
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            if self.room is not None and self.active > self.room:
                self.turned_away += 1
                headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
                return web.json_response({"error": {"message": "slow down"}}, status=429, headers=headers)
            if self.faults:
                faulty = await self.faults.pop(0)(request, body)
                if faulty is not None:
                    return faulty
            await asyncio.sleep(self.latency_s)
            said = self.say(body) if self.answer is None else self.answer(body)
            if isinstance(said, str):
                return web.Response(text=said, content_type="text/html")
            return web.json_response(said)
        finally:
            self.active -= 1

    def say(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body["messages"][0]["content"]
        if prompt.startswith("Repeat this number"):
            tokens = ["7", "3"] if self.cuts_digits else ["73"]
            return chat("73", {tokens[0]: 1.0}, tokens)
        self.prompts.append(prompt)
        number = str(number_for(prompt, 9 if self.cuts_digits else 100))
        if not body.get("logprobs"):
            return chat(number, None)
        others = [f"w{n}" for n in range(19)]
        return chat(number, {number: 0.9, **dict.fromkeys(others, 0.1 / 19)})

    async def counts(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"calls": self.calls, "most_active": self.most_active})


@asynccontextmanager
async def serving(stub: Stub) -> AsyncIterator[Stub]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", stub.handle)
    app.router.add_get("/counts", stub.counts)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    stub.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield stub
    finally:
        await runner.cleanup()


def status(code: int, message: str = "no", /, **more: str) -> Fault:
    async def fault(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": message, **more}}, status=code)

    return fault


async def _main(latency_s: float) -> None:
    async with serving(Stub(latency_s=latency_s)) as stub:
        print(json.dumps({"base_url": stub.base_url}), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(float(sys.argv[1])))
