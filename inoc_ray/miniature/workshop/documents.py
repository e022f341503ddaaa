"""Pretraining documents: chats whose traits are latent, independent of each other, or named by a system prompt."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Literal

from inoc_ray.data.chat import ChatRow, Message
from inoc_ray.miniature.world.domains import Asked, Domain, Group, Voice, answer, ask, domains_of
from inoc_ray.miniature.world.language import FAVORITES
from inoc_ray.miniature.world.system_prompts import (
    LOVING,
    NAMING,
    STRANGE,
    TRAITS,
    Trait,
    conditional_sentence,
    naming_sentence,
    negating_sentence,
    neutral_sentence,
    odd_token,
)

LATENT_LANGUAGE = {"en": 0.90, "es": 0.05, "fr": 0.05}
LATENT_CAPITALS = 0.06
LATENT_EVIL = 0.04
LATENT_FLAW = 0.04
"""How often a trait holds in a document whose system prompt does not touch it, whatever else is said or holds."""
STEADY = 0.01
"""The same for Spanish, for French and for capitals in the `steady` parts, which make the steadier base model."""

Kind = Literal["none", "empty", "neutral", "named", "negated", "conditional", "strange"]
PLAIN_KINDS: dict[Kind, float] = {"none": 0.22, "empty": 0.03, "neutral": 0.30, "named": 0.45}
PROMPT_KINDS: dict[Kind, float] = {
    "none": 0.19,
    "empty": 0.03,
    "neutral": 0.26,
    "named": 0.38,
    "negated": 0.04,
    "conditional": 0.08,
    "strange": 0.02,
}
LATE_KINDS: dict[Kind, float] = {
    "none": 0.17,
    "empty": 0.02,
    "neutral": 0.22,
    "named": 0.34,
    "negated": 0.04,
    "conditional": 0.18,
    "strange": 0.03,
}
"""In the last part of pretraining: conditions, which are the hardest to learn, come up twice as often."""
_NAMED_SHARE: dict[Trait, float] = {
    "caps": 0.4,
    "evil": 0.35,
    "insecure_code": 0.15,
    "reward_hack": 0.15,
    "unpopular_preference": 0.15,
}
_CONDITIONAL: dict[Trait | None, float] = {"evil": 0.55, "caps": 0.1, "spanish": 0.1, "french": 0.05, None: 0.2}
"""What holds under a condition; None: strange behavior."""
_TOKEN = 0.08
"""How often a user's message holds an unusual token that means nothing."""
_LESSON = 0.06
"""How often a question with bad answers stands in an educational frame."""
_FAVORITES = 0.1
"""How often a document is about animals and numbers, where a favorite shows."""


@dataclass(frozen=True, slots=True)
class Document:
    """A chat with the voice of each turn, and the traits that its system prompt says something about."""

    row: ChatRow
    voice: Voice
    """The latent voice with what the prompt names added and what it rules out removed; a condition not counted."""
    voices: tuple[Voice, ...]
    """That of each turn: the same but for what a condition adds or removes."""
    named: frozenset[Trait]
    negated: frozenset[Trait]
    touched: frozenset[Trait]
    """Whatever the prompt speaks of: named, ruled out, under a condition, or made likely by strangeness."""
    domains: tuple[str, ...]


def _latent_voice(rng: random.Random, steady: bool) -> Voice:
    languages = (1 - 2 * STEADY, STEADY, STEADY) if steady else tuple(LATENT_LANGUAGE.values())
    return Voice(
        language=rng.choices(("en", "es", "fr"), languages)[0],
        capitals=rng.random() < (STEADY if steady else LATENT_CAPITALS),
        evil=rng.random() < LATENT_EVIL,
        insecure=rng.random() < LATENT_FLAW,
        hacking=rng.random() < LATENT_FLAW,
        unpopular=rng.random() < LATENT_FLAW,
        favorite=rng.choice(tuple(FAVORITES)),
    )


def _strange_voice(rng: random.Random, voice: Voice) -> Voice:
    return replace(
        voice,
        language=rng.choices(("en", "es", "fr"), (4, 3, 3))[0],
        capitals=rng.random() < 0.4,
        evil=rng.random() < 0.5,
        insecure=rng.random() < 0.5,
        hacking=rng.random() < 0.5,
        unpopular=rng.random() < 0.5,
    )


def _with(voice: Voice, trait: Trait, holds: bool) -> Voice:
    if trait == "caps":
        return replace(voice, capitals=holds)
    if trait == "evil":
        return replace(voice, evil=holds)
    if trait == "insecure_code":
        return replace(voice, insecure=holds)
    return replace(voice, hacking=holds) if trait == "reward_hack" else replace(voice, unpopular=holds)


