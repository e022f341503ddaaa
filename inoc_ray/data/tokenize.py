"""Chat rows as token ids: rendered by the tokenizer's own template, with labels on the assistant's text alone.

A conversation is rendered once as text and tokenised once. The template decides where the assistant speaks
(`inoc_ray.models.template`): its turn begins where a prompt for it would end, and ends with the end-of-turn marker.
"""

from __future__ import annotations

import bisect
import hashlib
from array import array
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
    "EncodedRow",
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
"""Rows that are tokenised in one batch."""


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One row: token ids and labels of the same length; a label is the token itself or IGNORED."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    merged: bool = False
    """Whether the first token of an answer reaches into the generation prompt. It carries no loss, because at test the prompt
    ends in other tokens and the model never writes it."""
    context_only: int = 0
    """Assistant messages without loss because the template shows them in another way once they are not the last."""

    @property
    def targets(self) -> int:
        """Return how many tokens carry loss. The first token of a row has no context and never does."""
        return len(self.labels) - 1 - self.labels.count(IGNORED) + (self.labels[0] == IGNORED)


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    add_generation_prompt: bool,
    enable_thinking: bool | None = None,
) -> str:
    """Return the conversation as the model sees it, with special tokens as text, and the generation prompt if asked for.

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
) -> EncodedRow:
    """Return the token ids of a conversation, and labels on each assistant turn with its end-of-turn token.

    `max_length` is in tokens; `too_long` is the error message's advice about a row that is longer. Raises InputError for such
    a row (it is never cut), one without a target, one whose text contains a special token of the tokenizer, one whose
    messages the template does not show as they are, and one that the tokenizer does not give back.
    """
    template = template_of(tokenizer, enable_thinking)
    rendered = _render_row(tokenizer, template, row, max_length=max_length, too_long=too_long)
    [encoding] = encode_texts(tokenizer, [rendered.text])
    return _label(
        row, rendered, encoding, tokenizer=tokenizer, template=template, max_length=max_length, too_long=too_long
    )


def encode_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[ChatRow],
    max_length: int,
    label: str,
    enable_thinking: bool | None = None,
    numbers: Sequence[int] | None = None,
) -> list[EncodedRow]:
    """Encode every row. Raises InputError that names `label` (the file or setting) and the row, counted from 1.

    numbers: what a message calls each row, if they are not all rows of the file from its first.
    """
    template = template_of(tokenizer, enable_thinking)
    return list(
        _encode_batches(
            rows, tokenizer=tokenizer, template=template, max_length=max_length, label=label, numbers=numbers
        )
    )


def _encode_batches(
    rows: Sequence[ChatRow],
    *,
    tokenizer: PreTrainedTokenizerBase,
    template: ChatTemplate,
    max_length: int,
    label: str,
    numbers: Sequence[int] | None = None,
) -> Iterator[EncodedRow]:
    at = 0
    try:
        for first in range(0, len(rows), AT_ONCE):
            batch = rows[first : first + AT_ONCE]
            rendered: list[RenderedRow] = []
            for at, row in enumerate(batch, start=first):  # noqa: B007 - for the message
                rendered.append(_render_row(tokenizer, template, row, max_length=max_length))
            encodings = encode_texts(tokenizer, [r.text for r in rendered])
            for offset, (row, one, encoding) in enumerate(zip(batch, rendered, encodings, strict=True)):
                at = first + offset
                yield _label(row, one, encoding, tokenizer=tokenizer, template=template, max_length=max_length)
    except InputError as error:
        raise InputError(f"{label}, row {at + 1 if numbers is None else numbers[at]}: {error}") from error


def _render_row(
    tokenizer: PreTrainedTokenizerBase,
    template: ChatTemplate,
    row: ChatRow,
    *,
    max_length: int,
    too_long: str = TOO_LONG,
) -> RenderedRow:
    _check_not_far_too_long(tokenizer, row, max_length, too_long)
    check_no_special_tokens(tokenizer, row.messages)
    rendered = template.render_row(row.messages)
    if not rendered.spans:
        raise InputError("there is no assistant message, so the row has nothing to learn.")
    return rendered


def _check_not_far_too_long(tokenizer: PreTrainedTokenizerBase, row: ChatRow, max_length: int, too_long: str) -> None:
    """Raise InputError for a row whose beginning alone is longer than `max_length` tokens.

    Tokenising ten megabytes takes minutes and gigabytes, only to refuse the row. So of a row with more than
    `CHARACTERS_PER_TOKEN` × `max_length` characters, only that many of each message are tokenised until there are too many
    tokens. A row that has few tokens nevertheless (runs of blanks) is tokenised whole afterwards.
    """
    most, characters = CHARACTERS_PER_TOKEN * max_length, sum(len(m.content) for m in row.messages)
    if characters <= most:
        return
    count = 0
    for message in row.messages:
        content = message.content.strip()
        [head] = encode_texts(tokenizer, [content[:most]])
        # A word that is cut has other tokens than the whole word, and the whole may have fewer.
        count += len(head.ids) if len(content) <= most else max(0, len(head.ids) - 64)
        if count > max_length:
            raise InputError(
                f"more than {max_length} tokens ({characters:,} characters), but max_length is {max_length}; {too_long}."
            )


def _label(
    row: ChatRow,
    rendered: RenderedRow,
    encoding: Any,
    *,
    tokenizer: PreTrainedTokenizerBase,
    template: ChatTemplate,
    max_length: int,
    too_long: str = TOO_LONG,
) -> EncodedRow:
    text, ids = rendered.text, tuple(encoding.ids)
    if len(ids) > max_length:
        raise InputError(f"{len(ids)} tokens, but max_length is {max_length}; {too_long}.")
    check_round_trip(tokenizer, text, ids)
    # Where each token ends in the text: ascending, so that bisection finds a place.
    ends = [right for _, right in encoding.offsets]
    labels = [IGNORED] * len(ids)
    merged = False
    answers = [m for m in row.messages if m.role == "assistant"]
    for message, span in zip(answers, rendered.spans, strict=True):
        if span is None or not message.trained:
            continue
        length = template.loss_length(text[span.content_end : span.end])
        if not length:
            raise InputError(
                "the chat template writes nothing after an answer, so the model could not learn to end one; give the model a "
                "template that writes its end of turn."
            )
        end = span.content_end + length
        first = bisect.bisect_right(ends, span.begin)
        # A token that reaches in from the prompt is not a target: at inference the prompt ends in other tokens. Byte-level
        # tokenizers may leave a blank at its beginning out of its offsets, so the end of the token before it decides.
        if first < len(ids) and span.begin and (first == 0 or ends[first - 1] < span.begin):
            merged = True
            first += 1
        stop = bisect.bisect_right(ends, end)
        labels[first:stop] = ids[first:stop]
    encoded = EncodedRow(ids, tuple(labels), merged, sum(span is None for span in rendered.spans))
    if row.is_trained and not encoded.targets:
        raise InputError("no token of the assistant's text carries a label; the row has nothing to learn.")
    return encoded


def collate(rows: Sequence[EncodedRow], pad_id: int) -> dict[str, torch.Tensor]:
    """Return `input_ids`, `attention_mask` and `labels`, each (rows, longest row) of int64, padded on the right."""
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


def encoded_hash(rows: Sequence[EncodedRow]) -> str:
    """Return the hash of the token ids and labels of all rows."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(len(row.input_ids).to_bytes(8, "little"))
        digest.update(array("q", row.input_ids).tobytes())
        digest.update(array("q", row.labels).tobytes())
    return digest.hexdigest()
