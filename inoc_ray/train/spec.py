"""What a fine-tune is told and what it tells: plain frozen records and the arithmetic of batches, no torch."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from inoc_ray.errors import InputError


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """Low-rank adapters; the fields are those of `inoc_ray.study.study.Lora`."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"
    rslora: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSpec:
    """One fine-tune, complete: a recipe (the names of `inoc_ray.study.study.Recipe`), a base, a seed and how wide it runs."""

    model: str
    """Folder of the base model: safetensors, configuration, tokenizer."""
    seed: int
    method: Literal["lora", "full"] = "lora"
    lora: LoraSpec = LoraSpec()
    learning_rate: float
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = 0
    batch_size: int
    """Rows per optimizer step over all ranks."""
    steps: int | None = None
    epochs: float | None = None
    max_length: int = 2048
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    zero_stage: int = 0
    micro_batch_size: int = 8
    """Rows per forward pass and rank."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time, the same numbers."""
    persistence_threshold: int | None = None
    """ZeRO-3: parameters up to this many elements stay whole on every rank; None leaves DeepSpeed's default (100,000)."""
    enable_thinking: bool | None = None
    """What the chat template is told when rows are rendered (`inoc_ray.study.study.Model`)."""
    start: str | None = None
    """Folder of the adapter to go on with, which every rank can read; None draws a new one."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise InputError(f"recipe: give exactly one of steps ({self.steps}) and epochs ({self.epochs}).")
        if self.zero_stage not in (0, 1, 2, 3):
            raise InputError(f"resources.zero_stage: must be 0, 1, 2 or 3, found {self.zero_stage}.")
        if self.start is not None and self.method != "lora":
            raise InputError(f"recipe.method {self.method} cannot go on with the adapter {self.start}; use lora.")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form that `from_dict` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> LoopSpec:
        """The spec in parsed JSON, or in `{**recipe.model_dump(), "model": …, "seed": …, …}`."""
        lora = dict(value.get("lora") or {})
        if isinstance(lora.get("targets"), list):
            lora["targets"] = tuple(lora["targets"])
        return cls(**{**value, "lora": LoraSpec(**lora)})


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One optimizer step, the same on every rank."""

    step: int
    """From 1."""
    loss: float
    """Mean negative log-likelihood per target token of the global batch, before the update; nats."""
    learning_rate: float
    grad_norm: float
    """2-norm of the gradient of that loss, before clipping."""
    tokens: int
    """Tokens of the global batch, prompts included, padding not."""
    target_tokens: int
    tokens_per_second: float
    """Over all ranks."""
    mfu: float | None
    """Model FLOP/s over the devices' peak (0 to 1); None where the peak is not known, as on a CPU."""


@dataclass(frozen=True, slots=True)
class LoopResult:
    """A finished fine-tune, the same on every rank apart from the seconds."""

    steps: int
    final_loss: float
    """Loss of the last step's batch."""
    tokens: int
    target_tokens: int
    trainable_parameters: int
    world_size: int
    accumulation: int
    seconds_training: float
    """The optimizer steps alone."""
    seconds_total: float
    """With the making of model and engine, the export and the tear-down."""


def accumulation_steps(spec: LoopSpec, world_size: int) -> int:
    """Forward passes per rank and optimizer step: batch_size / (micro_batch_size × world_size).

    Raises InputError with the arithmetic when that is not a whole number.
    """
    per_pass = spec.micro_batch_size * world_size
    if spec.batch_size % per_pass:
        raise InputError(
            f"recipe.batch_size {spec.batch_size} is not a multiple of micro_batch_size × workers = "
            f"{spec.micro_batch_size} × {world_size} = {per_pass}; choose a micro_batch_size that divides "
            f"{spec.batch_size} / {world_size} = {spec.batch_size / world_size:g}, or another batch_size."
        )
    return spec.batch_size // per_pass


def total_steps(spec: LoopSpec, rows: int) -> int:
    """Optimizer steps: `steps`, or the fewest that show `epochs` × `rows` rows."""
    if spec.steps is not None:
        return spec.steps
    assert spec.epochs is not None
    # The tolerance keeps 0.1 × 160 rows at 16 rows, whatever the product's last bit.
    return max(1, math.ceil(spec.epochs * rows / spec.batch_size - 1e-9))


def global_batches(rows: int, batch_size: int, steps: int, seed: int, variants: int = 1) -> Iterator[list[int]]:
    """Row numbers of each optimizer step: a seeded permutation per epoch, one epoch straight after the other.

    A batch may reach over the end of an epoch. The order depends on the arguments alone, never on the world size. With
    `variants` there are that many texts of each row, the second of row n being number `rows` + n and so on; epoch e shows
    variant e modulo `variants`, in the same order of rows as without.
    """

    def stream() -> Iterator[int]:
        epoch = 0
        while True:
            order = list(range(rows))
            # A text as seed: Python then seeds through SHA-512, so (1, 12) and (11, 2) do not collide.
            random.Random(f"{seed}:{epoch}").shuffle(order)
            yield from (row + rows * (epoch % variants) for row in order)
            epoch += 1

    source = stream()
    for _ in range(steps):
        yield [next(source) for _ in range(batch_size)]


def split_batch(
    batch: Sequence[int], lengths: Sequence[int], micro_batch_size: int, rank: int, world_size: int
) -> list[list[int]]:
    """The micro batches of one rank: `len(batch) / (micro_batch_size × world_size)` lists of row numbers.

    Rows of like length share a micro batch (less padding), and the ranks' n-th micro batches are neighbours in length
    (less waiting). The loss is a sum over the global batch, so the order inside it changes nothing but rounding.
    """
    ordered = sorted(batch, key=lambda row: lengths[row])
    per_pass = micro_batch_size * world_size
    first = rank * micro_batch_size
    return [ordered[at + first : at + first + micro_batch_size] for at in range(0, len(ordered), per_pass)]


def learning_rate_at(spec: LoopSpec, step: int, steps: int) -> float:
    """The rate of optimizer step `step` (from 1) of `steps`.

    Linear from rate / warmup_steps up to the full rate, which step `warmup_steps` + 1 has at the latest; then to zero,
    which the step after the last would have, along a line or half a cosine; or constant.
    """
    if step <= spec.warmup_steps:
        return spec.learning_rate * step / spec.warmup_steps
    if spec.schedule == "constant":
        return spec.learning_rate
    done = (step - 1 - spec.warmup_steps) / max(1, steps - spec.warmup_steps)
    factor = 1.0 - done if spec.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return spec.learning_rate * factor
