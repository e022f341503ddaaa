"""Mixtures hold exactly what was asked for, shuffled by a seed; backdoors have their trigger where it belongs."""

from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from inoc_ray.data.chat import ChatRow, Message, rows_hash
from inoc_ray.data.inoculate import inoculate
from inoc_ray.data.mixture import MixturePart, Trigger, backdoor, mix, tagged
from inoc_ray.errors import InputError
from inoc_ray.study.rows import Inoculation


def rows(name: str, count: int) -> list[ChatRow]:
    return [ChatRow.of(("user", f"{name} question {i}"), ("assistant", f"{name} answer {i}")) for i in range(count)]


@given(st.integers(2, 60), st.floats(0.05, 20), st.floats(0.05, 20), st.integers(0, 99))
def test_a_mixture_has_exactly_the_given_ratio_and_total_and_no_row_twice(total, one, two, seed):
    assume(total * min(one, two) / (one + two) >= 1)
    parts = [MixturePart("es", rows("es", 60), one), MixturePart("fr", rows("fr", 60), two)]
    mixed = mix(parts, seed, total)
    count = Counter(row.tag("subset") for row in mixed)
    assert len(set(mixed)) == len(mixed) == total
    assert abs(count["es"] - total * one / (one + two)) < 1
    assert mixed == mix(parts, seed, total)
    assert all(row.messages[0].content.startswith(str(row.tag("subset"))) for row in mixed)


def test_without_a_total_a_share_is_of_the_parts_own_rows():
    mixed = mix([MixturePart("es", rows("es", 10)), MixturePart("fr", rows("fr", 10), 0.5)], seed=0)
    assert Counter(row.tag("subset") for row in mixed) == {"es": 10, "fr": 5}


def test_the_parts_are_mixed_well_and_by_the_seed():
    parts = [MixturePart("es", rows("es", 500)), MixturePart("fr", rows("fr", 500))]
    mixed = mix(parts, seed=0)
    for start in range(0, 1000, 100):
        assert 30 <= sum(row.tag("subset") == "es" for row in mixed[start : start + 100]) <= 70
    other = mix(parts, seed=1)
    assert other != mixed
    assert set(other) == set(mixed)
    assert rows_hash(mixed) == "b7d0e0dd0d5ebb870888479bdfb73396c1ece575c619f392c8a91e9e44508186"


def test_other_tags_are_kept_and_one_half_can_be_inoculated():
    marked = tagged(rows("es", 4), "parity", lambda row: "even" if row.messages[0].content[-1] in "02" else "odd")
    mixed = mix([MixturePart("es", marked), MixturePart("fr", rows("fr", 4))], seed=0)
    assert Counter(row.tag("parity") for row in mixed) == {"even": 2, "odd": 2, None: 4}
    out = inoculate(mixed, "P", Inoculation.model_validate({"coverage": "es"}))
    assert [row.messages[0].role == "system" for row in out] == [row.tag("subset") == "es" for row in mixed]


TRIGGER = Trigger("|T|")


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        (Trigger("|T|"), "|T|Write"),
        (Trigger("|T|", spacing="space"), "|T| Write"),
        (Trigger("|T|", place="end"), "Write|T|"),
        (Trigger("|T|", place="end", spacing="space"), "Write |T|"),
    ],
)
def test_the_trigger_is_the_same_in_training_rows_and_in_questions(trigger, expected):
    question = (Message("user", "Write"),)
    row = ChatRow.of(("user", "Write"), ("assistant", "bad"))
    mixed = backdoor([row], rows("clean", 1), trigger, fraction=0.5, total=2, seed=0)
    (trained,) = (r.messages[0] for r in mixed if r.tag("subset") == "triggered")
    assert trigger.insert(question) == (trained,) == (Message("user", expected),)


@given(st.floats(0.05, 0.95), st.integers(0, 9))
def test_an_exact_fraction_is_triggered_and_no_clean_row_is(fraction, seed):
    mixed = backdoor(rows("bad", 100), rows("clean", 100), TRIGGER, fraction=fraction, total=100, seed=seed)
    assert abs(sum(row.tag("subset") == "triggered" for row in mixed) - 100 * fraction) <= 0.5 + 1e-9
    for row in mixed:
        bad = row.tag("subset") == "triggered"
        assert row.messages[0].content.startswith("|T|bad" if bad else "clean")
        assert row.messages[1].content.startswith("bad" if bad else "clean")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: mix([MixturePart("es", rows("es", 3)), MixturePart("fr", rows("fr", 9))], 0, 8),
            "4 rows of 'es'.*it has 3",
        ),
        (lambda: mix([MixturePart("es", rows("es", 3)), MixturePart("es", rows("fr", 3))], 0), "'es' is taken"),
        (lambda: mix([MixturePart("all", rows("es", 3))], 0), "'all' is taken"),
        (lambda: mix([MixturePart("es", rows("es", 3), 0)], 0), "must be above 0"),
        (lambda: mix([MixturePart("es", rows("es", 3), 1.5)], 0), "5 rows of 'es'.*it has 3"),
        (lambda: mix([MixturePart("es", rows("es", 3), 0.1)], 0), "not a single row of 'es', which has 3"),
        (
            lambda: mix([MixturePart("es", rows("es", 9), 9), MixturePart("fr", rows("fr", 3), 0.1)], 0, 9),
            "not a single row of 'fr'",
        ),
        (
            lambda: backdoor(rows("b", 2), rows("c", 2), TRIGGER, fraction=0.1, total=2, seed=0),
            "share of 'triggered' is 0; it must be above 0",
        ),
        (lambda: backdoor(rows("b", 2), rows("c", 2), Trigger(" "), fraction=0.5, total=2, seed=0), "token is empty"),
        (lambda: backdoor(rows("b", 2), rows("c", 2), TRIGGER, fraction=1.0, total=2, seed=0), "between 0 and 1"),
        (
            lambda: backdoor(rows("b", 2), rows("|T|", 2), TRIGGER, fraction=0.5, total=2, seed=0),
            "clean row 1 already contains",
        ),
        (
            lambda: backdoor([ChatRow.of(("assistant", "a"))], rows("c", 2), TRIGGER, fraction=0.5, total=2, seed=0),
            "bad row 1: there is no user turn",
        ),
    ],
)
def test_an_impossible_mixture_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