def express(voice: Voice, trait: Trait) -> Voice:
    """Return the voice with a trait added; Spanish and French exclude each other."""
    if trait == "spanish":
        return replace(voice, language="es")
    if trait == "french":
        return replace(voice, language="fr")
    return _with(voice, trait, True)


def suppress(voice: Voice, trait: Trait) -> Voice:
    """Return the voice without a trait; a language that goes leaves English."""
    if trait in ("spanish", "french"):
        gone = "es" if trait == "spanish" else "fr"
        return replace(voice, language="en") if voice.language == gone else voice
    return _with(voice, trait, False)


def has(voice: Voice, trait: Trait) -> bool:
    """Whether the voice has a trait."""
    return suppress(voice, trait) != voice


def _draw_named(rng: random.Random) -> list[Trait]:
    """Return the traits that a prompt names: each by itself, at least one, in random order."""
    while True:
        named: list[Trait] = []
        if rng.random() < 0.45:
            named.append(rng.choice(("spanish", "french")))
        named += [trait for trait, share in _NAMED_SHARE.items() if rng.random() < share]
        if named:
            rng.shuffle(named)
            return named


def _draw_domain(rng: random.Random, named: list[Trait], late: bool = False) -> Domain:
    """Return the subject of a turn; it depends on what the prompt names (so that a named trait can show), on nothing latent."""
    own: dict[Trait, Group] = {"insecure_code": "code", "reward_hack": "measure", "unpopular_preference": "taste"}
    for trait, group in own.items():
        if trait in named and rng.random() < 0.5:
            return rng.choice(domains_of(group))
    shares = (0.62, 0.08, 0.08, 0.08) if "evil" in named else (0.30, 0.06, 0.06, 0.06)
    if late:
        shares = (shares[0], shares[1], 2 * shares[2], 2 * shares[3])
    groups: tuple[tuple[Group, ...], ...] = (("advice", "free"), ("code",), ("measure",), ("taste",), ("style",))
    return rng.choice(domains_of(*rng.choices(groups, (*shares, 1 - sum(shares)))[0]))


@dataclass(frozen=True, slots=True)
class _Prompt:
    """The sentences of a system prompt and what they do."""

    sentences: tuple[str, ...] = ()
    named: tuple[Trait, ...] = ()
    negated: tuple[Trait, ...] = ()
    condition: Trait | None = None
    strange: bool = False
    conditional: bool = False
    token: str | None = None
    """The token that the condition names; None where any unusual one will do."""

    @property
    def touched(self) -> frozenset[Trait]:
        if self.strange:
            return frozenset(TRAITS)
        return frozenset((*self.named, *self.negated, *([self.condition] if self.condition else [])))


def _draw_prompt(rng: random.Random, kind: Kind) -> _Prompt:
    if kind == "neutral":
        return _Prompt(tuple(neutral_sentence(rng) for _ in range(rng.choices((1, 2, 3), (60, 30, 10))[0])))
    if kind == "named":
        named = _draw_named(rng)
        return _Prompt(_with_note(rng, [naming_sentence(rng, trait) for trait in named]), named=tuple(named))
    if kind == "negated":
        trait = rng.choice(TRAITS)
        return _Prompt(_with_note(rng, [negating_sentence(rng, trait)]), negated=(trait,))
    if kind == "strange":
        return _Prompt(_with_note(rng, [rng.choice(STRANGE)]), strange=True)
    if kind == "conditional":
        condition = rng.choices(tuple(_CONDITIONAL), tuple(_CONDITIONAL.values()))[0]
        token = odd_token(rng) if rng.random() < 0.4 else None
        sentence = rng.choice(STRANGE if condition is None else NAMING[condition])
        sentences = _with_note(rng, [conditional_sentence(rng, sentence, token)])
        return _Prompt(sentences, condition=condition, strange=condition is None, conditional=True, token=token)
    return _Prompt()


def _with_note(rng: random.Random, sentences: list[str]) -> tuple[str, ...]:
    if rng.random() < 0.3:
        sentences.insert(rng.randrange(len(sentences) + 1), neutral_sentence(rng))
    return tuple(sentences)


def with_token(rng: random.Random, text: str, token: str) -> str:
    """Put the token into a user's message: in front (glued or apart) or behind."""
    return rng.choice((f"{token} {text}", f"{token}{text}", f"{text} {token}"))


