"""Which rows each optimizer step, rank and forward pass takes: pure arithmetic, no torch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from inoc_ray.errors import InputError


def accumulation_steps(batch_size: int, micro_batch_size: int, world_size: int) -> int:
    """Return the forward passes per rank and optimizer step: batch_size / (micro_batch_size × world_size).

    Raises InputError with the arithmetic when that is not a whole number.
    """
    per_pass = micro_batch_size * world_size
    if batch_size % per_pass:
        raise InputError(
            f"recipe.batch_size {batch_size} is not a multiple of micro_batch_size × workers = "
            f"{micro_batch_size} × {world_size} = {per_pass}; choose a micro_batch_size that divides "
            f"{batch_size} / {world_size} = {batch_size / world_size:g}, or another batch_size."
        )
    return batch_size // per_pass


def global_batches(rows: int, batch_size: int, steps: int, seed: int, variants: int = 1) -> Iterator[list[int]]:
    """Yield the row numbers of each optimizer step: a seeded permutation per epoch, one epoch straight after the other.

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
    batch: Sequence[int], lengths: Sequence[int], *, micro_batch_size: int, rank: int, world_size: int
) -> list[list[int]]:
    """Return the micro batches of one rank: `len(batch) / (micro_batch_size × world_size)` lists of row numbers.

    Rows of like length share a micro batch (less padding), and the ranks' n-th micro batches are neighbours in length
    (less waiting). The loss is a sum over the global batch, so the order inside it changes nothing but rounding.
    """
    ordered = sorted(batch, key=lambda row: lengths[row])
    per_pass = micro_batch_size * world_size
    first = rank * micro_batch_size
    return [ordered[at + first : at + first + micro_batch_size] for at in range(0, len(ordered), per_pass)]
