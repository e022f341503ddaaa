"""The definition of a builder: which requests make rows of one kind, and which answers it keeps.

A builder is data and pure functions. Its requests follow from the source rows, the count and the seed alone, and what it
keeps from a request and its answer alone; who answers, when, and in which order is not its business (`builders.rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from inoc_ray.data.chat import ChatRow, Message


@dataclass(frozen=True)
class Request:
    """The request for one row."""

    messages: tuple[Message, ...]
    """The conversation so far; empty where no answer is needed, and `accept` then gets an empty one."""
    temperature: float = 0.0
    max_tokens: int = 1024
    """An answer that reaches it counts as cut, and its row is dropped."""
    row: ChatRow | None = None
    """What `accept` needs to know beside the answer: a row of the source, or a row that is ready but for its answer."""


@dataclass(frozen=True)
class Builder:
    """Rows of one kind: the requests for them and the answers to keep.

    The rows that come out are those of the first accepted answers in the order of the requests, whoever answered first.
    """

    description: str
    requests: Callable[[Sequence[ChatRow], int, int], list[Request]]
    """(source rows, number of rows, seed) → requests, always the same ones. Requests beyond the number of rows are
    spares: the build ends when enough answers were accepted."""
    accept: Callable[[Request, str], ChatRow | str]
    """(request, answer) → the row, or in a few words why there is none. Answers that are empty, cut or withheld are
    dropped before and never come here."""
    source: str = ""
    """What the rows of --source are, for messages and lists; empty for a builder that takes none."""
    parse: Callable[[Any, str], ChatRow] | None = None
    """(JSON object, where it stands) → source row; raises InputError naming the place. None: the builder takes no source."""
    count: int | None = None
    """Rows wanted unless --count says otherwise; None: one for each row of the source."""
    control: Builder | None = None
    """How the control rows are made, where they are made and not published."""
