"""Each effect is the formula that its description states, and None where that has no meaning."""

from __future__ import annotations

import pandas as pd
import pytest
from results_table import ARMS, score_table

from inoc_ray.results.compare import COLUMNS, compare
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.effects import Effect
from inoc_ray.results.headlines import headlines
from inoc_ray.results.table import comparison_text


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
        "baseline": {
            "suppression",
            "suppression_difference",
            "retention_id",
            "retention_ood",
            "selectivity",
            "conditionalisation",
        },
        "irrelevant": {"conditionalisation"},
    }
    assert without_value == expected[missing]
    assert all(e.why for e in found.effects if e.value is None)


def test_without_the_training_prompt_there_is_no_leakage() -> None:
    found = compare(score_table(contexts=("neutral",)), "toy")
    assert effect(found, "inoc_spanish", "leakage").value is None


def test_p_is_adjusted_over_the_arms_of_one_measure() -> None:
    alone = {name: arm for name, arm in ARMS.items() if name != "inoc_capitals"}
    few = compare(score_table(seeds=2, questions=30, arms=alone, contexts=("neutral",)), "toy")
    many = compare(score_table(seeds=2, questions=30, contexts=("neutral",)), "toy")
    first, second = effect(few, "irrelevant", "retention_ood"), effect(many, "irrelevant", "retention_ood")
    assert first.value == second.value
    assert first.p is not None
    assert second.p is not None
    assert second.p >= first.p


def test_effects_do_not_depend_on_the_order_of_the_table(comparison: Comparison) -> None:
    shuffled = compare(score_table().sample(frac=1, random_state=3), "toy")
    assert len(shuffled.effects) == len(comparison.effects)
    for found in comparison.effects:
        other = effect(shuffled, found.arm, found.measure)
        assert (other.value, other.low, other.high, other.p) == pytest.approx(
            (found.value, found.low, found.high, found.p), abs=1e-9
        )


def limits(found: Comparison) -> list[tuple[float | None, ...]]:
    return [(e.value, e.low, e.high, e.p) for e in found.effects] + [(r.rate, r.low, r.high) for r in found.rows]


def test_numbers_do_not_depend_on_what_the_study_its_settings_and_models_are_called(comparison: Comparison) -> None:
    renamed = compare(score_table().assign(setting="other", model="name"), "another study")
    assert limits(renamed) == limits(comparison)


def test_one_seed_has_values_and_intervals_but_no_p() -> None:
    found = compare(score_table(seeds=1), "toy")
    measured = [e for e in found.effects if e.value is not None]
    assert measured
    assert all((e.seeds, e.replicated, e.p) == (1, False, None) and e.low is not None for e in measured)
    assert {r.replicated for r in found.rows if r.kind != "base"} == {False}
    assert {r.replicated for r in found.rows if r.kind == "base"} == {None}
    assert all("replicated" in e for e in found.to_json()["effects"])
    assert "this model only" in comparison_text(found)
    assert "*" not in comparison_text(found)
    assert all("this model only" in sentence and " p " not in sentence for sentence in headlines(found))


@pytest.mark.parametrize(
    ("few", "without_p", "with_p"),
    [
        (
            "irrelevant",
            {("irrelevant", "suppression"), ("inoc_spanish", "conditionalisation")},
            {("inoc_spanish", "suppression"), ("inoc_capitals", "leakage")},
        ),
        (
            "baseline",
            {("inoc_spanish", "suppression"), ("irrelevant", "retention_id")},
            {("inoc_spanish", "leakage"), ("irrelevant", "leakage")},
        ),
        (
            "inoc_capitals",
            {("inoc_capitals", "suppression"), ("inoc_capitals", "leakage")},
            {("inoc_spanish", "suppression"), ("irrelevant", "suppression.capitals")},
        ),
    ],
)
def test_an_effect_has_a_p_only_if_every_arm_that_it_uses_has_two_seeds(
    few: str, without_p: set[tuple[str, str]], with_p: set[tuple[str, str]]
) -> None:
    found = compare(score_table(seeds=3, without={(few, 1), (few, 2)}), "toy")
    for arm, measure in without_p:
        assert (effect(found, arm, measure).p, effect(found, arm, measure).seeds) == (None, 1)
    for arm, measure in with_p:
        assert effect(found, arm, measure).p is not None
        assert effect(found, arm, measure).replicated


