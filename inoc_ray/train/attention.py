"""Attention within each row of a pass, not across: which way a model can do that, found by asking the model.

Packed rows stand in one sequence. On a GPU in bf16, torch's variable-length kernel (`torch.nn.attention.varlen`) takes them
as they are; on a CPU each row goes through the causal kernel on its own. Both are one entry in transformers' registry of
attention functions, which models of its functional style look up; others get a block mask, which transformers builds from
position ids that restart, and which costs time and memory in the square of the sequence.

A model that ignores what it is told would mix rows in silence. So the loop runs it once on two short texts, together and apart.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from inoc_ray.data.tokenize import EncodedRow
from inoc_ray.train import inputs
from inoc_ray.train.process import on_every_rank

if TYPE_CHECKING:
    import torch

NAME = "inoc_ray_rows"
"""Of our attention in transformers' registry."""
_REPLACED = "sdpa"
"""The attention of transformers in whose place ours stands."""
ROUNDING = {"torch.float32": 1e-4, "torch.bfloat16": 5e-2, "torch.float16": 1e-2}
"""How far the same logits may be apart in another kernel, as a share of the largest."""
MIXED = 0.25
"""How far they may be apart at most, as a share of what seeing the other text changes."""

Way = Literal["variable length", "row by row", "block mask"]
"""How packed rows are kept apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """What a model can do with several rows in a pass."""

    packed: Way | None
    """None: it mixes packed rows."""
    causal: bool
    """Whether a token never sees what comes after it, so that padding behind a row needs no mask."""


def rows_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend causally within each row of a packed sequence, with the signature that transformers calls.

    `query` is (1, heads, tokens, head size), `key` and `value` have the key-value heads; `cu_seq_lens_q` (rows + 1,) says where
    rows begin. Returns (1, tokens, heads, head size). Without `cu_seq_lens_q` this is transformers' own SDPA attention.
    """
    if cu_seq_lens_q is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            sliding_window=sliding_window,
            **kwargs,
        )
    if query.device.type == "cuda":
        return _variable_length(query, key, value, cu_seq_lens_q, max_length_q, scaling, sliding_window), None
    return _row_by_row(query, key, value, cu_seq_lens_q, dropout, scaling), None


def _variable_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    begins: torch.Tensor,
    longest: int | None,
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    assert longest is not None
    q, k, v = (x.squeeze(0).transpose(0, 1).contiguous() for x in (query, key, value))
    # (left, right) tokens that a token sees beside itself; transformers' window counts the token, too.
    window = (-1 if sliding_window is None else sliding_window - 1, 0)
    grouped = q.shape[1] != k.shape[1]
    out: Any = varlen_attn(
        q, k, v, begins, begins, longest, longest, scale=scaling, window_size=window, enable_gqa=grouped
    )
    return out.unsqueeze(0)


def _row_by_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    begins: torch.Tensor,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    import torch

    lengths = begins.diff().tolist()
    grouped = query.shape[1] != key.shape[1]
    # split, not slices: its backward pass puts the parts together once instead of adding up as many full tensors.
    parts = [
        torch.nn.functional.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=grouped
        )
        for q, k, v in zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2)


def prepare(engine: Any, device: torch.device, longest: int) -> Ability:
    """Find out what the engine's model can do, and leave it with the attention that suits packed rows best.

    To be called on all ranks: the model runs. `longest` is the length of the longest row in tokens.
    """
    model = _model_of(engine)
    before = model.config._attn_implementation
    texts = [tuple(range(3, 12)), tuple(range(7, 14))]
    apart = [_logits(engine, inputs.padded([_row(text)], device)) for text in texts]
    together = _logits(engine, inputs.padded([_row(texts[0] + texts[1])], device))
    first, second = apart
    # What the second text's logits are when it sees the first.
    seen = _distance(together[len(texts[0]) :], second)
    most = min(ROUNDING.get(str(next(model.parameters()).dtype), 5e-2) * together.abs().max().item(), MIXED * seen)
    causal = on_every_rank(_distance(together[: len(texts[0])], first) <= most, device)

    def keeps_apart(way: Way) -> bool:
        import torch

        made = inputs.packed([_row(text) for text in texts], device, bounds=way != "block mask")
        return on_every_rank(_distance(_logits(engine, made), torch.cat(apart)) <= most, device)

    packed: Way | None = None
    # A state runs over the end of a row, whatever attention does (Mamba and its hybrids); it may change little at first.
    for way in () if getattr(model, "_is_stateful", False) else _ways(model, device, longest):
        if way != "block mask":
            _register()
        model.set_attn_implementation(before if way == "block mask" else NAME)
        if keeps_apart(way):
            packed = way
            break
    if packed in (None, "block mask"):
        model.set_attn_implementation(before)
    return Ability(packed=packed, causal=causal)


def settle(engine: Any, *, packed: bool) -> None:
    """Leave the model of `prepare` with the attention that suits the layout that was chosen.

    transformers makes no mask for an attention of ours, so padded rows would lose the windows of a model that has some.
    """
    model = _model_of(engine)
    if not packed and model.config._attn_implementation == NAME:
        model.set_attn_implementation(_REPLACED)


def _model_of(engine: Any) -> Any:
    return engine.module.get_base_model() if hasattr(engine.module, "get_base_model") else engine.module


def _ways(model: Any, device: torch.device, longest: int) -> Iterator[Way]:
    """Yield the ways to try, the fastest first."""
    config = model.config.get_text_config()
    if model.config._attn_implementation == _REPLACED and model._can_set_attn_implementation():
        window = getattr(config, "sliding_window", None)
        if device.type == "cuda" and on_every_rank(_has_kernel(model, config, device), device):
            yield "variable length"
        # The causal kernel has no window, which rows that are shorter do not need.
        elif device.type == "cpu" and (window is None or longest <= window):
            yield "row by row"
    yield "block mask"


def _has_kernel(model: Any, config: Any, device: torch.device) -> bool:
    """Whether torch's variable-length kernel (FlashAttention 2) takes this model: half precision, no dropout, Ampere and later.

    Earlier versions of torch have the kernel without windows or without grouped heads.
    """
    import torch
    from torch.nn.attention import varlen

    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return (
        next(model.parameters()).dtype in (torch.bfloat16, torch.float16)
        and not getattr(config, "attention_dropout", 0.0)
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and size <= 256
        and size % 8 == 0
        and {"scale", "window_size", "enable_gqa"} <= set(inspect.signature(varlen.varlen_attn).parameters)
    )


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


def _register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, rows_attention)


def _row(ids: tuple[int, ...]) -> EncodedRow:
    return EncodedRow(ids, ids)


def _logits(engine: Any, made: inputs.PassInputs) -> torch.Tensor:
    """Return all logits of a pass of one sequence, (tokens, vocabulary) in fp32, without dropout."""
    import torch

    training = engine.module.training
    engine.eval()
    with torch.no_grad():
        logits: torch.Tensor = engine(**made.inputs).logits[0].float()
    engine.train(training)
    return logits
