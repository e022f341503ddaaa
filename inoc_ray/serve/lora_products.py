"""LoRA products of a step: one matrix product for each adapter that has tokens in it."""

from __future__ import annotations

import torch

Groups = list[tuple[int, torch.Tensor | None]]


def group_by_slot(slots: torch.Tensor) -> Groups:
    """Return the slots in use, each with its rows, or with None if it has all of them. Slot -1 means no adapter.

    slots: [rows].
    """
    used = torch.unique(slots).tolist()
    if len(used) == 1:
        return [(used[0], None)] if used[0] >= 0 else []
    return [(slot, (slots == slot).nonzero().squeeze(1)) for slot in used if slot >= 0]


def add_grouped(
    y: torch.Tensor, x: torch.Tensor, *, weights: torch.Tensor, groups: Groups, columns: slice, scale: float = 1.0
) -> None:
    """Add in place: `y[row, columns] += scale * weights[slot of row] @ x[row]`.

    y: [rows, outputs]; x: [rows, inputs]; weights: [slots, outputs, inputs] or [slots, 1, outputs, inputs].
    """
    for slot, rows in groups:
        matrix = weights[slot].reshape(weights.shape[-2:]).to(y.dtype)
        inputs = (x if rows is None else x[rows]).to(y.dtype)
        change = scale * (inputs @ matrix.T)
        # A row-parallel layer may be padded: add only the columns that both have, as vLLM does.
        width = min(change.shape[1], y[:, columns].shape[1])
        view = y[:, columns][:, :width]
        if rows is None:
            view += change[:, :width]
        else:
            view.index_add_(0, rows, change[:, :width])
