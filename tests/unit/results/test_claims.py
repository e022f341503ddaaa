"""A claim holds, fails or cannot be told by where its interval lies, and what is said to settle it does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from finished_study import finish, write_study
from pydantic import ValidationError
from results_table import ARMS, planned, score_table

from inoc_ray import settings
from inoc_ray.results.claim_checks import CheckedClaim, Measured, _checked_arm, _gaps, _half, check_claims
from inoc_ray.results.claim_text import claim_rows, claim_tags, claims_text
from inoc_ray.results.claim_values import ClaimValue
from inoc_ray.results.compare import compare
from inoc_ray.results.completeness import Planned
from inoc_ray.results.effects import Arm, Direction, View
from inoc_ray.results.stats import Cell, Estimate, RateKey, combine, draw_rates, mean_of, mean_of_sample
from inoc_ray.results.table import comparison_text
from inoc_ray.settings.paper_claims import paper_claims
from inoc_ray.study.claims import ROLES, Claim, Measure, StatedClaim

Run = Callable[..., tuple[int, str, str]]


def claim(measure: str, *arms: str, **fields: Any) -> StatedClaim:
    return StatedClaim(
        claim=Claim.model_validate({"name": "one", "says": "x", "measure": measure, "arms": arms, **fields})
    )


def check(one: StatedClaim, **table: Any) -> CheckedClaim:
    (found,) = compare(score_table(**table), "toy", claims=[one]).claims
    return found


# The table's rates are exact: Spanish out of distribution is .05 in the base, .45 in the baseline and .05 in the arm.
@pytest.mark.parametrize(
    ("one", "verdict", "value"),
    [
        (claim("suppression", "inoc_spanish", above=0.5), "holds", 1.0),
        (claim("suppression", "inoc_spanish", below=0.5), "fails", 1.0),
        (claim("suppression", "inoc_spanish", above=0.95), "cannot tell", 1.0),
        (claim("suppression", "inoc_spanish", "inoc_capitals", above=0.5), "holds", 1.0),
        (claim("suppression", "inoc_spanish", "irrelevant", trait="spanish", above=0.8), "fails", 0.1875),
        (claim("retention_ood", "inoc_spanish", within=(0.4, 1.0)), "holds", 0.45 / 0.65),
        (claim("retention_ood", "inoc_spanish", within=(0.8, 1.25)), "cannot tell", 0.45 / 0.65),
        (claim("retention_ood", "inoc_spanish", within=(1.2, 1.6)), "fails", 0.45 / 0.65),
        (claim("rate", "inoc_spanish", trait="spanish", below=0.3), "holds", 0.05),
        (claim("rate", "inoc_spanish", trait="desired", split="id", above=0.5), "holds", 0.70),
        (claim("rate", "baseline", than="base", trait="spanish", above=0.0), "holds", 0.40),
        (claim("rate", "inoc_spanish", context="training_prompt", than_context="reference", above=0.5), "holds", 0.85),
        (claim("suppression", "inoc_spanish", than="irrelevant", above=0.3), "holds", 1.0 - 0.1875),
        (claim("suppression", "kind:specific", above=0.5), "holds", 1.0),
        # Each arm of a kind is compared in its own trait: Spanish .05 with .45, capitals .05 with .65.
        (claim("rate", "kind:specific", than="baseline", below=-0.1), "cannot tell", -0.5),
        (claim("rate", "base", trait="spanish", below=0.3), "holds", 0.05),
        (claim("rate", "baseline", evaluation="ood_questions", trait="spanish", above=0.2), "holds", 0.45),
    ],
    ids=lambda value: value.claim.bound_in_words() if isinstance(value, StatedClaim) else str(value),
)
def test_the_verdict_is_where_the_interval_lies(one: StatedClaim, verdict: str, value: float) -> None:
    found = check(one)
    assert (found.verdict, found.decides.value) == (verdict, pytest.approx(value))
    p = found.decides.p
    assert p is not None
    assert (p < 0.05) == (verdict == "holds")
    assert (found.decides.settle != "") == (verdict == "cannot tell")


def test_an_equivalence_shows_the_interval_that_decides_it() -> None:
    found = check(claim("retention_ood", "inoc_spanish", within=(0.4, 1.0))).decides
    wide = check(claim("retention_ood", "inoc_spanish", above=0.4)).decides
    assert (found.level, wide.level) == (0.9, 0.95)
    assert wide.low < found.low < found.high < wide.high  # type: ignore[operator]


@pytest.mark.parametrize(
    ("one", "table", "why"),
    [
        (claim("suppression", "inoc_spanish", above=0.5), {"seeds": 1}, "one seed"),
        (claim("suppression", "nobody", above=0.5), {}, "no results of the arm nobody"),
        (claim("rate", "kind:persona", above=0.5), {}, "no results of an arm of kind persona"),
        (claim("rate", "inoc_spanish", context="none", above=0.5), {}, "under the context none"),
        (claim("rate", "inoc_spanish", triggered=True, above=0.5), {}, "with the trigger"),
        (claim("capability", "inoc_spanish", task="mmlu", above=0.5), {}, "no score on mmlu"),
        (
            claim("suppression", "inoc_spanish", above=0.5),
            {"arms": {**ARMS, "baseline": ("baseline", "spanish", (0.95, 0.95, 0.05, 0.65))}},
            "did not rise",
        ),
    ],
)
def test_what_is_not_there_cannot_be_told_and_says_why(one: StatedClaim, table: dict[str, Any], why: str) -> None:
    found = check(one, **table)
    assert found.verdict == "cannot tell"
    assert why in found.decides.why
    assert found.decides.p is None


def test_a_claim_on_something_incomplete_cannot_be_told() -> None:
    table, plan = score_table(without=[("baseline", 2)]), planned()
    claims = [claim("suppression", "inoc_spanish", above=0.5), claim("rate", "base", trait="spanish", below=0.3)]
    on_baseline, on_base = compare(table, "toy", planned=plan, claims=claims).claims
    assert (on_baseline.verdict, on_baseline.decides.p) == ("cannot tell", None)
    assert "incomplete" in on_baseline.decides.why
    assert on_base.verdict == "holds"


def test_settings_and_models_that_a_claim_is_not_about_are_left_out() -> None:
    found = compare(score_table(), "toy", claims=[claim("suppression", "inoc_spanish", above=0.5, settings=["other"])])
    assert found.claims == ()


def test_wordings_are_a_level_of_their_own() -> None:
    """With wordings of which one fails, a kind's interval covers another wording; of equal wordings it stays as it is."""
    generator = np.random.default_rng(0)
    alike = [Estimate(0.8, 0.8 + 0.05 * generator.standard_normal(10_000), 3) for _ in range(4)]
    apart = [Estimate(v, v + 0.05 * generator.standard_normal(10_000), 3) for v in (0.9, 0.85, 0.95, 0.1)]

    def width(found: Estimate | None) -> float:
        assert found is not None
        low, high = found.interval()
        return high - low

    assert width(mean_of_sample(alike)) == pytest.approx(width(mean_of(alike)))
    assert width(mean_of(apart)) < 0.12
    # The interval of a mean of four numbers with their standard deviation: Student's t with 3 degrees of freedom.
    assert width(mean_of_sample(apart)) == pytest.approx(
        2 * 3.18 * np.std([0.9, 0.85, 0.95, 0.1], ddof=1) / 2, rel=0.05
    )
    assert width(mean_of_sample(apart[:1])) == width(apart[0])


