"""Many clients of an endpoint at once, each of which asks one question after another, without a second try."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

import openai

Question = tuple[str, str, int]
"""Model, prompt, seed."""


class Clients:
    """What the clients have seen."""

    def __init__(self) -> None:
        self.tokens = self.answers = 0
        self.errors: list[str] = []
        self.seconds: list[float] = []

    async def ask(self, client: openai.AsyncOpenAI, number: int, asked: Sequence[Question], end: float) -> None:
        choose = random.Random(number)
        while time.monotonic() < end:
            model, prompt, seed = choose.choice(asked)
            began = time.monotonic()
            try:
                answer = await client.completions.create(
                    model=model, prompt=prompt, max_tokens=48, temperature=1.0, seed=seed
                )
                assert answer.usage is not None
                self.tokens += answer.usage.completion_tokens
                self.answers += 1
                self.seconds.append(time.monotonic() - began)
            except openai.OpenAIError as error:
                self.errors.append(repr(error)[:200])


async def ask_for(url: str, key: str | None, asked: Sequence[Question], *, clients: int, seconds: float) -> Clients:
    """Let so many clients ask for so long."""
    seen = Clients()
    async with openai.AsyncOpenAI(base_url=url, api_key=key or "none", max_retries=0, timeout=120) as client:
        end = time.monotonic() + seconds
        await asyncio.gather(*(seen.ask(client, number, asked, end) for number in range(clients)))
    return seen
