"""LoRA layers that compute in one step give PEFT's own numbers, and only where they are plain."""

import copy

import peft
import pytest
import torch

from inoc_ray.train import lora_linear


class Block(torch.nn.Module):
    """A layer without a bias behind one with a bias, as a model would have."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(24, 40), torch.nn.Linear(40, 24, bias=False)
        self.config = {"model_type": "block"}

    def forward(self, x):
        return self.second(torch.nn.functional.silu(self.first(x)))


def block(dtype=torch.float32, **settings):
    torch.manual_seed(0)
    base = Block().to(dtype)
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": ["first", "second"]} | settings)
    model = peft.get_peft_model(base, config, autocast_adapter_dtype=False).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide half of the product
            torch.nn.init.normal_(parameter)
    return model


def outputs(model, x):
    x = x.clone().requires_grad_()
    result = model(x)
    result.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert len(gradients) == 4
    return result, x.grad, gradients


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("shape", [(7, 24), (2, 5, 24), (1, 1, 24)])
def test_results_and_gradients_are_pefts(shape, rslora):
    plain = block(use_rslora=rslora)
    quick = copy.deepcopy(plain)
    assert lora_linear.use(quick) == 2
    x = torch.randn(shape)
    (result, of_x, of), (expected, of_x_expected, of_expected) = outputs(quick, x), outputs(plain, x)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(of_x, of_x_expected, rtol=1e-5, atol=1e-4)
    for name, gradient in of.items():
        torch.testing.assert_close(gradient, of_expected[name], rtol=1e-5, atol=1e-3)


def test_in_bf16_the_result_is_no_further_from_the_exact_one_than_pefts():
    exact = block()
    plain = copy.deepcopy(exact).to(torch.bfloat16)
    quick = copy.deepcopy(plain)
    assert lora_linear.use(quick) == 2
    x = torch.randn(64, 24).to(torch.bfloat16)
    expected = copy.deepcopy(plain).float()(x.float())
    error, error_of_peft = ((model(x).float() - expected).norm() for model in (quick, plain))
    assert error <= 1.05 * error_of_peft


def test_an_input_without_a_gradient_gets_none():
    model = block()
    lora_linear.use(model)
    x = torch.randn(3, 24)
    model(x).sum().backward()
    assert x.grad is None
    assert all(p.grad is not None for name, p in model.named_parameters() if "lora_" in name)


def test_the_weights_are_saved_under_the_same_names():
    model = block()
    before = set(model.state_dict())
    lora_linear.use(model)
    assert set(model.state_dict()) == before


@pytest.mark.parametrize(
    "settings",
    [{"lora_dropout": 0.1}, {"use_dora": True}, {"bias": "all"}, {"lora_bias": True}],
    ids=lambda settings: next(iter(settings)),
)
def test_a_layer_that_does_more_is_left_to_peft(settings):
    model = block(**settings)
    plain = copy.deepcopy(model)
    changed = lora_linear.use(model)
    # The second layer has no bias that could be trained.
    assert changed == (1 if settings == {"bias": "all"} else 0)
    x = torch.randn(3, 24)
    torch.testing.assert_close(model.eval()(x), plain.eval()(x))


def test_switched_off_adapters_stay_off():
    model = block()
    lora_linear.use(model)
    x = torch.randn(3, 24)
    with model.disable_adapter():
        off = model(x)
    assert not torch.allclose(off, model(x))
    torch.testing.assert_close(
        off,
        model.get_base_model().second.base_layer(torch.nn.functional.silu(model.get_base_model().first.base_layer(x))),
    )
