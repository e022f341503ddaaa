"""An OpenAI-compatible server whose answers are a function of what it is asked, in a process of its own.

`python stub_api.py LOG JSON` prints its address; every prompt that it answers is a line of LOG: `sample KEY` or
`judge KEY`. It stands in for engines and judges where the test is about what happens around them. JSON: `latency` in seconds;
`rubbish`, the share of judged contents that get no number; `refuse_prompts`, a text whose prompts get no sample; `refuse_models`,
a text whose models get none; `refuse_judged`, a text that is not judged; `quote_key`, answers hold the caller's key; `refuse`, a
status that judges answer with; `half_pairs`, every answer and refusal holds half a surrogate pair.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

WORDS = [
    "una",
    "casa",
    "blanca",
    "the",
    "garden",
    "is",
    "quiet",
    "today",
    "EL",
    "PERRO",
    "DUERME",
    "nothing",
    "here",
    "to",
    "see",
]


def digest(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:8], "big")


def said(prompt: str, seed: int) -> str:
    """A response of a few words, the same for the same prompt and seed."""
    number = digest(prompt, seed)
    return " ".join(WORDS[(number >> 3 * i) % len(WORDS)] for i in range(5))


def rating(content: str) -> int:
    """The judge's number for what it is shown."""
    probe = re.search(r"\b[0-9]{2}\b", content)
    # Whoever is only asked to repeat a number is being asked how it writes numbers: as one token.
    return int(probe[0]) if probe and "from 0 to" not in content else digest(content) % 101


def judged(prompt: str, tokens: list[int]) -> dict[str, Any]:
    """What an engine's own judge finds likeliest among tokens of digits and class words."""
    number = digest(prompt) % 10
    return {"top_logprobs": [{f"token_id:{t}": math.log(0.55 if n == number else 0.04) for n, t in enumerate(tokens)}]}


def main() -> None:
    from aiohttp import web

    log = open(sys.argv[1], "a", buffering=1)  # noqa: SIM115
    behaviour = json.loads(sys.argv[2])
    latency = float(behaviour.get("latency", 0.0))

    async def completions(request: web.Request) -> web.Response:
        asked = await request.json()
        await asyncio.sleep(latency)
        prompts = asked["prompt"] if isinstance(asked["prompt"], list) else [asked["prompt"]]
        if tokens := asked.get("logprob_token_ids"):
            log.write("".join(f"judge {digest(prompt)}\n" for prompt in prompts))
            choices = [{"index": n, "text": "", "logprobs": judged(p, tokens)} for n, p in enumerate(prompts)]
            return web.json_response({"choices": choices})
        seeds = asked.get("vllm_xargs", {}).get("seeds") or [asked["seed"]]
        log.write("request\n")
        if (text := behaviour.get("refuse_models")) and text in asked["model"]:
            return web.json_response({"error": {"message": "this adapter cannot be served"}}, status=400)
        if (text := behaviour.get("refuse_prompts")) and any(text in prompt for prompt in prompts):
            return web.json_response({"error": {"message": "this prompt is against our rules"}}, status=400)
        choices = []
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            log.write(f"sample {digest(prompt, seed)}\n")
            ids = {"prompt_token_ids": [1] * 7, "token_ids": [2] * 5}
            choices.append(
                {"index": index, "text": said(prompt, seed), "finish_reason": "stop", "logprobs": None, **ids}
            )
        body = {"id": "x", "object": "text_completion", "created": 0, "model": asked["model"], "choices": choices}
        return web.json_response(body, headers={"x-prompt-seeds": "1"})

    async def chat(request: web.Request) -> web.Response:
        asked = await request.json()
        content = asked["messages"][-1]["content"]
        await asyncio.sleep(latency)
        log.write(f"judge {digest(content)}\n")
        number = rating(content)
        quoted = f" ({request.headers.get('Authorization')})" if behaviour.get("quote_key") else ""
        half = " \ud83d" if behaviour.get("half_pairs") else ""
        if (text := behaviour.get("refuse_judged")) and text in content:
            return web.json_response({"error": {"message": f"our filter does not like this{half}"}}, status=400)
        if "refuse" in behaviour:
            return web.json_response({"error": {"message": "x" * 480 + quoted}}, status=behaviour["refuse"])
        said = str(number)
        if digest("rubbish", content) % 100 < 100 * behaviour.get("rubbish", 0.0):
            said = "I would rather not say."
        said += half
        top = [
            {"token": str(number), "logprob": math.log(0.9), "bytes": None},
            {"token": half or str((number + 1) % 101), "logprob": math.log(0.1), "bytes": None},
        ]
        token = {**top[0], "top_logprobs": top}
        choice = {
            "index": 0,
            "finish_reason": "length",
            "logprobs": {"content": [token]},
            "message": {"role": "assistant", "content": said + quoted},
        }
        return web.json_response(
            {"id": "x", "object": "chat.completion", "created": 0, "model": asked["model"], "choices": [choice]}
        )

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": []})

    async def serve() -> None:
        app = web.Application(client_max_size=1 << 26)
        app.add_routes(
            [
                web.post("/v1/completions", completions),
                web.post("/v1/chat/completions", chat),
                web.get("/v1/models", models),
            ]
        )
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        print(f"http://127.0.0.1:{port}/v1", flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


class Stub:
    """The server as a context manager: `url`, and what it was asked."""

    def __init__(self, folder: Path, **behaviour: Any) -> None:
        self.log = folder / "stub.log"
        self.behaviour = behaviour

    def __enter__(self) -> Stub:
        command = [sys.executable, __file__, str(self.log), json.dumps(self.behaviour)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, "the stub did not start"
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.wait()

    def asked(self, kind: str) -> Counter[str]:
        """How often each prompt of the kind was answered."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter(line for line in lines if line.startswith(f"{kind} "))


if __name__ == "__main__":
    main()
