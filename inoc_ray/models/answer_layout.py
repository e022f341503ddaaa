"""Where the assistant speaks in a rendered row: from what the model would write first, through its end of turn.

- A row is the prompt as a test would put it, then the answer. The text that carries loss is what the model would write at
  test time: all that follows the template's generation prompt, through the end-of-turn marker.
- An earlier answer that the template shows in another way than a last one (without its think block) is context only, as no
  test ever has the model write it so.
- Where the generation prompt brings a think block (closed by `enable_thinking: false`, or left open for the model), the row
  has it too; a row without reasoning gets an empty block.
"""

from __future__ import annotations

from dataclasses import dataclass

from inoc_ray.errors import InputError
from inoc_ray.models.renderer import Renderer
from inoc_ray.models.skeleton import MessageKind, Skeleton, Slot, excerpt


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPlace:
    """An assistant message in a skeleton."""

    message: int
    slot: int
    """Index of its first slot: that of its reasoning, where it has any."""
    content: int
    """Index of the slot of its answer."""
    begin: int
    """Characters of the piece before `slot` that belong to the prompt."""
    end: str
    """What the template writes after the answer when it is the last message."""
    prompt: str | None = None
    """What replaces that piece where the prompt brings a think block that the template leaves out of a row."""


Layout = tuple[Skeleton, tuple[AnswerPlace | None, ...]]
"""A row's skeleton, and the place of each assistant message; None for one that is context only."""


class AnswerLayouts:
    """Finds the answers in rows of given kinds, once for all rows of the same kinds."""

    def __init__(self, renderer: Renderer) -> None:
        """Use the template that `renderer` has compiled."""
        self._renderer, self._think = renderer, renderer.think
        self._known: dict[tuple[MessageKind, ...], Layout | InputError] = {}

    def of(self, kinds: tuple[MessageKind, ...]) -> Layout:
        """Return the layout of rows of these kinds.

        Raises InputError when the template does not show such a row as it is, or when an answer does not begin where a
        prompt for it would end.
        """
        if kinds not in self._known:
            try:
                row = self._renderer.skeleton(kinds, add_generation_prompt=False)
                answers = [i for i, kind in enumerate(kinds) if kind.role == "assistant"]
                self._known[kinds] = row, tuple(self._place(row, kinds, index) for index in answers)
            except InputError as error:
                self._known[kinds] = error
        found = self._known[kinds]
        if isinstance(found, InputError):
            raise InputError(str(found))
        return found

    def _place(self, row: Skeleton, kinds: tuple[MessageKind, ...], index: int) -> AnswerPlace | None:
        """Return where the answer `messages[index]` begins and ends; None when it is context only."""
        last, reasons = index == len(kinds) - 1, kinds[index].reasons
        content = row.slots.index(Slot(index, "c"))
        end = self._end(row, kinds, index, content)
        has_slot_for_reasoning = bool(reasons and content and row.slots[content - 1] == Slot(index, "r"))
        slot = content - has_slot_for_reasoning
        complete = has_slot_for_reasoning or not reasons
        if end is None or not (last or complete):
            return None
        before, prompt = row.pieces[slot], self._prompt_before(row, kinds, index, slot)
        if prompt is not None and complete and before.startswith(prompt):
            extra = before[len(prompt) :]
            if not self._think.strip_end(extra).strip():
                return AnswerPlace(message=index, slot=slot, content=content, begin=len(prompt), end=end)
            if last:
                raise InputError(
                    f"the chat template ends a prompt without {excerpt(extra)}, which it has before an answer in a row, so the "
                    "model would learn to write it and it would be judged as part of the answer; give the model a template "
                    "whose generation prompt (add_generation_prompt) goes up to the answer."
                )
        if not last:
            return None
        self._check_prompt_brings_block(prompt, before, index, reasons=reasons, complete=complete)
        return AnswerPlace(message=index, slot=slot, content=content, begin=0, end=end, prompt=prompt)

    def _end(self, row: Skeleton, kinds: tuple[MessageKind, ...], index: int, content: int) -> str | None:
        """Return what ends the answer; None where the template shows it in another way than a last one."""
        as_last = row
        if index < len(kinds) - 1:
            shorter = self._renderer.skeleton_or_none(kinds[: index + 1], add_generation_prompt=False)
            if shorter is None or shorter.slots != row.slots[: content + 1]:
                return None
            as_last = shorter
        # What a template writes after the end of turn where the conversation ends (an end of text) is not learnt.
        end = _common_start(as_last.pieces[-1], row.pieces[content + 1])
        learnt = self._renderer.loss_length(as_last.pieces[-1]) or len(as_last.pieces[-1])
        if as_last.pieces[:-1] != row.pieces[: content + 1] or len(end) < learnt:
            return None
        return end

    def _check_prompt_brings_block(
        self, prompt: str | None, before: str, index: int, *, reasons: bool, complete: bool
    ) -> None:
        """Raise InputError unless prompt and row differ only in a think block that the prompt brings.

        `before` is the text before the answer in a row; `complete` says whether the row shows the answer's reasoning.
        """
        if prompt is None:
            raise InputError(
                "the chat template shows the messages before an answer in another way when it asks for the answer than when "
                "it has it, so the model would be tested in a context that it was never trained in; give the model a template "
                "in which both are the same."
            )
        stem = self._think.strip_end(prompt)
        if self._think.occur_in(prompt[len(stem) :]) and stem == self._think.strip_end(before):
            if reasons and not self._think.left_open(prompt):
                raise InputError(
                    f"messages[{index}] contains reasoning ({self._think.opening} …), but the prompt brings a closed think "
                    "block, so the model would never be asked to write it; set the model's enable_thinking: true, or take the "
                    "block out of the row."
                )
            return
        if not complete:
            raise InputError(
                f"the chat template drops the reasoning ({self._think.opening} …) of messages[{index}], so it would not be "
                "learnt; take the block out of the row, or give the model a template that keeps it."
            )
        raise InputError(
            f"the chat template ends a prompt with {excerpt(prompt[-50:])}, but has {excerpt(before[-50:])} before an answer "
            "in a row, so the model would be tested where it was never trained; give the model a template in which both are "
            "the same."
        )

    def _prompt_before(self, row: Skeleton, kinds: tuple[MessageKind, ...], index: int, slot: int) -> str | None:
        """Return the end of a prompt at this place, from the last content on (or from the beginning).

        None when a prompt shows what stands before it in another way than the row does.
        """
        prompt = self._renderer.skeleton_or_none(kinds[:index], add_generation_prompt=True) if index else None
        if prompt is not None:
            same = prompt.slots == row.slots[:slot] and prompt.pieces[:-1] == row.pieces[:slot]
            return prompt.pieces[-1] if same else None
        # Nothing can be asked here (no message before, or roles that are not a question): take the opening of any answer.
        opening, before = self._generation_prompt(), row.pieces[slot]
        for form in (opening, self._think.strip_end(opening)):
            at = before.rfind(form)
            if at >= 0:
                return before[:at] + opening if form else before
        return None

    def _generation_prompt(self) -> str:
        """Return the generation prompt alone; "" where the template has none or it cannot be told apart."""
        user = (MessageKind("user", False),)
        with_prompt = self._renderer.skeleton_or_none(user, add_generation_prompt=True)
        without = self._renderer.skeleton_or_none(user, add_generation_prompt=False)
        if with_prompt is None or without is None or not with_prompt.pieces[-1].startswith(without.pieces[-1]):
            return ""
        return with_prompt.pieces[-1][len(without.pieces[-1]) :]


def _common_start(one: str, other: str) -> str:
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:same]