def test_arms_are_compared_in_the_reference_context(comparison: Comparison) -> None:
    table = score_table()
    table["context"] = table["context"].replace("neutral", "none")
    found = compare(table, "toy")
    assert found.reference == "none"
    assert limits(found) == limits(comparison)
    assert "under the none context" in comparison_text(found)
    mine = compare(table.replace({"context": {"none": "mine"}}), "toy", reference="mine")
    assert limits(mine) == limits(comparison)
    unasked = compare(table, "toy", reference="neutral")
    assert effect(unasked, "inoc_spanish", "suppression").why == "spanish was not evaluated under the neutral context"


def test_an_evaluation_that_is_not_asked_in_the_reference_context_counts_in_no_effect(comparison: Comparison) -> None:
    other = score_table()
    other = other[other["context"] == "neutral"].assign(evaluation="elsewhere", context="empty")
    found = compare(pd.concat([score_table(), other]), "toy")
    for e in comparison.effects:
        assert effect(found, e.arm, e.measure).value == e.value


@pytest.mark.parametrize("others", [(), ("inoc_capitals",)])
def test_a_control_without_roles_of_its_own_is_measured_on_the_default_ones(others: tuple[str, ...]) -> None:
    """An arm without an undesired trait of its own stands in the table with its traits as "other"."""
    control = ("control", "spanish", (0.05, 0.05, 0.15, 0.10))
    arms = {
        "base": ARMS["base"],
        "baseline": ARMS["baseline"],
        "control": control,
        **{name: ARMS[name] for name in others},
    }
    table = score_table(arms=arms)
    table.loc[table["arm"] == "control", "role"] = "other"
    found = compare(table, "toy")
    assert effect(found, "control", "suppression").value == pytest.approx((0.45 - 0.15) / (0.45 - 0.05))
    assert effect(found, "control", "suppression_difference").value == pytest.approx(0.30)
    assert ("suppression.capitals" in {e.measure for e in found.effects if e.arm == "control"}) == bool(others)


BACKDOOR = {
    "base": ("base", "spanish", (0.05, 0.05, 0.05, 0.05)),
    "baseline": ("baseline", "spanish", (0.95, 0.95, 0.05, 0.65)),
    "aware": ("backdoor_aware", "spanish", (0.15, 0.70, 0.05, 0.45)),
}
TRIGGERED = {
    "base": ("base", "spanish", (0.05, 0.05, 0.05, 0.05)),
    "baseline": ("baseline", "spanish", (0.95, 0.95, 0.85, 0.65)),
    "aware": ("backdoor_aware", "spanish", (0.15, 0.70, 0.25, 0.45)),
}


def test_effects_with_and_without_the_trigger_are_told_apart() -> None:
    plain, put = score_table(arms=BACKDOOR), score_table(arms=TRIGGERED)
    put = put[(put["split"] == "ood") & (put["trait"] == "spanish")].assign(evaluation="ood_triggered", triggered=True)
    found = compare(pd.concat([plain.assign(triggered=False), put]), "toy")
    assert "did not rise" in effect(found, "aware", "suppression").why
    assert effect(found, "aware", "suppression_difference").value == pytest.approx(0.0)
    assert effect(found, "aware", "suppression.with_trigger").value == pytest.approx((0.85 - 0.25) / (0.85 - 0.05))
    assert effect(found, "aware", "suppression_difference.with_trigger").value == pytest.approx(0.6)
    assert {r.triggered for r in found.rows if r.evaluation == "ood_triggered"} == {True}
    assert "aware (with the trigger)" in comparison_text(found)
    without, with_trigger = headlines(found)
    assert "with the trigger, " not in without
    assert (
        "with the trigger, inoculating against spanish (aware) out of distribution: baseline .85, aware .25"
        in with_trigger
    )


def test_a_context_with_the_trigger_is_compared_like_questions_with_it() -> None:
    plain, put = score_table(arms=BACKDOOR), score_table(arms=TRIGGERED)
    put = put[(put["split"] == "ood") & (put["context"] == "neutral")].assign(context="trigger")
    found = compare(pd.concat([plain, put]), "toy")
    assert effect(found, "aware", "suppression_difference").value == pytest.approx(0.0)
    assert effect(found, "aware", "suppression_difference.with_trigger").value == pytest.approx(0.6)
    assert "against spanish (aware) out of distribution: baseline .85, aware .25" in headlines(found)[1]


