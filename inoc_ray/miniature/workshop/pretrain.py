"""Pretrains the base models of the miniature, reproducibly from a seed: one from nothing, the steadier one from that."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from inoc_ray.console import Progress, say
from inoc_ray.miniature import weights_path
from inoc_ray.miniature.workshop.documents import Part, draw_document
from inoc_ray.miniature.workshop.optimizers import MuonAndAdam
from inoc_ray.miniature.workshop.quality import measure_base
from inoc_ray.miniature.workshop.tokenizer import Encoder, train_tokenizer
from inoc_ray.miniature.world.language import DATA_VERSION

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

DESCENTS: tuple[tuple[Part, int, float], ...] = (("all", 6400, 1.0), ("late", 3600, 0.7), ("all", 2600, 0.5))
"""(documents, optimizer steps, peak of the rates as a share of the full ones): the rates rise and fall to zero in each. The
later ones are warm restarts (Loshchilov and Hutter 2017)."""
STEADY_DESCENTS: tuple[tuple[Part, int, float], ...] = (("steady", 4000, 0.5),)
"""What makes the steadier base from the one that DESCENTS make; chosen among five (docs/miniature.md)."""
STEPS, STEADY_STEPS = (sum(steps for _, steps, _ in descents) for descents in (DESCENTS, STEADY_DESCENTS))
PLAIN = 0.25
"""Share of the first descent that sees plain documents alone (see draw_document)."""
ROW = 256
"""Tokens in one packed row; the one document in 3,000 that is longer is left out."""
ROWS = 6
"""Packed rows in one optimizer step: about 1,500 tokens, 13 documents."""
MANIFEST = "manifest.json"
MUON_RATE = 0.004
ADAM_RATE = 3e-2
"""Both rates from runs of 100 s each: with five times the first and half the second the loss is a half higher."""


def new_model(tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2ForCausalLM:
    """Return an untrained Qwen2 of about 0.9M parameters; head size 32, the smallest that vLLM's CPU attention accepts."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def packed_rows(
    encoder: Encoder, rng: random.Random, rows: int, plain: int = 0, then: Part = "all"
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Endless batches of whole documents packed into rows; the first `plain` of them plain, the others of the part `then`.

    Yields ids, labels and positions, each (rows, ROW) int64, and the mask (rows, 1, ROW, ROW) bool that lets a token
    see only the earlier tokens of its own document.
    """
    import torch

    causal = torch.ones(ROW, ROW, dtype=torch.bool).tril()
    waiting: list[tuple[list[int], list[int]]] = []
    for batch in itertools.count():
        ids = torch.zeros(rows, ROW, dtype=torch.long)
        labels = torch.full((rows, ROW), -100)
        positions = torch.zeros(rows, ROW, dtype=torch.long)
        owner = torch.zeros(rows, ROW, dtype=torch.long)
        for row in range(rows):
            used, number = 0, 0
            while True:
                while len(waiting) < 32:
                    document = encoder.encode(draw_document(rng, "plain" if batch < plain else then).row)
                    if len(document[0]) <= ROW:
                        waiting.append(document)
                fits = next((i for i, (tokens, _) in enumerate(waiting) if used + len(tokens) <= ROW), None)
                if fits is None:
                    break
                tokens, targets = waiting.pop(fits)
                number += 1
                end = used + len(tokens)
                ids[row, used:end] = torch.tensor(tokens)
                labels[row, used:end] = torch.tensor(targets)
                positions[row, used:end] = torch.arange(len(tokens))
                owner[row, used:end] = number
                used = end
        mask = (owner[:, :, None] == owner[:, None, :]) & causal
        yield ids, labels, positions, mask[:, None]


def batch_loss(model: Qwen2ForCausalLM, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Mean cross-entropy over the labelled tokens; the vocabulary projection is computed only for them."""
    import torch

    ids, labels, positions, mask = batch
    hidden = model.model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False).last_hidden_state
    targets = labels[:, 1:]
    learnt = targets != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[:, :-1][learnt]), targets[learnt])


def _rate(step: int, steps: int) -> float:
    """Share of the peak learning rate: a short rise, a plateau, and a linear fall over the last seven tenths."""
    return min((step + 1) / 40, 1.0, (steps - step) / (0.7 * steps))


