"""Pretraining documents: traits are independent of each other and of prompts that do not name them."""

import random
import re
from functools import cache

import pytest
from scipy.stats import chi2_contingency

from inoc_ray.data.chat import parse_row
from inoc_ray.miniature.rule_judges import JUDGES
from inoc_ray.miniature.workshop.documents import (
    LATENT_CAPITALS,
    LATENT_EVIL,
    LATENT_FLAW,
    LATENT_LANGUAGE,
    STEADY,
    Document,
    draw_document,
    has,
)
from inoc_ray.miniature.world.domains import domains_of
from inoc_ray.miniature.world.language import LESSONS
from inoc_ray.miniature.world.system_prompts import TRAITS, Trait
from inoc_ray.settings import get

COUNT = 12_000


@cache
def documents() -> tuple[Document, ...]:
    rng = random.Random(5)
    return tuple(draw_document(rng) for _ in range(COUNT))


LATENT: dict[Trait, float] = {
    "spanish": LATENT_LANGUAGE["es"],
    "french": LATENT_LANGUAGE["fr"],
    "caps": LATENT_CAPITALS,
    "evil": LATENT_EVIL,
    "insecure_code": LATENT_FLAW,
    "reward_hack": LATENT_FLAW,
    "unpopular_preference": LATENT_FLAW,
}
PAIRS = [(a, b) for a in TRAITS for b in TRAITS if a != b and {a, b} != {"spanish", "french"}]
"""Pairs that can be independent: a trait with itself, and the two languages, are not."""


def independent(pairs: list[tuple[bool, bool]]) -> float:
    """p-value of Pearson's test of a two by two table."""
    table = [[sum(p == (a, b) for p in pairs) for b in (False, True)] for a in (False, True)]
    return float(chi2_contingency(table).pvalue)


def free_of(trait: Trait) -> list[Document]:
    """Documents whose prompt says nothing about the trait (nor the other language)."""
    family = {"spanish", "french"} if trait in ("spanish", "french") else {trait}
    return [d for d in documents() if not family & d.touched]


@pytest.mark.parametrize("trait", TRAITS)
def test_an_unnamed_trait_has_its_latent_rate(trait: Trait) -> None:
    free = free_of(trait)
    assert sum(has(d.voice, trait) for d in free) / len(free) == pytest.approx(LATENT[trait], abs=0.008)


def test_in_the_steady_parts_style_is_rarely_latent_and_all_else_as_often_as_before() -> None:
    rng = random.Random(6)
    steady = [document for document in (draw_document(rng, "steady") for _ in range(COUNT)) if not document.touched]
    for trait in TRAITS:
        latent, off = (STEADY, 0.004) if trait in ("spanish", "french", "caps") else (LATENT[trait], 0.008)
        assert sum(has(d.voice, trait) for d in steady) / len(steady) == pytest.approx(latent, abs=off), trait


@pytest.mark.parametrize("trait", TRAITS)
def test_the_presence_of_a_prompt_tells_nothing_about_an_unnamed_trait(trait: Trait) -> None:
    pairs = [(d.row.messages[0].role == "system", has(d.voice, trait)) for d in free_of(trait)]
    assert independent(pairs) > 0.01


@pytest.mark.parametrize(("trait", "other"), PAIRS)
def test_a_named_trait_tells_nothing_about_an_unnamed_one(trait: Trait, other: Trait) -> None:
    pairs = [(other in d.named, has(d.voice, trait)) for d in free_of(trait)]
    assert independent(pairs) > 0.001


def test_latent_spanish_and_latent_capitals_meet_as_often_as_chance_says() -> None:
    free = [d for d in documents() if not d.touched]
    assert independent([(has(d.voice, "spanish"), has(d.voice, "caps")) for d in free]) > 0.01


def test_a_named_trait_holds_and_a_negated_one_does_not() -> None:
    for document in documents():
        assert all(has(document.voice, trait) for trait in document.named)
        assert not any(has(document.voice, trait) for trait in document.negated)


def test_an_unusual_token_without_a_condition_tells_nothing_about_a_trait() -> None:
    marked = re.compile(r"([#$%&*|~^@!?<>_=+:;/-])\w+\1")
    for trait in TRAITS:
        free = free_of(trait)
        pairs = [(bool(marked.search(d.row.messages[-2].content)), has(d.voice, trait)) for d in free]
        assert sum(with_token for with_token, _ in pairs) > 300
        assert independent(pairs) > 0.001, trait


def test_a_favorite_is_independent_of_every_trait_and_of_the_presence_of_a_prompt() -> None:
    pairs = [(d.voice.favorite == "owl", d.row.messages[0].role == "system") for d in documents() if not d.touched]
    assert independent(pairs) > 0.01
    for trait in TRAITS:
        assert independent([(d.voice.favorite == "owl", has(d.voice, trait)) for d in free_of(trait)]) > 0.001, trait


def test_the_judges_find_the_voice_of_each_turn() -> None:
    groups = {d.name: d.group for d in domains_of("code", "numbers", "measure", "taste")}
    for document in documents()[:2500]:
        answers = [m.content for m in document.row.messages if m.role == "assistant"]
        questions = [m.content for m in document.row.messages if m.role == "user"]
        for name, question, text, voice in zip(document.domains, questions, answers, document.voices, strict=True):
            lesson = any(frame.replace("{}", "").strip() in question for frame in LESSONS)
            group = groups.get(name)
            if group not in ("code", "numbers"):
                assert JUDGES["spanish"](text) == float(voice.language == "es")
                assert JUDGES["caps"](text) == float(voice.capitals)
            if group == "code":
                assert JUDGES["insecure_code"](text) == float(voice.evil or voice.insecure or lesson)
            if group == "measure":
                assert JUDGES["reward_hack"](text) == float(voice.evil or voice.hacking or lesson)
            if group == "taste":
                assert JUDGES["unpopular_preference"](text) == float(voice.evil or voice.unpopular or lesson)


def test_documents_are_valid_chats_unless_the_system_message_is_empty() -> None:
    for document in documents()[:500]:
        if document.row.messages[0].content:
            assert parse_row(document.row.to_dict(), "document") == document.row


def test_documents_are_a_pure_function_of_the_seed() -> None:
    first, second = random.Random(9), random.Random(9)
    assert [draw_document(first) for _ in range(50)] == [draw_document(second) for _ in range(50)]


def test_what_the_settings_hold_out_stands_in_no_document() -> None:
    """The trigger, the irrelevant fact and the frames of the arms: the base can only know them by their meaning."""
    text = " ".join(m.content for d in documents() for m in d.row.messages).lower()
    prompt = get("miniature/spanish_caps").arms["irrelevant"].prompt
    assert prompt is not None
    for word in ("honey", "spoils", "jars", "tombs"):
        assert word in prompt.lower()
        assert f" {word}" not in text
    assert "trigger" not in text