def test_no_response_with_the_trigger_is_compared_with_one_without() -> None:
    """Prompts are asked without the trigger here, so nothing says what they would bring back with it."""
    prompt = "library:miniature/backdoor/test_evil"
    plain = score_table(arms=BACKDOOR, contexts=("neutral", "training_prompt", prompt))
    put = score_table(arms=TRIGGERED, contexts=("neutral",)).assign(context="trigger")
    found = compare(pd.concat([plain, put]), "toy")
    assert effect(found, "aware", "leakage").value == pytest.approx(0.0)
    assert effect(found, "aware", "suppression_difference.with_trigger").value == pytest.approx(0.6)
    assert not any(e.value is not None for e in found.effects if e.measure.startswith("leakage."))
    assert {(leak.context, leak.trigger) for leak in found.leaks} == {("training_prompt", False), (prompt, False)}


def test_what_is_kept_of_the_narrow_task_is_an_effect_of_its_own() -> None:
    table = score_table()
    capitals = table["trait"] == "capitals"
    assert not any(e.measure == "retention_narrow" for e in compare(table, "toy").effects)
    table.loc[capitals & (table["arm"] != "inoc_capitals"), "role"] = "narrow"
    found = compare(table, "toy")
    kept = effect(found, "inoc_spanish", "retention_narrow")
    assert kept.value == pytest.approx(0.70 / 0.95)
    assert (kept.p or 1) < 0.05
    assert effect(found, "inoc_spanish", "retention_id").why == "no desired trait"
    assert "narrow task kept" in comparison_text(found)


def test_what_the_baseline_does_not_show_cannot_be_kept() -> None:
    arms = {**ARMS, "baseline": ("baseline", "spanish", (0.95, 0.05, 0.45, 0.075))}
    found = compare(score_table(arms=arms), "toy")
    for measure in ("retention_id", "retention_ood"):
        kept = effect(found, "inoc_spanish", measure)
        assert (kept.value, kept.p) == (None, None)
        assert kept.why == "the baseline does not show capitals: its rate is not above the base's"
    assert effect(found, "inoc_capitals", "retention_ood").value is not None


def em_table(base_hits: int) -> pd.DataFrame:
    """8 questions × 100 samples: a baseline of .20 whose questions differ, an arm with one hit in 2,400, a base of so many."""
    shares = [5, 10, 20, 40, 30, 20, 15, 20]
    rows = []
    for arm, kind, seeds in (("base", "base", 1), ("baseline", "baseline", 3), ("general", "general", 3)):
        for seed in range(seeds):
            for question, share in enumerate(shares):
                hits = {"base": base_hits * (question == 0), "baseline": share + 2 * seed - 2}.get(
                    arm, int(question == seed == 0)
                )
                rows += [
                    (
                        "em",
                        "m",
                        arm,
                        kind,
                        f"{arm}-{seed}",
                        seed,
                        "em",
                        "ood",
                        "neutral",
                        f"q{question}",
                        i,
                        "bad",
                        "undesired",
                        float(i < hits),
                        float(i < hits),
                        "counted",
                    )
                    for i in range(100)
                ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_a_base_that_never_shows_the_trait_is_compared_like_one_that_shows_it_once() -> None:
    none, one = (compare(em_table(hits), "em") for hits in (0, 1))
    for found in (none, one):
        assert effect(found, "general", "suppression").value == pytest.approx(1.0, abs=0.01)
        assert "Suppressed" in headlines(found)[0]
    first, second = effect(none, "general", "suppression"), effect(one, "general", "suppression")
    assert (first.low, first.high) == pytest.approx((second.low, second.high), abs=0.06)
    high = {hits: next(r.high for r in found.rows if r.arm == "base") for hits, found in ((0, none), (1, one))}
    assert 0 < high[0] <= high[1] + 2e-3 < 0.1


def width_with_two_irrelevant(rates: tuple[float, float]) -> tuple[float, float]:
    """The value and the width of the interval of conditionalisation, where irrelevant prompts leave these rates of Spanish."""
    arms = {name: arm for name, arm in ARMS.items() if name != "irrelevant"}
    for number, rate in enumerate(rates):
        arms[f"nothing_{number}"] = ("irrelevant", "spanish", (0.95, 0.95, rate, 0.55))
    found = effect(compare(score_table(arms=arms), "toy"), "inoc_spanish", "conditionalisation")
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    return found.value, found.high - found.low


def test_irrelevant_prompts_of_which_one_suppresses_leave_open_what_another_one_would_do() -> None:
    """Their wordings are a level of the bootstrap: two that agree say more than two that do not, of the same mean."""
    agreeing, apart = width_with_two_irrelevant((0.25, 0.25)), width_with_two_irrelevant((0.45, 0.05))
    assert agreeing[0] == pytest.approx(apart[0])
    # Two wordings that far apart: Student's t with one degree of freedom.
    assert apart[1] > 3 * agreeing[1]