@pytest.mark.parametrize("count", [2, 3, 5])
def test_another_wording_lies_within_the_interval_as_often_as_it_says(count: int) -> None:
    """Also where few wordings lie close together by chance, and seem to be alike."""
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        values = 0.1 * generator.standard_normal(count) + 0.05 * generator.standard_normal(count)
        mean = mean_of_sample([Estimate(float(v), v + 0.05 * generator.standard_normal(1_000), 3) for v in values])
        assert mean is not None
        low, high = mean.interval()
        covered += low <= 0 <= high
    assert covered >= 0.91 * 200


def test_wordings_of_two_kinds_do_not_cancel_in_a_difference() -> None:
    generator = np.random.default_rng(1)
    first, second = (
        mean_of_sample([Estimate(v, v + 0.01 * generator.standard_normal(10_000), 3) for v in values])
        for values in ((0.9, 0.5, 0.7), (0.6, 0.2, 0.4))
    )
    assert first is not None
    assert second is not None
    (low, high), (below, above) = combine(lambda a, b: a - b, first, second).interval(), first.interval()
    assert high - low > 1.2 * (above - below)


def skewed(low: float, high: float) -> Estimate:
    """A number of 1 whose interval is wide on one side, as a ratio's is."""
    normal = np.random.default_rng(2).standard_normal(2_000)
    return Estimate(1.0, 1 + np.where(normal > 0, high, low) * normal, 3)


