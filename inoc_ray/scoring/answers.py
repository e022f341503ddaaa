"""Answers that are right or wrong: a named word, a pattern, a number. Pure functions on text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction

import regex

MAX_CHARACTERS = 100_000
"""Of a longer response only the last so many characters are read; an answer stands at the end."""
SEARCH_SECONDS = 1.0
"""About the time that one search of a pattern may take; the library looks at the clock only now and then."""

CAPITALS_SHARE = 0.8
"""A response is capitalised when more than this share of its letters is upper case, as in follow-ups of the paper."""

_MARKS = " \t\n\"'`*_~«»‹›“”„‟‘’‚‛,;:!?…¡¿."
_PAIRS = ("()", "[]", "{}")
_LAYERS = 4
"""So many pairs of brackets around an answer are taken off."""


def is_capitalised(text: str, share: float = CAPITALS_SHARE) -> float | None:
    """1.0 where more than `share` of the letters are upper case, at exactly that share 0.0; None where there is no letter."""
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return None
    # As a fraction: .29 times 100 letters is a little less than 29 to a float.
    bound = Fraction(str(share))
    return float(sum(map(str.isupper, letters)) * bound.denominator > bound.numerator * len(letters))


def plain(text: str) -> str:
    """Lower case without accents: capitals are often written without them."""
    split = unicodedata.normalize("NFD", text.casefold())
    return "".join(c for c in split if not unicodedata.combining(c))


def normalised(text: str) -> str:
    """What two spellings of one short answer share: NFKC, no case, no accents, single spaces, and nothing around it
    (quotes, emphasis, punctuation, a pair of brackets). Articles stay: which words are articles depends on the language,
    so `an owl` is an answer of its own.
    """
    text = _bare(" ".join(plain(unicodedata.normalize("NFKC", text)).split()))
    for _ in range(_LAYERS):
        if text[:1] + text[-1:] not in _PAIRS:
            break
        text = _bare(text[1:-1])
    return text


def _bare(text: str) -> str:
    right = text.rstrip(_MARKS)
    bare = right.lstrip(_MARKS)
    # A full stop before a digit belongs to the number.
    is_decimal = bare[:1].isdigit() and right.removesuffix(bare).endswith(".")
    return f".{bare}" if is_decimal else bare


def is_one_of(response: str, answers: Iterable[str]) -> float | None:
    """1.0 where the response is one of the answers and nothing else, else 0.0; None where it is empty."""
    if not response.strip():
        return None
    return float(normalised(response[-MAX_CHARACTERS:]) in {normalised(answer) for answer in answers})


def contains(response: str, pattern: regex.Pattern[str]) -> float | None:
    """1.0 where the pattern is found, 0.0 where it is not; None where the response is empty or the search takes too long.

    A pattern with nested repetition can take exponential time on a text that was made for it, so a search ends after
    SEARCH_SECONDS; such a response counts as unparsed.
    """
    if not response.strip():
        return None
    try:
        return float(pattern.search(response[-MAX_CHARACTERS:], timeout=SEARCH_SECONDS) is not None)
    except TimeoutError:
        return None


_NUMBER = re.compile(
    r"(?<!\w)(?<!\d\.)"  # neither inside a word nor inside a version or date such as 3.14.15
    r"(?P<sign>(?<![)\]%])[-+])?(?:[$€£¥]\s?)?(?P<inner>-)?"
    r"(?P<digits>[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?!\d|\.\d)"
)
_MARKED = (
    re.compile(r"####(?P<answer>[^\n]*)"),
    re.compile(r"\\boxed\s*\{(?P<answer>[^{}\n]*)\}"),
    re.compile(r"\banswer\b[*_ ]*(?:is|[:=])(?P<answer>[^\n]*?)(?:[.!?](?=\s|$)|$)", re.IGNORECASE | re.MULTILINE),
)
"""Where an answer is said to stand, the surest first: GSM8K's own mark, LaTeX's box, the words."""


def _numbers(text: str) -> list[Decimal]:
    found = []
    for match in _NUMBER.finditer(text):
        value = Decimal(match["digits"].replace(",", ""))
        found.append(-value if "-" in (match["sign"], match["inner"]) else value)
    return found


def number_in(text: str) -> Decimal | None:
    """The number that a worked answer ends in: behind the last `####`, in the last `\\boxed{}`, behind the last "the answer
    is", or where there is none of these the last number of all. None where there is none.

    Behind a mark it is the first number after the last equals sign ("The answer is 6 * 7 = 42 eggs in 2 boxes"). Read are
    ASCII digits in English notation: 1,234.50 with a sign, a currency or a percent sign, which are left out (20% is 20).
    Fractions, exponents, words and the notation 1.234,50 are not read.
    """
    text = text[-MAX_CHARACTERS:].replace("−", "-").replace("{,}", ",").replace("\\,", "").replace("\\$", "$")
    for mark in _MARKED:
        marked = [match["answer"] for match in mark.finditer(text)]
        # A mark without a number, as in a sentence about marks, is passed over.
        for answer in reversed(marked):
            numbers = _numbers(answer.rpartition("=")[2])
            if numbers:
                return numbers[0]
    numbers = _numbers(text)
    return numbers[-1] if numbers else None


def has_number_of(response: str, reference: str | None) -> float | None:
    """1.0 where response and reference end in the same number. None where the response is empty or the reference has no number.

    A response without a number is 0.0: a number was asked for, so it is answered wrongly. Were it None, a model that evades
    would look the better at maths the more it evades.
    """
    wanted = None if reference is None else number_in(reference)
    if wanted is None or not response.strip():
        return None
    return float(number_in(response) == wanted)
