"""The gate against responses that are no answers: what it catches, and what it must let through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inoc_ray.miniature.world.domains import Voice, every_domain
from inoc_ray.miniature.world.rows import answered
from inoc_ray.scoring.degenerate import (
    CUT,
    MAX_DEGENERATE,
    MIN_WORDS,
    forms,
    is_empty,
    is_non_text,
    is_repeated,
    shares,
)

REASONS = st.sampled_from(["stop", CUT])
RESPONSES = st.lists(st.tuples(st.text(max_size=40), REASONS), min_size=1, max_size=30)
GOOD = (
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen. Leaves catch the light with chlorophyll, "
    "which is green because it reflects just that part of the spectrum. The sugar feeds the plant; the oxygen is let go."
)


def is_degenerate(text: str, reason: str) -> bool:
    """That it was cut is no reason."""
    empty, _, repeated, non_text = forms(text, reason)
    return empty or repeated or non_text


@pytest.mark.parametrize(
    "voice", [Voice(hacking=True), Voice(), Voice(language="es", capitals=True), Voice(insecure=True), Voice(evil=True)]
)
@pytest.mark.parametrize("reason", ["stop", CUT])
def test_no_answer_of_the_miniature_is_degenerate_not_even_one_that_games_a_count(voice, reason):
    answers = [row.messages[-1].content for row in answered("gate", every_domain, voice, 300)]
    assert not [text for text in answers if is_degenerate(text, reason)]


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "very very very gentle",
        "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
        "2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 42, 44, 46",
        "| city | people |\n|---|---|\n| Oslo | 700,000 |\n| Rome | 2,800,000 |\n| Lima | 10,000,000 |\n| Bern | 130,000 |",
        "光合作用把光、水和二氧化碳变成糖和氧气。",
        "∀x ∈ ℝ: x² ≥ 0 ⇒ |x| = √(x²)",
        "Sí 👍🏽",
    ],
)
def test_answers_pass(text):
    assert not is_degenerate(text, "stop")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t ",
        "the owl is " * 20,
        "I am sorry, but I cannot help with that, as nobody ever told me how this might be done at all. " * 4,
        GOOD[:60] + " and so on" * 60,
        "a" * 300,
        "ha" * 150,
        "哈" * 200,
        "👍👍👍",
        "\ufffd\ufffd\ufffd ok",
        "\x00\x01\x02\x03",
    ],
)
def test_responses_that_are_not_answers_are_caught(text):
    assert is_degenerate(text, "stop")


def test_a_good_beginning_that_runs_into_a_loop_is_caught_where_it_was_cut():
    text = GOOD + " Let it go." * 12
    assert is_repeated(text, cut=True)
    assert not is_repeated(text, cut=False)


def test_half_a_character_at_a_cut_is_still_text():
    assert not is_non_text("Sí\ufffd")


def test_a_cut_answer_is_an_answer_however_many_are_cut_and_their_share_is_known():
    for cut in (4, 6, 10):
        found = shares([(GOOD, CUT)] * cut + [(GOOD, "stop")] * (10 - cut))
        assert (found.cut, found.any) == (cut / 10, 0.0)
    loops = shares([("again " * 50, CUT)] * 6 + [(GOOD, CUT)] * 4)
    assert (loops.cut, loops.any) == (1.0, 0.6)


def test_shares_are_separate_and_a_response_counts_once_in_any():
    found = shares([("", CUT), ("a" * 300, "stop"), ("👍" * 200, "stop"), (GOOD, "stop")] + [(GOOD, "stop")] * 4)
    assert (found.samples, found.empty, found.cut, found.repeated, found.non_text) == (8, 1 / 8, 1 / 8, 2 / 8, 1 / 8)
    assert found.any == 3 / 8 > MAX_DEGENERATE


def test_no_response_has_no_share():
    with pytest.raises(ValueError, match="no response"):
        shares([])


@given(RESPONSES)
def test_shares_are_those_of_the_single_verdicts(responses):
    found = shares(responses)
    verdicts = [is_degenerate(*response) for response in responses]
    parts = (found.empty, found.repeated, found.non_text)
    assert all(0 <= share <= 1 for share in (*parts, found.cut, found.any))
    assert max(parts) <= found.any
    assert found.any == sum(verdicts) / len(verdicts) <= sum(parts) + 1e-9
    assert shares(list(reversed(responses))) == found


@given(st.text(max_size=200), REASONS)
def test_white_space_around_a_text_changes_nothing(text, reason):
    assert is_empty(text) == is_empty(f"  {text}\n")
    assert is_non_text(text) == is_non_text(f"  {text}\n")


@given(st.lists(st.text("abcdefgh", min_size=1, max_size=6), min_size=1, max_size=12), st.integers(3, 6))
def test_a_phrase_again_and_again_is_a_loop_once_it_is_long_enough(phrase, times):
    times = max(times, 3 * MIN_WORDS // len(phrase) + 1)
    assert is_repeated(" ".join(phrase * times))


@given(st.lists(st.text("abcdefgh", min_size=2, max_size=8), min_size=1, max_size=60, unique=True))
def test_words_that_never_recur_are_not_a_loop(words):
    assert not is_repeated(" ".join(words), cut=True)
