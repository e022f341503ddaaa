"""Eight adapters on one engine: tokens a second through the endpoint beside the same prompts through offline vLLM."""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_adapter import save_adapter

from inoc_ray.cluster.connect import connected
from inoc_ray.data.tokenize import load_tokenizer, render
from inoc_ray.endpoint.completions import SampleRequest, sample
from inoc_ray.miniature import weights_path
from inoc_ray.serve.adapters import FolderCatalogue
from inoc_ray.serve.app import Endpoint, serving
from inoc_ray.serve.spec import ServeSpec
from inoc_ray.settings import get
from inoc_ray.store.commit import write_commit

pytestmark = pytest.mark.bench

ADAPTERS, PROMPTS, ROUNDS = 8, 100, 5


def small_adapter(base: Path, folder: Path, seed: int) -> None:
    """One that changes the answers and leaves them well formed, so that they are as long as real ones."""
    from safetensors.torch import load_file, save_file

    save_adapter(base, folder, seed)
    weights = folder / "adapter" / "adapter_model.safetensors"
    save_file({n: t * (0.03 if "lora_B" in n else 1.0) for n, t in load_file(weights).items()}, weights)
    write_commit(folder)


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


class Offline:
    """An offline engine in a process of its own."""

    def __init__(self, base: Path, trials: Path, *options: str) -> None:
        # As many threads as the endpoint's replica computes with.
        env = os.environ | {
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_NO_USAGE_STATS": "1",
        }
        program = str(Path(__file__).parents[1] / "helpers" / "offline_engine.py")
        self.process = subprocess.Popen(
            [sys.executable, program, str(base), str(trials), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        self.read("ready")

    def read(self, start: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(start):
                return line
        raise RuntimeError("the offline engine ended")

    def close(self) -> None:
        """Ends the program by the end of its input, so that it takes vLLM's own processes down with it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def rate(self, file: Path) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{file}\n")
        self.process.stdin.flush()
        found = json.loads(self.read("{"))
        return float(found["tokens"] / found["seconds"])


def test_an_evaluation_of_eight_adapters_beside_offline_vllm(tmp_path):
    """A B C A B C …: endpoint, offline vLLM as it comes, offline vLLM with this project's LoRA arithmetic for CPUs."""
    base, trials = weights_path(), tmp_path / "trials"
    names = [f"adapter{i}" for i in range(ADAPTERS)]
    for seed, name in enumerate(names):
        small_adapter(base, trials / name, seed)
    tokenizer = load_tokenizer(str(base))
    spec = next(e for e in get("miniature/spanish_caps").evaluations if e.split == "ood")
    prompts = [render(tokenizer, q.messages, True) for q in spec.questions(PROMPTS)]
    asked = [(name, prompt, 1000 * i + j) for i, name in enumerate(names) for j, prompt in enumerate(prompts)]
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
