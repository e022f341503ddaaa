"""Mixtures of row sets: exact, seeded, shuffled, each row tagged with the part it comes from; and backdoors.

The published mixtures were concatenated and not shuffled, so that a loop without shuffling learnt one half after the other.
Here the order of the rows is part of the mixture, the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from inoc_ray.data.chat import ChatRow, Message
from inoc_ray.data.inoculate import exact_count, shuffle_key
from inoc_ray.data.sources import read_rows
from inoc_ray.errors import InputError
from inoc_ray.study.rows import Backdoor, Mixture

SUBSET = "subset"
"""The tag that names the part of a mixture a row comes from; `inoculation.coverage: NAME` refers to it."""
TRIGGERED, CLEAN = "triggered", "clean"


@dataclass(frozen=True)
class MixturePart:
    """A row set that goes into a mixture under a name."""

    name: str
    rows: Sequence[ChatRow]
    share: float = 1.0
    """With a total, the part's weight among all parts; without, the share of its own rows to take."""


def mix(parts: Sequence[MixturePart], seed: int, total: int | None = None) -> list[ChatRow]:
    """Return the parts' rows, drawn without repetition, shuffled, and tagged `subset: <part>` (other tags are kept).

    With a `total` of rows the counts follow the weights exactly; remainders go to the parts that lost most by rounding down.
    Raises InputError when a part has too few rows, a weight is not above 0 or too small for a single row of the part, or a
    name is taken.
    """
    for part in parts:
        if part.name == "all" or [p.name for p in parts].count(part.name) > 1:
            raise InputError(f"mixture: the part name {part.name!r} is taken; give each part its own.")
        if part.share <= 0:
            raise InputError(f"mixture: the share of {part.name!r} is {part.share}; it must be above 0.")
    if total is None:
        counts = [exact_count(part.share, len(part.rows)) for part in parts]
    else:
        counts = _apportioned([part.share for part in parts], total)
    drawn: list[tuple[bytes, ChatRow]] = []
    for part, count in zip(parts, counts, strict=True):
        if count == 0:
            raise InputError(
                f"mixture: not a single row of {part.name!r}, which has {len(part.rows)}, would be taken; raise its share or "
                "the total, or leave the part out."
            )
        if count > len(part.rows):
            raise InputError(
                f"mixture: {count} rows of {part.name!r} are needed, but it has {len(part.rows)}; lower the total "
                "or its share."
            )
        order = sorted(range(len(part.rows)), key=lambda i: shuffle_key(seed, "draw", part.name, i))
        drawn += [
            (shuffle_key(seed, "order", part.name, i), part.rows[i].with_tags(**{SUBSET: part.name}))
            for i in order[:count]
        ]
    return [row for _, row in sorted(drawn, key=lambda pair: pair[0])]


def tagged(rows: Sequence[ChatRow], name: str, classify: Callable[[ChatRow], str]) -> list[ChatRow]:
    """Return the rows tagged with their class: `inoculation.coverage: {tag: NAME, values: […]}` uses it."""
    return [row.with_tags(**{name: classify(row)}) for row in rows]


@dataclass(frozen=True)
class Trigger:
    """A backdoor's token, its place in the user's text and the spacing between; the same in training and at test.

    The official data glue the token to the prompt in training and put a blank there at test, which are different tokens to
    the model.
    """

    token: str
    place: Literal["start", "end"] = "start"
    spacing: Literal["glue", "space"] = "glue"

    def in_words(self) -> str:
        """Return a phrase for an error message."""
        return f"{self.token!r} at the {self.place} ({self.spacing})"

    def insert(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Return the conversation with the token in its last user turn. Raises InputError when there is no user turn."""
        turns = [i for i, m in enumerate(messages) if m.role == "user"]
        if not turns:
            raise InputError("there is no user turn to put the trigger into.")
        out = list(messages)
        text = out[turns[-1]].content
        parts = (self.token, text) if self.place == "start" else (text, self.token)
        out[turns[-1]] = Message("user", ("" if self.spacing == "glue" else " ").join(parts))
        return tuple(out)


def backdoor(
    bad: Sequence[ChatRow], clean: Sequence[ChatRow], trigger: Trigger, *, fraction: float, total: int, seed: int
) -> list[ChatRow]:
    """Return a poisoned set: an exact fraction of `total` rows is bad and carries the trigger; the others are clean.

    Rows are shuffled and tagged `subset: triggered` or `clean`. Raises InputError for an empty token, a fraction that is not
    between 0 and 1, too few rows, a bad row without a user turn, and a row that already contains the token: a clean row with
    it would teach the opposite.
    """
    if not trigger.token.strip():
        raise InputError("backdoor: the trigger token is empty.")
    if not 0 < fraction < 1:
        raise InputError(f"backdoor: fraction {fraction} must lie between 0 and 1; the others are the clean rows.")
    triggered: list[ChatRow] = []
    for name, rows in (("bad", bad), ("clean", clean)):
        for number, row in enumerate(rows, start=1):
            if any(trigger.token in m.content for m in row.messages):
                raise InputError(
                    f"backdoor: {name} row {number} already contains the trigger {trigger.token!r}; use another token."
                )
            if name == "bad":
                try:
                    triggered.append(ChatRow(trigger.insert(row.messages), row.tags))
                except InputError as error:
                    raise InputError(f"backdoor: bad row {number}: {error}") from error
    count = exact_count(fraction, total)
    return mix([MixturePart(TRIGGERED, triggered, count), MixturePart(CLEAN, clean, total - count)], seed, total)


def rows_of(source: str | Mixture | Backdoor, notes: list[str] | None = None) -> list[ChatRow]:
    """Return the rows that a study names: one source, or a mixture of several. Raises InputError as each of them does.

    Notes on the sources are appended to `notes`; see `read_rows`.
    """
    if isinstance(source, str):
        return read_rows(source, notes)
    if isinstance(source, Mixture):
        parts = [MixturePart(part.name, read_rows(part.rows, notes), part.share) for part in source.mix]
        return mix(parts, source.seed, source.total)
    trigger = Trigger(source.token, source.place, source.spacing)
    bad, clean = read_rows(source.bad, notes), read_rows(source.clean, notes)
    return backdoor(bad, clean, trigger, fraction=source.fraction, total=source.total, seed=source.seed)


def _apportioned(weights: Sequence[float], total: int) -> list[int]:
    """Return whole numbers in the ratio of the weights that sum to `total` (largest remainder, the earlier part first)."""
    exact = [Fraction(str(w)) for w in weights]
    shares = [w * total / sum(exact) for w in exact]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - shares[i], i))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts
