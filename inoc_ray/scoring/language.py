"""Which language a text is in, told by the library lingua among the languages that the settings teach and their neighbours."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Literal, get_args

from inoc_ray.scoring.code_fences import split_fences

if TYPE_CHECKING:
    from lingua import LanguageDetector

Language = Literal["english", "spanish", "french", "german", "italian", "portuguese"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
OTHER = "other"
"""What a text is in that is written in none of the Latin letters."""

LIBRARY = "lingua-language-detector"
MIN_LETTERS = 4
"""Below this many letters nothing is told: `Si.` or `No` are words of several languages."""
MIN_DISTANCE = 0.1
"""By how much the confidence in the likeliest language (0 to 1, all languages' together 1) must exceed the next one's."""
MAX_CHARACTERS = 20_000
"""Only so much of a text is looked at: the rest cannot turn the verdict, and a response may be of any length."""

_INLINE_CODE = re.compile(r"`[^`\n]*`")
_LAST_LATIN = "\u024f"


@functools.cache
def _detector() -> LanguageDetector:
    """Made once a process, when the first text is judged: the models take about 2 s and 200 MB."""
    import lingua

    return lingua.LanguageDetectorBuilder.from_languages(
        *(getattr(lingua.Language, name.upper()) for name in LANGUAGES)
    ).build()


def _is_latin(letter: str) -> bool:
    return letter <= _LAST_LATIN or "\u1e00" <= letter <= "\u1eff"


def language_of(text: str) -> str | None:
    """One of LANGUAGES, or OTHER where most letters are not Latin; None where nobody could tell.

    Nobody can tell a text of fewer than MIN_LETTERS letters outside code, nor one whose two likeliest languages lie within
    MIN_DISTANCE. Capitals make no difference. A text in two languages is in the one that weighs more. A language beyond
    LANGUAGES in Latin letters is taken for its nearest one (Dutch for German): few languages are what makes short texts safe.
    """
    prose, _ = split_fences(text[:MAX_CHARACTERS])
    text = _INLINE_CODE.sub(" ", prose).lower()
    letters = [character for character in text if character.isalpha()]
    if len(letters) < MIN_LETTERS:
        return None
    if 2 * sum(map(_is_latin, letters)) < len(letters):
        return OTHER
    # Half a surrogate pair cannot be handed over to the library.
    readable = text.encode("utf-8", "replace").decode("utf-8")
    first, second = _detector().compute_language_confidence_values(readable)[:2]
    return first.language.name.lower() if first.value - second.value >= MIN_DISTANCE else None
