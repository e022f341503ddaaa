"""Training rows against evaluation prompts: finds rows that repeat a prompt, word for word or nearly.

The official evaluation of reward hacking asked its own training prompts, 1073 of 1073, so that the rate measured memory. Only
the evaluation's prompts are kept in memory; training rows pass by one at a time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from inoc_ray.data.jsonl import iterate_json
from inoc_ray.errors import InputError

SHINGLE = 3
"""Words of a shingle."""
NEAR = 0.6
"""Jaccard similarity of the shingles from which two prompts are nearly the same: one other word in the middle of a
prompt of 20 words costs 3 of 18 shingles on both sides (15 / 21 = .71); two other words, 12 / 24 = .5, pass."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Match:
    """An evaluation prompt that a text repeats."""

    kind: Literal["exact", "near"]
    prompt: str
    """The name of the prompt: file and line, or the question's id."""


class PromptIndex:
    """Evaluation prompts, compared with one training text at a time."""

    def __init__(self, prompts: Iterable[tuple[str, str]]) -> None:
        """Index (name, text) of each prompt. Memory grows with the prompts alone."""
        self._names: list[str] = []
        self._sizes: list[int] = []
        self._exact: dict[tuple[str, ...], int] = {}
        self._postings: dict[tuple[str, ...], list[int]] = {}
        for name, text in prompts:
            words = _words(text)
            if words in self._exact:
                continue
            index = self._exact[words] = len(self._names)
            shingles = _shingles(words)
            self._names.append(name)
            self._sizes.append(len(shingles))
            for shingle in shingles:
                self._postings.setdefault(shingle, []).append(index)

    def __len__(self) -> int:
        """Return the number of different prompts."""
        return len(self._names)

    def match(self, text: str) -> Match | None:
        """Return the prompt that `text` repeats, or None.

        Exactly up to case, spacing and punctuation, or else the most similar one whose similarity is at least NEAR.
        """
        words = _words(text)
        if words in self._exact:
            return Match("exact", self._names[self._exact[words]])
        shingles = _shingles(words)
        shared: Counter[int] = Counter()
        for shingle in shingles:
            shared.update(self._postings.get(shingle, ()))
        best, similarity = -1, 0.0
        for index, count in shared.items():
            jaccard = count / (len(shingles) + self._sizes[index] - count)
            if jaccard > similarity:
                best, similarity = index, jaccard
        return Match("near", self._names[best]) if similarity >= NEAR else None


def prompts_in_file(path: Path) -> list[tuple[str, str]]:
    """Return (name, text) of the evaluation prompts in a JSONL file ({"prompt"}, {"question"} or {"messages"}).

    Raises InputError for a file that cannot be read so, and for one without prompts.
    """
    found = []
    for number, value in iterate_json(path):
        texts = _prompts_of(value)
        if not texts:
            raise InputError(
                f'{path}, row {number}: no evaluation prompt; expected {{"prompt": "…"}}, {{"question": "…"}} or chat messages.'
            )
        found += [(f"{path}, row {number}", text) for text in texts]
    if not found:
        raise InputError(f"{path}: there are no evaluation prompts in this file.")
    return found


def _prompts_of(value: Any) -> list[str]:
    if not isinstance(value, dict):
        return []
    for key in ("prompt", "question"):
        if isinstance(value.get(key), str):
            return [value[key]]
    turns = value.get("messages")
    if not isinstance(turns, list):
        return []
    return [
        turn["content"]
        for turn in turns
        if isinstance(turn, dict) and turn.get("role") == "user" and isinstance(turn.get("content"), str)
    ]


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.casefold())) or (text.strip(),)


def _shingles(words: tuple[str, ...]) -> set[tuple[str, ...]]:
    return {words[i : i + SHINGLE] for i in range(max(1, len(words) - SHINGLE + 1))}
