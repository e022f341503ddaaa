"""The skeleton of a rendered conversation: the template's own text, and where each message's content stands in it.

A template is rendered once with a marker in place of every content. What lies between the markers is the template's own
text, the same for all conversations with these roles. A conversation is then rendered as it is and compared with that
skeleton, which finds a message that was dropped, repeated or rewritten, whatever the template does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from inoc_ray.errors import InputError
from inoc_ray.models.think import ThinkTags


class Message(Protocol):
    """One message of a conversation, such as `inoc_ray.data.chat.Message`."""

    @property
    def role(self) -> str:
        """Return who speaks: `system`, `user` or `assistant`."""
        ...

    @property
    def content(self) -> str:
        """Return the text."""
        ...


class MessageKind(NamedTuple):
    """The properties of a message that a template may look at, apart from its text."""

    role: str
    reasons: bool
    """Whether it is an answer that opens with a think block which the template knows."""


class Slot(NamedTuple):
    """A place for (a part of) a message's content."""

    message: int
    part: str
    """`r` for the reasoning, `c` for the rest."""


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A rendered conversation without its contents: `pieces[i]` stands before `slots[i]`, the last piece after them all."""

    pieces: tuple[str, ...]
    slots: tuple[Slot, ...]


_MARKER = re.compile("\ue000(\\d+)([rc])\ue001")
"""Markers are written in characters for private use, which no template contains or changes."""


def marker(slot: Slot) -> str:
    """Return the text that stands in place of a content."""
    return f"\ue000{slot.message}{slot.part}\ue001"


def kinds_of(messages: Sequence[Message], think: ThinkTags) -> tuple[MessageKind, ...]:
    """Return the kind of each message."""
    return tuple(MessageKind(m.role, m.role == "assistant" and think.begin(m.content)) for m in messages)


def marked_turns(kinds: Sequence[MessageKind], think: ThinkTags) -> list[dict[str, str]]:
    """Return messages of these kinds with markers for contents."""
    turns = []
    for index, kind in enumerate(kinds):
        content = marker(Slot(index, "c"))
        if kind.reasons:
            content = f"{think.opening}{marker(Slot(index, 'r'))}{think.closing}{content}"
        turns.append({"role": kind.role, "content": content})
    return turns


def read_skeleton(text: str, kinds: Sequence[MessageKind], advice: Callable[[], str]) -> Skeleton:
    """Return the skeleton of rendered markers. `advice` gives the end of the message about a dropped content.

    Raises InputError when the template drops, repeats, reorders or changes a content.
    """
    slots = tuple(Slot(int(m[1]), m[2]) for m in _MARKER.finditer(text))
    for index, kind in enumerate(kinds):
        slot = Slot(index, "c")
        count = slots.count(slot)
        if not count and marker(slot) in text.lower():
            raise InputError(
                f"the chat template changes the case of messages[{index}] (role {kind.role}), so the model would see "
                "something else than the row says; give the model a template that shows the message as it is."
            )
        if not count:
            raise InputError(
                f"the chat template drops messages[{index}] (role {kind.role}) of a conversation with the roles "
                f"{', '.join(k.role for k in kinds)}, so the model would never see it{advice()}"
            )
        if count > 1 and kind.role == "assistant":
            raise InputError(f"the chat template shows messages[{index}] (role assistant) {count} times.")
    answers = [slot.message for slot in slots if kinds[slot.message].role == "assistant"]
    if answers != sorted(answers):
        raise InputError("the chat template shows the assistant's messages in another order than the row's.")
    # A text that is split at its markers alternates pieces, numbers and letters.
    return Skeleton(tuple(_MARKER.split(text)[::3]), slots)


def find_contents(
    text: str, skeleton: Skeleton, messages: Sequence[Message], *, kinds: Sequence[MessageKind], think: ThinkTags
) -> list[tuple[int, int]]:
    """Return where each slot begins and ends in the rendered text, in characters.

    Raises InputError for a message that the template rewrites.
    """
    places: list[tuple[int, int]] = []
    at = len(skeleton.pieces[0])
    if not text.startswith(skeleton.pieces[0]):
        raise _rewritten(messages, 0)
    for slot, after in zip(skeleton.slots, skeleton.pieces[1:], strict=True):
        content = messages[slot.message].content
        if kinds[slot.message].reasons:
            content = think.split(content)[slot.part == "c"]
        last = len(places) == len(skeleton.slots) - 1
        whole = False
        for form in _trimmed_forms(content):
            end = at + len(form)
            found = text.startswith(form, at) and text.startswith(after, end)
            whole |= bool(form) and text.startswith(form, at)
            if found and (not last or end + len(after) == len(text)):
                break
        else:
            # Where this content is whole, it is the next one that changed what follows.
            changed = skeleton.slots[len(places) + 1] if whole and not last else slot
            raise _rewritten(messages, changed.message)
        places.append((at, end))
        at = end + len(after)
    return places


def _rewritten(messages: Sequence[Message], index: int) -> InputError:
    if not messages:
        return InputError("the chat template renders the same conversation in two ways.")
    message = messages[index]
    if not message.content.strip():
        return InputError(
            f"the chat template does not show the empty message messages[{index}] (role {message.role}) as one; leave it "
            "out (evaluation.contexts: [none] asks without a system message)."
        )
    return InputError(
        f"the chat template rewrites messages[{index}] (role {message.role}) or the text around it, depending on its "
        f"content ({excerpt(message.content)}), so the model would see something else than the row says; change the content, "
        "or give the model a template that shows it as it is."
    )


def _trimmed_forms(content: str) -> tuple[str, ...]:
    """Return the forms in which templates show a content: as it is, or without white space at its ends."""
    if content == (bare := content.strip()):
        return (content,)
    return tuple(
        dict.fromkeys((content, content.rstrip("\n"), content.rstrip(), content.strip("\n"), content.lstrip(), bare))
    )


def excerpt(text: str) -> str:
    """Return the beginning of a text for a message, quoted, at most 60 characters."""
    return repr(text if len(text) <= 60 else f"{text[:57]}…")
