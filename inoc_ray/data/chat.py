"""Chat rows: the JSONL form `{"messages": [{"role", "content"}, …], "tags": {…}}`, read with checks, hashed by content."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast, get_args

from inoc_ray.config.identity import canonical_json
from inoc_ray.config.reading import LFS_POINTER, LFS_POINTER_ADVICE, check_regular
from inoc_ray.data import row_keys
from inoc_ray.errors import InputError, shown, unreadable

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)
MAX_ROW_BYTES = 16 << 20
"""Bytes of one line. No model has a window for more, and the memory of a reader stays bounded whatever the file is."""

_PAIRS = (
    ("prompt", "completion"), ("prompt", "response"), ("instruction", "output"), ("instruction", "response"),
    ("question", "answer"), ("input", "output"), ("prompt", "chosen"),
)  # fmt: skip
"""Keys of a question and its answer in published sets that are no chats."""
_BESIDE_INSTRUCTION = ("input", "context")
"""Keys of the text that an instruction is about, in sets in the form of Alpaca or Dolly."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str
    trained: bool = True
    """Whether the assistant's text carries loss. True for every other role, of which it says nothing."""


@dataclass(frozen=True, slots=True)
class ChatRow:
    """One conversation of the training set, and what is known about it."""

    messages: tuple[Message, ...]
    tags: tuple[tuple[str, str], ...] = ()
    """(name, value), sorted by name: which part of a mixture the row comes from, what a classifier said of it. The
    model never sees them; an inoculation may cover the rows with a certain value alone."""

    @classmethod
    def of(cls, *turns: tuple[str, str]) -> ChatRow:
        """`ChatRow.of(("user", "Hi"), ("assistant", "Hello"))`."""
        return cls(tuple(Message(cast(Role, role), content) for role, content in turns))

    def to_dict(self) -> dict[str, Any]:
        """The published form: one JSON object per row; `tags` and `train: false` only where there are any."""
        value: dict[str, Any] = {
            "messages": [
                {"role": m.role, "content": m.content} | ({} if m.trained else {"train": False}) for m in self.messages
            ]
        }
        return value | {"tags": dict(self.tags)} if self.tags else value

    @property
    def is_trained(self) -> bool:
        """Whether any of its answers carries loss; a row with `weight: 0` on each of them teaches nothing."""
        return any(m.role == "assistant" and m.trained for m in self.messages)

    def tag(self, name: str) -> str | None:
        """The value of a tag, or None."""
        return dict(self.tags).get(name)

    def with_tags(self, **tags: str) -> ChatRow:
        """The row with these tags beside those it has; a tag of the same name is replaced."""
        return ChatRow(self.messages, tuple(sorted((dict(self.tags) | tags).items())))


def parse_row(value: Any, where: str) -> ChatRow:
    """A row from parsed JSON.

    Raises InputError naming `where` and the field when the value is not an object with a non-empty list
    `messages` of {role, content}, a role is missing or unknown, a message is empty or no Unicode text, roles stand in
    an order that no chat template accepts, there is no assistant message to learn, or `tags` is not an object of texts; and
    for keys that would have to change what is trained (data/row_keys.py). Other keys are left alone: published sets carry
    ids and notes.
    """
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list) or not value["messages"]:
        raise InputError(
            f'{where}: expected an object {{"messages": [{{"role": …, "content": …}}, …]}}, found {_instead(value)}.'
            f"{_other_form(value)}"
        )
    row_keys.check_row(value, where)
    messages: list[Message] = []
    for index, turn in enumerate(value["messages"]):
        at = f"{where}, messages[{index}]"
        if not isinstance(turn, dict):
            raise InputError(f"{at}: expected an object with role and content, found {kind_of(turn)}.")
        if "role" not in turn:
            raise InputError(f"{at}: the role is missing; add one of {', '.join(ROLES)}.")
        if not isinstance(turn["role"], str) or turn["role"] not in ROLES:
            raise InputError(f"{at}: unknown role {shown(turn['role'])}; use one of {', '.join(ROLES)}.")
        row_keys.check_turn(turn, at)
        if "content" not in turn:
            raise InputError(f"{at}: the content is missing; add it.")
        if not isinstance(turn["content"], str):
            how = "; join its parts to one text" if isinstance(turn["content"], list) else "; write one"
            raise InputError(f"{at}: the content must be a text, found {kind_of(turn['content'])}{how}.")
        if not turn["content"].strip():
            raise InputError(f"{at}: the {turn['role']} message is empty; fill it or remove the row.")
        _check_unicode(turn["content"], at)
        trained = row_keys.is_trained(turn, at) or turn["role"] != "assistant"
        messages.append(Message(cast(Role, turn["role"]), turn["content"], trained))
    _check_order([m.role for m in messages], where)
    return ChatRow(tuple(messages), _parse_tags(value.get("tags"), where))


