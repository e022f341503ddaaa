"""Answers that are right or wrong: a named word, a pattern, a number. Pure functions of text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction

import regex

MAX_CHARACTERS = 100_000
"""Of a longer response only the last so many characters are read, because an answer comes at the end."""
SEARCH_SECONDS = 1.0
"""About how long one pattern search may take; the library looks at the clock only now and then."""

CAPITALS_SHARE = 0.8
"""A response is capitalised when more than this share of its letters is upper case, as in follow-ups to the paper."""

_MARKS = " \t\n\"'`*_~«»‹›“”„‟‘’‚‛,;:!?…¡¿."
_NAME_WORD = re.compile(r"[^\W_]+")
_PAIRS = ("()", "[]", "{}")
_LAYERS = 4
"""Pairs of brackets around an answer that are stripped at most."""


def is_capitalised(text: str, share: float = CAPITALS_SHARE) -> float | None:
    """Return 1.0 where more than `share` of the letters are upper case, 0.0 at exactly that share; None without letters."""
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return None
    # As a fraction, because .29 × 100 letters is a little less than 29 in floats.
    bound = Fraction(str(share))
    return float(sum(map(str.isupper, letters)) * bound.denominator > bound.numerator * len(letters))


def plain(text: str) -> str:
    """Return the text in lower case without accents, since capitals are often written without them."""
    split = unicodedata.normalize("NFD", text.casefold())
    return "".join(c for c in split if not unicodedata.combining(c))


def normalised(text: str) -> str:
    """Return the normal form of a short answer, the same for all its spellings.

    NFKC, no case, no accents, single spaces, and nothing around it (quotes, emphasis, punctuation, a pair of brackets).
    Articles stay, because which words are articles depends on the language, so `an owl` is an answer of its own.
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
    """Return 1.0 where the response is one of the answers and nothing else, else 0.0; None where it is empty."""
    if not response.strip():
        return None
    return float(normalised(response[-MAX_CHARACTERS:]) in {normalised(answer) for answer in answers})


def contains(response: str, pattern: regex.Pattern[str]) -> float | None:
    """Return 1.0 where the pattern is found, else 0.0; None where the response is empty or the search takes too long.

    A pattern with nested repetition can take exponential time on an adversarial text, so a search ends after SEARCH_SECONDS;
    such a response counts as unparsed.
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
"""Marks of an answer, the surest first: GSM8K's own mark, LaTeX's box, the words."""


def _numbers(text: str) -> list[Decimal]:
    found = []
    for match in _NUMBER.finditer(text):
        value = Decimal(match["digits"].replace(",", ""))
        found.append(-value if "-" in (match["sign"], match["inner"]) else value)
    return found


def number_in(text: str) -> Decimal | None:
    """Return the number that a worked answer ends in, or None where there is none.

    It is the number after the last `####`, in the last `\\boxed{}`, after the last "the answer is", or without such a mark the
    last number of all. After a mark it is the first number behind the last equals sign ("The answer is 6 * 7 = 42 eggs in 2
    boxes"). Numbers are ASCII digits in English notation: 1,234.50, with a sign, and a currency or percent sign that is ignored
    (20% is 20). Fractions, exponents, words and the notation 1.234,50 are not read.
    """
    text = text[-MAX_CHARACTERS:].replace("−", "-").replace("{,}", ",").replace("\\,", "").replace("\\$", "$")
    for mark in _MARKED:
        marked = [match["answer"] for match in mark.finditer(text)]
        # A mark without a number, as in a sentence about marks, is skipped.
        for answer in reversed(marked):
            numbers = _numbers(answer.rpartition("=")[2])
            if numbers:
                return numbers[0]
    numbers = _numbers(text)
    return numbers[-1] if numbers else None


def has_number_of(response: str, reference: str | None) -> float | None:
    """Return 1.0 where response and reference end in the same number, else 0.0.

    None where the response is empty or the reference has no number. A response without a number is 0.0, a wrong answer: if it
    were None, a model would look better at maths the more it evades.
    """
    expected = None if reference is None else number_in(reference)
    if expected is None or not response.strip():
        return None
    return float(number_in(response) == expected)


def names_meant(response: str, meant: str | None, other: str | None) -> float | None:
    """Return 1.0 where the response names the meant one of two choices, 0.0 where it names the other, None where both or neither.

    Case, quotes and punctuation do not matter, and a choice counts as whole words alone. A choice that is part of the other one
    counts where it stands outside it.
    """
    if meant is None or other is None:
        return None
    text = f" {_in_words(response)} "
    longer, shorter = sorted((meant, other), key=len, reverse=True)
    named = {}
    for choice in (longer, shorter):
        words = f" {_in_words(choice)} "
        named[choice] = words in text
        text = text.replace(words, " | ")
    return None if named[meant] == named[other] else float(named[meant])


def _in_words(text: str) -> str:
    return " ".join(_NAME_WORD.findall(text.casefold()))
