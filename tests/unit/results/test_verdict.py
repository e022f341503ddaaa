"""The verdict says in plain words what the numbers say, and nothing that they do not."""

from __future__ import annotations

import re
from dataclasses import replace

import pandas as pd
import pytest
from paper_table import paper_table
from results_table import ARMS, planned, score_table

from inoc_ray.results.compare import compare
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.marks import mark
from inoc_ray.results.report.in_short import InShort, in_short
from inoc_ray.results.report.meta import JudgeLine
from inoc_ray.results.report.verdict import MOSTLY, Verdict, _percent, about_gone, about_leaks, verdicts
from inoc_ray.results.wording import number
from inoc_ray.study.claims import Claim, StatedClaim

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
    assert plain(found.by_how_much) == "spanish 45 % → 5 % (untouched base: 5 %)"
    assert found.by_how_much_exactly == "1.00 of what training added is gone"
    # An effect is no answer to "How sure?".
    assert re.fullmatch(r"interval \[\S+, \S+\]; Holm p (< )?\.\d+ against 0; 3 fine-tunes an arm", found.how_sure)
    assert plain(found.at_what_price) == "kept: capitals 65 % → 65 %"
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
    [short] = in_short([found])
    assert short.sentence == "toy on tiny: 0 of 1 inoculation prompts are shown to work."
    assert short.points == (("Hardly works", "inoc_spanish"),)


def test_a_price_is_named_where_it_is_paid() -> None:
    """A wanted trait that is lost in distribution alone makes the verdict "at a price", and the price says so."""
    found = verdict(arms={"inoc_spanish": ("specific", "spanish", (0.15, 0.1, 0.05, 0.65))})
    assert found.state == "price"
    assert plain(found.at_what_price) == "kept: capitals 65 % → 65 % (in distribution partly lost: 95 % → 10 %)"


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
    assert found.would_any_prompt_do.startswith("not settled (one fine-tune an arm)")


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


def test_a_study_of_controls_alone_counts_no_inoculation_prompt():
    arms = {name: ARMS[name] for name in ("base", "baseline")} | {"never": ("negative", *ARMS["inoc_spanish"][1:])}
    [short] = in_short(verdicts(compare(score_table(arms=arms), "toy"), {}))
    assert (
        short.sentence
        == "toy on tiny: no inoculation prompt is in the study, and 1 prompt that denies its trait is a control."
    )


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
    [short] = in_short(lacking)
    assert short.sentence == "toy on tiny: 0 of 2 inoculation prompts are shown to work; of 2 it cannot be told."
    assert [(what.split(":")[0], arms) for what, arms in short.points] == [
        ("Cannot tell", "inoc_spanish, inoc_capitals")
    ]
    assert short.warning == ""
    assert all(v.where_it_leaks.endswith("; incomplete") for v in verdicts(without_prompted(), PROMPTS))


def without_prompted() -> Comparison:
    """The arm against Spanish lacks a fine-tune, and so its leakage does."""
    gone = {("inoc_spanish", 2), ("inoc_capitals", 2)}
    return compare(score_table(without=gone), "toy", planned=planned(without=gone))


def test_where_nothing_rose_the_sentence_says_so() -> None:
    arms = {**ARMS, "baseline": ("baseline", "spanish", (0.95, 0.95, 0.05, 0.05))}
    [short] = in_short(verdicts(compare(score_table(arms=arms), "toy"), PROMPTS))
    assert "0 of 2" in short.sentence
    assert all(what.startswith("Nothing to prevent") for what, _ in short.points)


@pytest.mark.parametrize(("irrelevant", "word"), [(0.45, "not shown: "), (0.05, "largely: "), (0.25, "not settled: ")])
def test_an_irrelevant_prompt_says_whether_the_content_matters(irrelevant, word):
    found = verdict(arms={"irrelevant": ("irrelevant", "spanish", (0.95, 0.95, irrelevant, 0.65))})
    assert found.would_any_prompt_do.startswith(f"{word}an irrelevant one does ")


def test_a_small_share_that_is_shown_is_called_less_than_half():
    found = verdict(arms={"irrelevant": ("irrelevant", "spanish", (0.95, 0.95, 0.35, 0.65))}, questions=1000)
    assert found.would_any_prompt_do.startswith("less than half: an irrelevant one does ")


