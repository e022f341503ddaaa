"""What every part of a study file shares: immutable, no unknown keys, names that fit in paths, errors that name the nearest."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from inoc_ray.identity import is_text

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def nearest(word: str, valid: list[str] | tuple[str, ...]) -> str:
    """ " (did you mean 'x'?)" or " (valid: …)" for an error message."""
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
                    raise ValueError(f"unknown key {str(key)!r}{nearest(str(key), valid)}")
        return value

    @model_validator(mode="after")
    def _only_characters(self) -> Self:
        """No NUL, which no path may hold, and no lone surrogate, which cannot be written as UTF-8."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            texts = (*value, *value.values()) if isinstance(value, Mapping) else value
            for text in texts if isinstance(texts, tuple) else (texts,):
                if isinstance(text, str) and ("\0" in text or not is_text(text)):
                    raise ValueError(f"{name}: {text!r} holds a NUL or half a surrogate pair; remove it")
        return self


def check_name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a name: use letters, digits, '.', '_' and '-', at most 64")
    return value
