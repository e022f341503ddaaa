"""JSON Lines, read one value at a time in bounded memory, with a message for everything that is not plain JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from inoc_ray.config.reading import check_regular
from inoc_ray.data.other_formats import check_first_bytes, check_first_text
from inoc_ray.errors import InputError, shown, unreadable

MAX_ROW_BYTES = 16 << 20
"""Bytes of one line. No model has a window for more, and the memory of a reader stays bounded whatever the file is."""


def iterate_json(path: Path, on_bytes: Callable[[int], None] | None = None) -> Iterator[tuple[int, Any]]:
    """Yield the values of a JSON Lines file with their line numbers (from 1).

    `on_bytes` is called with the bytes read so far, after each line. Raises InputError naming file and row for bytes that are
    not UTF-8, and for lines that are blank, too long, not JSON, or an array.
    """
    check_regular(path)
    try:
        stream = path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from error
    blank = done = 0
    with stream:
        for number, raw in enumerate(iter(lambda: _next_line(stream, path), b""), start=1):
            where = f"{path}, row {number}"
            if number == 1:
                check_first_bytes(raw, path, alone=not stream.peek(1).strip())
            line = _decode(raw, where, first=number == 1)
            if not line.strip():
                blank = blank or number
                continue
            if blank:
                raise InputError(f"{path}, row {blank}: blank line between rows; remove it.")
            try:
                value = _parse(line, where)
            except InputError as error:
                if number == 1 and isinstance(error.__cause__, json.JSONDecodeError):
                    check_first_text(line, path)
                raise
            yield number, value
            if on_bytes is not None:
                done += len(raw)
                on_bytes(done)


def _next_line(stream: BinaryIO, path: Path) -> bytes:
    try:
        return stream.readline(MAX_ROW_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error) from error


def _decode(raw: bytes, where: str, *, first: bool) -> str:
    """Return the text of a line; only the `first` may begin with a byte order mark. Raises InputError naming `where`."""
    if len(raw) > MAX_ROW_BYTES:
        raise InputError(
            f"{where}: longer than {MAX_ROW_BYTES >> 20} MiB; one JSON object per line, and a line per row."
        )
    try:
        line = raw.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 at byte {error.start} of the line; save the file as UTF-8.") from error
    if line.startswith("\ufeff"):
        raise InputError(f"{where}: a byte order mark inside the file, as from joining two files; remove it.")
    if "\0" in line:
        raise InputError(
            f"{where}: a NUL at character {line.index(chr(0)) + 1}; the file is damaged or not text, write it again."
        )
    return line


class _NotJson(Exception):
    """Something that Python's JSON reader accepts and others do not read alike."""


def _parse(line: str, where: str) -> Any:
    """Return the value of a line. Raises InputError naming `where`."""
    try:
        value = _DECODER.decode(line)
    except json.JSONDecodeError as error:
        problem = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        raise InputError(f"{where}: not JSON ({problem}); one whole JSON object per line.") from error
    except _NotJson as error:
        raise InputError(f"{where}: {error}") from error
    except RecursionError as error:
        raise InputError(f"{where}: JSON nested too deeply; one flat chat object per line.") from error
    except ValueError as error:
        raise InputError(f"{where}: a number of more than 4300 digits; write it as a text.") from error
    if isinstance(value, list):
        raise InputError(f"{where}: a JSON array; write one object per line, without brackets around.")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _NotJson(f"the key {shown(twice)} appears twice; keep one, or only the last would count.")
    return value


def _no_constant(name: str) -> Any:
    raise _NotJson(f"{name} is not JSON; write null or leave the field out.")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_no_constant)


def kind_of(value: Any) -> str:
    """Return what a parsed JSON value is, in JSON's own words, for a message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds: dict[type, str] = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)
