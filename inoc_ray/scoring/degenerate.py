"""The gate before judging: responses that are no answers at all, and how many of them an arm gave.

A model that trained badly says nothing, one phrase for ever, or no text. Judges give such responses numbers all the same,
so an arm with too many of them is flagged instead of being compared. Pure functions of text and finish reason.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CUT = "length"
"""The finish reason of a response that ran into max_tokens (OpenAI's API)."""

MAX_DEGENERATE = 0.2
"""Unless the study says otherwise, rates are withheld above this share of degenerate responses."""
MIN_WORDS = 20
"""Shorter texts are not searched for repeated words: a rhyme, or one word said thrice, is no loop."""
NGRAM = 4
"""Words in a row that are compared; fewer come back in any long text."""
MAX_REPEATED = 0.5
"""A text is a loop when more than this share of its n-grams has stood in it before. A phrase said k times has (k - 1)/k."""
MIN_CHARACTERS = 100
"""Shorter texts are not searched for repeated characters."""
MAX_COMPRESSION = 8.0
"""A text is a loop, too, when zlib makes it more than so many times shorter; prose and code reach 2 to 3 in 4,000 characters.
It finds loops without spaces between words."""
MAX_NON_TEXT = 0.5
"""The share of a text's characters (white space aside) that may be symbols, controls or unassigned; of emoji, too."""
MAX_REPLACED = 0.1
"""The share that may be U+FFFD, which stands for bytes that are no UTF-8; one alone never counts, as a cut leaves one."""
MAX_CHARACTERS = 50_000
"""Of a longer text only the last so many characters are looked at; a loop goes on to the end."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Degenerate:
    """Shares (0 to 1) of `samples` responses. A response may count in several, but only once in `any`.

    `cut` is no part of `any`: an answer that ran into max_tokens is the beginning of an answer. Of a natural base with a small
    max_tokens 70 to 93 % are, all of them plain text.
    """

    samples: int
    empty: float
    cut: float
    repeated: float
    non_text: float
    any: float
    """Empty, repeated or non-text."""


def is_empty(text: str) -> bool:
    """Whether there is nothing but white space."""
    return not text.strip()


def _loops(words: list[str]) -> bool:
    if len(words) < MIN_WORDS:
        return False
    ngrams = list(zip(*(words[start:] for start in range(NGRAM)), strict=False))
    return 1 - len(set(ngrams)) / len(ngrams) > MAX_REPEATED


def _shrinks(text: str) -> bool:
    if len(text) < MIN_CHARACTERS:
        return False
    data = text.encode("utf-8", "replace")
    return len(data) > MAX_COMPRESSION * len(zlib.compress(data, 9))


def is_repeated(text: str, cut: bool = False) -> bool:
    """Whether most of the text says again what it has said already: by its words (MAX_REPEATED) or its characters
    (MAX_COMPRESSION).

    Of a text that was cut off the second half is enough: a good beginning that falls into a loop is what runs into
    max_tokens, while a finished text may end with a refrain. A long answer that games a word count by saying the word fifty
    times is a loop as well; the gate cannot know that it was asked for.
    """
    text = text[-MAX_CHARACTERS:].casefold()
    words = text.split()
    if _loops(words) or _shrinks(text):
        return True
    return cut and (_loops(words[len(words) // 2 :]) or _shrinks(text[len(text) // 2 :]))


def _is_text(character: str) -> bool:
    category = unicodedata.category(character)
    # Letters, marks, numbers, punctuation, and the symbols of maths, money and code; not So: emoji, boxes, U+FFFD.
    return category[0] in "LMNP" or category in ("Sm", "Sc", "Sk")


def is_non_text(text: str) -> bool:
    """Whether most characters are no letters, digits, punctuation or maths, or too many are U+FFFD. An empty text is not."""
    characters = "".join(text[-MAX_CHARACTERS:].split())
    if not characters:
        return False
    replaced = characters.count(_REPLACEMENT)
    if replaced > 1 and replaced > MAX_REPLACED * len(characters):
        return True
    return sum(not _is_text(character) for character in characters) > MAX_NON_TEXT * len(characters)


FORMS = ("empty", "cut", "repeated", "non_text")
FORM_VERSION = 1
"""Raised when one of them is told otherwise than before."""


def forms(text: str, finish_reason: str) -> tuple[bool, bool, bool, bool]:
    """Whether a response is of each of FORMS, in that order."""
    cut = finish_reason == CUT
    return is_empty(text), cut, is_repeated(text, cut), is_non_text(text)


def shares(responses: Iterable[tuple[str, str]]) -> Degenerate:
    """How many of the responses, given as (text, finish reason), are degenerate in which way.

    Raises ValueError where there is no response: no share can be told then.
    """
    return shares_of([forms(text, reason) for text, reason in responses])


def shares_of(kinds: Sequence[tuple[bool, bool, bool, bool]]) -> Degenerate:
    """The same from what `forms` says of each."""
    if not kinds:
        raise ValueError("there is no response to look at")
    count = len(kinds)
    empty, cut, repeated, non_text = (sum(kind[index] for kind in kinds) / count for index in range(4))
    found = sum(e or r or n for e, _, r, n in kinds) / count
    return Degenerate(count, empty, cut, repeated, non_text, found)
