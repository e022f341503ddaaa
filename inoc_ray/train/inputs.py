"""The tensors of one forward pass, padded or packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TYPE_CHECKING

from inoc_ray.data.tokenize import IGNORED, EncodedRow

if TYPE_CHECKING:
    import torch

PAD = 0
"""Padding stands behind a row, where causal attention does not look, and carries no label: any token id will do."""
_EMPTY = EncodedRow((PAD,), (IGNORED,))
"""What an empty pass computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassInputs:
    """What a forward pass takes and which of its places count."""

    inputs: dict[str, torch.Tensor]
    """Keyword arguments of the model."""
    at: torch.Tensor
    """(targets,) places in (rows × width) whose next token is a target."""
    targets: torch.Tensor
    """(targets,) token ids of those next tokens."""


def padded(rows: Sequence[EncodedRow], device: torch.device) -> PassInputs:
    """Put the rows under each other, filled up to the longest: `input_ids` (rows, longest).

    There is no attention mask: what fills a row up stands behind it, and a causal model looks back alone
    (`inoc_ray.train.attention` asks the model). Attention without a mask has faster kernels.
    """
    import torch

    rows = rows or [_EMPTY]
    width = max(len(row.input_ids) for row in rows)
    ids = torch.tensor([row.input_ids + (PAD,) * (width - len(row.input_ids)) for row in rows])
    return _pass({"input_ids": ids}, rows, [n * width for n in range(len(rows))], device)


def masked(rows: Sequence[EncodedRow], device: torch.device) -> PassInputs:
    """Put the rows under each other, with an `attention_mask` (rows, longest) for a model that looks ahead."""
    import torch

    made = padded(rows, device)
    ids = made.inputs["input_ids"]
    lengths = torch.tensor([len(row.input_ids) for row in rows or [_EMPTY]], device=device)
    made.inputs["attention_mask"] = (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()
    return made


def packed(rows: Sequence[EncodedRow], device: torch.device, *, bounds: bool) -> PassInputs:
    """Put the rows one after another: `input_ids` and `position_ids` (1, tokens), positions from 0 in each row.

    With `bounds` the attention is told where rows begin, under the names that transformers has for variable-length attention:
    `cu_seq_lens_q` and `_k` (rows + 1,) and `max_length_q` and `_k`.
    """
    import torch

    rows = rows or [_EMPTY]
    lengths = [len(row.input_ids) for row in rows]
    starts = [0, *accumulate(lengths)]
    ids = torch.tensor([list(chain.from_iterable(row.input_ids for row in rows))])
    positions = torch.tensor([list(chain.from_iterable(range(n) for n in lengths))])
    made = _pass({"input_ids": ids, "position_ids": positions}, rows, starts[:-1], device)
    if bounds:
        begins = torch.tensor(starts, dtype=torch.int32).to(device)
        # A tensor or a number each, as transformers' own collator makes them.
        made.inputs.update(cu_seq_lens_q=begins, cu_seq_lens_k=begins)
        made.inputs.update(max_length_q=max(lengths), max_length_k=max(lengths))
    return made


def _pass(
    inputs: dict[str, torch.Tensor], rows: Sequence[EncodedRow], starts: Sequence[int], device: torch.device
) -> PassInputs:
    import torch

    at = [
        start + place - 1
        for start, row in zip(starts, rows, strict=True)
        for place, label in enumerate(row.labels)
        if place and label != IGNORED
    ]
    targets = [label for row in rows for label in row.labels[1:] if label != IGNORED]
    return PassInputs(
        # From pageable memory a copy waits for nothing on the device; the places are found here, so it never waits for them.
        inputs={name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()},
        at=torch.tensor(at, dtype=torch.long).to(device, non_blocking=True),
        targets=torch.tensor(targets, dtype=torch.long).to(device, non_blocking=True),
    )
