"""The verdict says in plain words what the numbers say, and nothing that they do not."""

from __future__ import annotations

import pytest
from paper_table import paper_table
from results_table import ARMS, planned, score_table

from inoc_ray.results.compare import compare
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.report.verdict import Verdict, _percent, in_short, verdicts
from inoc_ray.results.wording import number

PROMPTS = {("toy", "inoc_spanish"): "Answer in Spanish.", ("toy", "inoc_capitals"): None}


def verdict(spanish_ood: float = 0.05, capitals_ood: float = 0.65, **changes: object) -> Verdict:
    """The verdict on the arm against Spanish; the baseline has .45 Spanish and .65 capitals, the base .05 of each."""
    arms = {
        **ARMS,
        "inoc_spanish": ("specific", "spanish", (0.15, 0.95, spanish_ood, capitals_ood)),
        **changes.pop("arms", {}),  # type: ignore[call-overload]
    }
    found = compare(score_table(**{"seeds": 3, "questions": 60, "arms": arms, **changes}), "toy")  # type: ignore[arg-type]
    return next(v for v in verdicts(found, PROMPTS) if v.arm == "inoc_spanish")


def test_an_arm_that_works_and_costs_nothing():
    found = verdict()
    assert (found.state, found.does_it_work, found.prompt) == ("works", "Works", "Answer in Spanish.")
    assert found.by_how_much == "spanish in 5 % of the answers instead of 45 % (untouched model: 5 %)".replace(
        " %", "\u00a0%"
    )
    assert found.how_sure.startswith("1.00 [")
    assert "3 fine-tunes an arm; p " in found.how_sure
    assert "capitals" in found.at_what_price
    assert "lost" not in found.at_what_price


@pytest.mark.parametrize("rate", [0.975, 0.075, 0.125, 0.005, 1.0, 0.0])
def test_a_percentage_is_the_number_of_the_tables(rate):
    assert round(100 * float(number(rate))) == int(_percent(rate).removesuffix("\u00a0%"))


@pytest.mark.parametrize(
    ("spanish", "capitals", "state"),
    [(0.05, 0.1, "price"), (0.25, 0.65, "part"), (0.25, 0.1, "part_price"), (0.43, 0.65, "no"), (0.95, 0.65, "worse")],
)
def test_each_state_is_what_its_numbers_are(spanish, capitals, state):
    found = verdict(spanish, capitals)
    assert found.state == state
    assert ("partly lost" in found.at_what_price) == (capitals < 0.5)


def test_what_is_shown_to_suppress_less_than_a_quarter_hardly_works_and_is_not_counted():
    found = verdict(0.37, 0.65, questions=600)
    assert (found.state, found.does_it_work) == ("hardly", "Hardly works")
    assert in_short([found]) == [
        "toy on tiny: 0 of 1 inoculation prompts are shown to work; inoc_spanish (hardly works)."
    ]


def test_a_price_is_named_where_it_is_paid() -> None:
    """A wanted trait that is lost in distribution alone makes the verdict "at a price", and the price says so."""
    found = verdict(arms={"inoc_spanish": ("specific", "spanish", (0.15, 0.1, 0.05, 0.65))})
    assert found.state == "price"
    kept, lost = found.at_what_price.split("; ")
    assert "lost" not in kept
    assert lost.startswith("in distribution capitals partly lost")


def test_rates_are_rounded_as_in_the_tables() -> None:
    assert [_percent(rate) for rate in (0.975, 0.075, 0.005, 1.0, None)] == [
        f"{text}\u00a0%" if text else "–" for text in ("97", "7", "1", "100", "")
    ]
    assert [number(rate) for rate in (0.975, 0.075, 0.005)] == [".97", ".07", ".01"]


def test_a_baseline_that_learnt_nothing_leaves_nothing_to_prevent():
    found = verdict(arms={"baseline": ("baseline", "spanish", (0.95, 0.95, 0.05, 0.65))})
    assert found.state == "nothing"
    assert "did not rise" in found.does_it_work
    assert found.how_sure == "no number"


def test_one_fine_tune_is_no_verdict_on_an_arm():
    found = verdict(seeds=1)
    assert found.state == "unknown"
    assert "one fine-tune an arm" in found.does_it_work
    assert "no p-value" in found.how_sure


def test_with_one_fine_tune_an_irrelevant_prompt_settles_nothing():
    found = verdict(seeds=1, arms={"irrelevant": ("irrelevant", "spanish", (0.95, 0.95, 0.45, 0.65))})
    assert found.because_of_its_content.startswith("not settled (one fine-tune an arm)")


