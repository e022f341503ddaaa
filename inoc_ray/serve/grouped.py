"""One matrix product for each adapter whose tokens are in a step."""

from __future__ import annotations

import torch

Groups = list[tuple[int, torch.Tensor | None]]


def group_by_slot(slots: torch.Tensor) -> Groups:
    """Return the slots in use (none is -1) with the rows of each; None for the rows where one slot has them all.

    slots: [rows].
    """
    used = torch.unique(slots).tolist()
    if len(used) == 1:
        return [(used[0], None)] if used[0] >= 0 else []
    return [(slot, (slots == slot).nonzero().squeeze(1)) for slot in used if slot >= 0]


def add_grouped(
    y: torch.Tensor, x: torch.Tensor, weights: torch.Tensor, groups: Groups, scale: float, columns: slice
) -> None:
    """`y[row, columns] += scale * weights[slot of row] @ x[row]` in place.

    y: [rows, outputs]; x: [rows, inputs]; weights: [slots, outputs, inputs] or [slots, 1, outputs, inputs].
    """
    for slot, rows in groups:
        matrix = weights[slot].reshape(weights.shape[-2:]).to(y.dtype)
        inputs = (x if rows is None else x[rows]).to(y.dtype)
        change = scale * (inputs @ matrix.T)
        # A row-parallel layer may be padded: only what both have is added, as vLLM does.
        width = min(change.shape[1], y[:, columns].shape[1])
        view = y[:, columns][:, :width]
        if rows is None:
            view += change[:, :width]
        else:
            view.index_add_(0, rows, change[:, :width])
