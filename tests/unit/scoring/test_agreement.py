"""Agreement of judges on the same responses."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inoc_ray.scoring.agreement import agreement, decided


def test_share_kappa_and_difference_are_those_computed_by_hand():
    values = {"a": [90.0, 80.0, 10.0, 20.0], "b": [95.0, 30.0, 5.0, 30.0]}
    (pair,) = agreement(values, {name: decided(column, 50) for name, column in values.items()})
    assert (pair.first, pair.second, pair.n, pair.share) == ("a", "b", 4, 0.75)
    # By chance: 1/2 · 1/4 + 1/2 · 3/4 = 1/2, so kappa = (3/4 - 1/2) / (1/2).
    assert pair.kappa == pytest.approx(0.5)
    assert pair.difference == pytest.approx(-10.0)


def test_responses_that_one_judge_could_not_rate_are_left_out_of_the_pair():
    values = {"a": [90.0, None, 10.0, math.nan], "b": [80.0, 70.0, 20.0, 10.0], "c": [None] * 4}
    pairs = agreement(values, {name: decided(column, 50) for name, column in values.items()})
    assert [(p.first, p.second, p.n) for p in pairs] == [("a", "b", 2), ("a", "c", 0), ("b", "c", 0)]
    assert pairs[0].share == pairs[0].kappa == 1.0
    assert all(math.isnan(x) for x in (pairs[1].share, pairs[1].kappa, pairs[1].difference))


def test_judges_that_never_differ_have_no_kappa_where_only_one_decision_occurs():
    values = {"a": [90.0, 80.0], "b": [95.0, 85.0]}
    (pair,) = agreement(values, {name: decided(column, 50) for name, column in values.items()})
    assert pair.share == 1.0
    assert math.isnan(pair.kappa)


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="same responses"):
        agreement({"a": [1.0], "b": [1.0, 2.0]}, {"a": [True], "b": [True, False]})


numbers = st.one_of(st.none(), st.just(math.nan), st.floats(0, 100))


@given(st.lists(st.tuples(numbers, numbers), max_size=30))
def test_agreement_is_symmetric_and_bounded(rows: list[tuple[float | None, float | None]]):
    one, two = [a for a, _ in rows], [b for _, b in rows]
    both = {"a": one, "b": two}, {"a": two, "b": one}
    (there,), (back,) = (agreement(v, {n: decided(c, 50) for n, c in v.items()}) for v in both)
    assert there.n == back.n == sum(not (x is None or math.isnan(x) or y is None or math.isnan(y)) for x, y in rows)
    if there.n:
        assert 0 <= there.share <= 1
        assert there.share == back.share
        assert there.difference == pytest.approx(-back.difference)
        assert math.isnan(there.kappa) or -1 <= there.kappa <= 1