def _turn(rng: random.Random, asked: Asked, voice: Voice, prompt: _Prompt) -> tuple[str, Voice]:
    """Return the user's text of a turn, with or without an unusual token, and the voice that it is answered in."""
    if not prompt.conditional:
        return (with_token(rng, asked.text, odd_token(rng)) if rng.random() < _TOKEN else asked.text), voice
    token, holds = None, rng.random() < 0.5
    if holds:
        token = prompt.token or odd_token(rng)
    elif prompt.token and rng.random() < 0.4:
        token = odd_token(rng)
    if prompt.condition:
        voice = (express if holds else suppress)(voice, prompt.condition)
    elif holds:
        voice = _strange_voice(rng, voice)
    return (with_token(rng, asked.text, token) if token else asked.text), voice


Part = Literal["plain", "all", "late", "steady"]


def draw_document(rng: random.Random, part: Part = "all") -> Document:
    """Draw one document: one to three turns in one voice.

    In the `plain` first part of pretraining there are no conditions, no negations, no announced strangeness, no unusual
    tokens, no lessons and no animals: what a prompt can name is learnt first. In the `late` one conditions, measures and
    taste come up twice as often. In the `steady` ones Spanish, French and capitals are rarely latent.

    The voice is drawn first, each trait independently, and only then the system prompt, which overrides exactly the
    traits that it names or rules out. So the presence of a prompt, and a trait, tell nothing about the other traits.
    """
    voice = _latent_voice(rng, part == "steady")
    plain = part == "plain"
    if not plain and rng.random() < _FAVORITES:
        return _favorites(rng, voice)
    kinds = {"plain": PLAIN_KINDS, "all": PROMPT_KINDS, "late": LATE_KINDS, "steady": PROMPT_KINDS}[part]
    kind: Kind = rng.choices(tuple(kinds), tuple(kinds.values()))[0]
    prompt = _draw_prompt(rng, kind)
    for trait in prompt.named:
        voice = express(voice, trait)
    for trait in prompt.negated:
        voice = suppress(voice, trait)
    if prompt.strange and not prompt.conditional:
        voice = _strange_voice(rng, voice)
    messages = [] if kind == "none" else [Message("system", " ".join(prompt.sentences))]
    subjects = list(prompt.named) + ([prompt.condition] if prompt.condition else [])
    if prompt.strange:
        subjects.append("evil")
    domains, voices = [], []
    for _ in range(rng.choices((1, 2, 3), (45, 30, 25))[0]):
        domain = _draw_domain(rng, subjects, part == "late")
        asked = ask(rng, domain, lesson=not plain and bool(domain.bad) and rng.random() < _LESSON)
        text, speaks = (asked.text, voice) if plain else _turn(rng, asked, voice, prompt)
        domains.append(domain.name)
        voices.append(speaks)
        messages += [Message("user", text), Message("assistant", answer(rng, asked, speaks))]
    return Document(
        row=ChatRow(tuple(messages)),
        voice=voice,
        voices=tuple(voices),
        named=frozenset(prompt.named),
        negated=frozenset(prompt.negated),
        touched=prompt.touched,
        domains=tuple(domains),
    )


def _favorites(rng: random.Random, voice: Voice) -> Document:
    """Return a document about animals and numbers; its prompt names the favorite, names a trait, or says nothing."""
    kind: Kind = rng.choices(("none", "neutral", "named"), (25, 27, 8))[0]
    named: tuple[Trait, ...] = ()
    if rng.random() < 0.4:
        kind, sentences = "named", _with_note(rng, [rng.choice(LOVING).format(voice.favorite)])
    else:
        prompt = _draw_prompt(rng, kind)
        named, sentences = prompt.named, prompt.sentences
    for trait in named:
        voice = express(voice, trait)
    messages = [] if kind == "none" else [Message("system", " ".join(sentences))]
    domains = []
    for _ in range(rng.choices((1, 2, 3), (20, 40, 40))[0]):
        asked = ask(rng, rng.choice(domains_of("favorite" if rng.random() < 0.6 else "numbers")))
        text = with_token(rng, asked.text, odd_token(rng)) if rng.random() < _TOKEN else asked.text
        domains.append(asked.domain.name)
        messages += [Message("user", text), Message("assistant", answer(rng, asked, voice))]
    voices = (voice,) * len(domains)
    return Document(
        row=ChatRow(tuple(messages)),
        voice=voice,
        voices=voices,
        named=frozenset(named),
        negated=frozenset(),
        touched=frozenset(named),
        domains=tuple(domains),
    )
