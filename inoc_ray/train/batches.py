"""Which rows each optimizer step takes: pure arithmetic, no torch."""

from __future__ import annotations

import random
from collections.abc import Iterator


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
