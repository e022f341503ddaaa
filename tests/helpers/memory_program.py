"""Measures the peak memory of fine-tunes of a 100M model on the CPU: MODEL CASES, prints a JSON list.

Each case (recipe, resources, width of a row, workers) runs in forked processes of its own, with the real training loop and
the real DeepSpeed. What counts is the peak resident memory of rank 0 over what the process had before its model, after the same
fine-tune of a tiny model: kernels and code that are loaded when they are first used are there already.
"""

import gc
import json
import multiprocessing
import os
import random
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rank_program import free_port

VOCABULARY, FEW = 151_936, 256


def make_model(folder: Path, *, vocabulary: int = VOCABULARY, hidden: int = 512, layers: int = 8) -> None:
    """Writes a random Qwen2 of 100M parameters with a large vocabulary and a tied output layer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=11 * hidden // 4,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


def peak_kib() -> int:
    """The most memory of this process so far, which the kernel keeps."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def spec_of(model: str, case: dict[str, Any]) -> Any:
    from inoc_ray.study.recipe import Recipe
    from inoc_ray.study.resources import TrialResources
    from inoc_ray.train.spec import LoopSpec

    recipe = {"learning_rate": 1e-4, "steps": 2, "batch_size": 4, "warmup_steps": 0, **case["recipe"]}
    resources = {"workers": case.get("workers", 1), **case["resources"]}
    return LoopSpec(
        model=model,
        seed=0,
        recipe=Recipe.model_validate(recipe),
        resources=TrialResources.model_validate(resources),
    )


def rows_of(width: int, vocabulary: int) -> list[Any]:
    """Eight rows of random tokens, of which the second half are targets."""
    from inoc_ray.data.tokenize import IGNORED, EncodedRow

    draw = random.Random(0)
    rows = []
    for _ in range(8):
        ids = tuple(draw.randrange(vocabulary) for _ in range(width))
        rows.append(EncodedRow(ids, (IGNORED,) * (width // 2) + ids[width // 2 :]))
    return rows


def measure(model: str, case: dict[str, Any], rank: int, port: int, results: Connection) -> None:
    """One rank of a case: trains, and sends its peak in bytes over the start."""
    if case.get("workers", 1) > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(case["workers"])}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from inoc_ray.train import loop, process

    process.set_threads(1)
    process.ready()
    loop.train(spec_of(f"{model}-tiny", case), rows_of(case["width"], FEW), lambda record: None, out=None)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_kib()
    peaks: list[int] = []

    def after_step(record: Any) -> None:
        peaks.append(peak_kib())
        if record.step == 1:
            # Reading the model has a peak of its own, with the file's pages in memory.
            Path("/proc/self/clear_refs").write_text("5")

    rows = rows_of(case["width"], VOCABULARY)
    loop.train(spec_of(model, case), rows, after_step, out=None if rank else Path(case["out"]))
    print(case, [(p - before) // 1024 for p in peaks], file=sys.stderr)
    results.send((peaks[-1] - before) * 1024)


def run(model: str, case: dict[str, Any]) -> int:
    """The peak of rank 0 of a case, in bytes."""
    context = multiprocessing.get_context("fork")
    port = free_port()
    pipes = [context.Pipe(duplex=False) for _ in range(case.get("workers", 1))]
    ranks = [
        context.Process(target=measure, args=(model, case, rank, port, pipe[1])) for rank, pipe in enumerate(pipes)
    ]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join()
    return pipes[0][0].recv() if pipes[0][0].poll() else -1


def main(model: str, cases: str) -> None:
    # Imported once: the forked processes share them.
    import deepspeed  # noqa: F401
    import peft  # noqa: F401
    import transformers  # noqa: F401

    from inoc_ray.train import loop  # noqa: F401

    make_model(Path(f"{model}-tiny"), vocabulary=FEW, hidden=64, layers=1)
    print(json.dumps([run(model, case) for case in json.loads(cases)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
