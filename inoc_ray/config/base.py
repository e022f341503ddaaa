"""The base class of every part of a study file: immutable, no unknown keys, errors that name the place and the nearest key."""

from __future__ import annotations

import datetime
import difflib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from inoc_ray.config.identity import is_text
from inoc_ray.errors import shown

HUB = "hf://"
"""The prefix of a place on the Hugging Face hub; see models/hub.py."""
PACKAGE = "package://"
"""The prefix of a model that a Python package carries; see models/package.py."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Names of models, arms, judges: they become parts of paths and ids."""


def nearest(word: str, valid: list[str] | tuple[str, ...]) -> str:
    """Return " (did you mean 'x'?)", " (valid: …)" or " (there is none)" for an error message."""
    if not valid:
        return " (there is none)"
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else f" (valid: {', '.join(valid)})"


class Config(BaseModel):
    """Base of every configuration class: immutable, and an unknown key is an error that names the nearest valid one."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_keys(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            valid = tuple(info.alias or name for name, info in cls.model_fields.items())
            for key in value:
                if key not in valid:
                    near = nearest(str(key)[:100], valid)
                    said = {
                        "key": str(key)[:100],
                        "what": f"unknown key {shown(str(key))}",
                        "near": near,
                        "valid": valid,
                    }
                    raise PydanticCustomError("unknown_key", "{what}{near}", said)
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_as_written(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a truth value as a number (1 for `yes`), and a text with underscores (10 for `'1_0'`)."""
        kind = cls.model_fields[info.field_name or ""].annotation
        kinds = {kind, *get_args(kind)}
        if kinds & {int, float} and (isinstance(value, bool) or (isinstance(value, str) and "_" in value)):
            raise ValueError(f"must be {'a number' if float in kinds else 'an integer'}, found {shown(value)}")
        return value

    @model_validator(mode="after")
    def _only_characters(self) -> Self:
        """Refuse a NUL, which no path may contain, and a lone surrogate, which cannot be written as UTF-8."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            texts = (*value, *value.values()) if isinstance(value, Mapping) else value
            for text in texts if isinstance(texts, tuple) else (texts,):
                if isinstance(text, str) and ("\0" in text or not is_text(text)):
                    raise ValueError(f"{name}: {shown(text)} contains a NUL or half a surrogate pair; remove it")
        return self


def as_on_the_hub(source: str) -> str:
    """Return the hub form of the model that `source` may mean: with its owner, name and commit as far as it has them."""
    repo, _, commit = source.removeprefix(HUB).partition("@")
    known = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo)
    pinned = re.fullmatch(r"[0-9a-f]{40}", commit.lower())
    return f"{HUB}{repo if known else 'OWNER/NAME'}@{commit.lower() if pinned else 'COMMIT'}"


def check_name(value: str) -> str:
    """Return the value. Raises ValueError unless it can be part of a path on every system: see `NAME`."""
    if not NAME.fullmatch(value):
        raise ValueError(f"{shown(value)} is not a name: use letters, digits, '.', '_' and '-', at most 64")
    return value


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(
    r"(sk|hf|gsk|xai|pplx|ghp|r8)_(?=[A-Za-z]*[0-9]|[a-z]*[A-Z])[A-Za-z0-9]{16,}|AIza\w{16,}|AKIA[A-Z0-9]{16}"
)
"""Keys of well-known APIs that could be names of variables: one long word, unlike `hf_token_of_the_judge`."""


def check_variable(value: str) -> str:
    """Return the value. Raises ValueError, which does not show it, unless it can be the name of an environment variable."""
    if not _VARIABLE.fullmatch(value) or _KEY.fullmatch(value):
        raise ValueError(
            "its value is not the name of an environment variable; if it is the key itself, export that (JUDGE_KEY=…) and write "
            "the name (JUDGE_KEY) here, since everybody who sees the study would see the key"
        )
    return value


_WHOLE_NUMBER = re.compile(r"[+-]?\d+")
_TYPE_LABEL = re.compile(r"[a-z]+(-[a-z]+)*\[.*\]|\[key\]|\([a-z]+\)|constrained-[a-z]+", re.DOTALL)
"""What pydantic adds to a place for the form that it tried (`function-after[…, Rule]`, `(name)`): no part of the file."""
_ITEM_TYPES = ("bool", "float", "int", "str")
"""Likewise behind the number of an entry that may have several types."""
_PLAIN = {
    "missing": "is missing",
    "none_required": "must be null, found {input}",
    "int_type": "must be an integer, found {input}",
    "int_parsing": "must be an integer, found {input}",
    "int_parsing_size": "must be an integer of fewer digits, found {input}",
    "int_from_float": "must be an integer, found {input}",
    "float_parsing": "must be a number, found {input}",
    "float_type": "must be a number, found {input}",
    "finite_number": "must be a finite number, found {input}",
    "greater_than": "must be more than {gt}, found {input}",
    "greater_than_equal": "must be at least {ge}, found {input}",
    "less_than": "must be less than {lt}, found {input}",
    "less_than_equal": "must be at most {le}, found {input}",
    "multiple_of": "must be a multiple of {multiple_of}, found {input}",
    "bool_parsing": "must be true or false, found {input}",
    "bool_type": "must be true or false, found {input}",
    "string_type": "must be a text, found {input}",
    "string_sub_type": "must be a text, found {input}",
    "string_unicode": "must be a text, found {input}",
    "string_too_long": "must have at most {max_length} characters, found {input}",
    "string_pattern_mismatch": "must match {pattern}, found {input}",
    "too_long": "must have at most {max_length} entries, found {actual_length}",
    "tuple_type": "must be a list, found {input}",
    "list_type": "must be a list, found {input}",
    "set_type": "must be a list, found {input}",
    "dict_type": "must be a mapping, found {input}",
    "mapping_type": "must be a mapping, found {input}",
    "model_type": "must be a mapping, found {input}",
    "model_attributes_type": "must be a mapping, found {input}",
}


def first_message(
    error: ValidationError,
    whole: str = "the study: ",
    places: Callable[[str], Sequence[str]] = lambda key: (),
) -> str:
    """Return one sentence about the first error, with its place in the file; `whole` where that is all of it.

    places: where in the file a key belongs, which an unknown key is told.

    Where a value may have several forms pydantic reports an error for each: the one deepest in the file is about the form that
    was meant, and several at one place together say what the value may be.
    """
    errors = error.errors(include_url=False)
    first, place = errors[0], _place(errors[0]["loc"])
    messages = [_in_words(first)]
    if first["type"] == "unknown_key" and (known := places(first["ctx"]["key"])):
        # Elsewhere the key is right as it is, so here only a word that is nearly the same is what was meant.
        nearly = difflib.get_close_matches(first["ctx"]["key"], first["ctx"]["valid"], n=1, cutoff=0.8)
        near = first["ctx"]["near"] if nearly else ""
        messages = [f"{first['ctx']['what']}{near}; its place is {' or '.join(known[:3])}"]
    if any(_is_label(part) or part in _ITEM_TYPES for part in first["loc"]):
        placed = [(_place(one["loc"]), one) for one in errors]
        within = [found for found, _ in placed if found == place or found.startswith((f"{place}.", f"{place}["))]
        place = max(within, key=lambda found: found.count(".") + found.count("["))
        messages = list(dict.fromkeys(_in_words(one) for found, one in placed if found == place))
    if len(messages) > 1 and all(", found " in message for message in messages):
        *others, last = messages
        messages = [" or ".join([*(message.partition(", found ")[0] for message in others), last])]
    return (
        f"{f'{place}: ' if place else '' if first['type'] in ('value_error', 'unknown_key') else whole}{messages[0]}."
    )


def _is_label(part: str | int) -> bool:
    return isinstance(part, str) and _TYPE_LABEL.fullmatch(part) is not None


def _place(location: Sequence[str | int]) -> str:
    """Return the place as it is written in the file, such as `evaluation.suites[0].traits`."""
    place = ""
    if len(location) > 1 and isinstance(location[-2], int) and location[-1] in _ITEM_TYPES:
        location = location[:-1]
    for part, following in itertools.zip_longest(location, location[1:]):
        if isinstance(part, int) and following == "[key]":
            place += f".{part}"
        elif isinstance(part, int):
            place += f"[{part}]"
        elif not _is_label(part):
            name = part[:60] if part.isprintable() else repr(part[:60])
            place += f".{name}" if place else name
    return place


def _in_words(found: ErrorDetails) -> str:
    """Return what is wrong with a value, without its place."""
    kind, limits = found["type"], found.get("ctx", {})
    if kind == "value_error":
        return _cut(str(limits["error"]))
    if kind in ("too_short", "string_too_short"):
        text = kind == "string_too_short"
        if limits["min_length"] == 1:
            return "must not be empty" if text else "must have at least one entry"
        return f"must have at least {limits['min_length']} {'characters' if text else 'entries'}"
    if kind == "literal_error":
        *others, last = (word.strip().strip("'") for word in re.split(r", | or ", limits["expected"]))
        among = f"one of {', '.join(others)} or {last}" if others else last
        return f"must be {among}, found {shown(found.get('input'))}"
    if kind == "unknown_key":
        return found["msg"]
    template = _PLAIN.get(kind, found["msg"].replace("Input should", "must") + ", found {input}")
    limits = {
        name: int(limit) if isinstance(limit, float) and limit.is_integer() else limit for name, limit in limits.items()
    }
    return template.format(input=_with_advice(found.get("input"), kind), **limits)


def _cut(message: str) -> str:
    """Return a message without its middle where it is long because it quotes the input: its end says what to do."""
    return message if len(message) <= 1200 else f"{message[:800]} … {message[-300:]}"


def _with_advice(value: Any, kind: str) -> str:
    """Return the value that was found, and how to write it where only quotes make the difference."""
    if kind.startswith("int") and isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value.strip()):
        return f"the text {shown(value)}; write the number without quotes"
    if kind == "string_type" and isinstance(value, bool | int | float | datetime.date):
        return f"{shown(value)}; put it in quotes"
    return shown(value)