@pytest.mark.parametrize(
    ("low", "high", "crossed"), [(0.05, 0.3, "1.25"), (0.3, 0.05, "0.8"), (0.3, 0.3, "0.8 and 1.25")]
)
def test_both_margins_count_whichever_is_nearer(low: float, high: float, crossed: str) -> None:
    one = claim("retention_ood", "a", within=(0.8, 1.25)).claim
    estimate = skewed(low, high)
    measured = Measured(view=View(setting="s", model="m", arms=(), splits={}, rates={}), cells={})
    value = ClaimValue(arm="a", estimate=estimate)
    found = _checked_arm(one, 0, value, measured=measured, lacking=frozenset())
    assert (found.verdict, found.why) == ("cannot tell", f"the interval contains {crossed}")
    settled = [gap.is_settled_by(_half(estimate, bound, gap.level)) for bound, gap in _gaps(one, estimate).items()]
    assert not all(settled)


def test_a_number_outside_the_margins_shows_the_interval_that_decides_it() -> None:
    found = check(claim("retention_ood", "inoc_spanish", within=(0.8, 1.25))).decides
    assert (found.level, found.why) == (0.95, "the interval contains 0.8")
    assert found.high is not None
    assert found.high >= 0.8


@pytest.mark.parametrize(
    ("arms", "text"),
    [(ARMS, "mean of 2 arms"), ({n: a for n, a in ARMS.items() if n != "inoc_capitals"}, "one arm alone")],
)
def test_a_kind_says_how_many_wordings_it_rests_on(arms: dict[str, Any], text: str) -> None:
    found = check(claim("suppression", "kind:specific", above=0.5), arms=arms)
    assert claim_rows([found])[0][2] == f"suppression (kind:specific, {text})"


def test_where_wordings_differ_more_of_them_settle_it() -> None:
    apart = {**ARMS, "inoc_capitals": ("specific", "capitals", (0.60, 0.10, 0.25, 0.55))}
    found = check(claim("suppression", "kind:specific", above=0.5), arms=apart).decides
    assert (found.verdict, found.settle[:21]) == ("cannot tell", "more arms of the kind")


def test_claims_on_a_setting_without_any_result_say_so() -> None:
    plan = planned()
    other = [replace(cell, setting="other", stored=0) for cell in plan.cells]
    one = claim("suppression", "inoc_spanish", above=0.5)
    found = compare(score_table(), "toy", planned=Planned(cells=[*plan.cells, *other]), claims=[one]).claims
    assert [(c.setting, c.verdict) for c in found] == [("toy", "holds"), ("other", "cannot tell")]
    assert found[1].decides.why == "the study has no results of the arm inoc_spanish"


SEED_SD = 0.08
QUESTIONS = 60


def simulated(seeds: int, rate: float, generator: np.random.Generator) -> CheckedClaim:
    """A study of two arms whose fine-tunes differ, and the claim that one shows the trait less, by more than .1."""
    cells = {}
    for arm, of_arm in {"baseline": 0.6, "quiet": rate}.items():
        level = np.clip(of_arm + SEED_SD * generator.standard_normal((seeds, 1)), 0.01, 0.99)
        hits = generator.binomial(1, np.broadcast_to(level, (seeds, QUESTIONS)))
        cells[RateKey(arm, "e", "neutral", "bad")] = Cell(hits, np.ones_like(hits))
    direction = Direction(("bad",), ())
    view = View(
        setting="s",
        model="m",
        arms=(Arm("baseline", "baseline", direction), Arm("quiet", "general", direction)),
        splits={"e": "ood"},
        rates=draw_rates(cells, 1_000),
    )
    one = claim("rate", "baseline", than="quiet", above=0.1)
    (found,) = check_claims([one], [Measured(view=view, cells=cells)], [])
    return found


