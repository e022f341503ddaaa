"""Intervals hold what they promise: known limits, no jump where there is no hit, coverage by simulation, determinism."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inoc_ray.results.simulate import SimulatedArm, SimulatedStudy, simulate
from inoc_ray.results.stats import Cell, Estimate, RateKey, combine, draw_rates, holm, mean_of, model_interval, wilson
from inoc_ray.results.variance import question_correlation


def one_cell(hits: np.ndarray, counts: np.ndarray | None = None, *, replicated: bool = True) -> Cell:
    return Cell(hits, np.ones_like(hits) if counts is None else counts, replicated)


def estimate(cells: dict[str, Cell], draws: int = 10_000) -> dict[str, Estimate]:
    found = draw_rates({RateKey(arm, "evaluation", "neutral", "t"): cell for arm, cell in cells.items()}, draws)
    return {key.arm: value for key, value in found.items()}


def spread_evenly(hits: int, questions: int = 8, repeats: int = 100) -> Cell:
    """One model with so many hits, spread over its questions as evenly as can be."""
    table = np.full(questions, hits // questions)
    table[: hits % questions] += 1
    return Cell(table[None, :], np.full((1, questions), repeats), replicated=False)


def test_wilson_agrees_with_published_values() -> None:
    # Newcombe (1998), Statistics in Medicine 17:857, table I, method 3 (without continuity correction).
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_an_interval_of_no_response_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        wilson(0, 0)


def test_one_model_with_one_sample_per_question_gets_wilsons_interval() -> None:
    for hits in (0, 3, 60, 197, 200):
        cell = one_cell((np.arange(200) < hits).astype(int)[None, :], replicated=False)
        assert estimate({"base": cell})["base"].interval() == pytest.approx(wilson(hits, 200), abs=0.006)
        assert model_interval(cell) == pytest.approx(wilson(hits, 200), abs=0.003)


HITS = (0, 1, 2, 4, 8, 16, 80, 400, 720, 784, 792, 796, 798, 799, 800)


def limits(hits: int, among: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    """The limits of a base of so many hits in 8 × 100 responses, as drawn and of the very model; among: beside a baseline
    whose questions differ."""
    base = spread_evenly(hits)
    cells = {"base": base}
    if among:
        shares = np.array([0.05, 0.1, 0.2, 0.4, 0.3, 0.2, 0.15, 0.25])
        cells["baseline"] = one_cell((shares * 100).astype(int) + np.array([[2], [0], [-2]]), np.full((3, 8), 100))
    correlation = question_correlation(cells.values())
    return estimate(cells)["base"].interval(), model_interval(base, correlation=correlation)


@pytest.mark.parametrize("among", [False, True])
def test_limits_rise_with_each_hit_and_move_by_little_where_there_is_none(among: bool) -> None:
    for found in zip(*(limits(hits, among) for hits in HITS), strict=True):
        lows, highs = zip(*found, strict=True)
        assert all(a <= b + 2e-3 for a, b in itertools.pairwise(lows))
        assert all(a <= b + 2e-3 for a, b in itertools.pairwise(highs))
        for one, other in ((0, 1), (-1, -2)):
            assert abs(lows[one] - lows[other]) < 0.01
            assert abs(highs[one] - highs[other]) < 0.01
        assert highs[0] == pytest.approx(1 - lows[-1], abs=5e-3)  # none is to all as all is to none


def test_no_hit_of_a_model_alone_is_wilsons_interval_and_beside_unlike_questions_it_is_wider() -> None:
    assert limits(0, among=False)[1] == pytest.approx(wilson(0, 800), abs=1e-6)
    assert 5 * wilson(0, 800)[1] < limits(0, among=True)[0][1] < 0.1


def test_the_correlation_of_responses_to_one_question_is_that_of_the_beta_binomial() -> None:
    generator = np.random.default_rng(0)
    for rho in (0.0, 0.05, 0.3):
        a = np.inf if rho == 0 else (1 - rho) / rho
        shares = np.full((40, 60), 0.2) if rho == 0 else generator.beta(0.2 * a, 0.8 * a, (40, 60))
        cell = one_cell(generator.binomial(20, shares), np.full((40, 60), 20))
        empty = one_cell(np.zeros((1, 60), int), np.full((1, 60), 20))
        assert question_correlation([cell]) == pytest.approx(rho, abs=0.02)
        assert question_correlation([cell, empty]) == question_correlation([cell])
    assert question_correlation([one_cell(np.ones((2, 30), int))]) == 0.0


def test_repeated_samples_of_a_question_do_not_count_as_new_questions() -> None:
    once = one_cell((np.arange(40) % 2)[None, :], replicated=False)
    often = Cell(once.hits * 50, once.counts * 50, replicated=False)
    assert model_interval(often) == pytest.approx(model_interval(once), abs=0.001)
    few, many = estimate({"x": once})["x"].interval(), estimate({"x": often})["x"].interval()
    assert many == pytest.approx(few, abs=0.02)


def test_unparsed_responses_are_left_out_and_nothing_parsed_is_no_estimate() -> None:
    hits = np.array([[1, 1, 0, 0], [1, 0, 0, 0]])
    counts = np.array([[1, 1, 1, 0], [1, 0, 1, 0]])
    assert estimate({"x": one_cell(hits, counts)})["x"].value == pytest.approx(3 / 5)
    assert estimate({"x": one_cell(hits * 0, counts * 0)}) == {}
    assert model_interval(one_cell(hits * 0, counts * 0)) is None


def test_seeds_that_differ_widen_the_interval() -> None:
    questions = np.arange(100)
    same = np.stack([(questions % 2), (questions % 2)])
    apart = np.stack([(questions % 10 < 2), (questions % 10 < 8)]).astype(int)
    narrow, wide = (estimate({"x": one_cell(hits)})["x"].interval() for hits in (same, apart))
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])


def test_an_arm_with_one_seed_borrows_the_spread_of_the_others() -> None:
    generator = np.random.default_rng(0)
    shares = generator.normal(0.5, 0.15, (4, 3))
    arms = {f"a{i}": one_cell((generator.random((3, 100)) < s[:, None]).astype(int)) for i, s in enumerate(shares)}
    single = one_cell((generator.random((1, 100)) < 0.5).astype(int))
    alone = estimate({"single": single})["single"].interval()
    among = estimate({**arms, "single": single})["single"].interval()
    assert among[1] - among[0] > 1.3 * (alone[1] - alone[0])


def test_the_same_counts_give_the_same_draws_in_any_order_and_under_any_name() -> None:
    generator = np.random.default_rng(1)
    cells = {name: one_cell(generator.integers(0, 2, (3, 50))) for name in "ab"}
    first, again = estimate(cells), estimate(dict(reversed(cells.items())))
    turned = estimate({name: one_cell(cell.hits[::-1]) for name, cell in cells.items()})
    renamed = estimate({"x" + name: cell for name, cell in reversed(cells.items())})
    more = estimate({**cells, "c": one_cell(generator.integers(0, 2, (1, 50)))})
    for name in "ab":
        np.testing.assert_array_equal(first[name].draws, again[name].draws)
        np.testing.assert_allclose(first[name].draws, turned[name].draws, atol=1e-6)
        np.testing.assert_array_equal(first[name].draws, renamed["x" + name].draws)
        np.testing.assert_array_equal(first[name].draws, more[name].draws)


def test_two_arms_with_the_same_counts_are_still_two_arms() -> None:
    cell = one_cell(np.zeros((1, 8), int), np.full((1, 8), 100), replicated=False)
    found = estimate({"a": cell, "b": cell})
    assert np.abs(found["a"].draws - found["b"].draws).max() > 1e-4


def test_an_estimate_knows_the_fewest_fine_tunes_that_it_rests_on() -> None:
    cells = {name: one_cell(np.tile(np.arange(20) % 2, (n, 1))) for name, n in (("one", 1), ("two", 2), ("three", 3))}
    cells["base"] = one_cell((np.arange(20) % 3 == 0).astype(int)[None, :], replicated=False)
    found = estimate(cells)
    assert {name: e.seeds for name, e in found.items()} == {"one": 1, "two": 2, "three": 3, "base": None}
    assert combine(lambda a, b: a - b, found["three"], found["base"]).seeds == 3
    both = mean_of([found["three"], found["two"]])
    assert both is not None
    assert combine(lambda a, b: a - b, both, found["base"]).seeds == 2


@pytest.mark.parametrize("sign", [1, -1])
def test_rates_of_the_same_fine_tunes_are_drawn_as_their_seed_means_move(sign: int) -> None:
    levels = np.array([[0.2, 0.5, 0.8], [0.3, 0.5, 0.7], [0.25, 0.5, 0.75]])
    questions = np.arange(100) / 100
    cells = {}
    for arm, level in enumerate(levels):
        other = level if sign > 0 else level[::-1]
        for evaluation, context, trait, shares in (
            ("e", "neutral", "first", level),
            ("e", "neutral", "second", other),
            ("e", "prompted", "first", other),
            ("f", "neutral", "first", other),
        ):
            cells[RateKey(str(arm), evaluation, context, trait)] = one_cell(
                (questions < shares[:, None]).astype(int)[:, np.random.default_rng(arm).permutation(100)]
            )
    found = draw_rates(cells)
    own = found[RateKey("0", "e", "neutral", "first")].draws
    for key in (("e", "neutral", "second"), ("e", "prompted", "first"), ("f", "neutral", "first")):
        assert sign * np.corrcoef(own, found[RateKey("0", *key)].draws)[0, 1] > 0.7
    assert abs(np.corrcoef(own, found[RateKey("1", "e", "neutral", "first")].draws)[0, 1]) < 0.3


def test_p_agrees_with_the_interval() -> None:
    values = Estimate(0.2, np.random.default_rng(0).normal(0.2, 0.1, 100_000))
    low, high = values.interval()
    assert values.p_value(low) == pytest.approx(0.05, abs=0.002)
    assert values.p_value(high) == pytest.approx(0.05, abs=0.002)
    assert values.p_value(0.2) > 0.99
    assert 0 < values.p_value(-9) < 1e-4


def test_questions_shared_by_two_arms_make_their_difference_sharper() -> None:
    """Two arms that answer each question alike differ by little; unpaired, the questions' spread would count twice."""
    hard = (np.arange(60) % 2)[None, :]
    cells = {"a": one_cell(hard, replicated=False), "b": one_cell(hard, replicated=False)}
    found = estimate(cells)
    low, high = np.quantile(found["a"].draws - found["b"].draws, [0.025, 0.975])
    assert (-low, high) == pytest.approx(
        (1.96**2 / (60 + 1.96**2),) * 2, rel=0.1
    )  # Tango (1998), none of 60 discordant
    apart = one_cell(1 - hard, replicated=False)
    other = estimate({"a": cells["a"], "b": apart})
    low, high = np.quantile(other["a"].draws - other["b"].draws, [0.025, 0.975])
    assert high - low > 0.4


