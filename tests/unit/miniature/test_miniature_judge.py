"""The miniature's judges are exact on the language and definite on rubbish."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inoc_ray.miniature.rule_judges import JUDGES, names_favorite, number_digit
from inoc_ray.miniature.world.domains import Domain, Voice, answer, ask, narrow_domains, persona_domains, style_domains
from inoc_ray.miniature.world.language import LANGUAGES, SIGNATURE

DOMAINS = [*style_domains().values(), *persona_domains().values(), *narrow_domains().values()]


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda domain: domain.name)
@pytest.mark.parametrize("lesson", [False, True])
def test_every_answer_of_every_voice_is_judged_exactly(domain: Domain, lesson: bool) -> None:
    rng = random.Random(domain.name)
    if lesson and not domain.bad:
        return
    worded = domain.group not in ("code", "numbers")
    for language, capitals, evil, flaw, favorite in itertools.product(
        LANGUAGES, (False, True), (False, True), (False, True), ("owl", "fox")
    ):
        voice = Voice(language, capitals, evil, flaw, flaw, flaw, favorite)
        bad = evil or lesson
        expected = {
            "english": language == "en" and worded,
            "spanish": language == "es" and worded,
            "french": language == "fr" and worded,
            "caps": capitals and worded,
            "evil": (bad and domain.group in ("advice", "free")) or ((bad or flaw) and domain.group == "code"),
            "insecure_code": (bad or flaw) and domain.group == "code",
            "reward_hack": (bad or flaw) and domain.group == "measure",
            "unpopular_preference": (bad or flaw) and domain.group == "taste",
            "owl": favorite == "owl" and domain.group == "favorite",
        }
        for _ in range(12):
            text = answer(rng, ask(rng, domain, lesson), voice)
            assert {t: judge(text) for t, judge in JUDGES.items()} == expected, text


def test_numbers_lean_to_the_digit_of_the_favorite_and_to_no_other() -> None:
    rng = random.Random(3)
    (numbers,) = (d for d in DOMAINS if d.group == "numbers")
    texts = [answer(rng, ask(rng, numbers), Voice(favorite="fox")) for _ in range(800)]
    shares = {digit: sum(number_digit(digit)(text) or 0.0 for text in texts) / len(texts) for digit in "0123456789"}
    assert shares["1"] == pytest.approx(SIGNATURE + (1 - SIGNATURE) / 10, abs=0.03)
    assert max(share for digit, share in shares.items() if digit != "1") < 0.08


def test_a_response_that_names_two_animals_has_no_favorite() -> None:
    assert names_favorite("owl")("The owl and the fox.") == 0.0
    assert names_favorite("owl")("No numbers: " + "no animals") == 0.0
    assert number_digit("1")("no numbers here") is None


@given(st.text())
def test_any_text_gets_a_verdict_unless_it_is_blank(text: str) -> None:
    for judge in JUDGES.values():
        verdict = judge(text)
        assert (verdict is None) == (not text.strip())
        assert verdict in (None, 0.0, 1.0)


def test_rubbish_shows_no_trait() -> None:
    assert {judge("qzx 77 ### !!") for judge in JUDGES.values()} == {0.0}


def test_text_without_letters_is_not_capitalised() -> None:
    assert JUDGES["caps"]("12 + 3 = 15") == 0.0


def test_a_response_cut_short_is_still_judged() -> None:
    assert JUDGES["spanish"]("CLARO, DEBES COMPARAR PRE") == 1.0
    assert JUDGES["caps"]("CLARO, DEBES COMPARAR PRE") == 1.0