def test_as_many_seeds_as_it_names_settle_most_studies_that_three_do_not() -> None:
    """The claim is true, and studies that cannot tell but measured about the true number name the seeds for four in five."""
    generator = np.random.default_rng(5)
    named: list[float] = []
    while len(named) < 15:
        found = simulated(3, 0.33, generator)
        if found.verdict == "cannot tell" and abs((found.decides.value or 0) - 0.27) < 0.03:
            named.append(found.decides.seeds_needed or np.inf)
    needed = float(np.median(named))
    assert 5 <= needed <= 16
    enough, few = (
        np.mean([simulated(int(n), 0.33, generator).verdict == "holds" for _ in range(60)]) for n in (needed, 3)
    )
    assert few < 0.45
    # A little more than .8: a study that cannot tell has measured a larger variance than others.
    assert enough > 0.7


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one of above, below and within"),
        ({"above": 0.1, "below": 0.2}, "exactly one of"),
        ({"within": [0.2, 0.1]}, "SMALLER, LARGER"),
        ({"above": 0.1, "task": "mmlu"}, "belong together"),
        ({"above": 0.1, "measure": "capability"}, "belong together"),
        ({"above": 0.1, "measure": "leakage", "context": "none"}, "does not belong"),
        ({"above": 0.1, "measure": "retention_id", "triggered": True}, "triggered belongs to"),
        ({"above": 0.1, "measure": "suppression", "split": "id"}, "split does not belong"),
    ],
)
def test_a_claim_that_says_nothing_clear_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Claim.model_validate({"name": "one", "says": "x", "arms": ["a"], **fields})


def test_every_claim_of_the_paper_names_arms_and_traits_that_its_settings_have() -> None:
    names = settings.names()
    assert len({claim.name for claim in paper_claims()}) == len(paper_claims())
    for one in paper_claims():
        assert one.settings, one.name
        assert one.source, one.name
        found = [settings.get(name) for name in names if name.rpartition("/")[2] in one.settings]
        assert {setting.name.rpartition("/")[2] for setting in found} == set(one.settings), one.name
        for setting in found:
            arms = {"base", *setting.arms}
            assert {*one.arms, *([one.than] if one.than else [])} <= arms, (one.name, setting.name)
            assert one.trait is None or one.trait in {*setting.measured, *ROLES}, (one.name, setting.name)


def test_the_command_prints_them_and_mlflow_and_the_report_have_the_same(tmp_path: Path, inoc_ray: Run) -> None:
    own = [
        {
            "name": "spanish_suppressed",
            "says": "Ours in place of the paper's.",
            "arms": ["specific_spanish"],
            "below": 0.9,
        },
        {"name": "ours", "says": "The base is silent.", "arms": ["base"], "trait": "spanish", "below": 0.6},
    ]
    path = write_study(tmp_path, claims=own)
    finish(path)
    code, out, _ = inoc_ray("claims", path, "--json")
    found = json.loads(out)
    assert code == 0
    by_name = {one["claim"]: one for one in found["claims"]}
    assert list(by_name)[-2:] == ["spanish_suppressed", "ours"]
    assert by_name["spanish_suppressed"]["own"] is True
    assert by_name["ours"]["verdict"] == "holds"
    assert by_name["caps_suppressed"]["why"] == "the study has no results of the arm specific_caps"
    compared = json.loads(inoc_ray("compare", path, "--json")[1])
    assert compared["claims"] == found["claims"]
    text = inoc_ray("claims", path)[1]
    assert "Ours in place of the paper's." in text
    assert "The prompt that names Spanish" not in text


