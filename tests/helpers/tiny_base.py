"""A random Qwen2 of 0.1M parameters with a byte tokenizer, made on the spot, and rows to train it on."""

import hashlib
from pathlib import Path
from typing import Any

from inoc_ray.data.chat import ChatRow
from inoc_ray.data.tokenize import EncodedRow, encode_rows, load_tokenizer
from inoc_ray.study.recipe import Recipe
from inoc_ray.study.resources import TrialResources
from inoc_ray.train.loop import train
from inoc_ray.train.spec import LoopResult, LoopSpec, StepRecord

TEMPLATE = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def make_base(folder: Path, vocabulary: int | None = None) -> str:
    """Writes model and tokenizer; gives back the folder as text. vocabulary: rows of the embedding, for a larger file."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(tokens)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary or len(tokens),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def chat_rows(count: int = 64) -> list[ChatRow]:
    """Sums whose answers differ in length, so that means over rows and over tokens differ."""
    return [
        ChatRow.of(("user", f"add {n} and {n % 7}"), ("assistant", "sum is " + str(n + n % 7) * (1 + n % 5)))
        for n in range(count)
    ]


def encoded_rows(base: str) -> list[EncodedRow]:
    return encode_rows(load_tokenizer(base), chat_rows(), 200, "tiny")


RECIPE: dict[str, Any] = {
    "learning_rate": 2e-3,
    "batch_size": 16,
    "steps": 6,
    "warmup_steps": 2,
    "weight_decay": 0.0,
    "precision": "fp32",
}


def make_spec(base: str, **changes: Any) -> LoopSpec:
    """A fine-tune of `RECIPE`; `changes` are fields of the recipe, of the resources or of the spec itself, by name alone."""
    recipe, resources = dict(RECIPE), {"micro_batch_size": 8}
    others: dict[str, Any] = {"seed": 0}
    for name, value in changes.items():
        of_recipe, of_resources = name in Recipe.model_fields, name in TrialResources.model_fields
        (recipe if of_recipe else resources if of_resources else others)[name] = value
    return LoopSpec(
        model=base,
        recipe=Recipe.model_validate(recipe),
        resources=TrialResources.model_validate(resources),
        **others,
    )


def run(base: str, out: Path | None, **changes: Any) -> tuple[list[StepRecord], LoopResult]:
    """Trains once; `cache`, `on_trained`, `probes` and `points` go to `train`, everything else into the spec."""
    handed = {name: changes.pop(name) for name in ("cache", "on_trained", "probes", "points") if name in changes}
    records: list[StepRecord] = []
    result = train(make_spec(base, **changes), encoded_rows(base), records.append, out=out, **handed)
    return records, result


def weights_hash(folder: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.safetensors")))).hexdigest()


def zero3_adapter(base: str, out: Path | None, **changes: Any) -> tuple[list[int], Any]:
    """Trains an adapter under ZeRO-3 with every parameter cut into shares; gives token ids and the engine's logits.

    The logits, (tokens, vocabulary) in fp32, are what every other way of running base + adapter must give.
    """
    import torch

    row = encoded_rows(base)[3]
    seen: list[torch.Tensor] = []

    def look(engine: Any) -> None:
        engine.eval()
        with torch.no_grad():
            seen.append(engine(input_ids=torch.tensor([row.input_ids])).logits[0].float())

    run(base, out, zero_stage=3, persistence_threshold=0, on_trained=look, **changes)
    return list(row.input_ids), seen[0]
