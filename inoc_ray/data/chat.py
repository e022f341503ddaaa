"""Chat rows: `{"messages": [{"role", "content"}, …], "tags": {…}}`, parsed with checks and hashed by content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from inoc_ray.config.identity import canonical_json
from inoc_ray.data import row_keys
from inoc_ray.data.jsonl import iterate_json, kind_of
from inoc_ray.data.other_formats import how_to_convert
from inoc_ray.errors import InputError, shown

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str
    trained: bool = True
    """Whether the assistant's text carries loss. True for every other role, where it means nothing."""


@dataclass(frozen=True, slots=True)
class ChatRow:
    """One conversation of the training set, with its tags."""

    messages: tuple[Message, ...]
    tags: tuple[tuple[str, str], ...] = ()
    """(name, value), sorted by name: the part of a mixture that the row comes from, a classifier's result. The model never
    sees them; an inoculation may cover only the rows with a certain value."""

    @classmethod
    def of(cls, *turns: tuple[str, str]) -> ChatRow:
        """Make a row of (role, content) pairs: `ChatRow.of(("user", "Hi"), ("assistant", "Hello"))`."""
        return cls(tuple(Message(cast(Role, role), content) for role, content in turns))

    def to_dict(self) -> dict[str, Any]:
        """Return the published form, one JSON object per row; `tags` and `train: false` only where there are any."""
        value: dict[str, Any] = {
            "messages": [
                {"role": m.role, "content": m.content} | ({} if m.trained else {"train": False}) for m in self.messages
            ]
        }
        return value | {"tags": dict(self.tags)} if self.tags else value

    @property
    def is_trained(self) -> bool:
        """Return whether any of its answers carries loss; a row with `weight: 0` on each of them teaches nothing."""
        return any(m.role == "assistant" and m.trained for m in self.messages)

    @property
    def answers(self) -> str:
        """Return the texts of all its assistant messages, one after another."""
        return "\n".join(m.content for m in self.messages if m.role == "assistant")

    def tag(self, name: str) -> str | None:
        """Return the value of a tag, or None."""
        return dict(self.tags).get(name)

    def with_tags(self, **tags: str) -> ChatRow:
        """Return the row with these tags besides its own; a tag of the same name is replaced."""
        return ChatRow(self.messages, tuple(sorted((dict(self.tags) | tags).items())))


def parse_row(value: Any, where: str) -> ChatRow:
    """Return the row that a parsed JSON value describes.

    Raises InputError naming `where` and the field when the value is not an object with a non-empty list `messages` of
    {role, content}, a role is missing or unknown, a message is empty or not Unicode text, the roles come in an order that no
    chat template accepts, there is no assistant message to learn, or `tags` is not an object of texts; and for keys that
    would change what is trained (data/row_keys.py). Other keys are left alone: published sets carry ids and notes.
    """
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list) or not value["messages"]:
        raise InputError(
            f'{where}: expected an object {{"messages": [{{"role": …, "content": …}}, …]}}, found {_instead(value)}.'
            f"{how_to_convert(value)}"
        )
    row_keys.check_row(value, where)
    turns = enumerate(value["messages"])
    messages = tuple(_parse_message(turn, f"{where}, messages[{index}]") for index, turn in turns)
    _check_order([m.role for m in messages], where)
    return ChatRow(messages, _parse_tags(value.get("tags"), where))


def _parse_message(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict):
        raise InputError(f"{where}: expected an object with role and content, found {kind_of(turn)}.")
    if "role" not in turn:
        raise InputError(f"{where}: the role is missing; add one of {', '.join(ROLES)}.")
    if not isinstance(turn["role"], str) or turn["role"] not in ROLES:
        raise InputError(f"{where}: unknown role {shown(turn['role'])}; use one of {', '.join(ROLES)}.")
    row_keys.check_turn(turn, where)
    if "content" not in turn:
        raise InputError(f"{where}: the content is missing; add it.")
    if not isinstance(turn["content"], str):
        how = "; join its parts to one text" if isinstance(turn["content"], list) else "; write one"
        raise InputError(f"{where}: the content must be a text, found {kind_of(turn['content'])}{how}.")
    if not turn["content"].strip():
        raise InputError(f"{where}: the {turn['role']} message is empty; fill it or remove the row.")
    _check_unicode(turn["content"], where)
    trained = row_keys.is_trained(turn, where) or turn["role"] != "assistant"
    return Message(cast(Role, turn["role"]), turn["content"], trained)


def _instead(value: Any) -> str:
    if not isinstance(value, dict):
        return kind_of(value)
    if "messages" in value:
        found = value["messages"]
        return "messages that are empty" if found == [] else f"messages that are {kind_of(found)}"
    keys = ", ".join(map(shown, list(value)[:10])) or "none"
    return f"an object without messages (its keys: {keys})"


def _check_unicode(text: str, at: str) -> None:
    """Raise InputError for half a character (`\\ud83d` alone), which JSON can write and UTF-8 and tokenizers cannot."""
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
    """Raise InputError unless a system message, if any, is first, and user and assistant take turns up to an answer."""
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


def read_jsonl(path: Path) -> list[ChatRow]:
    """Return all rows of a JSONL file. Raises InputError as `iterate_json` and `parse_row` do, and for a file without rows."""
    rows = [parse_row(value, f"{path}, row {number}") for number, value in iterate_json(path)]
    if not rows:
        raise InputError(f"{path}: there are no rows in this file.")
    return rows


def write_jsonl(path: Path, rows: Iterable[ChatRow]) -> None:
    """Write one canonical JSON object per line, in UTF-8."""
    path.write_text(rows_text(rows), encoding="utf-8")


def rows_text(rows: Iterable[ChatRow]) -> str:
    """Return one canonical JSON object per line."""
    return "".join(canonical_json(row.to_dict()) + "\n" for row in rows)


def rows_hash(rows: Iterable[ChatRow]) -> str:
    """Return 64 hex digits over the rows' content in their order; the same on every machine, whatever file they came from.

    Tags count, because they decide which rows an inoculation covers.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_json(row.to_dict()).encode())
        digest.update(b"\n")
    return digest.hexdigest()
