"""Padded or packed rows: whichever takes less time by the arithmetic of this trial's own batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from inoc_ray.errors import InputError
from inoc_ray.train.attention import Ability, Way
from inoc_ray.train.flops import StepFlops, Work
from inoc_ray.train.layout import Layout
from inoc_ray.train.spec import LoopSpec

SAMPLED = 16
"""Global batches that the arithmetic goes over, from the first on."""
ROW_CALL = 8e6
"""What a row costs an attention layer beside its FLOPs, forward and backward, row by row on a CPU: 90 µs, in which a core does so
many FLOPs of a matrix product (measured from 64 to 2,048 tokens a row)."""
SQUARE = {"causal": 2.0, "row by row": 2.0, "variable length": 1.0, "block mask": 4.0, "padding mask": 4.0}
"""What a FLOP of attention costs against one of a matrix product, by the way. On a CPU the causal kernel reaches half the rate of
a matrix product, and the masked one a quarter: nothing of the square is left out (measured: 45 and 25 of 88 GFLOP/s on one
core, both over the causal half). On a GPU the variable-length kernel leaves out half of what is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Of every row, its tokens and its target tokens."""

    lengths: Sequence[int]
    targets: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The layout of a trial, and why."""

    layout: Layout
    way: Way | Literal["causal", "padding mask"]
    """How attention keeps rows, or rows and padding, apart."""
    reason: str

    def work(self, rows: Sequence[int], of: Rows) -> Work:
        """Return what a pass over these row numbers computes, padding included."""
        positions = self.layout.positions(rows, of.lengths)
        if not self.layout.packed:
            squares = positions * positions // max(1, len(rows))
        elif self.way == "block mask":
            squares = positions * positions
        else:
            squares = sum(of.lengths[row] ** 2 for row in rows)
        return Work(tokens=positions, squares=squares, targets=sum(of.targets[row] for row in rows))


def choose(
    spec: LoopSpec,
    ability: Ability,
    flops: StepFlops,
    batches: Sequence[Sequence[int]],
    *,
    rows: Rows,
    world_size: int,
) -> Choice:
    """Choose the layout that `spec.resources.layout` asks for, or the one that takes less time.

    `batches` are global batches of row numbers. The choice follows from the arguments alone, so a trial that is repeated has
    the same bits.

    Raises InputError when packed rows are asked for and the model mixes them, or a row is longer than a pass.
    """
    asked = spec.resources.layout
    way = "causal" if ability.causal else "padding mask"
    padded = _choice(spec, world_size, way, f"padded ({way}), as resources.layout says")
    if asked == "padded":
        return padded
    if ability.packed is None:
        why = f"{spec.model} does not keep packed rows apart"
        if asked == "packed":
            raise InputError(f"resources.layout: packed, but {why}; leave layout out or write padded.")
        return replace(padded, reason=f"padded ({way}), because {why}")
    packed = _choice(spec, world_size, ability.packed, f"packed ({ability.packed}), as resources.layout says")
    if asked == "packed":
        return packed
    of_padded, of_packed = (_cost(choice, flops, batches[:SAMPLED], rows) for choice in (padded, packed))
    costs = (
        f"a step costs as much as {of_padded:.3g} FLOPs padded ({padded.way}) and {of_packed:.3g} packed ({packed.way})"
    )
    return (
        replace(packed, reason=f"packed, because {costs}")
        if of_packed < of_padded
        else replace(padded, reason=f"padded, because {costs}")
    )


def _choice(spec: LoopSpec, world_size: int, way: Any, reason: str) -> Choice:
    layout = Layout(
        packed=way not in ("causal", "padding mask"),
        world_size=world_size,
        rows=spec.resources.micro_batch_size,
        tokens=spec.resources.micro_batch_tokens,
    )
    return Choice(layout=layout, way=way, reason=reason)


def _cost(choice: Choice, flops: StepFlops, batches: Sequence[Sequence[int]], rows: Rows) -> float:
    """Return the mean cost of a step in FLOPs: in each pass the ranks wait for the one with the most."""
    passes = (ranks for batch in batches for ranks in choice.layout.passes(batch, rows.lengths))
    return sum(max(_pass_cost(choice, flops, part, rows) for part in ranks) for ranks in passes) / len(batches)


def _pass_cost(choice: Choice, flops: StepFlops, part: Sequence[int], rows: Rows) -> float:
    work = choice.work(part, rows)
    cost = flops.hardware(work, chunked=True) + (SQUARE[choice.way] - 1) * flops.per_square * work.squares
    if choice.way == "row by row":
        cost += ROW_CALL * flops.layers * len(part)
    return cost
