"""Recognise files and rows in other formats than JSON Lines of chats, and say how to convert them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from inoc_ray.config.reading import LFS_POINTER, LFS_POINTER_ADVICE
from inoc_ray.errors import InputError

_ARROW = (
    "an Arrow file, as the library `datasets` keeps it; convert it: python -c "
    "\"import datasets; datasets.Dataset.from_file('{path}').to_json('rows.jsonl')\""
)
_ARROW_FILE = (
    'an Arrow file (Feather); make a parquet file of it: python -c "import pyarrow.feather as f, pyarrow.parquet as p; '
    "p.write_table(f.read_table('{path}'), 'rows.parquet')\""
)
AS_LINES = "python -c 'import json, sys; [print(json.dumps(row)) for row in json.load(open(sys.argv[1]))]'"
"""The command that turns a JSON array into JSON Lines, without the file's name."""
_FORMATS = (
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first"),
    (LFS_POINTER, LFS_POINTER_ADVICE),
    (b"BZh", "compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "compressed with xz; unpack it first"),
    (
        b"PK\x03\x04",
        "a zip archive (or a workbook of a spreadsheet); unpack it first, or export the table as JSON Lines",
    ),
    (b"PAR1", "a parquet file; give it a name that ends in .parquet"),
    (b"ARROW1", _ARROW_FILE),
    (b"\xff\xff\xff\xff", _ARROW),
    (b"\x80\x04", "a pickle, which is never loaded; write JSON Lines with the program that made it"),
    (b"\x80\x05", "a pickle, which is never loaded; write JSON Lines with the program that made it"),
    (b"SQLite format 3", "an SQLite database; write a table of it as JSON Lines"),
    (b"\xff\xfe", "UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16; save it as UTF-8"),
)
"""First bytes of files that are often mistaken for JSON Lines."""
_TABLE = 'a table (CSV); write each row of it as a line {"messages": [{"role": "user", "content": …}, …]}'
_BY_SUFFIX = {
    ".csv": _TABLE,
    ".tsv": _TABLE,
    ".yaml": "YAML; write each row as one line of JSON",
    ".yml": "YAML; write each row as one line of JSON",
    ".txt": 'plain text; write each row as a line {"messages": [{"role": "user", "content": …}, …]}',
    ".md": 'plain text; write each row as a line {"messages": [{"role": "user", "content": …}, …]}',
}
_LINE_OF_A_TABLE = re.compile(r"[\w .\"'-]+([,;\t][\w .\"'-]+)+")


_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("input", "output"),
    ("prompt", "chosen"),
)
"""Keys of a question and its answer in published sets that are not chats."""
_BESIDE_INSTRUCTION = ("input", "context")
"""Keys of the text that an instruction is about, in sets in the form of Alpaca or Dolly."""


def check_first_bytes(line: bytes, path: Path, *, alone: bool) -> None:
    """Raise InputError for a file whose first line shows another format. `alone`: no other line follows it."""
    for magic, found in _FORMATS:
        if line.startswith(magic):
            raise InputError(f"{path}: expected JSON Lines, but the file is {found.format(path=str(path))}.")
    if line.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        if _is_row_as_array(line, alone=alone):
            raise InputError(
                f'{path}: its first line is a JSON array, where an object is expected; write each line as {{"messages": […]}} '
                "with the list of the turns in it."
            )
        raise InputError(
            f"{path}: a JSON array, where JSON Lines are expected (one object per line, no brackets around); make them with "
            f"{AS_LINES} {shlex.quote(str(path))} > rows.jsonl"
        )


def _is_row_as_array(line: bytes, *, alone: bool) -> bool:
    """Return whether the line is a whole JSON array and one row of several: other lines follow, or it contains turns."""
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return not alone or (bool(value) and all(isinstance(turn, dict) and "role" in turn for turn in value))


def check_first_text(line: str, path: Path) -> None:
    """Raise InputError for a file whose first line, which is not JSON, shows what it is instead."""
    line = line.strip()
    if line == "{":
        raise InputError(f"{path}: a JSON object over several lines; write each row as one line.")
    found = _BY_SUFFIX.get(path.suffix.lower())
    if found is None and (line == "---" or line.startswith("- ")):
        found = _BY_SUFFIX[".yaml"]
    if found is None and line.startswith("<"):
        found = "HTML or XML, perhaps a web page that was downloaded in place of the file; fetch the file itself"
    if found is None and _LINE_OF_A_TABLE.fullmatch(line[:10_000]):
        found = _TABLE
    if found is not None:
        raise InputError(f"{path}: expected JSON Lines, but the file looks like {found}.")


def how_to_convert(row: Any) -> str:
    """Return how to write a row of another published form as messages, or "" for an unknown form."""
    if not isinstance(row, dict) or "messages" in row:
        return ""
    for question, answer in _PAIRS:
        if question in row and answer in row:
            if isinstance(row[question], list) and isinstance(row[answer], list):
                return f" Join the turns of {question!r} and {answer!r} to one list and name it messages."
            beside = next((key for key in _BESIDE_INSTRUCTION if question == "instruction" and key in row), None)
            user = f"{question!r}, a blank line and {beside!r} (where it is not empty)" if beside else f"{question!r}"
            return f' Write {user} as a message with the role "user" and {answer!r} as one with the role "assistant".'
    if "conversations" in row or "conversation" in row:
        return (
            " Write each turn of the conversation as a message (from: human becomes role: user, from: gpt becomes role: "
            "assistant, value becomes content)."
        )
    return ""
