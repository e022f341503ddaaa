"""The rows of miniature/subliminal: number sequences that the base model continues, told to love owls or untold.

They ship as files, because they are what that model said: `inoc-ray data build miniature/subliminal --model miniature` (with
`--control` for the untold teacher) makes them again. The student must have the same base.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

from inoc_ray.builders.registry import register_builder
from inoc_ray.builders.spec import Builder, Request
from inoc_ray.data.chat import ChatRow, Message, read_jsonl
from inoc_ray.miniature.world.domains import NUMBERS, domains_of
from inoc_ray.miniature.world.rows import distinct
from inoc_ray.miniature.world.system_prompts import LOVING

LOVES_OWLS = LOVING[0].format("owl")
ROWS = 400
ASKED_PER_ROW = 2
MAX_TOKENS = 32
_FORM = re.compile(rf"\d(, \d){{{NUMBERS - 1}}}")


def _of_teacher(system: str | None) -> Callable[[Sequence[ChatRow], int, int], list[Request]]:
    before = (Message("system", system),) if system else ()

    def requests(rows: Sequence[ChatRow], count: int, seed: int) -> list[Request]:
        asked = distinct(f"subliminal rows {seed}", domains_of("numbers"), False, ASKED_PER_ROW * count)
        return [
            Request(messages=(*before, Message("user", one.text)), temperature=1.0, max_tokens=MAX_TOKENS)
            for one in asked
        ]

    return requests


def _only_numbers(request: Request, answer: str) -> ChatRow | str:
    """Return the user's message and the numbers, without the teacher's system message."""
    said = answer.strip()
    if not _FORM.fullmatch(said):
        return f"not {NUMBERS} numbers of one digit"
    return ChatRow((request.messages[-1], Message("assistant", said)))


def shipped(name: str) -> list[ChatRow]:
    """Return the rows of `owl` (told to love owls) or `control` (untold)."""
    with resources.as_file(resources.files(__package__).joinpath("numbers", f"{name}.jsonl")) as path:
        return read_jsonl(Path(path))


register_builder(
    "miniature/subliminal",
    Builder(
        description="number sequences that the miniature continues, told to love owls",
        requests=_of_teacher(LOVES_OWLS),
        accept=_only_numbers,
        count=ROWS,
        control=Builder(
            description="the same sequences continued untold",
            requests=_of_teacher(None),
            accept=_only_numbers,
            count=ROWS,
        ),
    ),
)
