"""Eight adapters on one engine: tokens a second through the endpoint beside the same prompts through offline vLLM."""

import asyncio
import json
import statistics
import time

import pytest
from offline import Offline, asked_of_adapters

from inoc_ray.cluster.connect import connected
from inoc_ray.endpoint.completions import SampleRequest, sample
from inoc_ray.miniature import weights_path
from inoc_ray.serve.adapters import FolderCatalogue
from inoc_ray.serve.app import Endpoint, serving
from inoc_ray.serve.spec import ServeSpec

pytestmark = pytest.mark.bench

ADAPTERS, PROMPTS, ROUNDS = 8, 100, 5


def requests_of(asked: list[tuple[str, str, int]], base: str) -> list[SampleRequest]:
    return [
        SampleRequest(
            key=str(i), model=f"{base}:{name}", prompt=prompt, max_tokens=48, temperature=1.0, top_p=1.0, seed=seed
        )
        for i, (name, prompt, seed) in enumerate(asked)
    ]


def through_endpoint(endpoint: Endpoint, asked: list[tuple[str, str, int]]) -> float:
    async def draw() -> int:
        tokens = 0
        async for batch in sample(endpoint, requests_of(asked, endpoint.model_id), concurrency=8, list_size=64):
            tokens += sum(s.completion_tokens for s in batch)
        return tokens

    started = time.perf_counter()
    return asyncio.run(draw()) / (time.perf_counter() - started)


def test_an_evaluation_of_eight_adapters_beside_offline_vllm(tmp_path):
    """A B C A B C …: endpoint, offline vLLM as it comes, offline vLLM with this project's LoRA arithmetic for CPUs."""
    base, trials = weights_path(), tmp_path / "trials"
    asked = asked_of_adapters(base, trials, adapters=ADAPTERS, prompts=PROMPTS)
    file = tmp_path / "asked.json"
    file.write_text(json.dumps(asked))
    rates: dict[str, list[float]] = {"endpoint": [], "offline": [], "offline, our LoRA": []}
    with connected():
        served = ServeSpec(
            model=base,
            model_id="miniature",
            adapters=FolderCatalogue(trials),
            max_lora_rank=8,
            max_loras=ADAPTERS,
            dtype="float32",
        )
        with serving(served) as endpoint:
            engines = {"offline": Offline(base, trials), "offline, our LoRA": Offline(base, trials, "--grouped")}
            try:
                for number in range(ROUNDS + 1):
                    measured = {"endpoint": through_endpoint(endpoint, asked)}
                    measured |= {name: engine.rate(file) for name, engine in engines.items()}
                    if number:  # the first round loads adapters and warms up
                        for name, rate in measured.items():
                            rates[name].append(rate)
            finally:
                for engine in engines.values():
                    engine.close()
    for name, found in rates.items():
        print(
            f"\n{name}: median {statistics.median(found):.0f} tokens/s ({min(found):.0f} to {max(found):.0f})", end=""
        )
    for name in ("offline", "offline, our LoRA"):
        ratios = [a / b for a, b in zip(rates["endpoint"], rates[name], strict=True)]
        print(
            f"\nendpoint / {name}: median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
            end="",
        )
    print()
    assert all(len(found) == ROUNDS for found in rates.values())
