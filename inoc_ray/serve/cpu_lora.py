"""LoRA on vLLM's CPU backend: correct next to the base model, and without a copy of the weights for each token.

vLLM 0.29 gathers every token's A and B with `weights[indices]` (vllm/lora/ops/torch_ops/lora_ops.py). Index -1 means "no
adapter", but as an index it is the last slot: once every slot holds an adapter, tokens of the base model that share a step with
an adapter's are computed with the last one. And the gather copies whole matrices for each token: a batch of one adapter costs
three times the base. Here the tokens of each slot are multiplied together, and tokens without an adapter are left alone.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform
from vllm.v1.worker.cpu_worker import CPUWorker

from inoc_ray.serve.lora_products import Groups, add_grouped, group_by_slot


class GroupedPunica(PunicaWrapperCPU):
    """vLLM's LoRA arithmetic for the CPU, one matrix product for each adapter in the step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._token_groups: Groups = []
        self._sampler_groups: Groups = []

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Note which tokens of the next step belong to which adapter."""
        super().update_metadata(*args, **kwargs)
        self._token_groups = group_by_slot(self.token_lora_indices)
        self._sampler_groups = group_by_slot(self.sampler_indices)

    def _apply_shrink(self, y: torch.Tensor, x: torch.Tensor, w_t_all: torch.Tensor, scale: float) -> None:
        columns = slice(0, w_t_all.shape[-2])
        add_grouped(
            y.view(-1, y.shape[-1]), x, weights=w_t_all, groups=self._token_groups, scale=scale, columns=columns
        )

    def _apply_expand(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        w_t_all: torch.Tensor,
        y_offset: int,
        y_slice_size: int,
        add_inputs: bool = True,
    ) -> None:
        columns = slice(y_offset, y_offset + y_slice_size)
        if not add_inputs:
            y[:, columns] = 0
        add_grouped(y, x, weights=w_t_all, groups=self._token_groups, columns=columns)

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, add_inputs: bool = True, **kwargs: Any
    ) -> None:
        """Add B·x to `y` (in place of its content unless `add_inputs`), for embeddings."""
        if not add_inputs:
            y.zero_()
        add_grouped(y, x, weights=lora_b_stacked, groups=self._token_groups, columns=slice(0, y.shape[-1]))

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        *,
        buffer: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        """Add scale · B·A·x to the logits `y`. buffer: [tokens, rank] for A·x, zeros."""
        x, y = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        rank = lora_b_stacked.size(-1)
        buffer = torch.zeros((x.size(0), rank), dtype=torch.float32) if buffer is None else buffer
        add_grouped(buffer, x, weights=lora_a_stacked, groups=self._sampler_groups, scale=scale, columns=slice(0, rank))
        add_grouped(y, buffer, weights=lora_b_stacked, groups=self._sampler_groups, columns=slice(0, y.shape[-1]))


class StudyWorker(CPUWorker):
    """vLLM's CPU worker with `GroupedPunica` (engine argument `worker_cls`)."""

    def init_device(self) -> None:
        """Make vLLM use `GroupedPunica`, then set the device up."""
        current_platform.get_punica_wrapper = lambda: f"{GroupedPunica.__module__}.{GroupedPunica.__qualname__}"
        super().init_device()
