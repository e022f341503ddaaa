"""A model's chat template: what a conversation looks like to the model, and where in it the assistant speaks.

Nothing here needs a tokenizer. To find out where each message stands, a template is rendered once with a marker in the place
of every content; what lies between the markers is the template's own text, the same for all conversations with these roles.
A conversation is then rendered as it is and held against it: a message that is dropped, repeated or rewritten is found
whatever the template does. The rules that follow from it:

- A row is the prompt as a test would put it, then the answer. What carries loss is what the model would write at test time:
  all that follows the template's generation prompt, through the end-of-turn marker.
- An earlier answer that the template shows in another way than as the last one (without its think block) is context only: no
  test ever has the model write it so.
- Where the generation prompt brings a think block of its own (`enable_thinking: false`, or a block that is left open for the
  model), so does the row; a row without reasoning gets an empty block.
- What is judged is what follows the block: see `answer_of`.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from inoc_ray.errors import InputError


class Message(Protocol):
    """One message of a conversation, as `inoc_ray.data.chat.Message` is."""

    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str: ...


TEMPLATE_DATE = "26 Jul 2024"
"""The date for templates that print one: Llama 3.1's own fall-back. Today's date would make a trial depend on the day."""
_NOW = datetime.datetime(2024, 7, 26, 12)

THINK_TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
)
"""What opens and closes a block of reasoning in the templates of published models."""

PLACEMENTS = ("system", "user_prefix", "user_suffix")
_MARK = re.compile("\ue000(\\d+)([rc])\ue001")
"""A content's marker: characters for private use, which no template has or changes. r: reasoning, c: the rest."""


class Kind(NamedTuple):
    """What a template can tell of a message without reading it."""

    role: str
    reasons: bool
    """True for an answer that opens with a think block, of a template that knows them."""


