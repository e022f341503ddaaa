"""Claims on what fine-tunes learn when: numbers from their curves, and verdicts by the fine-tunes that there are."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_study import write_study
from pydantic import ValidationError
from results_table import score_table
from scipy.special import stdtrit

from inoc_ray.errors import InputError
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.claims import stated_claims
from inoc_ray.results.claim_checks import CheckedClaim
from inoc_ray.results.claim_dynamics import draw_gains, gain, key_of, late_gain
from inoc_ray.results.claim_text import HEADS, claim_rows
from inoc_ray.results.compare import compare
from inoc_ray.results.dynamics import Followed, Look
from inoc_ray.results.stats import combine
from inoc_ray.run.load import load_study
from inoc_ray.store.store import Store
from inoc_ray.study.claims import DYNAMICS, Claim, StatedClaim

STEPS = (0, 3, 10, 30, 100)
Curves = Mapping[tuple[str, str], Sequence[Sequence[float]]]
"""(arm, trait) → a curve of log-probabilities for each fine-tune, at STEPS."""
RISES = [[-40.0, -30.0, -20.0, -10.0, -4.0], [-40.0, -31.0, -19.0, -11.0, -6.0], [-42.0, -31.0, -20.0, -11.0, -5.0]]
STAYS = [[-40.0, -37.0, -36.0, -35.8, -35.9], [-40.0, -37.5, -36.2, -36.0, -35.9], [-42.0, -38.0, -37.0, -37.1, -37.0]]
LEARNT: Curves = {
    ("inoc_spanish", "spanish"): STAYS,
    ("inoc_spanish", "capitals"): RISES,
    ("baseline", "spanish"): RISES,
    ("baseline", "capitals"): RISES[::-1],
}


def looks(curves: Curves = LEARNT, *, seeds: int = 3, context: str = "neutral") -> Iterator[Look]:
    """Two responses a set: one a nat above, one a nat below the mean."""
    for (arm, trait), of_seeds in curves.items():
        for seed, curve in enumerate(of_seeds[:seeds]):
            for step, value in zip(STEPS, curve, strict=True):
                for response in (0, 1):
                    yield Look(
                        setting="toy",
                        model="tiny",
                        arm=arm,
                        kind="specific",
                        seed=seed,
                        probe=trait,
                        trait=trait,
                        context=context,
                        step=step,
                        response=response,
                        logprob=value + 1 - 2 * response,
                        tokens=5,
                    )


def claim(measure: str, *arms: str, **fields: Any) -> StatedClaim:
    return StatedClaim(
        claim=Claim.model_validate({"name": "one", "says": "x", "measure": measure, "arms": arms, **fields})
    )


def check(one: StatedClaim, followed: Followed | None = None) -> CheckedClaim:
    followed = followed or Followed(looks=tuple(looks()))
    (found,) = compare(score_table(), "toy", claims=[one], followed=followed).claims
    return found


GAIN_RISES = statistics.fmean([1 - 4 / 40, 1 - 6 / 40, 1 - 5 / 42])
GAIN_STAYS = statistics.fmean([1 - 35.9 / 40, 1 - 35.9 / 40, 1 - 37 / 42])


def test_a_gain_is_the_share_of_the_way_to_certainty_and_a_late_one_that_of_the_second_half() -> None:
    curve = list(zip(STEPS, RISES[0], strict=True))
    assert gain(curve) == pytest.approx(1 - 4 / 40)
    # The last look at or before step 50 is that after step 30.
    assert late_gain(curve) == pytest.approx((10 - 4) / 40)
    # Two looks alone, or four as log-spaced as they are by default: they say little of the second half.
    assert gain([(0, -8.0), (10, -2.0)]) == 0.75
    assert late_gain([(0, -8.0), (10, -2.0)]) is None
    assert late_gain([(0, -40.0), (4, -30.0), (15, -20.0), (60, -10.0)]) is None


@pytest.mark.parametrize(
    ("one", "verdict", "value"),
    [
        (claim("log_prob_gain", "inoc_spanish", trait="desired", above=0.5), "holds", GAIN_RISES),
        (claim("log_prob_gain", "inoc_spanish", trait="capitals", below=0.5), "fails", GAIN_RISES),
        (claim("log_prob_gain", "inoc_spanish", below=0.5), "holds", GAIN_STAYS),
        (claim("log_prob_late_gain", "inoc_spanish", within=(-0.1, 0.1)), "holds", -0.00003),
        (claim("log_prob_late_gain", "inoc_spanish", trait="desired", within=(-0.05, 0.05)), "fails", 0.1393),
        (claim("log_prob_lead", "inoc_spanish", above=0.5), "holds", GAIN_RISES - GAIN_STAYS),
        (claim("log_prob_lead", "inoc_spanish", above=0.78), "cannot tell", GAIN_RISES - GAIN_STAYS),
        # The baseline learns what the arm does not: minus that of the baseline, in the arm's trait.
        (claim("log_prob_gain", "inoc_spanish", than="baseline", below=-0.5), "holds", GAIN_STAYS - GAIN_RISES),
    ],
)
def test_the_verdict_is_where_the_interval_over_fine_tunes_lies(one: StatedClaim, verdict: str, value: float) -> None:
    found = check(one)
    assert (found.verdict, found.decides.value) == (verdict, pytest.approx(value, abs=2e-3))
    assert found.decides.seeds == 3
    assert (found.decides.p is not None and found.decides.p < 0.05) == (verdict == "holds")
    assert (found.decides.settle != "") == (verdict == "cannot tell")
    [line] = claim_rows([found])
    assert line[2].startswith("log-prob")


def test_the_interval_of_an_arm_is_students_t_over_its_fine_tunes() -> None:
    found = draw_gains(looks(), 100_000)["inoc_spanish", key_of("log_prob_gain", "spanish", "neutral")]
    values = [1 - 35.9 / 40, 1 - 35.9 / 40, 1 - 37 / 42]
    half = float(stdtrit(2, 0.975)) * statistics.stdev(values) / 3**0.5
    low, high = found.interval()
    assert (found.value - low, high - found.value) == pytest.approx((half, half), rel=0.05)


def test_two_numbers_of_the_same_fine_tunes_are_drawn_together_and_those_of_two_arms_apart() -> None:
    """Where one trait gains what the other loses, the lead varies by both; where both gain alike, not at all."""
    apart = [[-40.0, -35.0, -30.0, -25.0, -20.0 + d] for d in (-2.0, 0.0, 2.0)]
    other = [[-40.0, -35.0, -30.0, -25.0, -20.0 - d] for d in (-2.0, 0.0, 2.0)]
    both = {("a", "spanish"): apart, ("a", "capitals"): apart, ("a", "counter"): other, ("b", "spanish"): apart}
    found = draw_gains(looks(both), 20_000)

    def width(arm: str, trait: str, than: tuple[str, str]) -> float:
        key = "log_prob_gain"
        low, high = combine(
            lambda x, y: x - y,
            found[arm, key_of(key, trait, "neutral")],
            found[than[0], key_of(key, than[1], "neutral")],
        ).interval()
        return high - low

    alone = np.diff(found["a", key_of("log_prob_gain", "spanish", "neutral")].interval())[0]
    assert width("a", "capitals", ("a", "spanish")) == pytest.approx(0.0, abs=1e-12)
    assert width("a", "counter", ("a", "spanish")) == pytest.approx(2 * alone)
    assert alone < width("b", "spanish", ("a", "spanish")) < 2 * alone


def test_the_numbers_do_not_depend_on_the_order_of_the_looks() -> None:
    forward, backward = draw_gains(looks()), draw_gains(list(looks())[::-1])
    assert {key: one.interval() for key, one in forward.items()} == {
        key: one.interval() for key, one in backward.items()
    }


@pytest.mark.parametrize(
    ("one", "followed", "why"),
    [
        (claim("log_prob_gain", "inoc_spanish", above=0.1), Followed(looks=tuple(looks(seeds=1))), "one seed"),
        (
            claim("log_prob_gain", "inoc_capitals", above=0.1),
            None,
            "no responses with capitals were followed in inoc_capitals",
        ),
        (claim("log_prob_gain", "inoc_spanish", context="none", above=0.1), None, "under the context none"),
        (claim("log_prob_gain", "base", above=0.1), None, "were followed in base"),
        (claim("log_prob_gain", "inoc_spanish", above=0.1), Followed(), "no responses with spanish were followed"),
        (
            claim("log_prob_late_gain", "inoc_spanish", below=0.1),
            Followed(looks=tuple(look for look in looks() if look.step != 30)),
            "inoc_spanish was not looked at between a quarter and half of its steps",
        ),
        (
            claim("log_prob_gain", "inoc_spanish", above=0.9),
            Followed(looks=tuple(looks()), to_train=frozenset([("toy", "tiny", "inoc_spanish", "specific")])),
            "incomplete",
        ),
    ],
)
def test_what_was_not_followed_cannot_be_told_and_says_why(
    one: StatedClaim, followed: Followed | None, why: str
) -> None:
    found = check(one, followed)
    assert found.verdict == "cannot tell"
    assert why in found.decides.why
    assert found.decides.p is None


def test_a_mean_over_fine_tunes_is_of_the_same_responses_from_their_first_step_on() -> None:
    one = claim("log_prob_gain", "inoc_spanish", trait="capitals", above=0.25)
    whole = list(looks())
    assert check(one).decides.seeds == 3
    # Another set of the trait, which one of them lacks, and one that was looked at only after ten steps.
    more = [replace(look, probe="shouted", logprob=look.logprob - 9) for look in whole if look.seed != 1]
    late = [look for look in whole if look.seed != 2 or look.step >= 10]
    for found, seeds in (([*whole, *more], 2), (late, 2)):
        assert check(one, Followed(looks=tuple(found))).decides.seeds == seeds


def test_one_fine_tune_has_a_number_and_no_interval() -> None:
    [line] = claim_rows(
        [check(claim("log_prob_gain", "inoc_spanish", above=0.1), Followed(looks=tuple(looks(seeds=1))))]
    )
    assert line[HEADS.index("value [95 %]")] == ".10"


def test_more_seeds_settle_what_they_say_they_do() -> None:
    noisy = {
        ("inoc_spanish", "spanish"): [[-40.0, -38.0, -36.0, -34.0, -32.0 + d] for d in (-3.0, 0.5, 2.5)],
    }
    found = check(claim("log_prob_gain", "inoc_spanish", above=0.1), Followed(looks=tuple(looks(noisy)))).decides
    assert (found.verdict, found.seeds) == ("cannot tell", 3)
    assert found.seeds_needed is not None
    assert 3 < found.seeds_needed < 12


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"measure": "log_prob_gain", "above": 20}, "is a share"),
        ({"measure": "log_prob_gain", "above": 0.1, "evaluation": "x"}, "evaluation does not belong"),
        ({"measure": "log_prob_gain", "above": 0.1, "split": "id"}, "split does not belong"),
        ({"measure": "log_prob_lead", "above": 0.1, "trait": "spanish"}, "trait does not belong"),
    ],
)
def test_a_claim_that_says_nothing_clear_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Claim.model_validate({"name": "one", "says": "x", "arms": ["a"], **fields})


def own(**fields: Any) -> list[dict[str, Any]]:
    return [
        {"name": "ours", "says": "x", "measure": "log_prob_gain", "arms": ["specific_spanish"], "above": 0.1, **fields}
    ]


def stated(path: Path) -> set[str]:
    study = load_study(path)
    plan = build_plan(study, Store(study.storage))
    return {one.claim.name for one in stated_claims(plan) if one.claim.measure in DYNAMICS}


def test_the_papers_claims_on_it_are_checked_where_a_study_follows_its_fine_tunes(tmp_path: Path) -> None:
    assert stated(write_study(tmp_path)) == set()
    of_paper = {"inoculated_trait_plateaus", "desired_trait_rises", "desired_trait_leads"}
    assert stated(write_study(tmp_path, dynamics={})) == of_paper
    assert stated(write_study(tmp_path, dynamics={}, claims=own())) == {*of_paper, "ours"}
    # They are about the reference context, in which this one follows nothing.
    assert stated(write_study(tmp_path, dynamics={"contexts": ["training_prompt"]})) == set()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"claims": own()}, r"log_prob_gain is a number of fixed responses .* follows none; add `dynamics: \{\}`"),
        (
            {"claims": own(context="training_prompt"), "dynamics": {}},
            "no context among dynamics.contexts 'training_prompt'",
        ),
        (
            {"claims": own(), "dynamics": {"contexts": ["training_prompt"]}},
            "no context among dynamics.contexts 'neutral'",
        ),
        ({"claims": own(trait="spanisch"), "dynamics": {}}, "no probe set of trait 'spanisch' .did you mean 'spanish'"),
        # It is measured, and no fixed responses have it.
        ({"claims": own(trait="coherent"), "dynamics": {}}, "no probe set of trait 'coherent'"),
        ({"claims": own(than="base"), "dynamics": {}}, "no curve of 'base'"),
    ],
)
def test_a_claim_on_what_the_study_does_not_follow_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    study = load_study(write_study(tmp_path, **changes))
    with pytest.raises(InputError, match=message):
        build_plan(study, Store(study.storage))
