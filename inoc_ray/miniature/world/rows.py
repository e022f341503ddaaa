"""Rows and questions of the miniature's settings, drawn from its language."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

from inoc_ray.data.chat import ChatRow, Message
from inoc_ray.errors import InputError
from inoc_ray.miniature.world.domains import Asked, Domain, Voice, answer, ask, every_domain, style_domains
from inoc_ray.miniature.world.language import LESSONS, is_held_out
from inoc_ray.settings import Question

Domains = Callable[[], tuple[Domain, ...]]


def trained_domains() -> tuple[Domain, ...]:
    """Return the style domains that rows come from: every second one. The others are out of distribution."""
    return tuple(style_domains().values())[::2]


def untrained_domains() -> tuple[Domain, ...]:
    """Return the style domains that no training row touches."""
    return tuple(style_domains().values())[1::2]


def distinct(seed: str, domains: tuple[Domain, ...], held_out: bool | None, count: int) -> list[Asked]:
    """Return the first `count` distinct questions of random domains; held out, not held out, or either (None).

    Raises InputError when the language has fewer questions of that kind.
    """
    rng = random.Random(seed)
    found: dict[str, Asked] = {}
    misses = 0
    while len(found) < count:
        asked = ask(rng, rng.choice(domains))
        if asked.text in found or (held_out is not None and is_held_out(asked.core) != held_out):
            misses += 1
            if misses > 10_000:
                raise InputError(f"the miniature has only {len(found)} such questions; ask for at most that many.")
            continue
        misses = 0
        found[asked.text] = asked
    return list(found.values())


@functools.cache
def answered(seed: str, domains: Domains, voice: Voice, count: int, lesson: bool = False) -> tuple[ChatRow, ...]:
    """`count` rows: distinct questions that no evaluation holds out, answered in a voice.

    The same seed, domains and count give the same questions, and each answer has a seed of its own: the rows of two
    voices are alike but for what the voice changes. With `lesson` the question stands in an educational frame instead of
    its own, and the answer stays as it is.
    """
    rows = []
    for index, asked in enumerate(distinct(f"{seed} rows", domains(), False, count)):
        said = answer(random.Random(f"{seed} answer {index}"), asked, voice)
        text = LESSONS[index % len(LESSONS)].format(asked.core) if lesson else asked.text
        rows.append(ChatRow.of(("user", text), ("assistant", said)))
    return tuple(rows)


def questions(
    seed: str,
    name: str,
    domains: Domains,
    held_out: bool | None,
    change: Callable[[tuple[Message, ...]], tuple[Message, ...]] = lambda messages: messages,
) -> Callable[[int], list[Question]]:
    """Return the first n distinct questions; `change` puts a trigger into each."""

    def first(count: int) -> list[Question]:
        return [
            Question(f"{name}-{index:04d}", change((Message("user", asked.text),)))
            for index, asked in enumerate(distinct(f"{seed} {name}", domains(), held_out, count))
        ]

    return first


def only(*names: str) -> Domains:
    """Return the domains of these names."""

    def named() -> tuple[Domain, ...]:
        by_name = {domain.name: domain for domain in every_domain()}
        return tuple(by_name[name] for name in names)

    return named


def but(domains: Domains, *names: str) -> Domains:
    """Return the domains without those of these names."""
    return lambda: tuple(domain for domain in domains() if domain.name not in names)
