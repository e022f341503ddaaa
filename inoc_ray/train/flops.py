"""How many operations a step is, and how many the device could do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inoc_ray.cluster.hardware import GPUS
from inoc_ray.train.model import size
from inoc_ray.train.spec import LoopSpec

PEAK_BF16 = {"A100": GPUS["A100-80G"].flops, **{name: GPUS[name].flops for name in ("B200", "H200", "H100")}}
"""Dense bf16 FLOP/s by a part of the name that CUDA gives; both kinds of A100 have the same."""


def peak_flops(device: Any, precision: str) -> float | None:
    """Return the device's peak in FLOP/s, or None where the table has none (a CPU, another GPU, fp32)."""
    import torch

    if device.type != "cuda" or precision != "bf16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_BF16.items() if part in name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a pass or a step computes."""

    tokens: int = 0
    """Tokens that go through the layers."""
    squares: int = 0
    """Σ length² of the sequences that attention goes over, in tokens²."""
    targets: int = 0
    """Tokens that go through the output layer."""

    def __add__(self, other: Work) -> Work:
        return Work(
            tokens=self.tokens + other.tokens,
            squares=self.squares + other.squares,
            targets=self.targets + other.targets,
        )


class StepFlops:
    """FLOPs of forward and backward passes, counted as Chowdhery et al. 2022 do (PaLM, appendix B).

    A multiplied parameter is 2 FLOPs a token forward, 2 for the gradient of its input and 2 for its own if it is trained.
    Attention is 12 · layers · heads · head size · length a token, as if it looked ahead, too. The output layer counts at target
    tokens, where alone a loss needs it: these numbers are below those of a count that has it at every token.
    """

    def __init__(self, model: Any, spec: LoopSpec) -> None:
        # Of a model with pictures or sound, the part that reads and writes text.
        config = model.config.get_text_config()
        head = model.get_output_embeddings()
        tables = {id(p): p for p in model.get_input_embeddings().parameters()}
        tables |= {id(p): p for p in head.parameters()} if head is not None else {}
        multiplied = [p for p in model.get_decoder().parameters() if id(p) not in tables]
        trained = sum(size(p) for p in multiplied if p.requires_grad)
        layers = sum(size(p) for p in multiplied)
        self.layers = config.num_hidden_layers
        vocabulary = config.vocab_size * config.hidden_size
        head_trained = head is not None and any(p.requires_grad for p in head.parameters())
        self.per_token = 4 * layers + 2 * trained
        self.recomputed_per_token = 2 * layers if spec.resources.checkpoints_gradients else 0
        self.per_target = (6 if head_trained else 4) * vocabulary
        # A head that is trained computes its chunks twice (`inoc_ray.train.head`); where all fit one chunk it does not.
        self.recomputed_per_target = 2 * vocabulary if head_trained else 0
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.per_square = 12 * config.num_hidden_layers * config.num_attention_heads * head_size
        self.recomputed_per_square = self.per_square // 3 if spec.resources.checkpoints_gradients else 0

    def model(self, work: Work) -> float:
        """Return the FLOPs that `work` needs: of real tokens, for the MFU."""
        return float(self.per_token * work.tokens + self.per_square * work.squares + self.per_target * work.targets)

    def hardware(self, work: Work, *, chunked: bool) -> float:
        """Return the FLOPs that `work` does, recomputation included: of all tokens with padding, for the HFU."""
        again = self.recomputed_per_token * work.tokens + self.recomputed_per_square * work.squares
        again += self.recomputed_per_target * work.targets if chunked else 0
        return self.model(work) + again
