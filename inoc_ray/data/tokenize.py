"""Chat rows as token ids: the tokenizer's own template, and labels on what the assistant says alone.

A conversation is rendered once as text and tokenised once. Where the assistant speaks is the template's matter
(`inoc_ray.models.template`): its turn begins where a prompt for it would end and ends with the end-of-turn marker.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inoc_ray.data.chat import ChatRow, Message
from inoc_ray.errors import InputError
from inoc_ray.models.encoding import check_no_special_tokens, check_round_trip, encode_texts, template_of
from inoc_ray.models.template import ChatTemplate, RenderedRow
from inoc_ray.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "IGNORED",
    "Encoded",
    "collate",
    "encode",
    "encode_rows",
    "load_tokenizer",
    "render",
]

IGNORED = -100
"""Label of a token that is context only: torch's default `ignore_index` of the cross entropy."""

CHARACTERS_PER_TOKEN = 8
"""No natural text has more on average."""
TOO_LONG = "shorten the row, or raise recipe.max_length as far as the model's window allows"
"""What to do about a row that is longer than its recipe allows."""
AT_ONCE = 512
"""Rows that are tokenised together."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row: token ids and labels of the same length; a label is the token itself or IGNORED."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    merged: bool = False
    """True if the first token of an answer reaches into the generation prompt. It carries no loss, as no test has the model
    write it: there the prompt ends in other tokens."""
    context_only: int = 0
    """Assistant messages without loss because the template shows them in another way once they are not the last."""

    @property
    def targets(self) -> int:
        """Tokens that carry loss. The first token of a row has no context and is never one."""
        return len(self.labels) - 1 - self.labels.count(IGNORED) + (self.labels[0] == IGNORED)


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    add_generation_prompt: bool,
    enable_thinking: bool | None = None,
) -> str:
    """The conversation as the model sees it, special tokens as text; with the assistant's opening when asked for one.

    Raises InputError when the tokenizer has no chat template or the template refuses the messages (some know no
    system role).
    """
    return template_of(tokenizer, enable_thinking).render(messages, add_generation_prompt)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    row: ChatRow,
    max_length: int,
    enable_thinking: bool | None = None,
    *,
    too_long: str = TOO_LONG,
) -> Encoded:
    """Token ids of the whole conversation, and labels on each assistant turn with its end-of-turn token.

    too_long: what to do about a row that is, for the error message.
    Raises InputError for a row of more than `max_length` tokens (it is never cut), one without a target, one whose
    text holds a special token of the tokenizer, one whose messages the template does not show as they are, and one that
    the tokenizer does not give back.
    """
    template = template_of(tokenizer, enable_thinking)
    shown = _shown(tokenizer, template, row, max_length, too_long)
    [encoding] = encode_texts(tokenizer, [shown.text])
    return _labelled(tokenizer, template, row, shown, encoding, max_length, too_long=too_long)


def encode_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[ChatRow],
    max_length: int,
    label: str,
    enable_thinking: bool | None = None,
) -> list[Encoded]:
    """Every row encoded. Raises InputError that names `label` (the file or setting) and the row, counted from 1."""
    template = template_of(tokenizer, enable_thinking)
    return list(_encoded(tokenizer, template, rows, max_length, label))


def _encoded(
    tokenizer: PreTrainedTokenizerBase, template: ChatTemplate, rows: Sequence[ChatRow], max_length: int, label: str
) -> Iterator[Encoded]:
    at = 0
    try:
        for first in range(0, len(rows), AT_ONCE):
            batch = rows[first : first + AT_ONCE]
            shown: list[RenderedRow] = []
            for at, row in enumerate(batch, start=first):  # noqa: B007 - for the message
                shown.append(_shown(tokenizer, template, row, max_length))
            encodings = encode_texts(tokenizer, [s.text for s in shown])
            for offset, (row, as_shown, encoding) in enumerate(zip(batch, shown, encodings, strict=True)):
                at = first + offset
                yield _labelled(tokenizer, template, row, as_shown, encoding, max_length)
    except InputError as error:
        raise InputError(f"{label}, row {at + 1}: {error}") from error


def _shown(
    tokenizer: PreTrainedTokenizerBase,
    template: ChatTemplate,
    row: ChatRow,
    max_length: int,
    too_long: str = TOO_LONG,
) -> RenderedRow:
    _check_not_far_too_long(tokenizer, row, max_length, too_long)
    check_no_special_tokens(tokenizer, row.messages)
    shown = template.render_row(row.messages)
    if not shown.spans:
        raise InputError("there is no assistant message, so the row has nothing to learn.")
    return shown


def _check_not_far_too_long(tokenizer: PreTrainedTokenizerBase, row: ChatRow, max_length: int, too_long: str) -> None:
    """Raises InputError for a row whose beginning alone is longer than `max_length` tokens.

    To tokenise ten megabytes takes minutes and gigabytes, and the row is refused all the same. So of a row that holds more
    than `CHARACTERS_PER_TOKEN` × max_length characters only so many of each message are looked at, until there are too many
    tokens; a row that has few nevertheless (runs of blanks) goes on to be tokenised whole.
    """
    most, characters = CHARACTERS_PER_TOKEN * max_length, sum(len(m.content) for m in row.messages)
    if characters <= most:
        return
    count = 0
    for message in row.messages:
        content = message.content.strip()
        [head] = encode_texts(tokenizer, [content[:most]])
        # The word at which a text is cut has other tokens than when it is whole, and may have fewer then.
        count += len(head.ids) if len(content) <= most else max(0, len(head.ids) - 64)
        if count > max_length:
            raise InputError(
                f"more than {max_length} tokens ({characters:,} characters), but max_length is {max_length}; {too_long}."
            )


def _labelled(
    tokenizer: PreTrainedTokenizerBase,
    template: ChatTemplate,
    row: ChatRow,
    shown: RenderedRow,
    encoding: Any,
    max_length: int,
    too_long: str = TOO_LONG,
) -> Encoded:
    text, ids = shown.text, tuple(encoding.ids)
    if len(ids) > max_length:
        raise InputError(f"{len(ids)} tokens, but max_length is {max_length}; {too_long}.")
    check_round_trip(tokenizer, text, ids)
    # Where each token ends in the text; never falls from one token to the next, so that places are found by halving.
    ends = [right for _, right in encoding.offsets]
    labels = [IGNORED] * len(ids)
    merged = False
    answers = [m for m in row.messages if m.role == "assistant"]
    for message, span in zip(answers, shown.spans, strict=True):
        if span is None or not message.trained:
            continue
        learnt = template.loss_length(text[span.content_end : span.end])
        if not learnt:
            raise InputError(
                "the chat template writes nothing behind an answer, so the model could not learn to end one; give the model a "
                "template that writes its end of turn."
            )
        end = span.content_end + learnt
        first = bisect.bisect_right(ends, span.begin)
        # A token that reaches in from the prompt is no target: at inference the prompt ends in other tokens there. The
        # offsets of byte-level tokenizers may leave out a blank at its beginning, so the one before it is asked.
        if first < len(ids) and span.begin and (first == 0 or ends[first - 1] < span.begin):
            merged = True
            first += 1
        stop = bisect.bisect_right(ends, end)
        labels[first:stop] = ids[first:stop]
    encoded = Encoded(ids, tuple(labels), merged, sum(span is None for span in shown.spans))
    if row.is_trained and not encoded.targets:
        raise InputError("no token of the assistant's text carries a label; the row has nothing to learn.")
    return encoded


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