class _Slot(NamedTuple):
    message: int
    part: str


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A rendered conversation without its contents: `pieces[i]` stands before `slots[i]`, the last one after them all."""

    pieces: tuple[str, ...]
    slots: tuple[_Slot, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """Where an answer stands in a row's text, in characters: from what the model would write first to its end of turn."""

    begin: int
    content_end: int
    end: int


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """A row as the model sees it."""

    text: str
    spans: tuple[Span | None, ...]
    """One for each assistant message; None for one that is context only."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """An assistant message in a skeleton: `slot` is its first one, `content` that of its words."""

    message: int
    slot: int
    content: int
    begin: int
    """Characters of the piece before `slot` that belong to the prompt."""
    end: str
    """What the template puts after the words when they are the last."""
    prompt: str | None = None
    """What stands in place of that piece, where a prompt brings a think block that the template leaves out of a row."""


class ChatTemplate:
    """A template with what it is rendered with. Raises InputError when it cannot be read.

    `special`: the named special tokens that a template may print (bos_token, eos_token, …). `tokens`: every special token of
    the tokenizer, by which the end of a turn is told. `name` is for messages.
    """

    def __init__(
        self,
        source: str,
        special: Mapping[str, str],
        *,
        tokens: Sequence[str] = (),
        name: str = "the model",
        enable_thinking: bool | None = None,
    ) -> None:
        self.source, self.name, self.enable_thinking = source, name, enable_thinking
        self._variables: dict[str, Any] = {
            **special,
            "tools": None,
            "documents": None,
            "date_string": TEMPLATE_DATE,
            "strftime_now": _NOW.strftime,
        }
        if enable_thinking is not None:
            self._variables["enable_thinking"] = enable_thinking
        self._compiled = _compiled(source, name)
        self._tokens = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))) if tokens else None
        self.think = next((tags for tags in THINK_TAGS if tags[1] in source), None)
        self._skeletons: dict[tuple[tuple[Kind, ...], bool], Skeleton | InputError] = {}
        self._layouts: dict[tuple[Kind, ...], tuple[Skeleton, tuple[_Turn | None, ...]] | InputError] = {}

    # -- rendering ------------------------------------------------------------------------------------------------

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """The conversation as the model sees it, special tokens as text; with the assistant's opening when asked for one.

        Raises InputError for whatever goes wrong inside the template; many refuse certain roles.
        """
        return self._render([{"role": m.role, "content": m.content} for m in messages], add_generation_prompt)

    def _render(self, turns: list[dict[str, str]], add_generation_prompt: bool) -> str:
        try:
            return str(
                self._compiled.render(messages=turns, add_generation_prompt=add_generation_prompt, **self._variables)
            )
        except Exception as error:  # A template is a program: it raises what Python raises.
            roles = ", ".join(t["role"] for t in turns) or "none"
            raise InputError(
                f"the chat template refuses a conversation with the roles {roles}: {_reason(error)}{self._advice(turns)}"
            ) from error

    def prompt(self, messages: Sequence[Message]) -> str:
        """A question as the model is asked it: rendered with the generation prompt, every message found in it.

        Raises InputError when the template refuses the roles, or drops, repeats or rewrites a message.
        """
        kinds = self._kinds(messages)
        skeleton = self._skeleton(kinds, True)
        text = self.render(messages, True)
        self._places(skeleton, messages, kinds, text)
        return text

    def check_row(self, messages: Sequence[Message]) -> None:
        """Raises InputError where a row of these roles is not shown as it is; its texts are not looked at."""
        self._layout(self._kinds(messages))

    def check_question(self, messages: Sequence[Message]) -> None:
        """Raises InputError where a question of these roles is not shown as it is; its texts are not looked at."""
        self._skeleton(self._kinds(messages), True)

    def prompt_for_choices(self, messages: Sequence[Message]) -> str:
        """A question as one of given answers is to follow it: a think block that an answer begins with is there and empty."""
        prompt = self.prompt(messages)
        if self.think is None:
            return prompt
        if self._leaves_open(prompt):
            return f"{prompt}\n{self.think[1]}\n\n"
        skeleton, turns = self._layout((*self._kinds(messages), Kind("assistant", False)))
        turn = turns[-1]
        assert turn is not None, "the last turn is never context only"
        lead = "" if turn.prompt is not None else skeleton.pieces[turn.slot][turn.begin :]
        return prompt + lead if self._has_block(lead) else prompt

    def render_row(self, messages: Sequence[Message]) -> RenderedRow:
        """A row as the model is trained on it, and where in it the assistant speaks.

        Raises InputError as `prompt` does, and when an answer does not begin where a prompt would end.
        """
        kinds = self._kinds(messages)
        skeleton, turns = self._layout(kinds)
        text = self.render(messages, False)
        places = self._places(skeleton, messages, kinds, text)
        spans: list[Span | None] = []
        for turn in turns:
            if turn is None:
                spans.append(None)
                continue
            start = places[turn.slot - 1][1] if turn.slot else 0
            if turn.prompt is not None:
                # Only the last turn: what stands before it keeps its place.
                answer = self._answer(messages[turn.message], kinds[turn.message], turn.prompt)
                after = text[places[turn.content][1] :]
                begin = start + len(turn.prompt)
                text = text[:start] + turn.prompt + answer + after
                content_end = begin + len(answer)
            else:
                begin, content_end = start + turn.begin, places[turn.content][1]
            spans.append(Span(begin, content_end, content_end + len(turn.end)))
        return RenderedRow(text, tuple(spans))

    def _answer(self, message: Message, kind: Kind, prompt: str) -> str:
        """What the model would write after a prompt that brings a think block, without its end of turn."""
        reasoning, content = self._split(message.content) if kind.reasons else ("", message.content)
        if not self._leaves_open(prompt):
            return content.strip()
        assert self.think is not None
        block = f"{reasoning.strip()}\n" if reasoning.strip() else "\n"
        return f"{block}{self.think[1]}\n\n{content.strip()}"

    # -- where messages stand -------------------------------------------------------------------------------------

    def _kinds(self, messages: Sequence[Message]) -> tuple[Kind, ...]:
        def reasons(m: Message) -> bool:
            if self.think is None or m.role != "assistant":
                return False
            return m.content.lstrip().startswith(self.think[0]) and self.think[1] in m.content

        return tuple(Kind(m.role, reasons(m)) for m in messages)

    def _split(self, content: str) -> tuple[str, str]:
        """An answer's reasoning and the rest of it."""
        assert self.think is not None
        reasoning, _, rest = content.lstrip().removeprefix(self.think[0]).partition(self.think[1])
        return reasoning, rest

    def _skeleton(self, kinds: tuple[Kind, ...], add_generation_prompt: bool) -> Skeleton:
        key = (kinds, add_generation_prompt)
        if key not in self._skeletons:
            try:
                self._skeletons[key] = self._make_skeleton(kinds, add_generation_prompt)
            except InputError as error:
                self._skeletons[key] = error
        found = self._skeletons[key]
        if isinstance(found, InputError):
            raise InputError(str(found))
        return found

    def _make_skeleton(self, kinds: tuple[Kind, ...], add_generation_prompt: bool) -> Skeleton:
        turns = []
        for index, kind in enumerate(kinds):
            content = f"\ue000{index}c\ue001"
            if kind.reasons and self.think is not None:
                content = f"{self.think[0]}\ue000{index}r\ue001{self.think[1]}{content}"
            turns.append({"role": kind.role, "content": content})
        text = self._render(turns, add_generation_prompt)
        slots = tuple(_Slot(int(m[1]), m[2]) for m in _MARK.finditer(text))
        for index, kind in enumerate(kinds):
            count = slots.count(_Slot(index, "c"))
            if not count and f"\ue000{index}c\ue001" in text.lower():
                raise InputError(
                    f"the chat template rewrites messages[{index}] (role {kind.role}) in other letters (upper or lower case), so "
                    "the model would see something else than the row says; give the model a template that shows it as it is."
                )
            if not count:
                raise InputError(
                    f"the chat template drops messages[{index}] (role {kind.role}) of a conversation with the roles "
                    f"{', '.join(k.role for k in kinds)}, so the model would never see it{self._advice(turns)}"
                )
            if count > 1 and kind.role == "assistant":
                raise InputError(f"the chat template shows messages[{index}] (role assistant) {count} times.")
        spoken = [slot.message for slot in slots if kinds[slot.message].role == "assistant"]
        if spoken != sorted(spoken):
            raise InputError("the chat template shows the assistant's messages in another order than the row's.")
        # A text that is split at its markers alternates pieces, numbers and letters.
        return Skeleton(tuple(_MARK.split(text)[::3]), slots)

    def _places(
        self, skeleton: Skeleton, messages: Sequence[Message], kinds: tuple[Kind, ...], text: str
    ) -> list[tuple[int, int]]:
        """Where each slot of the skeleton stands in the rendered text. Raises InputError for a message that is rewritten."""
        places: list[tuple[int, int]] = []
        at = len(skeleton.pieces[0])
        if not text.startswith(skeleton.pieces[0]):
            raise self._rewritten(skeleton, messages, 0)
        for slot, after in zip(skeleton.slots, skeleton.pieces[1:], strict=True):
            content = messages[slot.message].content
            if kinds[slot.message].reasons:
                content = self._split(content)[slot.part == "c"]
            last = len(places) == len(skeleton.slots) - 1
            whole = False
            for shown in _trimmed(content):
                end = at + len(shown)
                found = text.startswith(shown, at) and text.startswith(after, end)
                whole |= bool(shown) and text.startswith(shown, at)
                if found and (not last or end + len(after) == len(text)):
                    break
            else:
                # What stands behind a text that is shown whole, the next one has changed.
                guilty = skeleton.slots[len(places) + 1] if whole and not last else slot
                raise self._rewritten(skeleton, messages, guilty.message)
            places.append((at, end))
            at = end + len(after)
        return places

    def _rewritten(self, skeleton: Skeleton, messages: Sequence[Message], index: int) -> InputError:
        message = messages[index] if messages else None
        if message is None:
            return InputError("the chat template renders the same conversation in two ways.")
        if not message.content.strip():
            return InputError(
                f"the chat template does not show the empty message messages[{index}] (role {message.role}) as one; leave it "
                "out (evaluation.contexts: [none] asks without a system message)."
            )
        return InputError(
            f"the chat template rewrites messages[{index}] (role {message.role}) or what stands around it, depending on its "
            f"text ({_excerpt(message.content)}), so the model would see something else than the row says; change the text, "
            "or give the model a template that shows it as it is."
        )

    # -- where the assistant speaks -------------------------------------------------------------------------------

    def _layout(self, kinds: tuple[Kind, ...]) -> tuple[Skeleton, tuple[_Turn | None, ...]]:
        if kinds not in self._layouts:
            try:
                full = self._skeleton(kinds, False)
                turns = tuple(self._turn(full, kinds, i) for i, kind in enumerate(kinds) if kind.role == "assistant")
                self._layouts[kinds] = full, turns
            except InputError as error:
                self._layouts[kinds] = error
        found = self._layouts[kinds]
        if isinstance(found, InputError):
            raise InputError(str(found))
        return found

    def _turn(self, full: Skeleton, kinds: tuple[Kind, ...], index: int) -> _Turn | None:
        """Where the answer `messages[index]` begins and ends; None when it is context only."""
        last = index == len(kinds) - 1
        content = full.slots.index(_Slot(index, "c"))
        as_last = full if last else self._or_none(kinds[: index + 1], False)
        if as_last is None or as_last.slots != full.slots[: content + 1]:
            return None
        # What a template puts behind the end of turn where the conversation ends (an end of text) is not learnt.
        end = _common_start(as_last.pieces[-1], full.pieces[content + 1])
        learnt = self.learnt(as_last.pieces[-1]) or len(as_last.pieces[-1])
        if as_last.pieces[:-1] != full.pieces[: content + 1] or len(end) < learnt:
            return None
        slot = content
        if kinds[index].reasons:
            if content and full.slots[content - 1] == _Slot(index, "r"):
                slot = content - 1
            elif not last:
                return None
        before = full.pieces[slot]
        prompt = self._prompt_before(full, kinds, index, slot)
        shown = slot < content or not kinds[index].reasons
        if prompt is not None and before.startswith(prompt) and shown:
            more = before[len(prompt) :]
            if not self._stem(more).strip():
                return _Turn(index, slot, content, len(prompt), end)
            if last:
                raise InputError(
                    f"the chat template ends a prompt without {_excerpt(more)}, which it has before an answer in a row, so the "
                    "model would learn to write it and it would be judged as part of the answer; give the model a template whose "
                    "generation prompt (add_generation_prompt) goes up to the answer."
                )
        if not last:
            return None
        if prompt is None:
            raise InputError(
                "the chat template shows the messages before an answer in another way when it asks for the answer than when "
                "it has it, so the model would be tested in a context that it was never trained in; give the model a template "
                "in which both are the same."
            )
        if self._has_block(prompt[len(self._stem(prompt)) :]) and self._stem(prompt) == self._stem(before):
            if kinds[index].reasons and not self._leaves_open(prompt):
                raise InputError(
                    f"messages[{index}] holds reasoning ({self._tag(0)} …), but the prompt brings a closed think block, so the "
                    "model would never be asked to write it; set the model's enable_thinking: true, or take the block out of "
                    "the row."
                )
            return _Turn(index, slot, content, 0, end, prompt)
        if not shown:
            raise InputError(
                f"the chat template drops the reasoning ({self._tag(0)} …) of messages[{index}], so it would not be learnt; "
                "take the block out of the row, or give the model a template that keeps it."
            )
        raise InputError(
            f"the chat template ends a prompt with {_excerpt(prompt[-50:])}, but has {_excerpt(before[-50:])} before an answer "
            "in a row, so the model would be tested where it was never trained; give the model a template in which both are "
            "the same."
        )

    def _prompt_before(self, full: Skeleton, kinds: tuple[Kind, ...], index: int, slot: int) -> str | None:
        """What a prompt at this place ends with, from the last content on (or from the beginning).

        None when a prompt shows what stands before it in another way than the row does.
        """
        asked = self._or_none(kinds[:index], True) if index else None
        if asked is not None:
            same = asked.slots == full.slots[:slot] and asked.pieces[:-1] == full.pieces[:slot]
            return asked.pieces[-1] if same else None
        # Nothing can be asked here (no message before, or roles that are no question): the opening of any answer.
        opening, before = self._opening(), full.pieces[slot]
        for shown in (opening, self._stem(opening)):
            at = before.rfind(shown)
            if at >= 0:
                return before[:at] + opening if shown else before
        return None

    def _opening(self) -> str:
        """The generation prompt alone; empty where the template has none, or it cannot be told apart."""
        user = (Kind("user", False),)
        asked, said = self._or_none(user, True), self._or_none(user, False)
        if asked is None or said is None or not asked.pieces[-1].startswith(said.pieces[-1]):
            return ""
        return asked.pieces[-1][len(said.pieces[-1]) :]

    def _or_none(self, kinds: tuple[Kind, ...], add_generation_prompt: bool) -> Skeleton | None:
        try:
            return self._skeleton(kinds, add_generation_prompt)
        except InputError:
            return None

    def ignores_thinking(self) -> bool:
        """True if prompts and rows are the same with `enable_thinking` true and false."""
        think = self.think or ("", "")
        said = f"{think[0]}\ue0001r\ue001{think[1]}\ue0001c\ue001"
        turns = [{"role": "user", "content": "\ue0000c\ue001"}, {"role": "assistant", "content": said}]

        def shown(turns: list[dict[str, str]], asked: bool, thinking: bool) -> str | None:
            variables = {**self._variables, "enable_thinking": thinking}
            try:
                return str(self._compiled.render(messages=turns, add_generation_prompt=asked, **variables))
            except Exception:  # noqa: BLE001 - what a template refuses is said where it is asked for.
                return None

        both = ((turns[:1], True), (turns, False))
        return all(shown(*one, True) == shown(*one, False) for one in both)

    # -- think blocks ---------------------------------------------------------------------------------------------

    def _tag(self, which: Literal[0, 1]) -> str:
        return self.think[which] if self.think else ""

    def _has_block(self, text: str) -> bool:
        return self.think is not None and any(tag in text for tag in self.think)

    def answers_at_once(self, prompt: str) -> bool:
        """True if the prompt ends with a closed think block, so that no reasoning is asked for."""
        return self.think is not None and prompt.rstrip().endswith(self.think[1])

    def _stem(self, text: str) -> str:
        """A prompt's end without the think block that it brings, empty or left open."""
        if self.think is None:
            return text
        opening, closing = map(re.escape, self.think)
        return re.sub(rf"{opening}\s*({closing}\s*)?$", "", text)

    def _leaves_open(self, prompt: str) -> bool:
        return self.think is not None and prompt.rfind(self.think[0]) > prompt.rfind(self.think[1])

    # -- what works -----------------------------------------------------------------------------------------------

    @functools.cached_property
    def end_of_turn(self) -> str:
        """What the template writes when the assistant has finished: one special token, or text that is none; "" for nothing."""
        asked = (Kind("user", False), Kind("assistant", False))
        found = self._or_none(asked, False)
        return "" if found is None else found.pieces[-1][: self.marker(found.pieces[-1])]

    def learnt(self, end: str) -> int:
        """How much of what follows an answer is learnt: through the first special token, or all of it where it has none.

        What templates put behind that token (a line break) is never generated. 0 where nothing marks the end.
        """
        token = self._tokens.search(end) if self._tokens else None
        return token.end() if token else len(end) if end.strip() else 0

    def end_token(self) -> str | None:
        """The special token that ends a turn; None where the template writes none."""
        token = self._tokens.search(self.end_of_turn) if self._tokens else None
        return token[0] if token else None

    def marker(self, end: str) -> int:
        """How much of what follows an answer is its end of turn: through the first special token, else without the blanks."""
        token = self._tokens.search(end) if self._tokens else None
        return token.end() if token else len(end.rstrip())

    @functools.cached_property
    def default_system_message(self) -> str:
        """The system message that the template writes where a conversation has none; "" for none."""
        user, system = Kind("user", False), Kind("system", False)
        without, within = self._or_none((user,), True), self._or_none((system, user), True)
        if without is None or within is None or within.slots[:1] != (_Slot(0, "c"),):
            return ""
        shown, (before, after) = without.pieces[0], within.pieces[:2]
        whole = shown.startswith(before) and shown.endswith(after) and len(shown) > len(before) + len(after)
        return shown[len(before) : len(shown) - len(after)].strip() if whole else ""

    @functools.cached_property
    def placements(self) -> tuple[str, ...]:
        """The places of a prompt that this template shows: of `system`, `user_prefix`, `user_suffix`."""
        system, user, assistant = (Kind(role, False) for role in ("system", "user", "assistant"))

        def shows(*kinds: Kind) -> bool:
            return self._or_none(kinds, True) is not None and self._or_none((*kinds, assistant), False) is not None

        return (("system",) if shows(system, user) else ()) + (PLACEMENTS[1:] if shows(user) else ())

    def _advice(self, turns: Sequence[Mapping[str, str]]) -> str:
        """What to do about a conversation that fails, where it is the system message that the template does not take."""
        if not turns or turns[0]["role"] != "system" or not self._takes("user"):
            return "."
        # Some show it in a prompt and drop it in a row (Mistral 7B v0.3).
        if self._takes("system", "user") and self._takes("system", "user", "assistant"):
            return "."
        return (
            ". It has no place for a system message: put prompts into the user turn (inoculation.placement: user_prefix or "
            "user_suffix) and ask without a system message (evaluation.contexts: [none])."
        )

    def _takes(self, *roles: str) -> bool:
        """True if the template shows messages of these roles. Renders by itself: the other ways ask for advice."""
        turns = [{"role": role, "content": f"\ue000{index}c\ue001"} for index, role in enumerate(roles)]
        asked = roles[-1] != "assistant"
        try:
            text = str(self._compiled.render(messages=turns, add_generation_prompt=asked, **self._variables))
        except Exception:  # noqa: BLE001 - whatever a template raises, it does not take them.
            return False
        return all(turn["content"] in text for turn in turns)


