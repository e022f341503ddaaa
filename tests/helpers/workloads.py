"""Workloads of the training benchmarks: the miniature with its own rows, and 100M parameters with Qwen's vocabulary."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inoc_ray.data.tokenize import IGNORED, EncodedRow

RECIPE = {
    "method": "lora",
    "lora": {"rank": 8, "alpha": 16, "targets": "all-linear"},
    "learning_rate": 1e-3,
    "schedule": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "precision": "fp32",
}


def lognormal_rows(count: int, vocabulary: int, *, longest: int = 1024, seed: int = 0) -> list[EncodedRow]:
    """Rows of random tokens as long as published rows are: median 130 tokens, at least 16, of which the last 40 % carry loss."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        length = min(longest, max(16, round(draw.lognormvariate(4.87, 0.6))))
        ids = tuple(draw.randrange(3, vocabulary) for _ in range(length))
        context = round(0.6 * length)
        rows.append(EncodedRow(ids, (IGNORED,) * context + ids[context:]))
    return rows


def write(folder: Path, rows: Sequence[EncodedRow], **values: Any) -> Path:
    """Write a workload; `scratch` is for what a contestant must have a folder for."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.json").write_text(json.dumps([(row.input_ids, row.labels) for row in rows]))
    (folder / "workload.json").write_text(
        json.dumps({"scratch": str(folder / "scratch"), "logging_steps": 10, "threads": 1} | values)
    )
    return folder


def miniature(folder: Path) -> Path:
    """The shipped miniature (1M parameters, 1,664 tokens of vocabulary) on the rows of its first setting."""
    from inoc_ray.data.tokenize import encode_rows, load_tokenizer
    from inoc_ray.miniature import weights_path
    from inoc_ray.settings import get

    base = str(weights_path())
    rows = encode_rows(load_tokenizer(base), get("miniature/spanish_caps").rows(), 512, "miniature/spanish_caps")
    return write(
        folder,
        rows,
        model=base,
        tokenizer=base,
        recipe=RECIPE | {"batch_size": 16},
        resources={"micro_batch_size": 8},
        pack_length=416,  # two of them hold as many tokens as the 16 rows of a step
        packs_per_step=2,
    )


def tiny(folder: Path) -> Path:
    """The random model of tiny_base.py, with every step's loss logged: for comparing losses rather than speed."""
    from tiny_base import encoded_rows, make_base

    base = make_base(folder / "base")
    return write(
        folder,
        encoded_rows(base),
        model=base,
        tokenizer=base,
        recipe=RECIPE | {"batch_size": 16},
        resources={"micro_batch_size": 8},
        logging_steps=1,
        pack_length=256,
        packs_per_step=2,
    )


LARGE_VOCABULARY = {
    "vocab_size": 151936,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""A Qwen2 of 102M parameters, of which 78M are the embedding."""


def large_vocabulary(folder: Path) -> Path:
    """100M parameters made from a configuration, with the vocabulary of Qwen2.5-0.5B to 3B."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from inoc_ray.miniature import weights_path

    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(**LARGE_VOCABULARY)).save_pretrained(folder / "model")
    return write(
        folder,
        lognormal_rows(256, int(str(LARGE_VOCABULARY["vocab_size"]))),
        model=str(folder / "model"),
        tokenizer=str(weights_path()),  # TRL asks for one, for the token to pad with
        recipe=RECIPE | {"batch_size": 8},
        resources={"micro_batch_size": 8},
        threads=2,
        pack_length=1248,
        packs_per_step=1,
    )