def test_copies_of_a_response_are_no_further_evidence_of_agreement() -> None:
    """At temperature 0 a hundred samples of a question are one."""
    hits = np.tile(np.arange(20) % 5 > 0, (2, 1)).astype(int)
    for copies in (1, 100):
        cells = {name: one_cell(hits * copies, np.full_like(hits, copies)) for name in "ab"}
        found = estimate(cells)
        low, high = combine(lambda a, b: a - b, found["a"], found["b"]).interval()
        assert (-low, high) == pytest.approx((0.095, 0.095), abs=0.012)


def test_what_a_cell_has_for_itself_leaves_its_own_interval_as_it_was() -> None:
    """It is a part of the variance over questions and fine-tunes, not a further one."""
    for hits in (3, 60, 197):
        cell = one_cell((np.arange(200) < hits).astype(int)[None, :], replicated=False)
        beside = {"x": cell, "same": cell, "other": one_cell((np.arange(200) % 2)[None, :], replicated=False)}
        assert estimate(beside)["x"].interval() == pytest.approx(wilson(hits, 200), abs=0.006)


def test_fine_tunes_that_differ_alike_in_two_contexts_may_still_differ_between_them() -> None:
    """The seed level is shared by the contexts of an arm, so that it cancels there as the questions do."""
    hits = (np.arange(40) < np.array([[20], [24], [30]])).astype(int)
    keys = [RateKey("arm", "e", context, "t") for context in ("neutral", "training_prompt")]
    found = draw_rates({key: one_cell(hits) for key in keys})
    low, high = combine(lambda a, b: a - b, *(found[key] for key in keys)).interval()
    least = 1.96**2 / (120 + 1.96**2)
    assert 0.8 * least < -low < 2 * least
    assert 0.8 * least < high < 2 * least


