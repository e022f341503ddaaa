"""Which rows each rank takes in each forward pass of an optimizer step: pure arithmetic, no torch.

Padded: rows of like length stand under each other, filled up to the longest. Packed: rows follow each other in one long row,
nothing is filled up. How many go into a pass is given in rows (`micro_batch_size`) or in tokens (`micro_batch_tokens`).

The loss is a sum over the global batch, so the layout changes it by rounding alone. Every rank has the same number of
passes, an empty one where rows are few: under ZeRO-3 each pass gathers the parameters on all ranks together.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from inoc_ray.errors import InputError
from inoc_ray.study.resources import TrialResources

Passes = list[list[list[int]]]
"""Row numbers by pass and rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the rows of a global batch are shared out."""

    packed: bool
    world_size: int
    rows: int
    """Rows of a pass and rank; without meaning if `tokens` is given."""
    tokens: int | None = None
    """The most tokens of a pass and rank, padding included."""

    def passes(self, batch: Sequence[int], lengths: Sequence[int]) -> Passes:
        """Return the row numbers of `batch` by pass and rank; `lengths` holds the tokens of every row.

        Raises InputError when the batch cannot be divided into passes of so many rows, or a row has more tokens than a pass.
        """
        ordered = sorted(batch, key=lambda row: lengths[row])
        if self.tokens is None:
            passes = accumulation_steps(len(batch), self.rows, self.world_size)
            parts = (
                _spread(ordered, lengths, passes * self.world_size, most_rows=self.rows)
                if self.packed
                else [ordered[at : at + self.rows] for at in range(0, len(ordered), self.rows)]
            )
            assert parts is not None  # without a limit in tokens there is always room
        else:
            _check_longest(ordered, lengths, self.tokens)
            parts = (
                _bins(ordered, lengths, self.tokens, self.world_size)
                if self.packed
                else _blocks(ordered, lengths, self.tokens, self.world_size)
            )
        return [parts[at : at + self.world_size] for at in range(0, len(parts), self.world_size)]

    def positions(self, rows: Sequence[int], lengths: Sequence[int]) -> int:
        """Return the tokens that a pass over these rows computes, padding included; an empty pass has one."""
        if not rows:
            return 1
        sizes = [lengths[row] for row in rows]
        return sum(sizes) if self.packed else len(sizes) * max(sizes)


def accumulation_steps(batch_size: int, micro_batch_size: int, world_size: int) -> int:
    """Return the forward passes per rank and optimizer step: batch_size / (micro_batch_size × world_size).

    Raises InputError with the arithmetic when that is not a whole number.
    """
    per_pass = micro_batch_size * world_size
    if batch_size % per_pass:
        raise InputError(
            f"recipe.batch_size {batch_size} is not a multiple of micro_batch_size × workers = "
            f"{micro_batch_size} × {world_size} = {per_pass}; choose a micro_batch_size that divides "
            f"{batch_size} / {world_size} = {batch_size / world_size:g}, another batch_size, or micro_batch_tokens "
            "instead of micro_batch_size."
        )
    return batch_size // per_pass


def check_batch(batch_size: int, resources: TrialResources, world_size: int) -> None:
    """Raise InputError when a batch cannot be divided among ranks and passes of a number of rows; into tokens any can."""
    if resources.micro_batch_tokens is None:
        accumulation_steps(batch_size, resources.micro_batch_size, world_size)


def check_fits(longest: int, tokens: int | None, what: str = "a row") -> None:
    """Raise InputError if `what`, of `longest` tokens, is longer than a pass of `tokens`."""
    if tokens is not None and longest > tokens:
        raise InputError(
            f"{what} has {longest} tokens, but resources.micro_batch_tokens is {tokens}, and a row is never cut; raise "
            f"micro_batch_tokens to {longest} or more, or shorten the rows."
        )


def _check_longest(ordered: Sequence[int], lengths: Sequence[int], tokens: int) -> None:
    if ordered:
        check_fits(lengths[ordered[-1]], tokens, f"row {ordered[-1] + 1}")


def _bins(ordered: Sequence[int], lengths: Sequence[int], tokens: int, world_size: int) -> list[list[int]]:
    """Pack rows, sorted by length, into as few bins of at most `tokens` as best-fit needs, a multiple of `world_size`.

    Best-fit decreasing (Johnson 1974: at most 11/9 of the fewest bins, plus 4) says how many; then the rows are spread evenly
    over so many, if that goes, since the ranks wait for the fullest. Bins of like size share a pass.
    """
    fewest = _best_fit(ordered, lengths, tokens)
    count = world_size * math.ceil(len(fewest) / world_size)
    bins = _spread(ordered, lengths, count, most_tokens=tokens) or fewest
    bins += [[] for _ in range(count - len(bins))]
    return sorted(bins, key=lambda rows: sum(lengths[row] for row in rows))


def _best_fit(ordered: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    bins: list[list[int]] = []
    # (room, bin), by room: the bin with the least room that holds the row is found by bisection.
    rooms: list[tuple[int, int]] = []
    for row in reversed(ordered):
        at = bisect.bisect_left(rooms, (lengths[row], -1))
        if at == len(rooms):
            bins.append([row])
            bisect.insort(rooms, (tokens - lengths[row], len(bins) - 1))
        else:
            room, number = rooms.pop(at)
            bins[number].append(row)
            bisect.insort(rooms, (room - lengths[row], number))
    return bins


def _spread(
    ordered: Sequence[int],
    lengths: Sequence[int],
    count: int,
    *,
    most_rows: int | None = None,
    most_tokens: int | None = None,
) -> list[list[int]] | None:
    """Give each row, the longest first, to the emptiest of `count` bins; None if one would have more than `most_tokens`."""
    bins: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, number) for number in range(count)]
    for row in reversed(ordered):
        filled, number = heapq.heappop(heap)
        filled += lengths[row]
        if most_tokens is not None and filled > most_tokens:
            return None
        bins[number].append(row)
        if len(bins[number]) != most_rows:
            heapq.heappush(heap, (filled, number))
    return sorted(bins, key=lambda rows: sum(lengths[row] for row in rows))


def _blocks(ordered: Sequence[int], lengths: Sequence[int], tokens: int, world_size: int) -> list[list[int]]:
    """Cut rows, sorted by length, into blocks of rows × longest ≤ `tokens`, a multiple of `world_size`.

    From the longest row on, each block takes as many rows as fit; then the blocks with the most rows are halved until there
    is one for each rank of each pass.
    """
    blocks: list[list[int]] = []
    left = list(ordered)
    while left:
        take = tokens // lengths[left[-1]]
        blocks.append(left[-take:])
        del left[-take:]
    while len(blocks) % world_size:
        at = max(range(len(blocks)), key=lambda n: len(blocks[n]))
        block = blocks[at]
        # Halves lie side by side, so blocks stay sorted; of a block of one row, one half is an empty pass.
        half = len(block) // 2
        blocks[at : at + 1] = [block[half:], block[:half]]
    return blocks[::-1]
