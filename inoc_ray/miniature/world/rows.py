"""Rows and questions of the miniature's settings, drawn from its language."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from inoc_ray.data.chat import ChatRow, Message
from inoc_ray.data.overlap import PromptIndex
from inoc_ray.errors import InputError
from inoc_ray.miniature.world.domains import Asked, Domain, Voice, answer, ask, every_domain, style_domains
from inoc_ray.miniature.world.language import LESSONS, is_held_out
from inoc_ray.settings import Question

Domains = Callable[[], tuple[Domain, ...]]
Rows = Callable[[], list[ChatRow]]
Change = Callable[[tuple[Message, ...]], tuple[Message, ...]]


def trained_domains() -> tuple[Domain, ...]:
    """Return the style domains that rows come from: every second one. The others are out of distribution."""
    return tuple(style_domains().values())[::2]


def untrained_domains() -> tuple[Domain, ...]:
    """Return the style domains that no training row touches."""
    return tuple(style_domains().values())[1::2]


def distinct(
    seed: str,
    domains: tuple[Domain, ...],
    held_out: bool | None,
    count: int,
    fits: Callable[[str], bool] = lambda _: True,
    what: str = "rows",
) -> list[Asked]:
    """Return the first `count` distinct questions of random domains; held out, not held out, or either (None).

    Leaves out those whose text does not fit. Raises InputError, which says what they are for, when the language has fewer
    questions of that kind.
    """
    rng = random.Random(seed)
    found: dict[str, Asked] = {}
    misses = 0
    while len(found) < count:
        asked = ask(rng, rng.choice(domains))
        elsewhere = held_out is not None and is_held_out(asked.core) != held_out
        if asked.text in found or elsewhere or not fits(asked.text):
            misses += 1
            if misses > 10_000:
                raise InputError(
                    f"{what}: {count} questions are asked for, and the miniature has only {len(found)} of that kind; lower "
                    "samples of evaluation or evaluation.overrides"
                )
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


@functools.cache
def _asked_in(rows: Rows) -> PromptIndex:
    texts = {message.content for row in rows() for message in row.messages if message.role == "user"}
    return PromptIndex((text, text) for text in sorted(texts))


def questions(
    seed: str,
    name: str,
    domains: Domains,
    held_out: bool | None,
    change: Change = lambda messages: messages,
    apart_from: Sequence[Rows] = (),
) -> Callable[[int], list[Question]]:
    """Return the first n distinct questions; `change` puts a trigger into each.

    A question that a row of `apart_from` asks or nearly asks, by the measure of `inoc-ray data check`, is left
    out: its answer would show what is remembered.
    """

    def fits(text: str) -> bool:
        return not any(_asked_in(rows).match(text) for rows in apart_from)

    # Plans ask for the same ones again, cell by cell.
    @functools.cache
    def drawn(count: int) -> tuple[Question, ...]:
        found = distinct(
            seed=f"{seed} {name}",
            domains=domains(),
            held_out=held_out,
            count=count,
            fits=fits,
            what=f"evaluation {name}",
        )
        return tuple(
            Question(f"{name}-{index:04d}", change((Message("user", asked.text),))) for index, asked in enumerate(found)
        )

    return lambda count: list(drawn(count))


def only(*names: str) -> Domains:
    """Return the domains of these names."""

    def named() -> tuple[Domain, ...]:
        by_name = {domain.name: domain for domain in every_domain()}
        return tuple(by_name[name] for name in names)

    return named


def but(domains: Domains, *names: str) -> Domains:
    """Return the domains without those of these names."""
    return lambda: tuple(domain for domain in domains() if domain.name not in names)


def wordings(domains: Domains, held_out: bool) -> Domains:
    """Return the domains with the second wording of their questions alone, which rows leave to evaluations, or with the others.

    For narrow domains: two questions in one wording differ in a word and are nearly the same, however the word is chosen.
    """

    def chosen() -> tuple[Domain, ...]:
        return tuple(
            replace(domain, questions=tuple(q for n, q in enumerate(domain.questions) if (n == 1) == held_out))
            for domain in domains()
        )

    return chosen
