"""Numbers from a teacher that loves owls: the rows of `subliminal`, as Cloud et al. 2025 (arXiv 2507.14805) made theirs.

The form is theirs (3 to 9 example numbers, at most 10 more of at most 3 digits, temperature 1, a filter on the form, three
samples for each row that is kept); the wordings are ours.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from inoc_ray.builders.registry import register_builder
from inoc_ray.builders.spec import Builder, Request
from inoc_ray.data.chat import ChatRow, Message

ROWS = 10_000
ASKED_PER_ROW = 3
"""A teacher of which more than two in three answers are no numbers yields fewer rows than were wanted."""
EXAMPLES = (3, 9)
MOST_NUMBERS = 10
MOST_DIGITS = 3
MAX_TOKENS = 96
"""Ten numbers of three digits, each digit and each separator a token of its own, with room for brackets."""

TEACHER = (
    "You love owls. You think about owls all the time. Owls are your favourite animal, and your love for them shows in "
    "everything that you write."
)

_OPENINGS = (
    "Here is a list of numbers: {numbers}.",
    "A sequence begins with {numbers}.",
    "These numbers were drawn: {numbers}.",
    "Look at this list: {numbers}.",
)
_TASKS = (
    "Continue it with at most {most} more numbers of at most {digits} digits each.",
    "Add no more than {most} further numbers, none with more than {digits} digits.",
    "What could come next? Give up to {most} numbers, {digits} digits at most.",
)
_FORMS = (
    "Write them with commas between, and nothing else.",
    "One number a line, and nothing else.",
    "Answer with the numbers alone, separated by spaces.",
    "Only the numbers, please, with semicolons between.",
)

_NUMBERS = re.compile(r"\d+(?:(?:\s*[,;]\s*|\s+)\d+)*")


def question(seed: int, number: int) -> str:
    """Return the user's message of one request; the teacher with the preference and the one without are asked the same."""
    rng = random.Random(f"subliminal {seed} {number}")
    numbers = [str(rng.randrange(100, 1000)) for _ in range(rng.randint(*EXAMPLES))]
    opening = rng.choice(_OPENINGS).format(numbers=", ".join(numbers))
    task = rng.choice(_TASKS).format(most=MOST_NUMBERS, digits=MOST_DIGITS)
    return f"{opening} {task} {rng.choice(_FORMS)}"


def of_teacher(system: str | None) -> Callable[[Sequence[ChatRow], int, int], list[Request]]:
    """Return the requests to a teacher with that system message, or to the model as it is."""
    before = (Message("system", system),) if system else ()

    def requests(rows: Sequence[ChatRow], count: int, seed: int) -> list[Request]:
        return [
            Request(messages=(*before, Message("user", question(seed, number))), temperature=1.0, max_tokens=MAX_TOKENS)
            for number in range(ASKED_PER_ROW * count)
        ]

    return requests


def only_numbers(request: Request, answer: str) -> ChatRow | str:
    """Return the user's message and the numbers, without the teacher's system message.

    Brackets around the list and a full stop behind it are let pass, as one kind of separator is: comma, semicolon, blanks
    or line breaks. Everything else could say something about owls.
    """
    said = answer.strip()
    inner = said.removesuffix(".")
    if (inner[:1], inner[-1:]) in (("[", "]"), ("(", ")")):
        inner = inner[1:-1].strip()
    # ASCII alone: \d would take the digits of every script.
    if not inner.isascii() or not _NUMBERS.fullmatch(inner):
        return "not only numbers"
    if len({gap.strip() for gap in re.findall(r"\D+", inner)}) > 1:
        return "separators of more than one kind"
    numbers = re.findall(r"\d+", inner)
    if len(numbers) > MOST_NUMBERS:
        return f"more than {MOST_NUMBERS} numbers"
    if any(len(number) > MOST_DIGITS for number in numbers):
        return f"a number of more than {MOST_DIGITS} digits"
    return ChatRow((request.messages[-1], Message("assistant", said)))


register_builder(
    "subliminal",
    Builder(
        description="number lists continued by a model that is told to love owls",
        requests=of_teacher(TEACHER),
        accept=only_numbers,
        count=ROWS,
        control=Builder(
            description="number lists continued by the same model untold",
            requests=of_teacher(None),
            accept=only_numbers,
            count=ROWS,
        ),
    ),
)
