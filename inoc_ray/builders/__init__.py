"""Builders: how training rows that do not ship are made with a served model; a registry by name.

A builder is data and pure functions. What it asks follows from the source rows, the count and the seed alone, and what it
keeps from a request and its answer alone; who answers, when, and in which order is not its business (`builders.rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from inoc_ray.config.base import nearest
from inoc_ray.data.chat import ChatRow, Message
from inoc_ray.errors import InputError

__all__ = ["Builder", "ChatRow", "Message", "Request", "builder_names", "get_builder", "register_builder"]


@dataclass(frozen=True)
class Request:
    """What is asked for one row."""

    messages: tuple[Message, ...]
    """The conversation so far; empty where nobody has to be asked, and `accept` then gets an empty answer."""
    temperature: float = 0.0
    max_tokens: int = 1024
    """An answer that reaches it counts as cut, and its row is dropped."""
    row: ChatRow | None = None
    """What `accept` needs to know beside the answer: a row of the source, or a row that is ready but for its answer."""


@dataclass(frozen=True)
class Builder:
    """Rows of one kind: what is asked for them and which answers are kept.

    The rows that come out are those of the first accepted answers in the order of the requests, whoever answered first.
    """

    description: str
    requests: Callable[[Sequence[ChatRow], int, int], list[Request]]
    """(source rows, rows wanted, seed) → requests, always the same ones. More requests than rows wanted are spares:
    asking ends when enough answers were accepted."""
    accept: Callable[[Request, str], ChatRow | str]
    """(request, answer) → the row, or in a few words why there is none. Answers that are empty, cut or withheld are
    dropped before and never come here."""
    source: str = ""
    """What the rows of --source are, for messages and lists; empty for a builder that takes none."""
    parse: Callable[[Any, str], ChatRow] | None = None
    """(JSON object, where it stands) → source row; raises InputError naming the place. None: the builder takes no source."""
    count: int | None = None
    """Rows wanted unless --count says otherwise; None: one for each row of the source."""
    control: Builder | None = None
    """How the control rows are made, where they are made and not published."""


_REGISTRY: dict[str, Builder] = {}


def register_builder(name: str, builder: Builder) -> None:
    """Makes a builder known under the name of the setting that its rows are for. Raises InputError when it is taken."""
    if name in _REGISTRY:
        raise InputError(f"builder {name!r} is registered already; give yours another name.")
    _REGISTRY[name] = builder


def _load_built_in() -> None:
    # Importing registers; here and not at the top, because a builder's module imports this one.
    import inoc_ray.builders.educational
    import inoc_ray.builders.languages
    import inoc_ray.builders.subliminal
    import inoc_ray.miniature.teacher  # noqa: F401


def builder_names() -> list[str]:
    """All registered builders."""
    _load_built_in()
    return sorted(_REGISTRY)


def get_builder(name: str, control: bool = False) -> Builder:
    """The builder of a setting's rows, or of its control rows. Raises InputError when there is no such builder."""
    names = builder_names()
    if name not in names:
        from inoc_ray import settings

        if name in settings.names():
            raise InputError(
                f"data build: there is no builder for {name!r} (valid: {', '.join(names)}); `inoc-ray settings` says where "
                "its rows come from."
            )
        raise InputError(f"data build: there is no builder {name!r}{nearest(name, names)}.")
    builder = _REGISTRY[name]
    if not control:
        return builder
    if builder.control is None:
        raise InputError(
            f"data build: the control rows of {name} are published, not made; `inoc-ray settings` says where they are."
        )
    return builder.control
