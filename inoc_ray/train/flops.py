"""How many operations a step is, and how many the device could do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inoc_ray.train.model import size
from inoc_ray.train.spec import LoopSpec

PEAK_BF16 = {"B200": 2250e12, "H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s without sparsity, SXM variants, from NVIDIA's data sheets of the four."""


def peak_flops(device: Any, precision: str) -> float | None:
    """Return the device's peak in FLOP/s, or None where the table has none (a CPU, another GPU, fp32)."""
    import torch

    if device.type != "cuda" or precision != "bf16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_BF16.items() if part in name), None)


class StepFlops:
    """Model FLOPs of a batch: 6 N per token in full, 4 N with a frozen base (no gradient of the weights), and attention.

    Attention is 12 · layers · hidden · length per token (Chowdhery et al. 2022, appendix B). Recomputation is not counted.
    N: parameters that are multiplied, so without the table of input embeddings unless the output is tied to it.
    """

    def __init__(self, model: Any, spec: LoopSpec) -> None:
        # Of a model with pictures or sound, the part that reads and writes text.
        config = model.config.get_text_config()
        multiplied = sum(size(p) for p in model.parameters())
        if not config.tie_word_embeddings:
            multiplied -= size(model.get_input_embeddings().weight)
        self.per_token = (4 if spec.recipe.method == "lora" else 6) * multiplied
        self.per_square = 12 * config.num_hidden_layers * config.hidden_size

    def of(self, lengths: Sequence[int]) -> float:
        """Return the FLOPs of a forward and backward pass over rows of these lengths."""
        return float(self.per_token * sum(lengths) + self.per_square * sum(n * n for n in lengths))
