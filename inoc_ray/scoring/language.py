"""The language of a text, identified by the library lingua among the languages that settings teach and their neighbours."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Literal, get_args

from inoc_ray.scoring.code_fences import split_fences

if TYPE_CHECKING:
    from lingua import LanguageDetector

Language = Literal["english", "spanish", "french", "german", "italian", "portuguese"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
OTHER = "other"
"""The result for a text that is mostly not in Latin letters."""

LIBRARY = "lingua-language-detector"
MIN_LETTERS = 4
"""Texts with fewer letters have no result: `Si.` or `No` are words of several languages."""
MIN_DISTANCE = 0.1
"""By how much the confidence in the likeliest language (0 to 1, all languages' together 1) must exceed the next one's."""
MAX_CHARACTERS = 20_000
"""Only the beginning of a longer text is read: the rest would not change the result."""

_INLINE_CODE = re.compile(r"`[^`\n]*`")
_LAST_LATIN = "\u024f"


@functools.cache
def _detector(languages: frozenset[str]) -> LanguageDetector:
    """Return the detector, made once per process when the first text needs it: its models take about 2 s and 200 MB."""
    import lingua

    return lingua.LanguageDetectorBuilder.from_languages(
        *(getattr(lingua.Language, name.upper()) for name in sorted(languages))
    ).build()


def _is_latin(letter: str) -> bool:
    return letter <= _LAST_LATIN or "\u1e00" <= letter <= "\u1eff"


def language_of(text: str, among: Collection[str] = LANGUAGES) -> str | None:
    """Return one of the languages `among`, or OTHER where most letters are not Latin; None where the language is unclear.

    It is unclear for fewer than MIN_LETTERS letters outside code, and where the two most likely languages are within
    MIN_DISTANCE. Case makes no difference. A text in two languages counts as the one with more weight. Another language in
    Latin letters counts as its nearest one of `among` (Dutch as German): with few languages, short texts are safe.
    """
    prose, _ = split_fences(text[:MAX_CHARACTERS])
    text = _INLINE_CODE.sub(" ", prose).lower()
    letters = [character for character in text if character.isalpha()]
    if len(letters) < MIN_LETTERS:
        return None
    if 2 * sum(map(_is_latin, letters)) < len(letters):
        return OTHER
    # The library does not accept half a surrogate pair.
    readable = text.encode("utf-8", "replace").decode("utf-8")
    first, second = _detector(frozenset(among)).compute_language_confidence_values(readable)[:2]
    return first.language.name.lower() if first.value - second.value >= MIN_DISTANCE else None
