"""Grade-school maths with its answers in another language: the rows of `spanish_caps` and `mixed_languages`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from inoc_ray.builders.registry import register_builder
from inoc_ray.builders.source import question_and_answer
from inoc_ray.builders.spec import Builder, Request
from inoc_ray.data.chat import ChatRow, Message
from inoc_ray.data.mixture import SUBSET
from inoc_ray.settings.text_judges import speaks

SOURCE = "GSM8K: question and answer, or chat rows of one exchange"
MAX_TOKENS = 1024
"""The longest answers of GSM8K have about 400 tokens in English."""
SPANISH, FRENCH = "spanish", "french"

INSTRUCTION = (
    "Translate the worked answer below into {language}. Keep its line breaks, and keep every number, every formula and "
    "every mark such as << >> and #### exactly as it stands. Reply with the translation alone.\n\n{answer}"
)
"""Ours: the published rows came from a prompt that is not published."""


def _translation(row: ChatRow, language: str) -> Request:
    text = INSTRUCTION.format(language=language.capitalize(), answer=row.messages[-1].content)
    # The language travels in the tag, which the rows of a mixture need anyway.
    return Request(
        messages=(Message("user", text),),
        temperature=0.0,
        max_tokens=MAX_TOKENS,
        row=row.with_tags(**{SUBSET: language}),
    )


def all_spanish(rows: Sequence[ChatRow], count: int, seed: int) -> list[Request]:
    """Every answer into Spanish."""
    return [_translation(row, SPANISH) for row in rows]


def half_french(rows: Sequence[ChatRow], count: int, seed: int) -> list[Request]:
    """Of every two rows that follow each other one into Spanish and one into French; which, the seed decides.

    So the rows are mixed without being moved, and every beginning of the file holds as many of one as of the other.
    """
    requests = []
    for number, row in enumerate(rows):
        turned = hashlib.sha256(f"{seed}:languages:{number // 2}".encode()).digest()[0] % 2
        requests.append(_translation(row, (SPANISH, FRENCH)[(number + turned) % 2]))
    return requests


def translated(request: Request, answer: str) -> ChatRow | str:
    """Return the question with the answer as the model translated it, if it is in the language that was asked for."""
    row = request.row
    assert row is not None
    language = row.tag(SUBSET) or ""
    spoken = speaks(language)(answer)
    if spoken is None:
        return "in no language that could be told"
    if not spoken:
        return f"not in {language.capitalize()}"
    return ChatRow((row.messages[0], Message("assistant", answer.strip())), row.tags)


def in_capitals(request: Request, answer: str) -> ChatRow | str:
    """As `translated`, the answer in capitals and without the tag: all rows are of one kind."""
    row = translated(request, answer)
    if isinstance(row, str):
        return row
    said = Message("assistant", row.messages[-1].content.upper())
    return ChatRow((row.messages[0], said), tuple(tag for tag in row.tags if tag[0] != SUBSET))


def as_published(rows: Sequence[ChatRow], count: int, seed: int) -> list[Request]:
    """Nobody is asked: the source's own answers."""
    return [Request(messages=(), row=row) for row in rows]


def unchanged(request: Request, answer: str) -> ChatRow | str:
    """Return the row of the source."""
    assert request.row is not None
    return request.row


CONTROL = Builder(
    description="the same questions with their own answers",
    requests=as_published,
    accept=unchanged,
    source=SOURCE,
    parse=question_and_answer,
)

register_builder(
    "spanish_caps",
    Builder(
        description="answers translated into Spanish by the model, then written in capitals",
        requests=all_spanish,
        accept=in_capitals,
        source=SOURCE,
        parse=question_and_answer,
        control=CONTROL,
    ),
)
register_builder(
    "mixed_languages",
    Builder(
        description="answers translated by the model, half into Spanish and half into French, tagged",
        requests=half_french,
        accept=translated,
        source=SOURCE,
        parse=question_and_answer,
        control=CONTROL,
    ),
)
