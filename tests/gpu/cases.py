"""What the check runs: models by their published configurations, fine-tunes of them, and the curves that must agree."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
    "tie_word_embeddings": False,
    "vocab_size": 152064,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
"""What the config.json of every Qwen2.5 from 7B upwards says (huggingface.co/Qwen/Qwen2.5-7B-Instruct)."""

QWEN_7B = QWEN | {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
QWEN_32B = QWEN | {
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_hidden_layers": 64,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
}
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
"""Width of the stand-ins on a machine without a GPU."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model of random weights, from its configuration."""

    name: str
    config: dict[str, Any] = field(repr=False)

    def with_layers(self, layers: int) -> Model:
        """Return the same model cut to its first layers."""
        name = f"{self.name}, {layers} of {self.config['num_hidden_layers']} layers"
        return replace(self, name=name, config=self.config | {"num_hidden_layers": layers})

    def stand_in(self) -> Model:
        """Return a model of this architecture that a CPU trains in seconds: narrow, two layers at most, 1,024 tokens."""
        layers = min(2, self.config["num_hidden_layers"])
        few = {"vocab_size": 1024, "bos_token_id": 1, "eos_token_id": 2, "num_hidden_layers": layers}
        return replace(self, config=self.config | SMALL | few)


SEVEN = Model(name="Qwen2.5-7B", config=QWEN_7B)
THIRTY_TWO = Model(name="Qwen2.5-32B", config=QWEN_32B)

LORA = {"method": "lora", "lora": {"rank": 32, "alpha": 64, "rslora": True}}
"""The recipe of the paper's open-weight models."""
FULL = {"method": "full"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fine-tune of a few steps, on rows of random tokens."""

    name: str
    model: Model
    recipe: dict[str, Any]
    resources: dict[str, Any]


def packed(tokens: int, **more: Any) -> dict[str, Any]:
    """Return resources with so many tokens in a forward pass."""
    return {"micro_batch_tokens": tokens, "layout": "packed", **more}


CASES = (
    *(Case(name=f"LoRA, {n:,} packed tokens", model=SEVEN, recipe=LORA, resources=packed(n)) for n in (2048, 4096)),
    Case(name="LoRA, padded rows", model=SEVEN, recipe=LORA, resources={"micro_batch_size": 4, "layout": "padded"}),
    Case(
        name="LoRA, 4,096 packed tokens, ZeRO-3",
        model=SEVEN,
        recipe=LORA,
        resources=packed(4096, zero_stage=3),
    ),
    Case(
        name="full, 4,096 packed tokens, offload",
        model=SEVEN,
        recipe=FULL,
        resources=packed(4096, zero_stage=2, offload_optimizer=True),
    ),
    *(
        Case(
            name="LoRA, 4,096 packed tokens",
            model=THIRTY_TWO.with_layers(layers),
            recipe=LORA,
            resources=packed(4096),
        )
        for layers in (1, 2)
    ),
)
"""A process per model runs that model's cases one after another, as a group of workers does."""

SCALED = ("Qwen2.5-32B", 64)
"""The model whose numbers are those of one and two layers, continued on a straight line to this many."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A loss curve of the miniature, to compare with that of its fp32 LoRA or full fine-tune on the CPU."""

    name: str
    recipe: dict[str, Any]
    resources: dict[str, Any]
    tolerance: float
    """Of each step's loss, in nats."""


FP32_TOLERANCE = 2e-4
"""Other kernels sum in another order (6e-8 each), and Adam divides each gradient by its own size: a weight whose gradient is
nearly zero can move by a whole learning rate."""
BF16_TOLERANCE = 3e-2
"""bf16 has 8 bits of mantissa (4e-3 of a logit); the mean over some hundred tokens is nearer than that at the first step, and
the runs part slowly."""
STEPS_OF_A_CURVE = 8

CURVES = tuple(
    Curve(
        name=f"{method}, {precision}, {layout}",
        recipe={"method": method, "precision": precision},
        resources={"micro_batch_size": 8, "layout": layout},
        tolerance=FP32_TOLERANCE if precision == "fp32" else BF16_TOLERANCE,
    )
    for method, layout in (("lora", "padded"), ("lora", "packed"), ("full", "packed"))
    for precision in ("fp32", "bf16")
)
REFERENCES = tuple(
    Curve(
        name=f"{method}, fp32",
        recipe={"method": method, "precision": "fp32"},
        resources={"micro_batch_size": 16, "layout": "padded"},
        tolerance=0.0,
    )
    for method in ("lora", "full")
)
"""On the CPU whatever the machine has."""