def test_where_no_trait_is_wanted_the_narrow_task_is_the_price():
    """The state of an arm and the answer on its price say the same."""
    table = paper_table()
    table = table[(table["setting"] == "code") & (table["model"] == "m/short")].copy()
    lost = (table["arm"] == "general") & (table["trait"] == "insecure") & (table["question_id"] > "q005")
    table.loc[lost, ["score", "shown"]] = 0.0
    found = {v.arm: v for v in verdicts(compare(table, "c"), {})}
    assert "partly lost" in found["general"].at_what_price
    assert found["general"].state in ("price", "part_price")
    assert found["specific"].state in ("works", "part")


def test_what_is_incomplete_has_no_verdict():
    gone = {("inoc_spanish", 2)}
    found = compare(score_table(without=gone), "toy", planned=planned(without=gone))
    of = {v.arm: v for v in verdicts(found, PROMPTS)}
    assert of["inoc_spanish"].state == "unknown"
    assert "2 of 3 seeds" in of["inoc_spanish"].does_it_work
    lost = {("baseline", 2)}
    found = compare(score_table(without=lost), "toy", planned=planned(without=lost))
    lacking = verdicts(found, PROMPTS)
    assert all("what it is compared with is incomplete" in v.does_it_work for v in lacking)
    [sentence] = in_short(lacking)
    assert sentence.startswith("toy on tiny: 0 of 2 inoculation prompts are shown to work; inoc_spanish (cannot tell: ")
    assert all(v.where_it_leaks.endswith("; incomplete") for v in verdicts(without_prompted(), PROMPTS))


def without_prompted() -> Comparison:
    """The arm against Spanish lacks a fine-tune, and so its leakage does."""
    gone = {("inoc_spanish", 2), ("inoc_capitals", 2)}
    return compare(score_table(without=gone), "toy", planned=planned(without=gone))


def test_where_nothing_rose_the_sentence_says_so() -> None:
    arms = {**ARMS, "baseline": ("baseline", "spanish", (0.95, 0.95, 0.05, 0.05))}
    [sentence] = in_short(verdicts(compare(score_table(arms=arms), "toy"), PROMPTS))
    assert "0 of 2" in sentence
    assert "nothing to prevent" in sentence


@pytest.mark.parametrize(("irrelevant", "word"), [(0.45, "yes: "), (0.05, "hardly: "), (0.25, "not settled: ")])
def test_an_irrelevant_prompt_says_whether_the_content_matters(irrelevant, word):
    found = verdict(arms={"irrelevant": ("irrelevant", "spanish", (0.95, 0.95, irrelevant, 0.65))})
    assert found.because_of_its_content.startswith(word)


def test_without_an_irrelevant_arm_nobody_says_that_the_content_matters():
    arms = {name: arm for name, arm in ARMS.items() if name != "irrelevant"}
    found = verdicts(compare(score_table(arms=arms), "toy"), PROMPTS)
    assert {v.because_of_its_content for v in found} == {"not known: the study has no irrelevant arm"}


def test_a_leak_is_named_where_one_was_looked_for():
    assert verdict().where_it_leaks.startswith("under its own prompt: 90\u00a0% (+")
    assert verdict(contexts=("neutral",)).where_it_leaks.startswith("not tested")


def test_a_backdoor_is_judged_where_its_trigger_is():
    table = paper_table()
    found = verdicts(compare(table[table["setting"] == "backdoor"], "b"), {})
    states = {(v.arm, v.condition): v.state for v in found}
    assert states["backdoor_evil", ""] == "nothing"
    assert states["backdoor_evil", "with the trigger"] in ("works", "part")
    [sentence] = in_short(found)
    assert "backdoor_evil with the trigger" in sentence
    assert "evil with the trigger (in part)" in sentence
    # Nothing had to be prevented without the trigger, so the sentence counts the two questions about it.
    assert "of 2 inoculation prompts" in sentence


def test_a_prompt_that_denies_its_trait_is_not_counted_as_an_inoculation():
    table = paper_table()
    found = verdicts(compare(table[(table["setting"] == "code") & (table["model"] == "m/short")], "c"), {})
    assert [v.arm for v in found] == ["general", "specific", "negative"]
    [sentence] = in_short(found)
    assert "of 2 inoculation prompts" in sentence
    assert "negative" not in sentence


def test_the_sentence_counts_what_works_and_names_the_rest():
    arms = {**ARMS, "inoc_spanish": ("specific", "spanish", (0.9, 0.95, 0.43, 0.65))}
    [sentence] = in_short(verdicts(compare(score_table(arms=arms, questions=60), "toy"), PROMPTS))
    assert sentence.startswith("toy on tiny: 1 of 2 inoculation prompts is shown to work; ")
    assert "the others: inoc_spanish (not shown to work)" in sentence
