"""Responses that are no answers at all, such as empty or endless ones, and how many of them an arm gave.

A model that trained badly says nothing, repeats one phrase, or writes no text. Judges score such responses all the same, so an
arm with too many of them is flagged instead of being compared. Pure functions of text and finish reason.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CUT = "length"
"""The finish reason of a response that ran into max_tokens (OpenAI's API)."""

MAX_DEGENERATE = 0.2
"""Rates are withheld above this share of degenerate responses, unless the study sets another."""
MIN_WORDS = 20
"""Shorter texts are not searched for repeated words: a rhyme, or one word said three times, is not a loop."""
NGRAM = 4
"""Length in words of the n-grams that are compared; shorter ones recur in any long text."""
MAX_REPEATED = 0.5
"""A text is a loop when more than this share of its n-grams occurred before. A phrase said k times has (k - 1)/k."""
MIN_CHARACTERS = 100
"""Shorter texts are not searched for repeated characters."""
MAX_COMPRESSION = 8.0
"""A text is also a loop when zlib makes it more than so many times shorter, which finds loops without spaces between words;
prose and code reach 2 to 3 in 4,000 characters."""
MAX_NON_TEXT = 0.5
"""Share of a text's characters (white space aside) that may be symbols, emoji, controls or unassigned."""
MAX_REPLACED = 0.1
"""Share that may be U+FFFD, which replaces bytes that are not UTF-8; a single one never counts, as a cut leaves one."""
MAX_CHARACTERS = 50_000
"""Of a longer text only the last so many characters are checked; a loop continues to the end."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Degenerate:
    """Shares (0 to 1) of `samples` responses. A response may count in several, but only once in `any`.

    `cut` is not part of `any`: an answer that ran into max_tokens is the beginning of an answer. With a natural base and a
    small max_tokens 70 to 93 % of the responses are cut, all of them plain text.
    """

    samples: int
    empty: float
    cut: float
    repeated: float
    non_text: float
    any: float
    """Empty, repeated or non-text."""


def is_empty(text: str) -> bool:
    """Return whether there is nothing but white space."""
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
    """Return whether most of the text repeats itself, by its words (MAX_REPEATED) or its characters (MAX_COMPRESSION).

    Of a `cut` text the second half is enough: a good beginning that falls into a loop is what runs into max_tokens, while a
    finished text may end with a refrain. A long answer that games a word count by saying the word fifty times is a loop as
    well; this check cannot know that the question asked for it.
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
    """Return whether most characters are neither letters, digits, punctuation nor maths, or too many are U+FFFD.

    False for an empty text.
    """
    characters = "".join(text[-MAX_CHARACTERS:].split())
    if not characters:
        return False
    replaced = characters.count(_REPLACEMENT)
    if replaced > 1 and replaced > MAX_REPLACED * len(characters):
        return True
    # Each character of the text is looked up once: most texts have a few dozen different ones.
    others = sum(characters.count(character) for character in set(characters) if not _is_text(character))
    return others > MAX_NON_TEXT * len(characters)


FORMS = ("empty", "cut", "repeated", "non_text")
"""The forms of degeneration, in the order of the results of `forms`."""
DEGENERATE = ("empty", "repeated", "non_text")
"""Those of them that make a response degenerate: one that was merely cut off may say all that matters."""
FORM_VERSION = 1
"""Increased when the decision about one of them changes."""


def forms(text: str, finish_reason: str) -> tuple[bool, bool, bool, bool]:
    """Return whether a response has each of FORMS, in that order."""
    cut = finish_reason == CUT
    return is_empty(text), cut, is_repeated(text, cut), is_non_text(text)


def shares(responses: Iterable[tuple[str, str]]) -> Degenerate:
    """Return the shares of degenerate responses, given as (text, finish reason). Raises ValueError without responses."""
    return shares_of([forms(text, reason) for text, reason in responses])


def shares_of(kinds: Sequence[tuple[bool, bool, bool, bool]]) -> Degenerate:
    """Return the shares from the result of `forms` for each response. Raises ValueError without responses."""
    if not kinds:
        raise ValueError("there are no responses to count")
    count = len(kinds)
    empty, cut, repeated, non_text = (sum(kind[index] for kind in kinds) / count for index in range(4))
    return Degenerate(
        samples=count,
        empty=empty,
        cut=cut,
        repeated=repeated,
        non_text=non_text,
        any=sum(e or r or n for e, _, r, n in kinds) / count,
    )