def kind_of(value: Any) -> str:
    """What a parsed JSON value is, in JSON's own words, for a message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds: dict[type, str] = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)


def _instead(value: Any) -> str:
    if not isinstance(value, dict):
        return kind_of(value)
    if "messages" in value:
        found = value["messages"]
        return "messages that are empty" if found == [] else f"messages that are {kind_of(found)}"
    keys = ", ".join(map(shown, list(value)[:10])) or "none"
    return f"an object without messages (its keys: {keys})"


def _other_form(value: Any) -> str:
    """How to write a row of another published form as messages; empty for a form that is not known."""
    if not isinstance(value, dict) or "messages" in value:
        return ""
    for asked, answered in _PAIRS:
        if asked in value and answered in value:
            if isinstance(value[asked], list) and isinstance(value[answered], list):
                return f" Join the turns of {asked!r} and {answered!r} to one list and name it messages."
            beside = next((key for key in _BESIDE_INSTRUCTION if asked == "instruction" and key in value), None)
            user = f"{asked!r}, a blank line and {beside!r} (where it is not empty)" if beside else f"{asked!r}"
            return f' Write {user} as a message with the role "user" and {answered!r} as one with the role "assistant".'
    if "conversations" in value or "conversation" in value:
        return (
            " Write each turn of the conversation as a message (from: human becomes role: user, from: gpt becomes role: "
            "assistant, value becomes content)."
        )
    return ""


def _check_unicode(text: str, at: str) -> None:
    """JSON can write half a character (`\\ud83d` without its other half), which no file and no tokenizer can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{at}: half of a Unicode character (a lone surrogate) at character {error.start}; the text was cut or "
            "decoded wrongly, write it again from its source."
        ) from error


def _parse_tags(value: Any, where: str) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise InputError(f'{where}: tags must be an object of texts, as {{"language": "es"}}, found {kind_of(value)}.')
    for name, text in value.items():
        if not isinstance(name, str):
            raise InputError(f"{where}: the name of a tag must be a text, found {shown(name)}.")
        if not isinstance(text, str):
            raise InputError(f"{where}: the tag {shown(name)} must be a text, found {shown(text)}; put it in quotes.")
        _check_unicode(name + text, f"{where}, tags")
    return tuple(sorted(value.items()))


def _check_order(roles: list[Role], where: str) -> None:
    """System first if at all, then user and assistant in turn, an assistant message last."""
    turns = roles[1:] if roles[0] == "system" else roles
    if "system" in turns:
        raise InputError(f"{where}: a system message must be the first message, and there may be only one.")
    if "assistant" not in turns:
        raise InputError(
            f"{where}: there is no assistant message, so the row has nothing to learn; add one or remove the row."
        )
    expected = ["user", "assistant"] * ((len(turns) + 1) // 2)
    # Rows that open with the assistant (text without a question) exist in published sets.
    if turns[0] == "assistant":
        expected = ["assistant", *expected]
    if list(turns) != expected[: len(turns)] or turns[-1] != "assistant":
        raise InputError(
            f"{where}: the roles are {', '.join(roles)}; user and assistant must take turns and the assistant must be last."
        )


class _NotJson(Exception):
    """What Python's reader of JSON takes and no other does alike."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _NotJson(f"the key {shown(twice)} appears twice; keep one, or only the last would count.")
    return value


def _no_constant(name: str) -> Any:
    raise _NotJson(f"{name} is not JSON; write null or leave the field out.")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)
ARROW = (
    "an Arrow file, as the library `datasets` keeps it; convert it: python -c "
    "\"import datasets; datasets.Dataset.from_file('{path}').to_json('rows.jsonl')\""
)
_ARROW_FILE = (
    'an Arrow file (Feather); make a parquet file of it: python -c "import pyarrow.feather as f, pyarrow.parquet as p; '
    "p.write_table(f.read_table('{path}'), 'rows.parquet')\""
)
AS_LINES = "python -c 'import json, sys; [print(json.dumps(row)) for row in json.load(open(sys.argv[1]))]'"
"""The command that makes JSON Lines of an array, but for the file's name."""
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
    (b"\xff\xff\xff\xff", ARROW),
    (b"\x80\x04", "a pickle, which is never loaded; write JSON Lines with the program that made it"),
    (b"\x80\x05", "a pickle, which is never loaded; write JSON Lines with the program that made it"),
    (b"SQLite format 3", "an SQLite database; write a table of it as JSON Lines"),
    (b"\xff\xfe", "UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16; save it as UTF-8"),
)
"""First bytes of files that are often taken for JSON Lines."""
_TABLE = 'a table (CSV); write each row of it as a line {"messages": [{"role": "user", "content": …}, …]}'
_NAMED = {
    ".csv": _TABLE,
    ".tsv": _TABLE,
    ".yaml": "YAML; write each row as one line of JSON",
    ".yml": "YAML; write each row as one line of JSON",
    ".txt": 'plain text; write each row as a line {"messages": [{"role": "user", "content": …}, …]}',
    ".md": 'plain text; write each row as a line {"messages": [{"role": "user", "content": …}, …]}',
}
_LINE_OF_A_TABLE = re.compile(r"[\w .\"'-]+([,;\t][\w .\"'-]+)+")


