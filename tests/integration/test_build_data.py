"""Rows made with the real engine and the shipped miniature, through the endpoint that evaluations use."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from inoc_ray.builders import Builder, ChatRow, Message, Request, get_builder, register_builder
from inoc_ray.builders.ask import Own, teacher
from inoc_ray.builders.journal import journal_path
from inoc_ray.builders.rows import build_rows
from inoc_ray.data.chat import read_jsonl
from inoc_ray.errors import TrialError
from inoc_ray.store import seal

pytestmark = pytest.mark.slow


def _mixed(rows: object, count: int, seed: int) -> list[Request]:
    """The miniature's own questions, and between them number lists, to which it answers rubbish."""
    from inoc_ray import settings

    (questions,) = (
        e.questions(count) for e in settings.get("miniature/spanish_caps").evaluations if e.name == "in_distribution"
    )
    numbers = get_builder("subliminal").requests((), count, seed)
    own = [Request(messages=q.messages, temperature=1.0, max_tokens=48) for q in questions]
    return [request for pair in zip(own, numbers, strict=False) for request in pair]


def _no_digits_asked(request: Request, answer: str) -> ChatRow | str:
    if any(c.isdigit() for c in request.messages[-1].content):
        return get_builder("subliminal").accept(request, answer)
    return ChatRow((*request.messages, Message("assistant", answer.strip())))


@dataclass(frozen=True, kw_only=True)
class Kept(Own):
    """A teacher whose engine is up already, for one build after another."""

    answers: Any

    @contextlib.contextmanager
    def answering(self, name: str) -> Iterator[Any]:
        yield self.answers


def test_rows_are_made_with_the_real_engine_and_an_interrupted_build_goes_on(tmp_path: Path):
    register_builder("test/mixed", Builder(description="for this test", requests=_mixed, accept=_no_digits_asked))
    own = teacher("miniature", None, None, None)
    assert isinstance(own, Own)
    with own.answering("test") as answers:
        builds_go_on(tmp_path, Kept(folder=own.folder, model_hash=own.model_hash, answers=answers))


def builds_go_on(tmp_path: Path, asked: Own):
    built = build_rows("test/mixed", tmp_path / "rows.jsonl", teacher=asked, count=24)
    rows = read_jsonl(tmp_path / "rows.jsonl")
    assert (built.rows, len(rows)) == (24, 24)
    assert built.answers == 24 + sum(built.dropped.values())
    assert sum(built.dropped.values()) > 0
    assert len({row.messages[-1].content for row in rows}) > 12
    assert os.listdir(tmp_path) == ["rows.jsonl"]

    with pytest.raises(TrialError, match="none is fit"):
        build_rows("subliminal", tmp_path / "numbers.jsonl", teacher=asked, count=4)
    journal = journal_path(tmp_path / "numbers.jsonl")
    lines = journal.read_text().splitlines()
    assert sorted(seal.read_line(line.encode())["n"] for line in lines[1:]) == list(range(12))
    # As a kill leaves it: five answers, and a sixth cut in its line. The same seven answers come again.
    torn = lines[6][:9]
    journal.write_text("\n".join([*lines[:6], torn]))
    with pytest.raises(TrialError, match="none is fit"):
        build_rows("subliminal", tmp_path / "numbers.jsonl", teacher=asked, count=4)
    assert sorted(journal.read_text().splitlines()) == sorted([*lines, torn])
