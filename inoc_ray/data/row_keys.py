"""What a row says besides roles and texts: whether a message is trained, which keys are refused, which only reported.

A key that would change what the model sees or learns (tool calls, reasoning, a system prompt beside the messages) is refused:
without it, training would use another conversation than the row holds. Other keys (ids, notes, the losing answer of a
comparison) are not read, and a note names them. A key that is null or empty means nothing, as parquet has every key in every
row; for the refused keys, nor does false.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from inoc_ray.errors import InputError, shown

_READ = frozenset({"messages", "tags"})
_READ_OF_A_TURN = frozenset({"role", "content", "weight", "train"})
_BESIDE = "write it as the first message, with the role system"
_TOOLS = "tools are not shown to the model here; write what the model should see into the messages, or remove the row"
_MEDIA = "only text is trained; remove the row"
_REFUSED = {
    "system": _BESIDE,
    "system_prompt": _BESIDE,
    "system_message": _BESIDE,
    "tools": _TOOLS,
    "functions": _TOOLS,
    "chat_template_kwargs": "every row of a trial is rendered alike; remove the key, or the row",
    "images": _MEDIA,
    "videos": _MEDIA,
    "audios": _MEDIA,
}
_CALL = "calls are not trained; write the call into content as the model's template writes it, or remove the row"
_REASONING = (
    "reasoning beside the content is not trained; write it into content as the model's template does (such as "
    "<think>…</think>), or remove the key"
)
_LOSS = "write weight: 0 or train: false on a message that carries no loss, and nothing on the others"
_REFUSED_OF_A_TURN = {
    "tool_calls": _CALL,
    "function_call": _CALL,
    "tool_call_id": _CALL,
    "reasoning_content": _REASONING,
    "reasoning": _REASONING,
    "thinking": _REASONING,
    "refusal": "write what the assistant says into content",
    "images": _MEDIA,
    "image": _MEDIA,
    "audio": _MEDIA,
    "videos": _MEDIA,
}
MOST_KEYS = 1000
"""Different keys that are counted, so that rows with keys of their own do not fill the memory."""
_LOSS_KEYS = ("loss", "mask", "masked", "trainable", "training", "train_detail", "train_on_turn")
"""Other tools' ways of saying which message carries loss; refused even where they say false."""


def check_row(row: Mapping[str, Any], where: str) -> None:
    """Raise InputError naming `where` for a key of the row that would change what is trained."""
    for key, advice in _REFUSED.items():
        if _has_value(row.get(key)):
            raise InputError(f"{where}: the key {key!r} beside the messages is not read; {advice}.")
    if (weight := row.get("weight")) is not None and weight != 1:
        raise InputError(
            f"{where}: the weight of a row ({shown(weight)}) is not supported; remove it, or the row. {_one_turn()}"
        )
    if (train := row.get("train")) is not None and train is not True:
        raise InputError(
            f"{where}: the key train beside the messages ({shown(train)}) is not supported; remove it, or the row. "
            f"{_one_turn()}"
        )


def check_turn(turn: Mapping[str, Any], at: str) -> None:
    """Raise InputError naming `at` for a key of a message that would change what is trained."""
    for key, advice in _REFUSED_OF_A_TURN.items():
        if _has_value(turn.get(key)):
            raise InputError(f"{at}: the key {key!r} is not read; {advice}.")
    for key in _LOSS_KEYS:
        if turn.get(key) is not None:
            raise InputError(f"{at}: the key {key!r} is not read; {_LOSS}.")


def is_trained(turn: Mapping[str, Any], at: str) -> bool:
    """Return False for a message without loss: `weight: 0` as OpenAI writes it, or `train: false`.

    Raises InputError for other values, for two that contradict each other, and for a message that is to be trained but is
    not the assistant's.
    """
    weight, train = turn.get("weight"), turn.get("train")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        quotes = "; write it without quotes" if weight in ("0", "1") else ""
        raise InputError(f"{at}: weight must be 0 (no loss) or 1, found {shown(weight)}{quotes}.")
    if train is not None and not isinstance(train, bool):
        raise InputError(f"{at}: train must be true or false, found {shown(train)}.")
    if weight is not None and train is not None and bool(weight) != train:
        raise InputError(f"{at}: weight: {weight} and train: {str(train).lower()} contradict each other; remove one.")
    trained = weight != 0 and train is not False
    if turn["role"] != "assistant" and (weight is not None or train is not None) and trained:
        raise InputError(
            f"{at}: only what the assistant says is trained, not the {turn['role']} message; remove the key."
        )
    return trained


def unread(row: Any, read: Collection[str] = _READ) -> dict[str, Any]:
    """Return the keys of a row that are not empty and not read, with their values; those of a message as `messages[].key`.

    `read`: the keys that are read, by default those of a training row.
    """
    return dict(_unread(row, read)) if isinstance(row, Mapping) else {}


def _unread(row: Mapping[str, Any], read: Collection[str]) -> Iterator[tuple[str, Any]]:
    yield from ((str(key), value) for key, value in row.items() if key not in read and not _is_empty(value))
    turns = row.get("messages")
    found: dict[str, list[Any]] = {}
    for number, turn in enumerate(turns if isinstance(turns, list) else []):
        for key in turn.keys() - _READ_OF_A_TURN if isinstance(turn, Mapping) else ():
            if not _is_empty(turn[key]):
                found.setdefault(f"messages[].{key}", []).append([number, turn[key]])
    yield from found.items()


class RowNotes:
    """Counts what a note should say about the rows of a source: keys that are not read, and messages without loss."""

    def __init__(self) -> None:
        """Start with no rows."""
        self.keys: Counter[str] = Counter()
        self.untrained = self.teach_nothing = 0

    def add(self, keys: Mapping[str, Any], untrained: bool, teaches: bool = True) -> None:
        """Count a row. `untrained`: a message carries no loss; `teaches`: some message carries loss."""
        self.keys.update(key for key in keys if key in self.keys or len(self.keys) < MOST_KEYS)
        self.untrained += untrained
        self.teach_nothing += not teaches

    def notes(self, source: str) -> list[str]:
        """Return a sentence for each thing to note."""
        out = []
        if self.keys:
            several = [f"{printable(name)} ({_rows(count)})" for name, count in sorted(self.keys.items())]
            more = f" and {len(several) - 20} more" if len(several) > 20 else ""
            out.append(f"{source}: ignored keys: {', '.join(several[:20])}{more}")
        if self.untrained:
            nothing = (
                f"; {_rows(self.teach_nothing)} of them without any loss, which teach nothing"
                if self.teach_nothing
                else ""
            )
            out.append(
                f"{source}: {_rows(self.untrained)} with a message without loss (weight: 0 or train: false){nothing}"
            )
        return out


def printable(name: str) -> str:
    """Return a key as a one-line message may show it."""
    return name[:60] if name.isprintable() else repr(name[:60])


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", [], {})


def _has_value(value: Any) -> bool:
    return value is not False and not _is_empty(value)


def _one_turn() -> str:
    return "A message that carries no loss has weight: 0 or train: false of its own."
