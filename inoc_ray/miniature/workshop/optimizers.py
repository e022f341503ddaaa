"""The two optimizers of the miniature's making: Muon for hidden matrices, AdamW for embeddings and norms."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class MuonAndAdam:
    """Steps of both optimizers, whose rates rise and fall together.

    Muon's update has the root-mean-square size of Adam's (Liu et al., "Muon is scalable for LLM training", 2025), so that its
    rate may be read as one of Adam's.
    """

    def __init__(self, model: torch.nn.Module, *, muon_rate: float, adam_rate: float) -> None:
        import torch

        matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
        self._optimizers = (
            (torch.optim.Muon(matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"), muon_rate),
            (torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0), adam_rate),
        )

    def step(self, share: float) -> None:
        """Update every parameter from its gradient, at `share` of the full rates, and clear the gradients."""
        for optimizer, rate in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            optimizer.step()
            optimizer.zero_grad()
