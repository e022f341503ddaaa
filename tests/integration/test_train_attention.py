"""Packed rows give the loss and the gradient of rows one by one, padded rows without a mask too, or the model is found out."""

import random
from typing import Any

import pytest
from tiny_families import Engine, model_of

from inoc_ray.data.tokenize import IGNORED, EncodedRow
from inoc_ray.train import inputs
from inoc_ray.train.attention import NAME, Ability, _register, _variable_length, prepare, settle
from inoc_ray.train.head import TargetLoss

pytestmark = pytest.mark.slow

CPU = "cpu"
LONGEST = 30
EXPECTED: dict[str, tuple[dict[str, Any], Ability]] = {
    "qwen2": ({}, Ability(packed="row by row", causal=True)),
    "qwen3": ({}, Ability(packed="row by row", causal=True)),
    "llama": ({}, Ability(packed="row by row", causal=True)),
    "granite": ({}, Ability(packed="row by row", causal=True)),
    # A window that is shorter than the rows needs a mask; one that is longer does nothing.
    "mistral": ({"sliding_window": 8}, Ability(packed="block mask", causal=True)),
    "gemma3_text": ({"sliding_window": 512}, Ability(packed="row by row", causal=True)),
    "gemma2": ({"sliding_window": 8}, Ability(packed="block mask", causal=True)),
    # Its state-space layers run over the end of a row.
    "falcon_h1": ({"mamba_d_ssm": 32, "mamba_n_heads": 2, "mamba_d_head": 16}, Ability(packed=None, causal=True)),
}


def rows() -> list[EncodedRow]:
    draw = random.Random(0)
    made = []
    for length in (30, 1, 17, 9, 24):
        ids = tuple(draw.randrange(3, 97) for _ in range(length))
        made.append(EncodedRow(ids, tuple(i if draw.random() < 0.5 else IGNORED for i in ids)))
    return made


def loss_and_gradient(model: Any, passes: list[inputs.PassInputs]) -> tuple[float, Any]:
    import torch

    model.zero_grad()
    target_loss = TargetLoss(Engine(model), torch.device(CPU))
    losses = [target_loss(made, len(made.targets)) for made in passes]
    torch.stack(losses).sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return sum(loss.item() for loss in losses), gradient


@pytest.mark.parametrize("kind", EXPECTED)
def test_loss_and_gradient_are_those_of_rows_one_by_one(kind):
    import torch

    config, expected = EXPECTED[kind]
    device = torch.device(CPU)
    model = model_of(kind, **config)
    loss, gradient = loss_and_gradient(model, [inputs.padded([row], device) for row in rows()])
    ability = prepare(Engine(model), device, LONGEST)
    assert ability == expected
    assert (model.config._attn_implementation == NAME) == (ability.packed == "row by row")
    ways = {
        "padded": inputs.padded(rows(), device),
        "masked": inputs.masked(rows(), device),
        "packed": inputs.packed(rows(), device, bounds=ability.packed == "row by row"),
    }
    if ability.packed is None:
        del ways["packed"]
    for name, made in ways.items():
        got, ours = loss_and_gradient(model, [made])
        assert got == pytest.approx(loss, rel=1e-5), name
        assert ((ours - gradient).norm() / gradient.norm()).item() < 1e-5, name


def test_padded_rows_have_their_window_where_packed_ones_would_have_a_kernel_for_it():
    """On a GPU the kernel takes windows, so the model has our attention when the layout is chosen."""
    import torch

    device = torch.device(CPU)
    model = model_of("mistral", sliding_window=8)
    expected = loss_and_gradient(model, [inputs.padded(rows(), device)])[0]
    _register()
    model.set_attn_implementation(NAME)
    settle(Engine(model), packed=True)
    assert model.config._attn_implementation == NAME
    assert loss_and_gradient(model, [inputs.padded(rows(), device)])[0] != pytest.approx(expected, rel=1e-6)
    settle(Engine(model), packed=False)
    assert loss_and_gradient(model, [inputs.padded(rows(), device)])[0] == pytest.approx(expected, rel=1e-6)


def test_a_model_that_looks_ahead_gets_a_mask_for_its_padding():
    import torch

    model = model_of("qwen2")
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    # Without a mask, so that transformers' SDPA goes by the layers' own word.
    model.set_attn_implementation("sdpa")
    model.model.config.is_causal = False
    ability = prepare(Engine(model), torch.device(CPU), LONGEST)
    assert not ability.causal


def test_an_empty_pass_has_one_token_and_no_loss():
    import torch

    device = torch.device(CPU)
    model = model_of("qwen2")
    prepare(Engine(model), device, LONGEST)
    for made in (inputs.padded([], device), inputs.masked([], device), inputs.packed([], device, bounds=True)):
        assert made.inputs["input_ids"].shape == (1, 1)
        loss, gradient = loss_and_gradient(model, [made])
        assert (loss, gradient.abs().max().item()) == (0.0, 0.0)


@pytest.mark.parametrize("window", [None, 5])
def test_the_variable_length_kernel_is_called_with_what_it_takes(window):
    """Shapes alone, on the meta device: the kernel itself needs a GPU."""
    import torch

    query = torch.empty(1, 4, 12, 16, device="meta", dtype=torch.bfloat16)
    key = torch.empty(1, 2, 12, 16, device="meta", dtype=torch.bfloat16)
    begins = torch.empty(4, device="meta", dtype=torch.int32)
    out = _variable_length(query, key, key, begins, 6, 0.25, window)
    assert out.shape == (1, 12, 4, 16)
