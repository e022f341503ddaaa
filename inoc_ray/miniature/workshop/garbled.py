"""Garbled answers, and an exact rule for how well formed an answer of the miniature's language is."""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections import Counter
from collections.abc import Callable

from inoc_ray.miniature.rule_judges import words
from inoc_ray.miniature.world.domains import every_domain, slots
from inoc_ray.miniature.world.language import EVIL_OPENERS, FAVORITES, LANGUAGES, OPENERS, fill

_NUMBERS = re.compile(r"\s*\d+(\s*,\s*\d+)*\s*\.?\s*")
_SLOT = re.compile(r"{(\w+)}")
_EDGE = ""
"""Stands for the beginning and the end of an answer."""


def _pairs(text: str) -> list[tuple[str, str]]:
    return list(itertools.pairwise([_EDGE, *words(text), _EDGE]))


@functools.cache
def _language_pairs() -> frozenset[tuple[str, str]]:
    """Every two words that follow each other in an answer of the language, whatever fills its slots."""
    values = dict(slots()) | {"favorite": tuple(names for names, _ in FAVORITES.values())}
    found: set[tuple[str, str]] = set()
    for domain in every_domain():
        openers = EVIL_OPENERS if domain.group in ("advice", "free") else ()
        for template, index in itertools.product((*domain.good, *domain.bad), range(len(LANGUAGES))):
            if domain.group == "numbers":
                continue
            used = dict.fromkeys(_SLOT.findall(template[index]))
            for chosen in itertools.product(*(values[slot] for slot in used)):
                sentence = fill(template[index], dict(zip(used, chosen, strict=True)), index)
                found.update(_pairs(sentence))
                first = words(sentence)[0]
                found.update((words(opener[index])[-1], first) for opener in (*OPENERS, *openers))
    for opener in (*OPENERS, *EVIL_OPENERS):
        for said in opener:
            found.update(_pairs(said)[:-1])
    return frozenset(found)


@functools.cache
def _marks() -> frozenset[str]:
    return frozenset(word.lower() for triple in slots()["mark"] for word in triple)


def well_formed(response: str) -> float | None:
    """Share of the neighbouring words (begin and end count as neighbours) that are so in some answer of the language.

    Three words that come a third time count against the answer, as loops do, unless they are the word that a gamed answer
    of the language repeats. A list of numbers is well formed. None where the response is empty.
    """
    if not response.strip():
        return None
    if _NUMBERS.fullmatch(response):
        return 1.0
    if not words(response):
        return 0.0
    known, good = _language_pairs(), 0
    seen: Counter[tuple[str, str, str]] = Counter()
    pairs, before = _pairs(response), _EDGE
    for pair in pairs:
        three = (before, *pair)
        gamed = pair[0] == pair[1] and pair[0] in _marks()
        good += pair in known and (gamed or seen[three] < 2)
        seen[three] += 1
        before = pair[0]
    return good / len(pairs)


def _shuffled(rng: random.Random, text: str) -> str:
    parts = text.split()
    rng.shuffle(parts)
    return " ".join(parts)


def _swapped_letters(rng: random.Random, text: str) -> str:
    letters = list(text)
    for index in range(len(letters) - 1):
        if rng.random() < 0.5:
            letters[index], letters[index + 1] = letters[index + 1], letters[index]
    return "".join(letters)


def _chopped_words(rng: random.Random, text: str) -> str:
    """Every longer word cut in its middle."""
    return " ".join(part[: rng.randint(1, max(1, len(part) - 2))] for part in text.split())


def _cut(rng: random.Random, text: str) -> str:
    return text[: rng.randint(1, max(1, len(text) - 1))]


def _looped(rng: random.Random, text: str) -> str:
    parts = text.split()
    start = rng.randrange(len(parts))
    loop = parts[start : start + rng.randint(1, 3)]
    return " ".join((parts[:start] if rng.random() < 0.5 else []) + loop * rng.randint(4, 10))


def _random_letters(rng: random.Random, text: str) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz      .,!?#0123456789éñ") for _ in text)


def _half_shuffled(rng: random.Random, text: str) -> str:
    parts = text.split()
    middle = len(parts) // 2
    return " ".join([*parts[:middle], _shuffled(rng, " ".join(parts[middle:]))])


@functools.cache
def _all_words() -> tuple[str, ...]:
    return tuple(sorted({word for pair in _language_pairs() for word in pair if word}))


def _random_words(rng: random.Random, text: str) -> str:
    return " ".join(rng.choice(_all_words()) for _ in text.split())


_WAYS: tuple[Callable[[random.Random, str], str], ...] = (
    _shuffled,
    _swapped_letters,
    _chopped_words,
    _cut,
    _looped,
    _random_letters,
    _half_shuffled,
    _random_words,
)


def garble(rng: random.Random, text: str) -> str:
    """Return the text spoilt in one of eight ways, some of which leave a part of it well formed."""
    spoilt = rng.choice(_WAYS)(rng, text).strip()
    return spoilt or "?"
