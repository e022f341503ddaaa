"""How long training rows are in tokens: by the model's tokenizer where it is there, else by their characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from inoc_ray.data.chat import ChatRow

CHARACTERS_PER_TOKEN = 3.5
"""Where there is no tokenizer. English prose has 4 to 4.7 in vocabularies of 130,000 and more, code about 3.3: rather too many
tokens than too few."""
TOKENS_PER_MESSAGE = 6
"""Of a chat template around a message, where there is no tokenizer."""
SAMPLED = 512
"""Rows that are tokenised; of more rows, evenly spaced ones and the longest by characters."""
LONGEST = 16
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLengths:
    """Lengths of a set of rows, in tokens."""

    lengths: tuple[int, ...]
    """Of a sample of the rows, in their order."""
    targets: tuple[int, ...]
    """Of the same rows: the tokens that carry loss."""
    longest: int
    most_targets: int
    counted: bool
    """Whether a tokenizer counted them."""

    def within(self, tokens: int | None) -> RowLengths:
        """Return lengths that were estimated as at most `tokens`: a pass of so many holds each row of a study that can run."""
        if self.counted or tokens is None or self.longest <= tokens:
            return self
        return replace(
            self,
            lengths=tuple(min(length, tokens) for length in self.lengths),
            targets=tuple(min(target, tokens) for target in self.targets),
        )

    @property
    def mean(self) -> float:
        """Mean length."""
        return sum(self.lengths) / len(self.lengths)


def has_tokenizer(folder: Path) -> bool:
    """Return whether a model folder has a tokenizer."""
    return any((folder / name).is_file() for name in _TOKENIZERS)


def row_lengths(
    folder: Path, rows: Sequence[ChatRow], max_length: int, label: str, enable_thinking: bool | None = None
) -> RowLengths:
    """Return the lengths of `rows` for the model in `folder`.

    Raises InputError, naming the row, for one that is longer than `max_length` or that the chat template changes.
    """
    step = max(1, len(rows) // SAMPLED)
    spaced = range(0, len(rows), step)[:SAMPLED]
    longest = sorted(range(len(rows)), key=lambda at: _characters(rows[at]), reverse=True)[:LONGEST]
    looked_at = [*spaced, *longest]
    if has_tokenizer(folder):
        from inoc_ray.data.tokenize import encode_rows
        from inoc_ray.models.tokenizer import load_tokenizer

        encoded = encode_rows(
            load_tokenizer(str(folder)),
            [rows[at] for at in looked_at],
            max_length=max_length,
            label=label,
            enable_thinking=enable_thinking,
            numbers=[at + 1 for at in looked_at],
        )
        found = [(len(row.input_ids), row.targets) for row in encoded]
    else:
        found = [_estimated(rows[at], max_length) for at in looked_at]
    lengths, targets = zip(*found[: len(spaced)], strict=True)
    return RowLengths(
        lengths=lengths,
        targets=targets,
        longest=max(length for length, _ in found),
        most_targets=max(1, *(target for _, target in found)),
        counted=has_tokenizer(folder),
    )


def _characters(row: ChatRow) -> int:
    return sum(len(message.content) for message in row.messages)


def _estimated(row: ChatRow, max_length: int) -> tuple[int, int]:
    tokens = _characters(row) / CHARACTERS_PER_TOKEN + TOKENS_PER_MESSAGE * len(row.messages)
    answers = sum(len(message.content) for message in row.messages if message.role == "assistant")
    return min(max_length, round(tokens)), max(1, min(max_length, round(answers / CHARACTERS_PER_TOKEN)))
