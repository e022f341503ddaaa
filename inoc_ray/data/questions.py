"""Questions from a file: JSONL with `prompt`, `question` or `messages` per line, asked in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inoc_ray.data.chat import Message, iterate_json, kind_of
from inoc_ray.errors import InputError
from inoc_ray.identity import is_text

FIELDS = ("prompt", "question", "messages")


@dataclass(frozen=True)
class Question:
    """What the model is asked: ends with a user message and has no system message; the context adds that."""

    id: str
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class InTurn:
    """The first n of a finite list of questions, from the beginning again when they are used up.

    A question that comes again keeps its id, so that the bootstrap resamples questions and not their repetitions; it is
    asked with another sampling seed.
    """

    questions: tuple[Question, ...]

    def __call__(self, count: int) -> list[Question]:
        return [self.questions[index % len(self.questions)] for index in range(count)]


def in_turn(questions: list[Question]) -> Callable[[int], list[Question]]:
    """The questions as an evaluation asks them: see InTurn."""
    return InTurn(tuple(questions))


def of_texts(name: str, *texts: str) -> Callable[[int], list[Question]]:
    """Single-turn questions from their texts, asked in turn; ids are `<name>-<number>`."""
    return in_turn([Question(f"{name}-{i:04d}", (Message("user", t),)) for i, t in enumerate(texts)])


def read_questions(path: Path, name: str) -> list[Question]:
    """The questions in a JSONL file; ids are `<name>-<row>`.

    A line is an object with `prompt` or `question` (a text), or with `messages`, of which everything before the first
    assistant message is asked. Other fields (an answer) are not read. Raises InputError naming file and row for anything
    else, for a system message (the context gives that) and for a question that stands there twice.
    """
    seen: dict[tuple[Message, ...], int] = {}
    for number, value in iterate_json(path):
        where = f"{path}, row {number}"
        messages = _messages(value, where)
        if messages in seen:
            raise InputError(f"{where}: the same question as in row {seen[messages]}; remove one.")
        seen[messages] = number
    if not seen:
        raise InputError(f"{path}: there are no questions in this file.")
    return [Question(f"{name}-{number:04d}", messages) for messages, number in seen.items()]


def _messages(value: Any, where: str) -> tuple[Message, ...]:
    given = [key for key in FIELDS if isinstance(value, dict) and key in value]
    if len(given) != 1:
        found = kind_of(value) if not isinstance(value, dict) else " and ".join(given) or "none of them"
        raise InputError(f"{where}: expected an object with one of {', '.join(FIELDS)}, found {found}.")
    content = value[given[0]]
    if given[0] != "messages":
        content = [{"role": "user", "content": content}]
    turns: list[Message] = []
    for turn in content if isinstance(content, list) else []:
        role = turn.get("role") if isinstance(turn, dict) else None
        if role == "assistant":
            break
        if role != "user" or not isinstance(turn.get("content"), str) or not turn["content"].strip():
            raise InputError(f"{where}: a question is a text of the user that is not empty, without a system message.")
        if not is_text(turn["content"]):
            raise InputError(
                f"{where}: half of a Unicode character (a lone surrogate) in the question; write it again."
            )
        turns.append(Message("user", turn["content"]))
    if len(turns) != 1:
        raise InputError(f"{where}: there must be exactly one user message before the answer.")
    return tuple(turns)