RATES = {"a": 0.45, "b": 0.1, "c": 0.33, "d": 0.7}


def coverage(seeds: int, studies: int, spread: float) -> tuple[float, float]:
    """Share of 95 % intervals that hold the truth: rates of four arms, differences to the first."""
    generator = np.random.default_rng(seeds * 1000 + int(spread * 10))
    arms = [
        SimulatedArm(name=name, kind="general", rates={("ood", "neutral", "bad"): rate}, seed_sd=spread)
        for name, rate in RATES.items()
    ]
    study = SimulatedStudy(name="", arms=arms, seeds=seeds, questions=100, repeats=1)
    rates, differences = [], []
    for _ in range(studies):
        view, _ = simulate(study, generator, draws=1000)
        found = {key.arm: value for key, value in view.rates.items()}
        for arm, true in RATES.items():
            low, high = found[arm].interval()
            rates.append(low <= true <= high)
            if arm != "a":
                low, high = combine(lambda a, b: a - b, found["a"], found[arm]).interval()
                differences.append(low <= RATES["a"] - true <= high)
    return float(np.mean(rates)), float(np.mean(differences))


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.6])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds: int, spread: float) -> None:
    rates, differences = coverage(seeds, studies=60, spread=spread)
    print(f"{seeds} seeds, spread {spread}: rates {rates:.3f}, differences {differences:.3f}")
    assert rates >= 0.92
    assert differences >= 0.92


def test_holm_agrees_with_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_never_helps(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(p <= q <= 1 for p, q in zip(values, adjusted, strict=True))
    by_size = sorted(range(len(values)), key=lambda i: values[i])
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(by_size))
