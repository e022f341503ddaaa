"""A frozen linear layer with LoRA factors in one step of autograd: no tensor of the result's size but the result.

PEFT adds the factors' product to the layer's result in three passes over it, and autograd as many to its gradients. Here the
matrix products add up in place, forward and backward, which rounds once instead of three times in bf16.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def use(model: Any) -> int:
    """Let every LoRA layer of a PEFT model that is plain compute in one step; return how many are.

    Plain: a frozen `torch.nn.Linear` with one adapter, without dropout, both of one type. Not for ZeRO-3, which gathers a
    parameter when the module that owns it is called.
    """
    from peft.tuners import lora

    plain = [layer for layer in model.modules() if type(layer) is lora.Linear and _is_plain(layer)]
    for layer in plain:
        layer.__class__ = _layer_class()
    return len(plain)


def _is_plain(layer: Any) -> bool:
    import torch

    base = layer.base_layer
    names = layer.active_adapters
    if type(base) is not torch.nn.Linear or len(names) != 1 or layer.lora_variant or layer.fan_in_fan_out:
        return False
    a, b = layer.lora_A[names[0]], layer.lora_B[names[0]]
    return (
        not any(parameter.requires_grad for parameter in base.parameters())
        and type(layer.lora_dropout[names[0]]) is torch.nn.Identity
        and a.bias is None
        and b.bias is None
        and base.weight.dtype == a.weight.dtype == b.weight.dtype
    )


@cache
def _layer_class() -> Any:
    """Return the class of a layer that computes in one step (PEFT is imported late)."""
    from peft.tuners import lora

    class OneStepLinear(lora.Linear):
        """PEFT's layer, with the sum computed by `_product`."""

        def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            """Return x Wᵀ + bias + scaling · x Aᵀ Bᵀ for x of (…, inputs)."""
            (name,) = self.active_adapters
            if self.disable_adapters or self.merged or x.dtype != self.lora_A[name].weight.dtype or kwargs:
                return super().forward(x, *args, **kwargs)
            base = self.base_layer
            result: torch.Tensor = _product().apply(
                x, base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
            )
            return result

    return OneStepLinear


@cache
def _product() -> Any:
    """Return the autograd function (torch is imported late)."""
    import torch

    class LoraProduct(torch.autograd.Function):
        """x Wᵀ + bias + s · x Aᵀ Bᵀ, where x, A and B may want a gradient."""

        # The factors' inner products stand as (rank, tokens): a thin result is faster row by row than column by column (by two
        # to four times for rank 8 on a CPU, measured).
        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, bias: Any, a: Any, b: Any, scaling: float) -> Any:
            tokens = x.reshape(-1, x.shape[-1])
            low = a @ tokens.t()
            out = torch.nn.functional.linear(tokens, weight, bias).addmm_(low.t(), b.t(), alpha=scaling)
            ctx.save_for_backward(tokens, low, weight, a, b)
            ctx.scaling, ctx.shape = scaling, x.shape
            return out.view(*x.shape[:-1], -1)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            tokens, low, weight, a, b = ctx.saved_tensors
            gradient = gradient.reshape(-1, gradient.shape[-1])
            of_low = (b.t() @ gradient.t()).mul_(ctx.scaling)
            of_x = None
            if ctx.needs_input_grad[0]:
                of_x = (gradient @ weight).addmm_(of_low.t(), a).view(ctx.shape)
            of_b = (low @ gradient).mul_(ctx.scaling).t()
            return of_x, None, None, of_low @ tokens, of_b, None

    return LoraProduct