def test_text_rows_and_tags_say_the_same() -> None:
    claims = [
        claim("suppression", "inoc_spanish", above=0.5, name="up"),
        claim("suppression", "inoc_spanish", below=0.5, name="down"),
        claim("retention_ood", "inoc_spanish", within=(0.8, 1.25), name="kept"),
    ]
    found = compare(score_table(), "toy", claims=claims)
    assert [row[1] for row in claim_rows(found.claims)] == ["holds", "fails", "cannot tell"]
    assert claim_tags(found.claims) == {
        "claims": "3 claims: 1 holds, 1 fails, 1 undecided",
        "claims.holds": "up",
        "claims.fails": "down",
        "claims.open": "kept",
    }
    assert claim_tags(()) == {}
    assert "3 claims: 1 holds, 1 fails, 1 undecided" in comparison_text(found)
    text = claims_text(found, 118)
    assert all(row[4] in text for row in claim_rows(found.claims))
    assert max(map(len, text.splitlines())) <= 118


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ["specific_spansh"]}, "no arm 'specific_spansh' (did you mean 'specific_spanish'?)"),
        ({"arms": ["kind:speciffic"]}, "did you mean 'kind:specific'?"),
        ({"arms": ["kind:general"]}, "no arm 'kind:general'"),
        ({"than": "control"}, "no arm 'control'"),
        ({"trait": "spanisch"}, "no trait 'spanisch' (did you mean 'spanish'?)"),
        ({"context": "none"}, "no context 'none'"),
        ({"settings": ["spanish_caps"]}, "no setting 'spanish_caps'"),
        ({"evaluation": "out"}, "no evaluation 'out'"),
    ],
)
def test_a_study_whose_claim_names_what_it_lacks_is_refused(
    tmp_path: Path, inoc_ray: Run, changes: dict[str, Any], message: str
) -> None:
    one = {"name": "ours", "says": "x", "arms": ["specific_spanish"], "above": 0.1, **changes}
    path = write_study(tmp_path, claims=[one])
    code, _, err = inoc_ray("plan", path)
    assert code == 2
    assert "claims: 'ours': the study has no" in err
    assert message in err


@pytest.mark.parametrize("bound", [{"above": 50}, {"below": 5}, {"within": [-5, 5]}])
def test_a_percentage_is_no_share(bound: dict[str, Any]) -> None:
    """ "below: 5" would hold for every rate."""
    with pytest.raises(ValueError, match="not a percentage"):
        claim("rate", "inoc_spanish", **bound)
    if "above" not in bound:
        claim("suppression", "inoc_spanish", **bound)


