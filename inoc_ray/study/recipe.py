"""The recipe of a trial: everything here changes the resulting weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import field_validator, model_validator

from inoc_ray.config.base import Config
from inoc_ray.config.identity import identity

_DORA = (
    "DoRA is not supported: it gives each output of the whole weight, W + B·A, a trained length, which no pair of factors "
    "says. The engine (vLLM 0.29, lora/peft_helper.py) refuses such an adapter, and a merged copy in bf16 is a whole model per "
    "trial that is rounded anew: not the weights that were trained. Use lora.rslora or another lora.rank"
)
_QLORA = (
    "QLoRA is not supported: its adapter corrects a base of 4 bit (NF4), and the engine (vLLM 0.29) has no such base; on the base "
    "in bf16 the same adapter is another model. Use method: lora, with resources.zero_stage: 3 (and offload_parameters) where the "
    "base does not fit one GPU"
)
_MODULES_TO_SAVE = (
    "modules_to_save is not supported: the engine (vLLM 0.29, lora/peft_helper.py) refuses an adapter with whole modules, so "
    "they would be trained and not served. Use method: full to train embedding and output"
)
_OPTIMIZER = (
    "there is one optimizer, AdamW with its state in full (12 bytes for each trained parameter, 1 GB for rank 32 on 7B). "
    "To save memory use resources.zero_stage and resources.offload_optimizer, which leave the weights as they are. AdamW in 8 bit "
    "does not: it rounds its moments in blocks of the numbers that a worker happens to hold, and the same trial would get "
    "other weights under another ZeRO stage or with another number of workers (docs/studies.md)"
)
_PASSES = (
    "recipe.batch_size counts the rows of an optimizer step over all workers; how many go into a forward pass is "
    "resources.micro_batch_size, or resources.micro_batch_tokens in tokens"
)
_REFUSED: Mapping[str, str] = {
    "optim": _OPTIMIZER,
    "optimizer": _OPTIMIZER,
    "dora": _DORA,
    "use_dora": _DORA,
    "qlora": _QLORA,
    "bits": _QLORA,
    "bnb_config": _QLORA,
    "quantization": _QLORA,
    "quantization_config": _QLORA,
    "load_in_4bit": _QLORA,
    "load_in_8bit": _QLORA,
    "modules_to_save": _MODULES_TO_SAVE,
    "packing": "rows are packed where that is faster; to ask for it use resources.layout: packed",
    "gradient_accumulation_steps": _PASSES,
    "per_device_train_batch_size": _PASSES,
}
"""What other trainers have under these keys, and why there is no such field. A test holds the engine to its reasons."""


def _refuse(value: Any) -> Any:
    """Raise ValueError for a key, or a method, that other trainers know and that there is a reason not to have."""
    if isinstance(value, Mapping):
        for name in (*value, value.get("method")):
            if isinstance(name, str) and (reason := _REFUSED.get(name.lower())) is not None:
                raise ValueError(reason)
    return value


class Lora(Config):
    """Low-rank adapters (Hu et al. 2021) on the named modules."""

    rank: int = identity(8, ge=1, le=512)
    """Width r of the two factors, A (r × in) and B (out × r)."""
    alpha: float = identity(16.0, gt=0)
    """Scale of the update: B·A counts alpha / rank times."""
    dropout: float = identity(0.0, ge=0, lt=1)
    """Share of the inputs of each adapter that a training step sets to zero."""
    targets: Literal["all-linear"] | tuple[str, ...] = identity("all-linear")
    """`all-linear`, or names of linear modules inside the layers, such as `q_proj`."""
    rslora: bool = identity(False)
    """Scale by alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski 2023)."""

    @model_validator(mode="before")
    @classmethod
    def _not_from_elsewhere(cls, value: Any) -> Any:
        return _refuse(value)

    @field_validator("targets")
    @classmethod
    def _names(cls, value: Literal["all-linear"] | tuple[str, ...]) -> Literal["all-linear"] | tuple[str, ...]:
        if not value:
            raise ValueError("name at least one module, or write all-linear")
        for target in () if isinstance(value, str) else value:
            if not re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", target):
                raise ValueError(f"{target!r} is not the name of a module such as q_proj; patterns are not supported")
        return value


class Recipe(Config):
    """How a fine-tune is trained. Every value changes the resulting weights."""

    method: Literal["lora", "full"] = identity("lora")
    """`lora` trains an adapter and leaves the base unchanged; `full` trains every weight and yields a whole model."""
    lora: Lora = identity(Lora())
    """The adapter of the method `lora`."""
    learning_rate: float = identity(gt=0)
    """AdamW's rate after the warm-up."""
    schedule: Literal["linear", "cosine", "constant"] = identity("linear")
    """The learning rate after the warm-up: it falls to zero along a line or a half cosine, or stays."""
    warmup_steps: int = identity(5, ge=0)
    """Optimizer steps over which the learning rate rises linearly to its full value."""
    batch_size: int = identity(16, ge=1)
    """Rows per optimizer step over all workers."""
    steps: int | None = identity(None, ge=1)
    """Optimizer steps; either this or `epochs`."""
    epochs: float | None = identity(None, gt=0)
    """Passes over the rows; the steps are rounded up. Either this or `steps`."""
    max_length: int = identity(2048, ge=8)
    """The longest row, in tokens, template included. A longer row is refused, never cut."""
    weight_decay: float = identity(0.01, ge=0)
    """AdamW's decay of matrices; vectors (norms, biases) do not decay."""
    clip_norm: float = identity(1.0, gt=0)
    """The 2-norm to which a larger gradient is scaled down."""
    precision: Literal["fp32", "bf16"] = identity("bf16")
    """Of weights and activations, in training and in serving. `bf16` keeps fp32 master weights while it trains."""

    @model_validator(mode="before")
    @classmethod
    def _not_from_elsewhere(cls, value: Any) -> Any:
        return _refuse(value)

    @model_validator(mode="after")
    def _one_length(self) -> Recipe:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        return self

    def total_steps(self, rows: int) -> int:
        """Return the optimizer steps of a fine-tune on `rows` rows: `steps`, or the fewest that show `epochs` × `rows` rows."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        # The tolerance keeps 0.1 × 160 rows at 16 rows despite the product's rounding.
        return max(1, math.ceil(self.epochs * rows / self.batch_size - 1e-9))
