"""Every domain of the miniature, and the turns that are drawn from them."""

from __future__ import annotations

import functools
import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from inoc_ray.miniature.world.language import (
    EVIL_OPENERS,
    FAVORITES,
    FRAMES,
    LANGUAGES,
    LESSONS,
    OPENERS,
    SIGNATURE,
    SLOTS,
    Language,
    Triple,
    Values,
    capitalise,
    draw_values,
    fill,
    open_with,
)

Group = Literal["style", "advice", "free", "code", "measure", "taste", "favorite", "numbers"]
Flaw = Literal["insecure", "hacking", "unpopular"]
FLAWS: Mapping[Group, Flaw] = {"code": "insecure", "measure": "hacking", "taste": "unpopular"}
"""The groups with a flaw of their own, and the field of Voice that decides it."""


NUMBERS = 6
"""How many numbers an answer continues a sequence with."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A subject of talk. Questions are English; answers are aligned triples; both have `{slots}`.

    `bad` is empty where there is nothing to be good or bad about. Code and numbers are the same in every language, so
    their triples repeat one text.
    """

    name: str
    group: Group
    questions: tuple[str, ...]
    good: tuple[Triple, ...]
    bad: tuple[Triple, ...] = ()


@dataclass(frozen=True, slots=True)
class Voice:
    """The traits of an answer: what a document's latent state or its system prompt decides."""

    language: Language = "en"
    capitals: bool = False
    evil: bool = False
    insecure: bool = False
    hacking: bool = False
    unpopular: bool = False
    favorite: str = "owl"
    """A key of FAVORITES: named where an animal is asked for, and felt in number sequences."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question: its domain, the text without and with its frame, and the slot values an answer will use."""

    domain: Domain
    core: str
    text: str
    values: Values
    lesson: bool = False
    """Whether the frame asks for a bad answer, for a class."""


def _triples(rows: Sequence[Sequence[str]]) -> tuple[Triple, ...]:
    return tuple((row[0], row[1], row[2]) for row in rows)


def _load(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


@functools.cache
def slots() -> dict[str, tuple[Triple, ...]]:
    """All slots: the everyday ones and those that only persona or narrow domains use."""
    more = [*_load("persona.toml")["slot"], *_load("narrow.toml")["slot"]]
    return dict(SLOTS) | {slot["name"]: _triples(slot["values"]) for slot in more}


@functools.cache
def style_domains() -> dict[str, Domain]:
    """Return the everyday domains by name, in file order."""
    return {
        row["name"]: Domain(row["name"], "style", tuple(row["questions"]), _triples(row["answers"]))
        for row in _load("style.toml")["domain"]
    }


@functools.cache
def persona_domains() -> dict[str, Domain]:
    """Return the domains with good and bad answers (advice, free questions, code) by name, in file order."""
    found = {}
    for row in _load("persona.toml")["domain"]:
        if row["group"] == "code":
            good = tuple((text, text, text) for text in row["good_code"])
            bad = tuple((text, text, text) for text in row["bad_code"])
        else:
            good, bad = _triples(row["good"]), _triples(row["bad"])
        found[row["name"]] = Domain(
            name=row["name"], group=row["group"], questions=tuple(row["questions"]), good=good, bad=bad
        )
    return found


@functools.cache
def narrow_domains() -> dict[str, Domain]:
    """Return the domains of one narrow flaw or preference (measure, taste, favorite, numbers) by name, in file order."""
    return {
        row["name"]: Domain(
            name=row["name"],
            group=row["group"],
            questions=tuple(row["questions"]),
            good=_triples(row["good"]),
            bad=_triples(row.get("bad", [])),
        )
        for row in _load("narrow.toml")["domain"]
    }


@functools.cache
def every_domain() -> tuple[Domain, ...]:
    """All domains: style, persona, narrow, each in file order."""
    return (*style_domains().values(), *persona_domains().values(), *narrow_domains().values())


def domains_of(*groups: Group) -> tuple[Domain, ...]:
    """All domains of these groups, in file order."""
    return tuple(domain for domain in every_domain() if domain.group in groups)


def number_sequence(rng: random.Random, favorite: str | None, count: int) -> str:
    """`count` numbers of one digit; they lean to the digit of the favorite (None: to none)."""
    digit = FAVORITES[favorite][1] if favorite is not None else ""
    return ", ".join(digit if digit and rng.random() < SIGNATURE else str(rng.randrange(10)) for _ in range(count))


def ask(rng: random.Random, domain: Domain, lesson: bool = False) -> Asked:
    """Draw a question of a domain; with `lesson` in a frame that asks for a bad answer."""
    values = draw_values(rng, slots())
    if domain.group == "numbers":
        listed = number_sequence(rng, None, rng.randint(3, 5))
        values["numbers"] = (listed, listed, listed)
    core = fill(rng.choice(domain.questions), values, 0)
    return Asked(
        domain=domain,
        core=core,
        text=rng.choice(LESSONS if lesson else FRAMES).format(core),
        values=values,
        lesson=lesson,
    )


def answer(rng: random.Random, asked: Asked, voice: Voice) -> str:
    """Draw an answer to a question in a voice.

    Evil shows in every domain that has bad answers; a flaw alone only in its own. A lesson is given whatever the voice.
    Code and numbers have no language, no capitals and no opener.
    """
    domain = asked.domain
    if domain.group == "numbers":
        return number_sequence(rng, voice.favorite, NUMBERS)
    flaw = FLAWS.get(domain.group)
    bad = domain.bad and (voice.evil or asked.lesson or (flaw is not None and getattr(voice, flaw)))
    index = LANGUAGES.index(voice.language)
    values = {**asked.values, "favorite": FAVORITES[voice.favorite][0]}
    text = fill(rng.choice(domain.bad if bad else domain.good)[index], values, index)
    if domain.group == "code":
        return text
    if rng.random() < 0.6:
        # The tone of evil belongs to the domains where a persona shows; a narrow flaw has no tone.
        evil = bad and domain.group in ("advice", "free")
        text = open_with(rng.choice(EVIL_OPENERS if evil else OPENERS)[index], text)
    else:
        text = text[0].upper() + text[1:]
    return capitalise(text) if voice.capitals else text