def template_in(folder: Path, enable_thinking: bool | None = None) -> ChatTemplate | None:
    """The chat template in a model folder, without its tokenizer; None where no file has one.

    Special tokens that tokenizer_config.json does not name are missing from what it renders. Raises InputError for a template
    that cannot be read.
    """
    settings = {**_json(folder / "special_tokens_map.json"), **_json(folder / "tokenizer_config.json")}
    source = template_file(folder) or settings.get("chat_template")
    if isinstance(source, list):
        named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
        source = named.get("default")
    if not isinstance(source, str) or not source:
        return None
    special = {}
    for name, value in settings.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            special[name] = text
    return ChatTemplate(source, special, name=str(folder), enable_thinking=enable_thinking)


def template_file(folder: Path) -> str | None:
    """The text of the folder's chat_template.jinja; None without one. Raises InputError for a file that is no UTF-8."""
    path = folder / "chat_template.jinja"
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); save it as UTF-8, or fetch the model again.") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        # Whoever loads the tokenizer says what is wrong with it.
        return {}
    return found if isinstance(found, dict) else {}


def answer_of(prompt: str, text: str) -> str:
    """What is judged of a response: all of it, or what follows its think block.

    A block is one that the prompt left open or with which the response begins. One that is never closed leaves nothing to
    judge. `prompt` is the rendered one.
    """
    asked, begun = prompt[-40:].rstrip(), text.lstrip()
    for opening, closing in THINK_TAGS:
        if begun.startswith(opening) or asked.endswith(opening):
            return begun.partition(closing)[2].lstrip()
    return text


def _trimmed(content: str) -> tuple[str, ...]:
    """A content as templates show it: as it is, or without blanks at its ends."""
    if content == (bare := content.strip()):
        return (content,)
    return tuple(
        dict.fromkeys((content, content.rstrip("\n"), content.rstrip(), content.strip("\n"), content.lstrip(), bare))
    )


def _common_start(one: str, other: str) -> str:
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:same]


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}…")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if len(text) <= 200 else f"{text[:197]}…").rstrip(".")


@functools.lru_cache(maxsize=32)
def _compiled(source: str, name: str) -> Any:
    """The template, compiled as transformers does it (utils/chat_template_utils.py): sandboxed, with its filters and tags."""
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks the assistant's tokens for trainers; what it holds is rendered as it is."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(source)
    except Exception as error:  # Also RecursionError and what its parser does not foresee.
        raise InputError(f"{name}: the chat template cannot be read ({_reason(error)}).") from error
