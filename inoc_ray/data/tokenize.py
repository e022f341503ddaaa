"""Chat rows as token ids: the tokenizer's own template, and labels on what the assistant says alone.

A conversation is rendered once as text and tokenised once. Where the assistant speaks is found by rendering prefixes:
its turn begins where the text of the messages before it ends (with the template's generation prompt) and ends with the
end-of-turn token. This works for every template whose rendering of a prefix is a prefix of the whole rendering, so
also for those that put in a default system message or a date; other templates are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inoc_ray.data.chat import ChatRow, Message
from inoc_ray.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token that is context only: torch's default `ignore_index` of the cross entropy."""

TEMPLATE_DATE = "26 Jul 2024"
"""The date for templates that print one: Llama 3.1's own fall-back. Today's date would make a trial depend on the day."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row: token ids and labels of the same length; a label is the token itself or IGNORED."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def targets(self) -> int:
        """Tokens that carry loss. The first token of a row has no context and is never one."""
        return len(self.labels) - 1 - self.labels.count(IGNORED) + (self.labels[0] == IGNORED)


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], add_generation_prompt: bool) -> str:
    """The conversation as the model sees it, special tokens as text; with the assistant's opening when asked for one.

    Raises InputError when the tokenizer has no chat template or the template refuses the messages (some know no
    system role).
    """
    from jinja2.exceptions import TemplateError

    if not tokenizer.chat_template:
        raise InputError(
            f"{tokenizer.name_or_path}: the tokenizer has no chat template; use an instruction-tuned base."
        )
    turns = [{"role": m.role, "content": m.content} for m in messages]
    try:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=add_generation_prompt, date_string=TEMPLATE_DATE
        )
    except (TemplateError, IndexError) as error:
        roles = ", ".join(m.role for m in messages) or "none"
        raise InputError(f"the chat template refuses a conversation with the roles {roles}: {error}") from error
    return str(text)


def encode(tokenizer: PreTrainedTokenizerBase, row: ChatRow, max_length: int) -> Encoded:
    """Token ids of the whole conversation, and labels on each assistant turn with its end-of-turn token.

    Raises InputError for a row of more than `max_length` tokens (it is never cut), one without a target, one whose
    text holds a special token of the tokenizer, and for a template that is not prefix-stable.
    """
    _check_no_special_tokens(tokenizer, row)
    text = render(tokenizer, row.messages, add_generation_prompt=False)
    spans = _assistant_spans(tokenizer, row, text)
    if not spans:
        raise InputError("there is no assistant message that carries loss, so the row has nothing to learn.")
    if not tokenizer.is_fast:
        raise InputError(f"{tokenizer.name_or_path}: token offsets need a tokenizer.json, which this tokenizer lacks.")
    # Any text that is too long shows it below; the tokenizer's own warning would only say it twice.
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids: list[int] = encoding["input_ids"]
    if len(ids) > max_length:
        raise InputError(
            f"{len(ids)} tokens, but max_length is {max_length}; shorten the row, or raise recipe.max_length as far as the "
            "model's window allows."
        )
    special = set(tokenizer.all_special_ids)
    labels = [IGNORED] * len(ids)
    span = iter(spans)
    begin, content_end, turn_end = next(span)
    closed = False
    for index, (token, (left, right)) in enumerate(zip(ids, encoding["offset_mapping"], strict=True)):
        while left >= turn_end:
            begin, content_end, turn_end = next(span, (len(text) + 1, len(text) + 1, len(text) + 1))
            closed = False
        # A token that reaches in from the prompt is no target: at inference the prompt ends in other tokens there.
        if closed or left < begin or right > turn_end:
            continue
        labels[index] = token
        # What a template puts after the end-of-turn token (a line break) is never generated, so never learnt.
        closed = token in special and left >= content_end
    encoded = Encoded(tuple(ids), tuple(labels))
    if not encoded.targets:
        raise InputError("no token of the assistant's text carries a label; the row has nothing to learn.")
    return encoded


def encode_rows(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[ChatRow], max_length: int, label: str
) -> list[Encoded]:
    """Every row encoded. Raises InputError that names `label` (the file or setting) and the row, counted from 1."""
    out: list[Encoded] = []
    for number, row in enumerate(rows, start=1):
        try:
            out.append(encode(tokenizer, row, max_length))
        except InputError as error:
            raise InputError(f"{label}, row {number}: {error}") from error
    return out


def collate(rows: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask` and `labels`, each (rows, longest row) of int64, padded on the right."""
    import torch

    width = max(len(row.input_ids) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED)
    for index, row in enumerate(rows):
        length = len(row.input_ids)
        ids[index, :length] = torch.tensor(row.input_ids)
        mask[index, :length] = 1
        labels[index, :length] = torch.tensor(row.labels)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def load_tokenizer(model: str) -> Any:
    """The tokenizer in a model folder. Raises InputError when there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{model}: no tokenizer can be loaded from here ({reason}).") from error


def _assistant_spans(tokenizer: PreTrainedTokenizerBase, row: ChatRow, text: str) -> list[tuple[int, int, int]]:
    """(begin, end of the content, end of the turn) of each assistant message that carries loss, in characters of `text`."""
    spans: list[tuple[int, int, int]] = []
    for index, message in enumerate(row.messages):
        if message.role != "assistant" or not message.trained:
            continue
        before = render(tokenizer, row.messages[:index], add_generation_prompt=True)
        through = render(tokenizer, row.messages[: index + 1], add_generation_prompt=False)
        if not (text.startswith(through) and through.startswith(before)):
            raise InputError(
                f"{tokenizer.name_or_path}: the chat template is not prefix-stable (it renders the first {index + 1} of "
                f"{len(row.messages)} messages in another way than the whole conversation), so the assistant's tokens "
                "cannot be told apart; hand in a template without that, or use single-turn rows."
            )
        # Templates may trim the content, but a target that is not the row's own text would be a silent change.
        content = message.content.strip()
        at = text.find(content, len(before), len(through))
        if at < 0:
            raise InputError(f"{tokenizer.name_or_path}: the chat template rewrites the assistant's text.")
        spans.append((len(before), at + len(content), len(through)))
    return spans


def _check_no_special_tokens(tokenizer: PreTrainedTokenizerBase, row: ChatRow) -> None:
    for index, message in enumerate(row.messages):
        for token in tokenizer.all_special_tokens:
            if token in message.content:
                raise InputError(
                    f"messages[{index}]: the text holds {token!r}, a special token of the tokenizer, which would break "
                    "the conversation's structure; remove it from the row."
                )
