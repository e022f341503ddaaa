"""Random models of many families, a few thousand parameters each, and what stands in for a DeepSpeed engine around them."""

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
"""Every family takes these names."""


class Engine:
    """What the loss and the attention ask of a DeepSpeed engine."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.eval, self.train = module.eval, module.train

    def __call__(self, **inputs: Any) -> Any:
        return self.module(**inputs)


def model_of(kind: str, **config: Any) -> Any:
    """A model of transformers' type `kind`, in fp32, the same at each call."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES, **config), dtype=torch.float32)
    # As in training: with a cache transformers makes no block mask.
    model.config.use_cache = False
    return model
