"""An offline vLLM engine in a process of its own, and adapters whose answers are as long as real ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tiny_adapter import save_adapter

from inoc_ray.data.tokenize import load_tokenizer, render
from inoc_ray.settings import get


def small_adapter(base: Path, folder: Path, seed: int) -> None:
    """One that changes the answers and leaves them well formed, so that they are as long as real ones."""
    save_adapter(base, folder, seed, std=0.003)


def asked_of_adapters(base: Path, trials: Path, *, adapters: int, prompts: int) -> list[tuple[str, str, int]]:
    """Make that many adapters below `trials`; return (adapter, prompt, seed) for each prompt of an evaluation and each of them."""
    names = [f"adapter{i}" for i in range(adapters)]
    for seed, name in enumerate(names):
        small_adapter(base, trials / name, seed)
    tokenizer = load_tokenizer(str(base))
    spec = next(e for e in get("miniature/spanish_caps").evaluations if e.split == "ood")
    rendered = [render(tokenizer, q.messages, True) for q in spec.questions(prompts)]
    return [(name, prompt, 1000 * i + j) for i, name in enumerate(names) for j, prompt in enumerate(rendered)]


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
        program = str(Path(__file__).with_name("offline_engine.py"))
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
