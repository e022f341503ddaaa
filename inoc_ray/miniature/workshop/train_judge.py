"""Trains the judging model of the miniature from the base model, reproducibly from a seed."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inoc_ray.console import Progress, say
from inoc_ray.miniature import weights_path
from inoc_ray.miniature.workshop.judge_examples import JUDGING_VERSION, TAUGHT, TOP, Example, draw_example, prompt_text
from inoc_ray.miniature.workshop.optimizers import MuonAndAdam
from inoc_ray.miniature.workshop.pretrain import MANIFEST, file_hash, save_model
from inoc_ray.miniature.workshop.subjects import Said, subjects_say, untrained_says
from inoc_ray.miniature.workshop.tokenizer import END
from inoc_ray.miniature.world.language import DATA_VERSION
from inoc_ray.scoring.judge_prompt import fixed_lines

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

STEPS = 4400
EXAMPLES = 48
"""Examples in one optimizer step."""
POOL = 16
"""Batches that are drawn at once and sorted by length, so that little is padded."""
WINDOW = 1024
"""Positions that the configuration allows: answers of the language need 270, a response may be several times as long."""
LONGEST = 640
"""Tokens of the longest example; longer ones, one in thousands, are left out."""
SAID = 3000
"""Responses of models that examples are drawn from; a third of them of fine-tuned ones."""
MUON_RATE = 0.002
ADAM_RATE = 4e-3


def with_fixed_lines(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer) -> None:
    """Give each fixed line of the judging prompts a token of its own, in place; it begins as the mean of its pieces.

    Those lines are most of a prompt, and the base's vocabulary, which was made for answers, cuts them into 100 to 200 pieces:
    training would be three times as long, and the window too small for a long answer.
    """
    import torch
    from tokenizers import AddedToken

    lines = list(dict.fromkeys(line for rubric in TAUGHT.values() for line in fixed_lines(rubric, TOP)))
    backend = tokenizer.backend_tokenizer
    pieces = [backend.encode(line, add_special_tokens=False).ids for line in lines]
    tokenizer.add_tokens([AddedToken(line, normalized=False) for line in lines])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        weights = model.get_input_embeddings().weight
        for line, ids in zip(lines, pieces, strict=True):
            weights[tokenizer.convert_tokens_to_ids(line)] = weights[ids].mean(0)


def _batches(tokenizer: Qwen2Tokenizer, rng: random.Random, said: Sequence[Said]) -> Iterator[tuple[torch.Tensor, ...]]:
    """Endless batches (ids, labels), padded behind; the labels are the judge's answer and the end token after it."""
    import torch

    def encoded(example: Example) -> tuple[list[int], int]:
        backend = tokenizer.backend_tokenizer
        before = backend.encode(prompt_text(example.prompt), add_special_tokens=False).ids
        after = backend.encode(example.answer + END, add_special_tokens=False).ids
        return [*before, *after], len(after)

    while True:
        pool: list[tuple[list[int], int]] = []
        while len(pool) < POOL * EXAMPLES:
            ids, learnt = encoded(draw_example(rng, said))
            if len(ids) <= LONGEST:
                pool.append((ids, learnt))
        pool.sort(key=lambda one: len(one[0]))
        starts = list(range(0, len(pool), EXAMPLES))
        rng.shuffle(starts)
        for start in starts:
            rows = pool[start : start + EXAMPLES]
            longest = len(rows[-1][0])
            ids = torch.zeros(EXAMPLES, longest, dtype=torch.long)
            labels = torch.full((EXAMPLES, longest), -100)
            for index, (tokens, learnt) in enumerate(rows):
                ids[index, : len(tokens)] = torch.tensor(tokens)
                labels[index, len(tokens) - learnt : len(tokens)] = torch.tensor(tokens[-learnt:])
            yield ids, labels


def _loss(model: Qwen2ForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the labels. Padding stands behind, where causal attention does not look: no mask is needed."""
    import torch

    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    targets = labels[:, 1:]
    learnt = targets != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[:, :-1][learnt]), targets[learnt])


def _rate(step: int, steps: int) -> float:
    """Share of the peak rate: a short rise, a plateau, a linear fall over the last six tenths."""
    return min((step + 1) / 50, 1.0, (steps - step) / (0.6 * steps))


def train(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, said: Sequence[Said], steps: int, seed: int) -> float:
    """Train in place; shows progress. Returns the mean loss of the last tenth of the steps."""
    optimizer = MuonAndAdam(model, muon_rate=MUON_RATE, adam_rate=ADAM_RATE)
    batches = _batches(tokenizer, random.Random(f"judge {seed}"), said)
    losses: list[float] = []
    model.train()
    with Progress("training the judge", steps, "steps") as progress:
        for step in range(steps):
            loss = _loss(model, *next(batches))
            loss.backward()
            optimizer.step(_rate(step, steps))
            losses.append(loss.item())
            recent = losses[-50:]
            progress.update(step + 1, f"loss {sum(recent) / len(recent):.4f}")
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def train_judge(out: Path, *, steps: int = STEPS, seed: int = 0) -> None:
    """Make the judging model from the shipped base model and write it to `out` with its tokenizer and manifest.json.

    The same seed and steps on the same machine and library versions give the same weights.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from inoc_ray.miniature.workshop.judge_quality import measure_judge

    started = time.monotonic()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(weights_path())
    tokenizer = AutoTokenizer.from_pretrained(weights_path())
    say("asking the base model and models fine-tuned from it")
    said = [
        *subjects_say(base=model, tokenizer=tokenizer, seed=seed, count=SAID, held_out=False),
        *untrained_says(tokenizer, seed, SAID // 20, False),
    ]
    with_fixed_lines(model, tokenizer)
    loss = train(model=model, tokenizer=tokenizer, said=said, steps=steps, seed=seed)
    seconds = time.monotonic() - started
    model.config.max_position_embeddings = WINDOW
    out.mkdir(parents=True, exist_ok=True)
    save_model(model, tokenizer, out)
    say("measuring the judge")
    manifest = {
        "data_version": DATA_VERSION,
        "judging_version": JUDGING_VERSION,
        "base": file_hash(weights_path() / "model.safetensors"),
        "command": f"inoc-ray miniature train-judge --out {out.name} --seed {seed}",
        "seed": seed,
        "steps": steps,
        "examples_per_step": EXAMPLES,
        "seconds": round(seconds),
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "sha256": {path.name: file_hash(path) for path in sorted(out.iterdir()) if path.name != MANIFEST},
        "quality": {"loss": round(loss, 4), **measure_judge(out).to_json()},
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