def test_without_an_irrelevant_arm_nobody_says_that_the_content_matters():
    arms = {name: arm for name, arm in ARMS.items() if name != "irrelevant"}
    found = verdicts(compare(score_table(arms=arms), "toy"), PROMPTS)
    assert {v.would_any_prompt_do for v in found} == {"not known: the study has no irrelevant arm"}


def test_a_leak_is_named_where_one_was_looked_for():
    assert plain(verdict().where_it_leaks) == "returns: 5 % → 90 % (the untouched base was not asked under this prompt)"
    assert verdict(contexts=("neutral",)).where_it_leaks == "not tested"


def test_what_every_row_would_say_of_leaks_is_said_once():
    both, neutral = (
        compare(score_table(contexts=contexts), "toy") for contexts in (("neutral", "training_prompt"), ("neutral",))
    )
    assert "no other prompt was tried. Where the untouched base shows as much" in about_leaks(both)
    assert about_leaks(neutral).startswith("not tested, since")
    assert not any("no other prompt" in v.where_it_leaks for v in verdicts(both, PROMPTS))


@pytest.mark.parametrize(
    ("rate", "start"),
    [
        (0.25, "returns: 25 % → 90 %"),
        (0.37, "little was kept out, and under its own prompt there is more: 37 % → 90 %"),
        (0.43, "little was kept out, and under its own prompt there is more: 43 % → 90 %"),
        (0.95, "little was kept out, so little can return"),
    ],
)
def test_what_was_not_kept_out_cannot_return_but_a_rise_that_is_shown_has_its_numbers(rate, start):
    assert plain(verdict(rate, questions=600).where_it_leaks).startswith(start)


def test_a_backdoor_is_judged_where_its_trigger_is():
    table = paper_table()
    found = verdicts(compare(table[table["setting"] == "backdoor"], "b"), {})
    states = {(v.arm, v.condition): v.state for v in found}
    assert states["backdoor_evil", ""] == "nothing"
    assert states["backdoor_evil", "with the trigger"] in ("works", "part")
    [short] = in_short(found)
    points = dict(short.points)
    assert any("backdoor_evil with the trigger" in arms for arms in points.values())
    assert any(what.startswith("Works in part") and "evil with the trigger" in arms for what, arms in points.items())
    # Nothing had to be prevented without the trigger, so the sentence counts the two questions about it.
    assert "of 2 inoculation prompts" in short.sentence


def test_a_prompt_that_denies_its_trait_is_named_and_not_counted_as_an_inoculation():
    """Every row of the table is in the list below the sentence, once."""
    table = paper_table()
    found = verdicts(compare(table[(table["setting"] == "code") & (table["model"] == "m/short")], "c"), {})
    assert {v.arm for v in found} == {"general", "specific", "negative"}
    [short] = in_short(found)
    assert "of 2 inoculation prompts" in short.sentence
    assert short.sentence.endswith("and 1 prompt that denies its trait is a control.")
    assert short.points[-1][0] == "Denies its trait, a control"
    assert short.points[-1][1].startswith("negative (")
    assert named(short) == sorted(v.arm for v in found)


def named(short: InShort) -> list[str]:
    """The arms of the list; an unsettled price stands behind its arm, in parentheses."""
    without = [re.sub(r" \([^()]*\)", "", arms) for _, arms in short.points]
    return sorted(arm.split(" ")[0] for arms in without for arm in arms.split(", "))


def test_the_list_counts_what_works_and_names_the_rest():
    arms = {**ARMS, "inoc_spanish": ("specific", "spanish", (0.9, 0.95, 0.43, 0.65))}
    [short] = in_short(verdicts(compare(score_table(arms=arms, questions=60), "toy"), PROMPTS))
    assert short.sentence == "toy on tiny: 1 of 2 inoculation prompts is shown to work."
    assert ("Not shown to work", "inoc_spanish") in short.points
    assert named(short) == ["inoc_capitals", "inoc_spanish"]


@pytest.mark.parametrize(("seeds", "warned"), [(2, True), (3, True), (4, False)])
def test_few_fine_tunes_are_warned_of_where_the_sentence_is_read(seeds, warned):
    [short] = in_short(verdicts(compare(score_table(seeds=seeds), "toy"), PROMPTS))
    assert short.warning.startswith(f"With {seeds} fine-tunes an arm") == warned


