"""A model's chat template: the prompts and rows that it makes of conversations, checked against the messages.

Nothing here needs a tokenizer. `renderer` renders; `skeleton` finds each message in the result; `answer_layout` finds where
the assistant speaks; `think` knows the blocks of reasoning.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inoc_ray.models.answer_layout import AnswerLayouts
from inoc_ray.models.renderer import Renderer
from inoc_ray.models.skeleton import Message, MessageKind, Slot, find_contents, kinds_of
from inoc_ray.models.think import ThinkTags


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


class ChatTemplate:
    """A chat template with the values that it is rendered with."""

    def __init__(
        self,
        source: str,
        special: Mapping[str, str],
        *,
        tokens: Sequence[str] = (),
        name: str = "the model",
        enable_thinking: bool | None = None,
    ) -> None:
        """Read a template. Raises InputError when it cannot be read.

        `special`: the named special tokens that a template may print (bos_token, eos_token, …). `tokens`: every special
        token of the tokenizer, by which the end of a turn is recognised. `name` is for messages.
        """
        self.source = source
        self._renderer = Renderer(source, special, tokens=tokens, name=name, enable_thinking=enable_thinking)
        self._think = self._renderer.think
        self._layouts = AnswerLayouts(self._renderer)

    @property
    def think(self) -> ThinkTags | None:
        """Return the tags of the think blocks that the template knows, or None."""
        return self._think or None

    @property
    def end_of_turn(self) -> str:
        """Return what the template writes after an answer: one special token, or plain text; "" for nothing."""
        return self._renderer.end_of_turn

    def end_token(self) -> str | None:
        """Return the special token that ends a turn, or None where the template writes none."""
        return self._renderer.end_token()

    def loss_length(self, end: str) -> int:
        """Return how many characters of the text after an answer carry loss; see `Renderer.loss_length`."""
        return self._renderer.loss_length(end)

    def ignores_thinking(self) -> bool:
        """Return whether prompts and rows are the same with `enable_thinking` true and false."""
        return self._renderer.ignores_thinking()

    @functools.cached_property
    def default_system_message(self) -> str:
        """Return the system message that the template writes where a conversation has none; "" for none."""
        user, system = MessageKind("user", False), MessageKind("system", False)
        without = self._renderer.skeleton_or_none((user,), add_generation_prompt=True)
        within = self._renderer.skeleton_or_none((system, user), add_generation_prompt=True)
        if without is None or within is None or within.slots[:1] != (Slot(0, "c"),):
            return ""
        text, (before, after) = without.pieces[0], within.pieces[:2]
        whole = text.startswith(before) and text.endswith(after) and len(text) > len(before) + len(after)
        return text[len(before) : len(text) - len(after)].strip() if whole else ""

    # -- prompts --------------------------------------------------------------------------------------------------

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """Return the conversation as the model sees it, unchecked; see `Renderer.render`."""
        return self._renderer.render(messages, add_generation_prompt=add_generation_prompt)

    def prompt(self, messages: Sequence[Message]) -> str:
        """Return a question as the model gets it: rendered with the generation prompt, every message found in it.

        Raises InputError when the template refuses the roles, or drops, repeats or rewrites a message.
        """
        kinds = kinds_of(messages, self._think)
        skeleton = self._renderer.skeleton(kinds, add_generation_prompt=True)
        text = self.render(messages, True)
        find_contents(text, skeleton, messages, kinds=kinds, think=self._think)
        return text

    def prompt_for_choices(self, messages: Sequence[Message]) -> str:
        """Return a question that one of given answers will follow: with an empty think block where an answer has one."""
        prompt = self.prompt(messages)
        if not self._think:
            return prompt
        if self._think.left_open(prompt):
            return f"{prompt}\n{self._think.closing}\n\n"
        skeleton, places = self._layouts.of((*kinds_of(messages, self._think), MessageKind("assistant", False)))
        place = places[-1]
        assert place is not None, "the last answer is never context only"
        lead = "" if place.prompt is not None else skeleton.pieces[place.slot][place.begin :]
        return prompt + lead if self._think.occur_in(lead) else prompt

    def check_question(self, messages: Sequence[Message]) -> None:
        """Raise InputError where a question with these roles is not shown as it is; its texts are not looked at."""
        self._renderer.skeleton(kinds_of(messages, self._think), add_generation_prompt=True)

    def answers_at_once(self, prompt: str) -> bool:
        """Return whether the prompt ends with a closed think block, so that the model is asked for no reasoning."""
        return self._think.closed_at_end(prompt)

    # -- rows -----------------------------------------------------------------------------------------------------

    def check_row(self, messages: Sequence[Message]) -> None:
        """Raise InputError where a row with these roles is not shown as it is; its texts are not looked at."""
        self._layouts.of(kinds_of(messages, self._think))

    def render_row(self, messages: Sequence[Message]) -> RenderedRow:
        """Return a row as the model is trained on it, and where in it the assistant speaks.

        Raises InputError as `prompt` does, and when an answer does not begin where a prompt would end.
        """
        kinds = kinds_of(messages, self._think)
        skeleton, places = self._layouts.of(kinds)
        text = self.render(messages, False)
        contents = find_contents(text, skeleton, messages, kinds=kinds, think=self._think)
        spans: list[Span | None] = []
        for place in places:
            if place is None:
                spans.append(None)
                continue
            start = contents[place.slot - 1][1] if place.slot else 0
            if place.prompt is not None:
                # Only the last answer: what stands before it keeps its place.
                answer = self._answer(messages[place.message], kinds[place.message], place.prompt)
                after = text[contents[place.content][1] :]
                begin = start + len(place.prompt)
                text = text[:start] + place.prompt + answer + after
                content_end = begin + len(answer)
            else:
                begin, content_end = start + place.begin, contents[place.content][1]
            spans.append(Span(begin, content_end, content_end + len(place.end)))
        return RenderedRow(text, tuple(spans))

    def _answer(self, message: Message, kind: MessageKind, prompt: str) -> str:
        """Return what the model would write after a prompt that brings a think block, without its end of turn."""
        reasoning, content = self._think.split(message.content) if kind.reasons else ("", message.content)
        if not self._think.left_open(prompt):
            return content.strip()
        block = f"{reasoning.strip()}\n" if reasoning.strip() else "\n"
        return f"{block}{self._think.closing}\n\n{content.strip()}"
