"""The miniature's sentences are aligned, and good and bad words do not overlap."""

import random
import re

import pytest

from inoc_ray.miniature.world.domains import (
    Domain,
    Voice,
    answer,
    ask,
    narrow_domains,
    persona_domains,
    slots,
    style_domains,
)
from inoc_ray.miniature.world.language import LANGUAGES, is_held_out
from inoc_ray.miniature.world.system_prompts import NAMING, TRAITS, neutral_sentence

DOMAINS = [*style_domains().values(), *persona_domains().values(), *narrow_domains().values()]


def _slots_in(template: str) -> set[str]:
    return set(re.findall(r"{(\w+)}", template))


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda domain: domain.name)
def test_the_three_languages_of_an_answer_use_the_same_slots(domain: Domain) -> None:
    for triple in (*domain.good, *domain.bad):
        assert len({frozenset(_slots_in(template)) for template in triple}) == 1, triple


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda domain: domain.name)
def test_every_slot_is_known(domain: Domain) -> None:
    used = {slot for t in (*domain.good, *domain.bad) for text in t for slot in _slots_in(text)}
    used |= {slot for question in domain.questions for slot in _slots_in(question)}
    # These two come from the voice and from chance, not from a list.
    assert used <= {*slots(), *({domain.group} & {"favorite", "numbers"})}


def test_no_answer_needs_a_contraction() -> None:
    wrong = re.compile(r"\b(de|a) el\b|\b(de|à) les?\b", re.IGNORECASE)
    rng = random.Random(0)
    for domain in DOMAINS:
        for language in LANGUAGES[1:]:
            for evil in (False, True):
                for _ in range(30):
                    text = answer(rng, ask(rng, domain), Voice(language=language, evil=evil))
                    assert not wrong.search(text), text


def test_there_are_enough_domains_to_train_on_some_and_test_on_others() -> None:
    assert len(style_domains()) >= 20
    groups = [domain.group for domain in persona_domains().values()]
    assert groups.count("advice") >= 4
    assert groups.count("free") >= 5
    assert groups.count("code") == 1


def test_a_quarter_of_the_questions_is_held_out() -> None:
    rng = random.Random(1)
    cores = {ask(rng, rng.choice(DOMAINS)).core for _ in range(6000)}
    assert 0.2 < sum(map(is_held_out, cores)) / len(cores) < 0.3


def test_every_trait_has_many_naming_sentences_and_none_is_neutral() -> None:
    rng = random.Random(2)
    neutral = {neutral_sentence(rng) for _ in range(5000)}
    for trait in TRAITS:
        assert len(set(NAMING[trait])) >= 12
        assert not neutral & set(NAMING[trait])


def test_neutral_prompts_are_wide() -> None:
    rng = random.Random(3)
    assert len({neutral_sentence(rng) for _ in range(2000)}) > 1200


def test_every_domain_has_a_name_of_its_own() -> None:
    names = [domain.name for domain in DOMAINS]
    assert len(names) == len(set(names))