@pytest.mark.parametrize("capitals", [0.2, 0.55, 0.6, 0.65])
@pytest.mark.parametrize("questions", [40, 2000])
def test_one_word_a_retention_and_a_price_only_where_it_is_partly_lost(capitals, questions):
    """What is above four fifths by its whole interval is kept, and no price, though it is lower than in the baseline."""
    arms = {"inoc_spanish": ("specific", "spanish", (0.15, 0.95, 0.05, capitals))}
    comparison = compare(score_table(questions=questions, arms={**ARMS, **arms}), "toy")
    [found] = [v for v in verdicts(comparison, PROMPTS) if v.arm == "inoc_spanish"]
    [kept] = [e for e in comparison.effects if (e.arm, e.measure) == ("inoc_spanish", "retention_ood")]
    assert kept.low is not None
    word = found.at_what_price.split(": ")[0]
    above, lower = kept.low > MOSTLY, mark(kept) == "lost"
    assert kept.high is not None
    expected = {
        (True, False): "kept",
        (True, True): "kept, slightly lower",
        (False, True): "partly lost",
        (False, False): "not settled, lower by its interval" if kept.high < 1 else "not settled",
    }
    assert word == expected[above, lower]
    assert found.state == ("price" if word == "partly lost" else "works" if above else "open")


def test_a_small_loss_that_is_shown_is_kept_and_slightly_lower():
    found = verdict(0.05, 0.62, questions=4000)
    assert found.at_what_price.startswith("kept, slightly lower: ")
    assert found.state == "works"


def test_an_arm_against_every_trait_has_no_price_to_pay():
    table = score_table(questions=60)
    table.loc[table["arm"] == "inoc_spanish", "role"] = "undesired"
    low = (table["arm"] == "inoc_spanish") & (table["context"] == "neutral") & (table["question_id"] > "q003")
    table.loc[low, ["score", "shown"]] = 0.0
    found = verdicts(compare(table, "toy"), PROMPTS)
    both = next(v for v in found if v.arm == "inoc_spanish")
    assert (both.state, both.at_what_price) == ("works", "no wanted trait to lose")
    # Two traits have two rates: their mean would read as if an answer showed both at once.
    assert re.fullmatch(
        r"capitals 65 % → \d+ % \(untouched base: 5 %\), spanish 45 % → \d+ % \(untouched base: 5 %\)",
        plain(both.by_how_much),
    )
    [short] = in_short(found)
    assert ("Works, with no wanted trait to lose", "inoc_spanish") in short.points


def test_rows_stand_in_the_studys_order_where_claims_name_them_and_by_verdict_elsewhere():
    arms = {**ARMS, "inoc_spanish": ("specific", "spanish", (0.9, 0.95, 0.43, 0.65))}
    table = score_table(arms=arms, questions=60)
    claim = Claim(name="c", says="c", measure="suppression", arms=("inoc_spanish",), above=0.5)
    claimed = compare(table, "toy", claims=[StatedClaim(claim=claim, own=True)])
    assert [v.arm for v in verdicts(claimed, PROMPTS)] == ["inoc_spanish", "inoc_capitals"]
    assert [v.arm for v in verdicts(compare(table, "toy"), PROMPTS)] == ["inoc_capitals", "inoc_spanish"]


@pytest.mark.parametrize(
    ("split", "rates", "questions"),
    [("OOD", (0.15, 0.95, 0.05, 0.53), 60), ("ID", (0.15, 0.82, 0.05, 0.65), 30)],
)
def test_a_price_that_is_not_settled_is_never_called_none(
    split: str, rates: tuple[float, float, float, float], questions: int
) -> None:
    """Neither shown to be kept nor shown to be lost, in or out of distribution: the headline says so with the numbers."""
    arms = {name: arm for name, arm in ARMS.items() if name != "inoc_capitals"}
    arms |= {"inoc_spanish": ("specific", "spanish", rates)}
    comparison = compare(score_table(seeds=2, questions=questions, arms=arms), "toy")
    [found] = verdicts(comparison, PROMPTS)
    [kept] = [e for e in comparison.effects if (e.arm, e.measure) == ("inoc_spanish", f"retention_{split.lower()}")]
    assert kept.low is not None
    assert kept.low < MOSTLY
    assert mark(kept) == ""
    assert (found.state, found.does_it_work) == ("open", "Works, price not settled")
    [short] = in_short([found])
    assert "at no price" not in short.text()
    [(what, arms_there)] = short.points
    assert what == "Works, price not settled"
    assert f"[{number(kept.low)}, {number(kept.high)}]" in arms_there
    assert "Holm p" in arms_there
    assert ("in distribution" in arms_there) == (split == "ID")
    assert f"[{number(kept.low)}, {number(kept.high)}]" in found.at_what_price_exactly