def _check_format(head: bytes, path: Path, more: bool) -> None:
    """Raises InputError for a file that its first line shows to be of another format; `more`: other lines follow."""
    for magic, found in _FORMATS:
        if head.startswith(magic):
            raise InputError(f"{path}: expected JSON Lines, but the file is {found.format(path=str(path))}.")
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        if _is_row_as_array(head, more):
            raise InputError(
                f'{path}: its first line is a JSON array, where an object is expected; write each line as {{"messages": […]}} '
                "with the list of the turns in it."
            )
        raise InputError(
            f"{path}: a JSON array, where JSON Lines are expected (one object per line, no brackets around); make them with "
            f"{AS_LINES} {shlex.quote(str(path))} > rows.jsonl"
        )


def _is_row_as_array(line: bytes, more: bool) -> bool:
    """True for a line that is a whole JSON array and one row of several: other lines follow it, or it holds turns."""
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return more or (bool(value) and all(isinstance(turn, dict) and "role" in turn for turn in value))


def _check_kind_of_text(first: str, path: Path) -> None:
    """Raises InputError for a file whose first line is no JSON and that is known to be something else."""
    line = first.strip()
    if line == "{":
        raise InputError(f"{path}: a JSON object over several lines; write each row as one line.")
    found = _NAMED.get(path.suffix.lower())
    if found is None and (line == "---" or line.startswith("- ")):
        found = _NAMED[".yaml"]
    if found is None and line.startswith("<"):
        found = "HTML or XML, as a page that a download ended at; fetch the file itself"
    if found is None and _LINE_OF_A_TABLE.fullmatch(line[:10_000]):
        found = _TABLE
    if found is not None:
        raise InputError(f"{path}: expected JSON Lines, but the file looks like {found}.")


def iterate_jsonl(path: Path, tell: Callable[[int], None] | None = None) -> Iterator[tuple[int, ChatRow]]:
    """Rows of a JSONL file with their line numbers (from 1), one at a time, in bounded memory.

    Raises InputError naming file and row as `iterate_json` does, and for whatever `parse_row` refuses.
    """
    for number, value in iterate_json(path, tell):
        yield number, parse_row(value, f"{path}, row {number}")


def _next_line(stream: BinaryIO, path: Path) -> bytes:
    try:
        return stream.readline(MAX_ROW_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error) from error


def iterate_json(path: Path, tell: Callable[[int], None] | None = None) -> Iterator[tuple[int, Any]]:
    """The JSON values of a JSONL file with their line numbers (from 1), one at a time, in bounded memory.

    `tell` is called with the bytes read so far, line by line.
    Raises InputError naming file and row for bytes that are not UTF-8, and for lines that are blank, too long, not JSON
    or an array.
    """
    check_regular(path)
    try:
        stream = path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from error
    blank = done = 0
    with stream:
        lines = iter(lambda: _next_line(stream, path), b"")
        for number, raw in enumerate(lines, start=1):
            where = f"{path}, row {number}"
            if number == 1:
                _check_format(raw, path, more=bool(stream.peek(1).strip()))
            if len(raw) > MAX_ROW_BYTES:
                raise InputError(
                    f"{where}: longer than {MAX_ROW_BYTES >> 20} MiB; one JSON object per line, and a line per row."
                )
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                if line.startswith("\ufeff"):
                    raise InputError(
                        f"{where}: a byte order mark inside the file, as from joining two files; remove it."
                    )
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{where}: not UTF-8 at byte {error.start} of the line; save the file as UTF-8."
                ) from error
            if "\0" in line:
                raise InputError(
                    f"{where}: a NUL at character {line.index(chr(0)) + 1}; the file is damaged or no text, write it again."
                )
            if not line.strip():
                blank = blank or number
                continue
            if blank:
                raise InputError(f"{path}, row {blank}: blank line between rows; remove it.")
            try:
                value = _DECODER.decode(line)
            except json.JSONDecodeError as error:
                if number == 1:
                    _check_kind_of_text(line, path)
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
            yield number, value
            if tell is not None:
                done += len(raw)
                tell(done)


def read_jsonl(path: Path) -> list[ChatRow]:
    """All rows of a JSONL file. Raises InputError as `iterate_jsonl` does, and for a file without rows."""
    rows = [row for _, row in iterate_jsonl(path)]
    if not rows:
        raise InputError(f"{path}: there are no rows in this file.")
    return rows


def write_jsonl(path: Path, rows: Iterable[ChatRow]) -> None:
    """One canonical JSON object per line, UTF-8."""
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(canonical_json(row.to_dict()) + "\n")


def rows_hash(rows: Iterable[ChatRow]) -> str:
    """64 hex digits over the rows' content in their order; the same on every machine, whatever file they came from.

    Tags count: they decide which rows an inoculation covers.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_json(row.to_dict()).encode())
        digest.update(b"\n")
    return digest.hexdigest()
