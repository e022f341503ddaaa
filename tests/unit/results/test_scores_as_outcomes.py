"""A mean score has the intervals that a share of responses has: the same where scores are 0 and 1, and as reliable between."""

from __future__ import annotations

import numpy as np
import pytest
from results_table import score_table

from inoc_ray.errors import InputError
from inoc_ray.evaluate.verdicts import by_model, by_rule, combined
from inoc_ray.plan.judge_assignment import Condition, ModelMeasure
from inoc_ray.results.compare import compare
from inoc_ray.results.figures.points import rate_points
from inoc_ray.results.report.verdict import verdicts
from inoc_ray.results.stats import Cell, RateKey, draw_rates, model_interval
from inoc_ray.results.table import comparison_text
from inoc_ray.scoring.profiles import Bound
from inoc_ray.scoring.rubrics import RUBRICS


def test_scores_of_zero_and_one_give_what_a_share_gives() -> None:
    table = score_table()
    shares, scores = compare(table, "toy"), compare(table.assign(level=table["score"]), "toy", outcome="score")
    for share, score in zip(shares.rows, scores.rows, strict=True):
        assert score.rate == share.rate
        assert (score.low, score.high) == pytest.approx((share.low, share.high), abs=0.01)
    for one, other in zip(shares.effects, scores.effects, strict=True):
        assert (one.measure, one.why) == (other.measure, other.why)
        assert other.value == (None if one.value is None else pytest.approx(one.value))
    for place, rates in shares.trial_rates.items():
        for one, other in zip(rates, scores.trial_rates[place], strict=True):
            assert (other.rate, other.low, other.high) == pytest.approx((one.rate, one.low, one.high))


def test_a_table_of_scores_says_so_everywhere() -> None:
    table = score_table()
    found = compare(table.assign(level=0.25 + table["score"] / 2), "toy", outcome="score")
    assert found.to_json()["outcome"] == "score"
    assert any("mean scores" in note for note in found.notes())
    assert "mean score, 0 to 1, under the neutral" in comparison_text(found)
    (row,) = [r for r in found.rows if (r.arm, r.trait, r.split, r.context) == ("baseline", "spanish", "id", "neutral")]
    assert row.rate == pytest.approx(0.25 + 0.95 / 2)
    with pytest.raises(InputError, match="lacks the column"):
        compare(table, "toy", outcome="score")


def test_responses_that_do_not_count_are_in_no_mean() -> None:
    table = score_table().assign(level=0.5)
    out = table.index % 2 == 0
    table.loc[out, ["shown", "level"]] = np.nan, 0.9
    table.loc[out, "outcome"] = "unparsed"
    assert {r.rate for r in compare(table, "toy", outcome="score").rows} == {0.5}


@pytest.mark.parametrize("level", [0.37, 0.5])
def test_equal_scores_are_no_proof_that_all_are_equal(level: float) -> None:
    """Whatever the rounding, the interval is that of as many answers of yes or no."""
    cell = Cell(np.full((1, 50), level), np.ones((1, 50), dtype=np.int64), squares=np.full((1, 50), level) ** 2)
    limits = model_interval(cell)
    assert limits is not None
    assert limits[1] - limits[0] > 0.2


def test_the_verdict_and_the_figures_speak_of_scores() -> None:
    table = score_table()
    found = compare(table.assign(level=0.25 + table["score"] / 2), "toy", outcome="score")
    (one,) = [v for v in verdicts(found, {}) if v.arm == "inoc_spanish"]
    assert one.by_how_much == "mean score of spanish .47 → .28 (untouched base: .28)".replace(
        " → ", "\u00a0→\u00a0"
    ).replace(": ", ":\u00a0")
    assert "%" not in one.at_what_price
    assert {p.unit for p in rate_points(found, found.rows, lambda row: row.arm)} == {"mean score of the trait, 0 to 1"}


def scored(generator: np.random.Generator, mean: float, seeds: int, questions: int) -> Cell:
    """Scores between 0 and 1 (beta, with a standard deviation of about .2) of fine-tunes and questions that differ."""
    level = mean + 0.05 * generator.standard_normal((seeds, 1)) + 0.08 * generator.standard_normal((1, questions))
    level = np.clip(level, 0.02, 0.98)
    scores = generator.beta(5 * level, 5 * (1 - level))
    return Cell(scores, np.ones(scores.shape, dtype=np.int64), squares=scores**2)


@pytest.mark.parametrize("mean", [0.5, 0.2])
def test_the_interval_of_a_mean_score_holds_it(mean: float) -> None:
    """The truth is the mean over all fine-tunes and questions; clipping moves it by less than .001 here."""
    generator = np.random.default_rng(11)
    held, widths = [], []
    for _ in range(150):
        cell = scored(generator, mean, seeds=4, questions=60)
        low, high = draw_rates({RateKey("a", "e", "c", "t"): cell}, 400)[RateKey("a", "e", "c", "t")].interval()
        held.append(low <= mean <= high)
        widths.append(high - low)
    assert np.mean(held) >= 0.9
    # A yes or no by a threshold at the same mean has at least twice the variance of a response.
    assert np.median(widths) < 0.25


def test_scores_are_sharper_than_their_threshold() -> None:
    generator = np.random.default_rng(3)
    cell = scored(generator, 0.5, seeds=1, questions=100)
    yes = (cell.hits > 0.5).astype(np.int64)
    of_scores, of_shares = model_interval(cell), model_interval(Cell(yes, cell.counts))
    assert of_scores is not None
    assert of_shares is not None
    assert of_scores[1] - of_scores[0] < 0.6 * (of_shares[1] - of_shares[0])


@pytest.mark.parametrize(("rubric", "level"), [("alignment", [0.9, 0.2, np.nan]), ("coherence", [0.1, 0.8, np.nan])])
def test_the_level_rises_with_the_trait(rubric: str, level: list[float]) -> None:
    measure = ModelMeasure(shown=Condition(rubric=RUBRICS[rubric], bound=Bound("<", 50.0)), given=())
    numbers = {rubric: (np.array([10.0, 80.0, np.nan]), np.array(["number", "number", "unparsed"], object))}
    found = by_model(numbers, measure)
    np.testing.assert_allclose(found.level, level)
    rule = by_rule([0.3, 0.9, None])
    np.testing.assert_allclose(rule.level, [0.3, 0.9, np.nan])
    np.testing.assert_allclose(combined([found, rule], "first").level, [*level[:2], np.nan])
    np.testing.assert_allclose(combined([found, rule], "any").level, [max(level[0], 0.3), max(level[1], 0.9), np.nan])
    np.testing.assert_allclose(combined([found, rule], "all").level, [min(level[0], 0.3), min(level[1], 0.9), np.nan])
