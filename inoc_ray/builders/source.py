"""Source rows of a builder: one question and its answer each, in the forms in which they are published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inoc_ray.builders.spec import Builder
from inoc_ray.data.chat import ChatRow, parse_row
from inoc_ray.data.jsonl import iterate_json
from inoc_ray.data.sources import iterate_rows, local_file
from inoc_ray.errors import InputError

QUESTION, ANSWER = "question", "answer"


def one_exchange(value: Any, where: str) -> ChatRow:
    """Return a chat row of one user message and one answer, with a system message before or without."""
    row = parse_row(value, where)
    roles = [m.role for m in row.messages if m.role != "system"]
    if roles != ["user", "assistant"]:
        raise InputError(f"{where}: expected one user message and one answer, found {', '.join(roles)}.")
    return row


def question_and_answer(value: Any, where: str) -> ChatRow:
    """{"question", "answer"} as GSM8K is published, or a chat row of one exchange without a system message."""
    if isinstance(value, dict) and QUESTION in value and "messages" not in value:
        # Without an answer without content: null would be another mistake than none.
        answer = {"content": value[ANSWER]} if ANSWER in value else {}
        value = {"messages": [{"role": "user", "content": value[QUESTION]}, {"role": "assistant", **answer}]}
    elif not isinstance(value, dict) or "messages" not in value:
        raise InputError(f'{where}: expected an object with "question" and "answer", or with "messages".')
    row = one_exchange(value, where)
    if row.messages[0].role == "system":
        raise InputError(f"{where}: a system message, which the finished rows must not have; remove it.")
    return row


def read_source(builder: Builder, source: str) -> list[ChatRow]:
    """All rows of a JSONL or parquet file, or of a pinned dataset of the hub, as the builder reads them.

    Raises InputError naming file and row for what it cannot read, and for a file without rows.
    """
    assert builder.parse is not None
    rows = [builder.parse(value, where) for where, value in _values(source)]
    if not rows:
        raise InputError(f"{source}: there are no rows in this file.")
    return rows


def _values(source: str) -> Iterator[tuple[str, Any]]:
    path = local_file(source)
    if path.suffix != ".parquet":
        yield from ((f"{path}, row {number}", value) for number, value in iterate_json(path))
    elif (pairs := _parquet_pairs(path)) is not None:
        yield from ((f"{path}, row {number}", value) for number, value in enumerate(pairs, start=1))
    else:
        yield from ((f"{path}, row {number}", row.to_dict()) for number, row in iterate_rows(str(path)))


def _parquet_pairs(path: Path) -> list[dict[str, Any]] | None:
    """Return the questions and answers of a parquet file (the form of GSM8K on the hub); None for one of another form."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        if not {QUESTION, ANSWER} <= set(names) or "messages" in names:
            return None
        rows: list[dict[str, Any]] = pq.read_table(path, columns=[QUESTION, ANSWER]).to_pylist()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the file is damaged, or holds text that is not UTF-8 ({error}).") from error
    except (OSError, pa.ArrowException):
        return None
    return rows
