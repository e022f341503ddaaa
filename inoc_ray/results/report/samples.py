"""The samples of a study as one compressed block that the page's browser of samples reads."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_BYTES = 22 << 20
"""The most bytes that the block takes of a page (22 MiB, in base64); of more samples, the first of each cell are shown."""
SHOWS, LACKS, UNPARSED, EXCLUDED, WITHHELD, UNJUDGED = "ynuxw-"
"""The verdict on one response and trait, as one character: it shows the trait; it does not; no judgment could be read; it does
not count (incoherent, a refusal, bare code); it does not count as its model's responses are degenerate; nobody judged it."""
_PROBED = 16
_LEVEL = 6
"""zlib's own default: a higher level takes twice the time for two per cent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSamples:
    """The responses of one fine-tune (or of the base) in one evaluation × context, in order."""

    setting: str
    model: str
    arm: str
    seed: int | None
    evaluation: str
    split: str
    context: str
    questions: Sequence[str]
    responses: Sequence[str]
    verdicts: Mapping[str, str] = field(default_factory=dict)
    """trait → a character for each response."""
    scores: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """trait → the raw number of each response, for traits that a model judges."""
    words: Sequence[str] = ()
    """What the judging models said of each response, as text; empty without one."""

    def first(self, count: int) -> CellSamples:
        """Return the cell with its first `count` responses."""
        if count >= len(self.responses):
            return self
        return CellSamples(
            setting=self.setting,
            model=self.model,
            arm=self.arm,
            seed=self.seed,
            evaluation=self.evaluation,
            split=self.split,
            context=self.context,
            questions=self.questions[:count],
            responses=self.responses[:count],
            verdicts={trait: codes[:count] for trait, codes in self.verdicts.items()},
            scores={trait: numbers[:count] for trait, numbers in self.scores.items()},
            words=self.words[:count],
        )


@dataclass(frozen=True, slots=True)
class Block:
    """The samples as the page embeds them."""

    text: str
    """Base64 of gzip of JSON; see page.js, which reads it."""
    shown: int
    total: int
    per_cell: int | None
    """The most responses that are shown of a cell; None if all are."""


def block_of(cells: Sequence[CellSamples], most_bytes: int = MOST_BYTES) -> Block:
    """Return the samples as a block of at most `most_bytes`: all of them, or the first of each cell, as many as fit.

    The same samples give the same bytes.
    """
    total = sum(len(cell.responses) for cell in cells)
    most = max((len(cell.responses) for cell in cells), default=0)
    kept = list(cells)
    limit: int | None = None
    # A part of the cells tells how many fit, in a fraction of the time.
    if (expected := len(_compressed(cells[::_PROBED])) * len(cells) / max(1, len(cells[::_PROBED]))) > most_bytes > 0:
        most = limit = max(1, min(most - 1, int(most * most_bytes / expected)))
        kept = [cell.first(most) for cell in cells]
    while len(text := _compressed(kept)) > most_bytes and most > 1:
        # Bytes grow as the samples do, or a little slower; the margin saves a further round.
        most = limit = min(most - 1, max(1, int(most * most_bytes / len(text) * 0.97)))
        kept = [cell.first(most) for cell in cells]
    return Block(text, sum(len(cell.responses) for cell in kept), total, limit)


def _compressed(cells: Sequence[CellSamples]) -> str:
    content = json.dumps(_content(cells), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # A lone surrogate, which a model's tokens can give, has no UTF-8.
    data = gzip.compress(content.encode("utf-8", "replace"), _LEVEL, mtime=0)
    return base64.b64encode(data).decode("ascii")


class _Texts:
    """Texts with a number each, the same for the same text."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, texts: Sequence[str]) -> list[int]:
        return [self.numbers.setdefault(text, len(self.numbers)) for text in texts]


def _content(cells: Sequence[CellSamples]) -> dict[str, Any]:
    """Return what the browser reads: every text once, and for each cell its texts' numbers."""
    questions, responses, words = _Texts(), _Texts(), _Texts()
    listed = [
        {
            "setting": cell.setting,
            "model": cell.model,
            "arm": cell.arm,
            "seed": cell.seed,
            "evaluation": cell.evaluation,
            "split": cell.split,
            "context": cell.context,
            "q": questions(cell.questions),
            "r": responses(cell.responses),
            "v": dict(cell.verdicts),
            "s": {trait: list(numbers) for trait, numbers in cell.scores.items()},
            "w": words(cell.words),
        }
        for cell in cells
    ]
    return {
        "traits": list(dict.fromkeys(trait for cell in cells for trait in cell.verdicts)),
        "cells": listed,
        "questions": list(questions.numbers),
        "responses": list(responses.numbers),
        "words": list(words.numbers),
    }