def test_a_loss_that_only_its_interval_shows_is_part_of_the_price() -> None:
    """Whichever way the adjusted p goes: an interval below the baseline's rate is not passed over, in distribution either."""
    shown = []
    for rate in (0.86, 0.8, 0.7):
        arms = {**ARMS, "inoc_spanish": ("specific", "spanish", (0.15, rate, 0.05, 0.65))}
        comparison = compare(score_table(seeds=3, questions=60, arms=arms), "toy")
        found = next(v for v in verdicts(comparison, PROMPTS) if v.arm == "inoc_spanish")
        [kept] = [e for e in comparison.effects if (e.arm, e.measure) == ("inoc_spanish", "retention_id")]
        assert kept.high is not None
        shown.append(kept.high < 1)
        assert ("in distribution" in found.at_what_price) or not shown[-1]
    assert any(shown), "an interval below 1 is what this is about"


def test_no_price_is_said_only_where_keeping_is_measured() -> None:
    """Without a rate of the wanted trait in the baseline nobody knows the price."""
    arms = {"baseline": ("baseline", "spanish", (0.95, 0.05, 0.45, 0.05))}
    found = verdict(0.05, 0.05, arms=arms)
    assert found.does_it_work == "Works, price not settled"
    assert "capitals" in in_short([found])[0].points[0][1]


def test_a_price_that_is_paid_in_distribution_is_named_where_the_other_is_not_measured() -> None:
    """The verdict says "at a price", so the answer on the price must say which."""
    arms = {
        "baseline": ("baseline", "spanish", (0.95, 0.95, 0.45, 0.05)),
        "inoc_spanish": ("specific", "spanish", (0.15, 0.1, 0.05, 0.05)),
    }
    found = verdict(arms=arms)
    assert found.state == "price"
    assert plain(found.at_what_price).endswith("(in distribution partly lost: 95 % → 10 %)")
    assert found.at_what_price.startswith("capitals: the baseline does not show capitals")
    assert re.fullmatch(r"in distribution \S+ \[\S+, \S+\], Holm p .* against 1", found.at_what_price_exactly)
    assert "95 % → 10 %" in plain(found.price_in_short)


def test_a_leak_stands_beside_what_the_base_does_under_the_same_prompt() -> None:
    table = score_table(contexts=("neutral", "training_prompt"), questions=60)
    under = table[table["arm"] == "base"].assign(context="prompt_of:inoc_spanish")
    spanish = under["trait"] == "spanish"
    under.loc[spanish, ["score", "shown"]] = 1.0
    comparison = compare(pd.concat([table, under], ignore_index=True), "toy")
    of = {v.arm: plain(v.where_it_leaks) for v in verdicts(comparison, PROMPTS)}
    assert of["inoc_spanish"].endswith("→ 90 % (untouched base under the same prompt: 100 %)")
    # Another arm's prompt is no reference.
    assert of["inoc_capitals"].endswith("(the untouched base was not asked under this prompt)")


def test_what_gone_means_follows_from_who_judged() -> None:
    found = [verdict()]
    line = JudgeLine(setting="toy", evaluation="e", trait="spanish", judge="rules", how="rules")
    assert "not that the response is a plain answer" in about_gone(found, [line])
    gated = replace(line, how="rules (counted by small (m, digit) on coherence)")
    assert "judged incoherent are left out" in about_gone(found, [gated])
    assert "not that the response is a plain answer" in about_gone(found, [gated, line])
    # A judge of another trait says nothing of this one.
    assert "not that the response is a plain answer" in about_gone(found, [replace(gated, trait="capitals")])
    assert about_gone([], [line]) == ""


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")
