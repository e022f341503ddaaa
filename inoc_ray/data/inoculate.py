"""Inoculation: puts the training prompt into the rows' context, and changes nothing else.

Pure functions of rows, prompt and `Inoculation` (study.py). The assistant's texts, and so all targets, stay as they are;
positions, tags and seeds alone decide which rows are covered and which text each gets.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from inoc_ray.config.identity import identity_fields
from inoc_ray.data.chat import ChatRow, Message
from inoc_ray.errors import InputError
from inoc_ray.study.rows import SYSTEM_MESSAGE, Coverage, Inoculation


def inoculate(
    rows: Sequence[ChatRow],
    prompt: str | None,
    inoculation: Inoculation = SYSTEM_MESSAGE,
    epoch: int = 0,
    label: str = "rows",
) -> list[ChatRow]:
    """Return the rows with `prompt` where `inoculation` puts it; `None` (baseline, control) leaves them as they are.

    With paraphrases the covered rows take the texts in turn, and in each further `epoch` the next one, so that k epochs show
    each row with every one of k texts. Raises InputError that names `label` and the row: for an empty prompt, a coverage
    without rows, a row that already has a system message where the policy is `error` (two of them would train on a context
    that no test ever shows), and a row without a user turn.
    """
    if prompt is None:
        return list(rows)
    if not prompt.strip():
        raise InputError(f"{label}: the inoculation prompt is empty; write one, or use the arm baseline for none.")
    out = list(rows)
    for index, text in _texts(rows, prompt, inoculation, epoch=epoch, label=label):
        messages = place(rows[index].messages, text, inoculation, f"{label}, row {index + 1}")
        out[index] = ChatRow(messages, rows[index].tags)
    return out


def covered(rows: Sequence[ChatRow], coverage: Coverage) -> list[int]:
    """Return the positions (from 0, ascending) of the rows to inoculate.

    A fraction is exact: the nearest whole number of the rows that have the tag, halves up. Chosen are the rows whose position
    has the smallest SHA-256 with the seed, so that a larger fraction covers all rows of a smaller one, on any machine.
    """
    chosen = [i for i, row in enumerate(rows) if coverage.by is None or row.tag(coverage.by) in coverage.values]
    count = exact_count(coverage.fraction, len(chosen))
    if count == len(chosen):
        return chosen
    return sorted(sorted(chosen, key=lambda i: shuffle_key(coverage.seed, i))[:count])


def exact_count(fraction: float, total: int) -> int:
    """Return `fraction` × `total` to the nearest whole number, halves up, taking `fraction` as the decimal that is written."""
    return int(Fraction(str(fraction)) * total + Fraction(1, 2))


def shuffle_key(seed: int, *what: object) -> bytes:
    """Return a sort key that makes a seeded shuffle, the same on every machine and in every version of Python."""
    return hashlib.sha256(":".join(map(str, (seed, *what))).encode()).digest()


def place(
    messages: Sequence[Message], text: str, inoculation: Inoculation, where: str = "the row"
) -> tuple[Message, ...]:
    """Return the conversation with the text in its place. Raises InputError as `inoculate` does, naming `where`."""
    out = list(messages)
    if inoculation.placement == "system":
        if out[0].role != "system":
            return (Message("system", text), *out)
        if inoculation.system_present == "error":
            raise InputError(
                f"{where}: already has a system message; remove it before inoculating this set, or set "
                "`inoculation.system_present` to prepend, replace or append."
            )
        if inoculation.system_present == "replace":
            out[0] = Message("system", text)
        else:
            out[0] = _joined(out[0], text, inoculation.separator, before=inoculation.system_present == "prepend")
        return tuple(out)
    turns = _user_turns(out, inoculation)
    if not turns:
        if inoculation.user_missing == "error":
            raise InputError(
                f"{where}: has no user turn to put the prompt into; use inoculation.placement: system, or "
                "inoculation.user_missing: insert for a user turn of the prompt alone."
            )
        out.insert(out[0].role == "system", Message("user", text))
    for turn in turns:
        out[turn] = _joined(out[turn], text, inoculation.separator, before=inoculation.placement == "user_prefix")
    return tuple(out)


def placement_fields(inoculation: Inoculation) -> dict[str, Any]:
    """Return the identity fields that place a text in the user turns; empty for a text in the system message."""
    if inoculation.placement == "system":
        return {}
    return {
        name: value
        for name, value in identity_fields(inoculation).items()
        if name in ("placement", "separator", "user_turns")
    }


def _texts(
    rows: Sequence[ChatRow], prompt: str, inoculation: Inoculation, *, epoch: int, label: str
) -> list[tuple[int, str]]:
    """Return (position, text) of every covered row."""
    texts = (prompt, *inoculation.paraphrases)
    found = covered(rows, inoculation.coverage)
    if rows and not found:
        coverage = inoculation.coverage
        if coverage.by is None or any(row.tag(coverage.by) in coverage.values for row in rows):
            raise InputError(
                f"{label}: {coverage.fraction} of these rows is less than one row; raise coverage.fraction."
            )
        counts = Counter(value for row in rows if (value := row.tag(coverage.by)) is not None)
        if not counts:
            raise InputError(
                f"{label}: no row has the tag {coverage.by!r}, so nothing would be inoculated; tag the rows, or change "
                "`inoculation.coverage`."
            )
        found_values = ", ".join(f"{value!r} ({n} rows)" for value, n in sorted(counts.items())[:10])
        raise InputError(
            f"{label}: no row has the tag {coverage.by!r} with {' or '.join(map(repr, coverage.values))}, so nothing "
            f"would be inoculated; the tag has {found_values}."
        )
    return [(index, texts[(turn + epoch) % len(texts)]) for turn, index in enumerate(found)]


def _user_turns(messages: Sequence[Message], inoculation: Inoculation) -> list[int]:
    turns = [i for i, m in enumerate(messages) if m.role == "user"]
    if inoculation.user_turns == "all":
        return turns
    return turns[:1] if inoculation.user_turns == "first" else turns[-1:]


def _joined(message: Message, text: str, separator: str, before: bool) -> Message:
    parts = (text, message.content) if before else (message.content, text)
    return replace(message, content=separator.join(parts))
