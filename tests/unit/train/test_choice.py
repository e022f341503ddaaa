"""Padded or packed, by the arithmetic of the trial's own batches; FLOPs by hand."""

import random
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_base import make_spec

from inoc_ray.errors import InputError
from inoc_ray.train.attention import Ability
from inoc_ray.train.choice import Choice, Rows, choose
from inoc_ray.train.flops import StepFlops, Work

MINIATURE: dict[str, Any] = {"hidden": 128, "inner": 384, "layers": 4, "heads": 4, "kv": 2, "vocabulary": 1664}
LARGE_VOCABULARY: dict[str, Any] = {
    "hidden": 512,
    "inner": 1408,
    "layers": 8,
    "heads": 8,
    "kv": 2,
    "vocabulary": 151_936,
}


@dataclass
class Parameter:
    """What counting needs of a parameter."""

    count: int
    requires_grad: bool = False

    def numel(self) -> int:
        return self.count


def flops_of(hidden: int, inner: int, layers: int, heads: int, kv: int, vocabulary: int, **changes: Any) -> StepFlops:
    """Of a frozen model of these sizes with tied embeddings and LoRA weights of 1,000 elements."""
    size = hidden // heads
    per_layer = hidden * (2 * heads + 2 * kv) * size + 3 * hidden * inner
    table = SimpleNamespace(parameters=lambda: [embedding])
    embedding, adapter = Parameter(vocabulary * hidden), Parameter(1000, True)
    decoder = SimpleNamespace(parameters=lambda: [embedding, Parameter(layers * per_layer), adapter])
    model = SimpleNamespace(
        get_decoder=lambda: decoder,
        get_input_embeddings=lambda: table,
        get_output_embeddings=lambda: table,
        config=SimpleNamespace(
            get_text_config=lambda: SimpleNamespace(
                hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, vocab_size=vocabulary
            )
        ),
    )
    return StepFlops(model, make_spec("m", **changes))


def lognormal_rows(mean: float = 4.8, longest: int = 1024) -> Rows:
    draw = random.Random(0)
    lengths = [min(longest, max(16, int(draw.lognormvariate(mean, 0.6)))) for _ in range(64)]
    return Rows(lengths=lengths, targets=[n * 2 // 5 for n in lengths])


BATCHES = [list(range(at, at + 16)) for at in range(0, 64, 16)]


def chosen(flops: StepFlops, rows: Rows, ability: Ability, **changes: Any) -> Choice:
    return choose(make_spec("m", **changes), ability, flops, BATCHES, rows=rows, world_size=1)


def test_a_vision_tower_that_rows_of_text_never_enter_has_no_flops():
    import torch
    from transformers import Gemma3Config, Gemma3ForCausalLM, Gemma3ForConditionalGeneration

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = {"vocab_size": 300, "num_key_value_heads": 1, "head_dim": 16}
    seeing = Gemma3Config(text_config=sizes | text, vision_config={**sizes, "image_size": 28, "patch_size": 14})
    with torch.device("meta"):
        models = Gemma3ForConditionalGeneration(seeing), Gemma3ForCausalLM(seeing.get_text_config())
    of_both, of_text = (vars(StepFlops(model, make_spec("m", method="full"))) for model in models)
    assert of_both == of_text


def test_flops_of_a_small_layer_by_hand():
    flops = flops_of(8, 16, 2, 2, 1, 100)
    layers = 2 * (8 * (4 + 2) * 4 + 3 * 8 * 16) + 1000  # q and o of 8 × 8, k and v of 8 × 4, the MLP; the adapter
    assert flops.model(Work(tokens=1)) == 4 * layers + 2 * 1000
    assert flops.model(Work(squares=1)) == 12 * 2 * 8
    assert flops.model(Work(targets=1)) == 4 * 100 * 8
    assert flops.hardware(Work(tokens=5, squares=7, targets=3), chunked=True) == flops.model(
        Work(tokens=5, squares=7, targets=3)
    )
    again = flops_of(8, 16, 2, 2, 1, 100, gradient_checkpointing=True)
    assert again.hardware(Work(tokens=1), chunked=True) - again.model(Work(tokens=1)) == 2 * layers


def test_the_choice_goes_by_cost_and_says_the_numbers():
    """Row by row packing saves the padding; with a block mask a small model loses more by the mask than it saves."""
    row_by_row, block_mask = (Ability(packed=way, causal=True) for way in ("row by row", "block mask"))
    large, small = flops_of(**LARGE_VOCABULARY), flops_of(**MINIATURE)
    choice = chosen(large, lognormal_rows(), row_by_row)
    assert choice.layout.packed
    assert "packed, because a step costs" in choice.reason
    short = lognormal_rows(mean=3.8, longest=100)
    choice = chosen(small, short, block_mask, micro_batch_size=16)
    assert not choice.layout.packed
    assert "padded, because a step costs" in choice.reason
    # Rows of one length have no padding, and a call for each row costs something.
    same = Rows(lengths=[64] * 64, targets=[20] * 64)
    assert not chosen(small, same, row_by_row, micro_batch_size=16).layout.packed
    assert chosen(large, lognormal_rows(), row_by_row) == chosen(large, lognormal_rows(), row_by_row)


def test_what_is_asked_for_is_taken_or_refused():
    flops, rows = flops_of(**MINIATURE), lognormal_rows()
    able, mixes = Ability(packed="row by row", causal=True), Ability(packed=None, causal=False)
    assert chosen(flops, rows, able, layout="packed").layout.packed
    assert not chosen(flops, rows, able, layout="padded").layout.packed
    choice = chosen(flops, rows, mixes)
    assert (choice.layout.packed, choice.way) == (False, "padding mask")
    assert "does not keep packed rows apart" in choice.reason
    with pytest.raises(InputError, match="layout: packed, but m does not keep packed rows apart"):
        chosen(flops, rows, mixes, layout="packed")


@pytest.mark.parametrize(
    ("ability", "layout", "squares"),
    [
        (Ability(packed="row by row", causal=True), "packed", 9 + 25),
        (Ability(packed="block mask", causal=True), "packed", 64),
        (Ability(packed="row by row", causal=True), "padded", 2 * 25),
    ],
)
def test_work_counts_padding_and_what_attention_goes_over(ability, layout, squares):
    choice = chosen(flops_of(**MINIATURE), lognormal_rows(), ability, layout=layout)
    rows = Rows(lengths=[3, 5], targets=[1, 2])
    tokens = 10 if layout == "padded" else 8
    assert choice.work([0, 1], rows) == Work(tokens=tokens, squares=squares, targets=3)
