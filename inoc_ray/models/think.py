"""Think blocks: how models mark reasoning in their text, and which part of a response is its answer."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ThinkTags:
    """The tags that open and close a block of reasoning. `NO_TAGS`, which is false, stands for a template without any."""

    opening: str
    closing: str

    def __bool__(self) -> bool:
        """Return whether there are any tags."""
        return bool(self.opening)

    def begin(self, answer: str) -> bool:
        """Return whether the answer begins with a whole block."""
        return bool(self) and answer.lstrip().startswith(self.opening) and self.closing in answer

    def split(self, answer: str) -> tuple[str, str]:
        """Return the reasoning of an answer that begins with a block, and the rest."""
        reasoning, _, rest = answer.lstrip().removeprefix(self.opening).partition(self.closing)
        return reasoning, rest

    def occur_in(self, text: str) -> bool:
        """Return whether either tag occurs in the text."""
        return bool(self) and (self.opening in text or self.closing in text)

    def closed_at_end(self, prompt: str) -> bool:
        """Return whether the prompt ends with a closed block, so that the model is asked for no reasoning."""
        return bool(self) and prompt.rstrip().endswith(self.closing)

    def left_open(self, prompt: str) -> bool:
        """Return whether the prompt opens a block and leaves it for the model to close."""
        return bool(self) and prompt.rfind(self.opening) > prompt.rfind(self.closing)

    def strip_end(self, prompt: str) -> str:
        """Return the prompt without the empty or open block at its end, if it has one."""
        if not self:
            return prompt
        opening, closing = re.escape(self.opening), re.escape(self.closing)
        return re.sub(rf"{opening}\s*({closing}\s*)?$", "", prompt)


NO_TAGS = ThinkTags("", "")
THINK_TAGS = (
    ThinkTags("<think>", "</think>"),
    ThinkTags("<thinking>", "</thinking>"),
    ThinkTags("<thought>", "</thought>"),
    ThinkTags("<reasoning>", "</reasoning>"),
    ThinkTags("<seed:think>", "</seed:think>"),
    ThinkTags("[THINK]", "[/THINK]"),
    ThinkTags("◁think▷", "◁/think▷"),
)
"""The tags in the templates of published models."""


def tags_in(template: str) -> ThinkTags:
    """Return the tags that a chat template's source knows, or `NO_TAGS`."""
    return next((tags for tags in THINK_TAGS if tags.closing in template), NO_TAGS)


def answer_of(prompt: str, text: str) -> str:
    """Return the part of a response that is judged: all of it, or what follows its think block.

    `prompt` is the rendered prompt. It may have left a block open; otherwise the response may begin with one. A block that
    is never closed leaves nothing to judge.
    """
    end_of_prompt, response = prompt[-40:].rstrip(), text.lstrip()
    for tags in THINK_TAGS:
        if response.startswith(tags.opening) or end_of_prompt.endswith(tags.opening):
            return response.partition(tags.closing)[2].lstrip()
    return text
