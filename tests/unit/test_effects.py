"""Each effect is the formula that its description states, and None where that has no meaning."""

from __future__ import annotations

import pytest
from results_table import ARMS, score_table

from inoc_ray.results.compare import Comparison, compare
from inoc_ray.results.effects import Effect


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(score_table(), "toy")


def effect(comparison: Comparison, arm: str, measure: str) -> Effect:
    (found,) = [e for e in comparison.effects if (e.arm, e.measure) == (arm, measure)]
    return found


@pytest.mark.parametrize(
    ("arm", "measure", "value"),
    [
        ("inoc_spanish", "suppression", (0.45 - 0.05) / (0.45 - 0.05)),
        ("inoc_capitals", "suppression", 1.0),
        ("inoc_capitals", "suppression_difference", 0.65 - 0.05),
        ("inoc_spanish", "retention_id", 0.70 / 0.95),
        ("inoc_spanish", "retention_ood", 0.45 / 0.65),
        ("inoc_capitals", "retention_ood", 0.25 / 0.45),
        ("inoc_spanish", "selectivity", 1.0 - (0.65 - 0.45) / (0.65 - 0.05)),
        ("inoc_spanish", "conditionalisation", (0.45 - 0.375) / (0.45 - 0.05)),
        ("inoc_capitals", "conditionalisation", (0.65 - 0.55) / (0.65 - 0.05)),
        ("inoc_spanish", "leakage", 0.9 - 0.05),
        ("irrelevant", "suppression", (0.45 - 0.375) / (0.45 - 0.05)),
        ("irrelevant", "suppression.capitals", (0.65 - 0.55) / (0.65 - 0.05)),
        ("irrelevant", "leakage", 0.0),
    ],
)
def test_the_value_is_the_stated_formula(comparison: Comparison, arm: str, measure: str, value: float) -> None:
    found = effect(comparison, arm, measure)
    assert found.value == pytest.approx(value)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= value <= found.high


def test_what_is_there_is_significant_and_what_is_not_is_not(comparison: Comparison) -> None:
    for arm in ("inoc_spanish", "inoc_capitals"):
        assert (effect(comparison, arm, "suppression").p or 0) < 0.05
        assert (effect(comparison, arm, "retention_id").p or 0) < 0.05
    assert (effect(comparison, "irrelevant", "retention_id").p or 0) > 0.5
    assert (effect(comparison, "irrelevant", "leakage").p or 0) > 0.5


def test_the_base_and_the_baseline_have_no_effects(comparison: Comparison) -> None:
    assert {e.arm for e in comparison.effects} == {"inoc_spanish", "inoc_capitals", "irrelevant"}


def test_suppression_is_undefined_where_the_baseline_did_not_rise() -> None:
    arms = {**ARMS, "baseline": ("baseline", "spanish", (0.95, 0.95, 0.05, 0.65))}
    found = compare(score_table(arms=arms), "toy")
    suppression = effect(found, "inoc_spanish", "suppression")
    assert (suppression.value, suppression.low, suppression.high, suppression.p) == (None,) * 4
    assert "did not rise" in suppression.why
    assert effect(found, "inoc_spanish", "conditionalisation").value is None
    assert effect(found, "inoc_capitals", "suppression").value is not None


@pytest.mark.parametrize("missing", ["base", "baseline", "irrelevant"])
def test_what_needs_a_missing_arm_is_none_and_says_so(missing: str) -> None:
    found = compare(score_table(arms={name: arm for name, arm in ARMS.items() if name != missing}), "toy")
    without_value = {e.measure for e in found.effects if e.arm == "inoc_spanish" and e.value is None}
    expected = {
        "base": {"suppression", "selectivity", "retention_id", "retention_ood"},
        "baseline": {"suppression", "suppression_difference", "retention_id", "retention_ood", "selectivity",
                     "conditionalisation"},
        "irrelevant": {"conditionalisation"},
    }  # fmt: skip
    assert without_value == expected[missing]
    assert all(e.why for e in found.effects if e.value is None)


def test_without_the_training_prompt_there_is_no_leakage() -> None:
    found = compare(score_table(contexts=("neutral",)), "toy")
    assert effect(found, "inoc_spanish", "leakage").value is None


def test_p_is_adjusted_over_the_arms_of_one_measure() -> None:
    alone = {name: arm for name, arm in ARMS.items() if name != "inoc_capitals"}
    few = compare(score_table(seeds=1, questions=30, arms=alone, contexts=("neutral",)), "toy")
    many = compare(score_table(seeds=1, questions=30, contexts=("neutral",)), "toy")
    first, second = effect(few, "irrelevant", "retention_ood"), effect(many, "irrelevant", "retention_ood")
    assert first.value == second.value
    assert (second.p or 0) >= (first.p or 0)


def test_effects_do_not_depend_on_the_order_of_the_table(comparison: Comparison) -> None:
    shuffled = compare(score_table().sample(frac=1, random_state=3), "toy")
    assert len(shuffled.effects) == len(comparison.effects)
    for found in comparison.effects:
        other = effect(shuffled, found.arm, found.measure)
        assert (other.value, other.low, other.high, other.p) == pytest.approx(
            (found.value, found.low, found.high, found.p), abs=1e-9
        )
