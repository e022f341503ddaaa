"""64 clients at once on two engines with adapters mixed: no error, and tokens a second beside one client's offline run."""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import time
from pathlib import Path

import openai
import pytest
from offline import Offline, small_adapter

from inoc_ray.cluster.connect import connected
from inoc_ray.data.tokenize import load_tokenizer, render
from inoc_ray.miniature import weights_path
from inoc_ray.serve.adapters import FolderCatalogue
from inoc_ray.serve.app import serving
from inoc_ray.serve.spec import ServeSpec
from inoc_ray.settings import get

pytestmark = pytest.mark.bench

CLIENTS, ADAPTERS, REPLICAS = 64, 8, 2
SECONDS = float(os.environ.get("BENCH_SECONDS", "180"))


class Clients:
    """What the clients have seen."""

    def __init__(self) -> None:
        self.tokens = self.answers = 0
        self.errors: list[str] = []
        self.seconds: list[float] = []

    async def ask(self, client: openai.AsyncOpenAI, number: int, asked: list[tuple[str, str, int]], end: float) -> None:
        choose = random.Random(number)
        while time.monotonic() < end:
            name, prompt, seed = choose.choice(asked)
            began = time.monotonic()
            try:
                answer = await client.completions.create(
                    model=f"miniature:{name}", prompt=prompt, max_tokens=48, temperature=1.0, seed=seed
                )
                assert answer.usage is not None
                self.tokens += answer.usage.completion_tokens
                self.answers += 1
                self.seconds.append(time.monotonic() - began)
            except openai.OpenAIError as error:
                self.errors.append(repr(error)[:200])


async def run(url: str, key: str | None, asked: list[tuple[str, str, int]], seconds: float) -> Clients:
    """Let all clients ask one question after another, without a second try."""
    seen = Clients()
    async with openai.AsyncOpenAI(base_url=url, api_key=key or "none", max_retries=0, timeout=120) as client:
        end = time.monotonic() + seconds
        await asyncio.gather(*(seen.ask(client, number, asked, end) for number in range(CLIENTS)))
    return seen


def test_64_clients_with_adapters_mixed_on_two_engines_beside_one_offline_run(tmp_path: Path):
    base, trials = weights_path(), tmp_path / "trials"
    names = [f"adapter{i}" for i in range(ADAPTERS)]
    for seed, name in enumerate(names):
        small_adapter(base, trials / name, seed)
    tokenizer = load_tokenizer(str(base))
    spec = next(e for e in get("miniature/spanish_caps").evaluations if e.split == "ood")
    prompts = [render(tokenizer, q.messages, True) for q in spec.questions(100)]
    asked = [(name, prompt, 1000 * i + j) for i, name in enumerate(names) for j, prompt in enumerate(prompts)]
    file = tmp_path / "asked.json"
    file.write_text(json.dumps(asked))
    # One after the other: together they would share the cores.
    offline = Offline(base, trials, "--grouped")
    try:
        alone = [offline.rate(file) for _ in range(4)][1:]
    finally:
        offline.close()
    served = ServeSpec(
        model=base,
        model_id="miniature",
        adapters=FolderCatalogue(trials),
        max_lora_rank=8,
        max_loras=ADAPTERS,
        dtype="float32",
        replicas=REPLICAS,
    )
    with connected(), serving(served) as endpoint:
        # Both engines up, adapters loaded.
        asyncio.run(run(endpoint.base_url, endpoint.api_key, asked, min(40.0, SECONDS)))
        began = time.monotonic()
        seen = asyncio.run(run(endpoint.base_url, endpoint.api_key, asked, SECONDS))
        seconds = time.monotonic() - began
    rate, rate_alone = seen.tokens / seconds, statistics.median(alone)
    quantiles = statistics.quantiles(seen.seconds, n=20)
    print(
        f"\n{CLIENTS} clients, {seconds:.0f} s: {seen.answers} answers, {len(seen.errors)} errors, {rate:.0f} tokens/s; "
        f"median {statistics.median(seen.seconds):.2f} s, 95 % within {quantiles[-1]:.2f} s"
        f"\noffline: {rate_alone:.0f} tokens/s ({min(alone):.0f} to {max(alone):.0f})"
        f"\nclients / offline: {rate / rate_alone:.3f}"
    )
    assert seen.errors == []
    assert seen.answers > CLIENTS