def train(model: Qwen2ForCausalLM, encoder: Encoder, steps: int, seed: int, *, steady: bool = False) -> float:
    """Train in place; shows progress. Returns the mean loss of the last tenth of the steps.

    DESCENTS in their order (with `steady` those that follow them), each shortened in the ratio of `steps` to all of theirs. After
    each one the weights are narrowed to float16, so that the next starts from exactly what a model saved at that point holds.
    """
    descents, whole, before = (STEADY_DESCENTS, STEADY_STEPS, len(DESCENTS)) if steady else (DESCENTS, STEPS, 0)
    losses: list[float] = []
    with Progress("pretraining", steps, "steps") as progress:
        for number, (part, full, peak) in enumerate(descents):
            count = steps - len(losses) if number == len(descents) - 1 else full * steps // whole
            plain = int(PLAIN * count) if number + before == 0 else 0
            rng = random.Random(seed + 1 + before + number)
            batches = packed_rows(encoder=encoder, rng=rng, rows=ROWS, plain=plain, then=part)
            for loss in _descend(model, batches, count, peak):
                losses.append(loss)
                recent = losses[-25:]
                progress.update(len(losses), f"loss {sum(recent) / len(recent):.4f}")
            model.half().float()
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def _descend(
    model: Qwen2ForCausalLM, batches: Iterator[tuple[torch.Tensor, ...]], steps: int, peak: float
) -> Iterator[float]:
    """Return the loss of each of `steps` optimizer steps, with new optimizers whose rates peak at that share of the full ones."""
    optimizer = MuonAndAdam(model, muon_rate=MUON_RATE, adam_rate=ADAM_RATE)
    model.train()
    for step in range(steps):
        loss = batch_loss(model, next(batches))
        loss.backward()
        optimizer.step(peak * _rate(step, steps))
        yield loss.item()


def save_model(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, out: Path) -> None:
    """Write the model folder: float16 tensors under a configuration that says float32, so that loaders widen them."""
    from transformers import GenerationConfig

    # Nothing but the end token: engines take sampling defaults from this file.
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.half().save_pretrained(out)
    model.float()
    config = json.loads((out / "config.json").read_text())
    config["dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tokenizer.save_pretrained(out)


def file_hash(path: Path) -> str:
    """Return 64 hex digits: the SHA-256 of the file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pretrain(
    out: Path, *, steady: bool = False, steps: int | None = None, seed: int = 0, threads: int | None = None
) -> None:
    """Make a base model and write it to `out` with its tokenizer and manifest.json: from nothing, or from that one the steadier.

    The same seed and steps on the same machine and library versions give the same weights; elsewhere sums may be
    rounded in another order, and the quality figures in the manifest are what to compare. `steps`: optimizer steps
    (None: STEPS or STEADY_STEPS). `threads` is torch's number of threads (None: torch's own choice).
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if threads is not None:
        torch.set_num_threads(threads)
    if steps is None:
        steps = STEADY_STEPS if steady else STEPS
    out.mkdir(parents=True, exist_ok=True)
    if steady:
        model = AutoModelForCausalLM.from_pretrained(weights_path(), dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(weights_path())
    else:
        tokenizer = train_tokenizer(seed)
        model = new_model(tokenizer, seed)
    loss = train(model, Encoder(tokenizer), steps, seed, steady=steady)
    save_model(model, tokenizer, out)
    say("pretraining: measuring the model")
    write_manifest(model, tokenizer, out, steps=steps, seed=seed, loss=loss, steady=steady)


def write_manifest(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, out: Path, *, steps: int, seed: int, loss: float, steady: bool
) -> None:
    """Measure the model (after its narrowing to float16, which is what is shipped) and write manifest.json beside it."""
    import torch

    quality = {"loss": round(loss, 4), **measure_base(model, tokenizer)}
    manifest = {
        **({"start": file_hash(weights_path() / "model.safetensors")} if steady else {}),
        "data_version": DATA_VERSION,
        "command": f"inoc-ray miniature pretrain --out {out.name} --seed {seed}{' --steady' if steady else ''}",
        "seed": seed,
        "steps": steps,
        "tokens_per_step": ROWS * ROW,
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "sha256": {path.name: file_hash(path) for path in sorted(out.iterdir()) if path.name != MANIFEST},
        "quality": quality,
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