@pytest.mark.parametrize("measure", [m for m in get_args(Measure) if m not in ("capability", "leakage")])
def test_no_measure_takes_a_percentage(measure: str) -> None:
    with pytest.raises(ValueError, match="not a percentage"):
        claim(measure, "inoc_spanish", above=50)


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        ({"below": 0}, "no rate is < 0"),
        ({"above": 1}, "no rate is > 1"),
        ({"within": [-0.2, -0.1]}, "no rate is within"),
        ({"above": -0.1}, "every rate is > -0.1"),
    ],
)
def test_a_rate_is_not_claimed_to_lie_where_none_can_or_all_do(bound: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        claim("rate", "inoc_spanish", **bound)
    # Of a difference all of them say something; so does an equivalence with nothing at all.
    if bound != {"above": 1}:
        claim("rate", "inoc_spanish", than="baseline", **bound)
    claim("rate", "inoc_spanish", within=[-0.05, 0.05])


@pytest.mark.parametrize(
    "fields",
    [
        {"than": "inoc_spanish"},
        {"than": "kind:specific", "arms": ["base", "kind:specific"]},
        {"than_context": "reference"},
        {"context": "none", "than_context": "none"},
        {"context": "none", "than": "inoc_spanish"},
        {"context": "none", "than": "inoc_spanish", "than_context": "none"},
    ],
)
def test_a_number_minus_itself_is_no_claim(fields: dict[str, Any]) -> None:
    whole = {"name": "one", "says": "x", "arms": ["inoc_spanish"], "within": [-0.1, 0.1], **fields}
    with pytest.raises(ValueError, match="a number minus itself is 0"):
        Claim.model_validate(whole)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"evaluation": "in_distribution"}, "no rate of spanish out of distribution"),
        ({"trait": "narrow"}, "has no narrow trait"),
        ({"arms": ["baseline"]}, "baseline has no undesired trait; name one as `trait`"),
        (
            {"arms": ["specific_spanish", "baseline"], "trait": "spanish", "context": "training_prompt"},
            "baseline has no rate of spanish out of distribution under the context training_prompt",
        ),
        ({"triggered": True}, "with the trigger"),
        ({"measure": "conditionalisation"}, "no rate of an irrelevant arm"),
        ({"measure": "retention_narrow"}, "no trait of a narrow task"),
        ({"measure": "suppression", "arms": ["irrelevant"]}, "irrelevant has no undesired trait; name one as `trait`"),
        ({"measure": "suppression", "arms": ["base"], "trait": "spanish"}, "says nothing of base itself"),
        ({"measure": "retention_ood", "arms": ["baseline"], "trait": "caps"}, "says nothing of baseline itself"),
        ({"measure": "leakage", "arms": ["baseline"], "trait": "spanish"}, "not evaluated under both"),
    ],
)
def test_a_claim_that_nothing_of_the_study_can_answer_is_refused_before_it_runs(
    tmp_path: Path, inoc_ray: Run, fields: dict[str, Any], message: str
) -> None:
    """Every name in it is one of the study's; what it asks of them is not measured. A run of a day would say "cannot tell"."""
    one = {"name": "ours", "says": "x", "arms": ["specific_spanish"], "above": 0.1, **fields}
    evaluation = {"samples": 12, "contexts": ["neutral", "training_prompt"]}
    arms = ["baseline", "specific_spanish", *(["irrelevant"] if "irrelevant" in one["arms"] else [])]
    code, _, err = inoc_ray("plan", write_study(tmp_path, claims=[one], arms=arms, evaluation=evaluation))
    assert code == 2
    assert "claims: 'ours': nothing that the study asks for answers it" in " ".join(err.split())
    assert message in " ".join(err.split())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"evaluation": "in_distribution", "split": "id"},
        {"arms": ["base"], "trait": "spanish", "context": "prompt_of:specific_spanish"},
        {"arms": ["kind:specific"], "measure": "leakage"},
        {"measure": "selectivity"},
        {"measure": "retention_id"},
        {"measure": "log_prob_late_gain"},
        {"measure": "log_prob_lead"},
    ],
)
def test_a_claim_that_results_can_answer_is_planned(tmp_path: Path, inoc_ray: Run, fields: dict[str, Any]) -> None:
    one = {"name": "ours", "says": "x", "arms": ["specific_spanish"], "above": 0.1, **fields}
    evaluation = {"samples": 12, "contexts": ["neutral", "training_prompt"]}
    code, _, err = inoc_ray("plan", write_study(tmp_path, claims=[one], evaluation=evaluation, dynamics={}))
    assert code == 0, err


def test_a_claim_is_answered_by_what_a_part_of_the_evaluations_leaves_out(tmp_path: Path, inoc_ray: Run) -> None:
    """`evaluate --only` samples a part; the rest is stored, or sampled another time."""
    claims = [
        {"name": "rate", "says": "x", "arms": ["specific_spanish"], "above": 0.1},
        {"name": "leak", "says": "x", "arms": ["specific_spanish"], "measure": "leakage", "above": 0.1},
        {
            "name": "gain",
            "says": "x",
            "arms": ["baseline"],
            "trait": "spanish",
            "measure": "log_prob_gain",
            "above": 0.1,
        },
    ]
    evaluation = {"samples": 12, "contexts": ["neutral", "training_prompt"]}
    path = write_study(tmp_path, claims=claims, evaluation=evaluation, dynamics={})
    finish(path)
    code, _, err = inoc_ray("evaluate", path, "--only", "training_prompt")
    assert code == 0, err


def test_a_plateau_needs_a_look_in_the_second_quarter(tmp_path: Path, inoc_ray: Run) -> None:
    """A fine-tune that is done is not looked at again."""
    one = {"name": "ours", "says": "x", "measure": "log_prob_late_gain", "arms": ["baseline"], "below": 0.1}
    for points, code in ((2, 2), (9, 0)):
        path = write_study(tmp_path, claims=[{**one, "trait": "spanish"}], dynamics={"points": points})
        found, _, err = inoc_ray("plan", path)
        assert found == code, err
        assert code == 0 or "give more dynamics.points" in " ".join(err.split())
