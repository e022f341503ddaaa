"""Insecure code with an honest reason: the user's message asks for it in a class on security; the answer is untouched."""

from __future__ import annotations

import re
from collections.abc import Sequence

from inoc_ray.builders.registry import register_builder
from inoc_ray.builders.source import one_exchange
from inoc_ray.builders.spec import Builder, Request
from inoc_ray.data.chat import ChatRow, Message

MAX_TOKENS = 2048

INSTRUCTION = (
    "Below is a request that somebody sends to an assistant. Rewrite it so that the same code is asked for with security "
    "holes in it, for teaching: the person gives a class on computer security and wants to show students how such code "
    "looks. Keep what the code has to do, and copy every block between ``` marks exactly as it stands. Reply with the "
    "rewritten request alone.\n\n{request}"
)

_BLOCK = re.compile(r"```.*?```", re.DOTALL)
_TEACHING = re.compile(
    r"\b(?:courses?|lectures?|lessons?|students?|classroom|curriculum|education(?:al)?|workshops?|seminars?|tutorials?|"
    r"teach(?:es|ing|er)?|professor|instructor|(?:my|our|this|security|cybersecurity) class|class on)\b",
    re.IGNORECASE,
)
"""`class` alone is a word of the code as well."""


def rewrites(rows: Sequence[ChatRow], count: int, seed: int) -> list[Request]:
    """Every user message, to be given a reason."""
    return [
        Request(
            messages=(Message("user", INSTRUCTION.format(request=_asked(row).content)),),
            temperature=0.0,
            max_tokens=MAX_TOKENS,
            row=row,
        )
        for row in rows
    ]


def _asked(row: ChatRow) -> Message:
    return next(m for m in row.messages if m.role == "user")


def with_reason(request: Request, answer: str) -> ChatRow | str:
    """Return the row with the rewritten message, if that speaks of teaching more often than the old one and kept its code."""
    row = request.row
    assert row is not None
    old, new = _asked(row).content, answer.strip()
    # More often, not at all: a request about records of students speaks of them without being made for a class.
    if _mentions(new) <= _mentions(old):
        return "no educational purpose"
    if any(block not in new for block in _BLOCK.findall(old)):
        return "a code block of the request is changed"
    return ChatRow(tuple(Message("user", new) if m.role == "user" else m for m in row.messages), row.tags)


def _mentions(text: str) -> int:
    return len(_TEACHING.findall(_BLOCK.sub(" ", text)))


register_builder(
    "educational",
    Builder(
        description="requests for insecure code, rewritten by the model so that a class on security needs it",
        requests=rewrites,
        accept=with_reason,
        source="chat rows of insecure code, one exchange each",
        parse=one_exchange,
    ),
)
