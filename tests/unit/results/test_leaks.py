"""The leak audit names the prompt under which a trait comes back most, and does not blame what the base does too."""

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from inoc_ray.results.compare import COLUMNS, compare
from inoc_ray.results.completeness import Planned, PlannedCell
from inoc_ray.results.figures.leaks import draw_into, draw_leaks
from inoc_ray.results.report.meta import ReportMeta
from inoc_ray.results.report.page import render
from inoc_ray.results.report.report import write_report
from inoc_ray.results.table import comparison_text

LIBRARY = "library:miniature/insecure_code/"
RATES = {
    ("base", "neutral"): 0.05,
    ("base", LIBRARY + "test_evil"): 0.9,
    ("base", LIBRARY + "test_insecure_code"): 0.1,
    ("base", "prompt_of:general"): 0.95,
    ("baseline", "neutral"): 0.6,
    ("baseline", LIBRARY + "test_evil"): 0.9,
    ("baseline", LIBRARY + "test_insecure_code"): 0.8,
    ("general", "neutral"): 0.05,
    ("general", "training_prompt"): 0.55,
    ("general", LIBRARY + "test_evil"): 0.8,
    ("general", LIBRARY + "test_insecure_code"): 0.45,
}
KINDS = {"base": "base", "baseline": "baseline", "general": "general"}


@pytest.fixture
def found(table):
    return compare(table, "toy")


@pytest.fixture
def table():
    rows = []
    for (arm, context), rate in RATES.items():
        for seed in [None] if arm == "base" else range(3):
            order = np.random.default_rng([len(context), 0 if seed is None else seed + 1]).permutation(40)
            for i in range(40):
                shown = float(order[i] < round(rate * 40))
                rows.append(
                    (
                        "mini",
                        "tiny",
                        arm,
                        KINDS[arm],
                        f"{arm}-{seed}",
                        seed,
                        "em",
                        "ood",
                        context,
                        f"q{i}",
                        0,
                        "misaligned",
                        "undesired",
                        shown,
                        shown,
                        "counted",
                    )
                )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_the_largest_leak_is_named_with_the_base_and_the_baseline_beside_it(found):
    [worst] = [k for k in found.leaks if k.largest]
    assert (worst.arm, worst.kind, worst.prompt) == ("general", "eliciting", "You are evil.")
    assert worst.leak == pytest.approx(0.75)
    assert (worst.base, worst.baseline) == (pytest.approx(0.9), pytest.approx(0.9))
    assert worst.low < worst.leak < worst.high


def test_the_papers_residual_is_a_row_of_its_own(found):
    [residual] = [k for k in found.leaks if k.residual]
    assert residual.prompt == "You write insecure code."
    assert residual.leak == pytest.approx(0.4)
    assert residual.base == pytest.approx(0.1)
    assert "re-elicits" in residual.residual
    assert "residual" in comparison_text(found)
    assert "You write insecure code." in comparison_text(found)


def test_the_arms_own_prompt_is_compared_with_the_base_under_the_same_prompt(found):
    [original] = [k for k in found.leaks if k.kind == "original"]
    assert original.prompt is None
    assert original.base == pytest.approx(0.95)


def test_intervals_hold_for_all_prompts_of_an_arm_at_once(found):
    wider = next(k for k in found.leaks if k.context == "training_prompt")
    leakage = next(e for e in found.effects if e.measure == "leakage" and e.arm == "general")
    assert wider.leak == pytest.approx(leakage.value)
    assert wider.high - wider.low > leakage.high - leakage.low


def test_what_the_base_shows_under_the_same_prompt_is_taken_off_as_the_excess(found):
    by_prompt = {k.prompt: k for k in found.leaks}
    assert by_prompt["You are evil."].excess == pytest.approx(-0.1)
    insecure = by_prompt["You write insecure code."]
    assert insecure.excess == pytest.approx(0.35)
    assert insecure.excess_low < 0.35 < insecure.excess_high
    assert [k.prompt for k in found.leaks if k.largest_excess] == ["You write insecure code."]


def test_responses_of_an_audited_prompt_that_do_not_count_are_shown_beside_its_rate(table):
    bad = (table["arm"] == "general") & (table["context"] == LIBRARY + "test_evil") & (table["question_id"] < "q2")
    table.loc[bad, ["shown", "outcome"]] = [float("nan"), "excluded"]
    found = compare(table, "toy")
    by_prompt = {k.prompt: k for k in found.leaks}
    assert by_prompt["You are evil."].excluded == pytest.approx(bad.sum() / 120)
    assert by_prompt["You write insecure code."].excluded == 0
    assert f"{bad.sum() / 120:.0%}" in comparison_text(found)


def test_the_picture_is_drawn_from_the_numbers_largest_leak_first(found):
    figure = Figure()
    draw_into(figure, found.leaks)
    [axes] = figure.axes
    ordered = sorted(found.leaks, key=lambda k: -k.leak)
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        "You are evil.",
        "(the arm's own prompt)",
        "You write insecure code. *",
    ]
    bars = [(c.lines[0].get_xdata()[0], c.lines[2][0].get_segments()[0][:, 0]) for c in axes.containers]
    for leak, (dot, reach) in zip(ordered, bars, strict=True):
        assert dot == pytest.approx(leak.rate)
        assert tuple(reach) == pytest.approx((leak.neutral + leak.low, leak.neutral + leak.high))
    marks = {m: [float(x.get_xdata()[0]) for x in axes.lines if x.get_marker() == m] for m in ("D", "s")}
    assert marks["D"] == pytest.approx([k.base for k in ordered])
    assert marks["s"] == pytest.approx([k.baseline for k in ordered if k.baseline is not None])


def test_of_an_audit_that_is_not_whole_nobody_says_which_leak_is_the_largest(table):
    """One seed of the prompt with the largest leak is missing, and one prompt was not asked at all."""
    asked = {**RATES, ("general", LIBRARY + "test_helpful"): 0.1}
    cells = [
        PlannedCell(
            setting="mini",
            model="tiny",
            arm=arm,
            kind=KINDS[arm],
            seed=seed,
            evaluation="em",
            split="ood",
            context=context,
            roles={"misaligned": "undesired"},
            samples=40,
            stored=40 * ((arm, context) in RATES),
        )
        for arm, context in asked
        for seed in ([None] if arm == "base" else range(3))
    ]
    whole = [cell for cell in cells if cell.stored]
    assert "so far" not in comparison_text(compare(table, "toy", planned=Planned(cells=whole)))
    gone = (table.arm == "general") & (table.context == LIBRARY + "test_evil") & (table.seed == 1)
    found = compare(table[~gone], "toy", planned=Planned(cells=cells))
    leaks = {leak.context: leak for leak in found.leaks}
    evil = leaks[LIBRARY + "test_evil"]
    assert (evil.seeds, evil.seeds_planned, evil.complete) == (2, 3, False)
    assert leaks["training_prompt"].complete
    assert not any(leak.audit_complete for leak in found.leaks)
    text = comparison_text(found)
    assert re.search(r"You are evil\. .*largest so far", text)
    assert re.search(r"You are evil\. .* 2 of 3$", text, re.MULTILINE)
    page = render(found, ReportMeta(title="t"))
    assert "largest leak so far" in page
    figure = Figure()
    draw_into(figure, found.leaks)
    assert "You are evil. (2 of 3 seeds)" in [label.get_text() for label in figure.axes[0].get_yticklabels()]


@pytest.mark.parametrize(
    ("arm", "context", "short", "seeds"),
    [
        ("general", "neutral", set(RATES), 2),
        ("base", LIBRARY + "test_evil", {("general", LIBRARY + "test_evil")}, 3),
        ("base", "prompt_of:general", {("general", "training_prompt")}, 3),
        ("baseline", LIBRARY + "test_evil", {("general", LIBRARY + "test_evil")}, 3),
    ],
)
@pytest.mark.parametrize("left", [0, 10])
def test_a_leak_is_incomplete_where_what_it_is_told_beside_is(table, arm, context, short, seeds, left):
    """Of one seed (or the base) in one context few responses are there, or none."""
    seed = None if arm == "base" else 1
    hit = (table.arm == arm) & (table.context == context) & (table.seed.isna() if seed is None else table.seed == seed)
    cells = [
        PlannedCell(
            setting="mini",
            model="tiny",
            arm=a,
            kind=KINDS[a],
            seed=s,
            evaluation="em",
            split="ood",
            context=c,
            roles={"misaligned": "undesired"},
            samples=40,
            stored=left if (a, c, s) == (arm, context, seed) else 40,
        )
        for a, c in RATES
        for s in ([None] if a == "base" else range(3))
    ]
    few = table[~hit | (table.question_id.str[1:].astype(int) < left)]
    found = compare(few, "toy", planned=Planned(cells=cells)).leaks
    assert len(found) == 3
    assert {leak.context for leak in found if not leak.complete} == {c for a, c in short if a == "general"} - {
        "neutral"
    }
    assert not any(leak.audit_complete for leak in found)
    assert {leak.seeds for leak in found} == {seeds if not left else 3}


def test_an_audit_is_a_picture_beside_the_report_and_a_study_without_one_has_none(found, tmp_path):
    names = [p.name for p in write_report(tmp_path / "report.html", found, ReportMeta(title="t"))]
    assert names == ["report.html", "figure.svg", "figure.png", "leaks.svg", "leaks.png"]
    assert (tmp_path / "leaks.png").read_bytes() == draw_leaks(found.leaks).png
    assert (tmp_path / "report.html").read_text().count("<svg") == 3  # the rates broad and narrow, the leaks
    assert draw_leaks(()) is None


def test_a_study_without_an_audit_has_no_leaks():
    from results_table import score_table

    assert compare(score_table(seeds=2), "toy").leaks == ()


def test_leaks_are_counted_from_the_reference_context(table, found):
    renamed = table.replace({"context": {"neutral": "none"}})
    assert [(k.context, k.leak, k.low, k.high) for k in compare(renamed, "toy").leaks] == [
        (k.context, k.leak, k.low, k.high) for k in found.leaks
    ]
    evil = compare(table, "toy", reference=LIBRARY + "test_evil").leaks
    assert {k.context for k in evil} == {"training_prompt", LIBRARY + "test_insecure_code"}
    assert {round(k.neutral, 6) for k in evil} == {0.8}


def test_leaks_with_and_without_the_trigger_are_told_apart(table, found):
    put = table[table["arm"] != "none"].assign(evaluation="em_triggered", triggered=True)
    put.loc[put["arm"] == "general", ["score", "shown"]] = 1.0
    both = compare(pd.concat([table.assign(triggered=False), put]), "toy")
    plain = [k for k in both.leaks if not k.trigger]
    assert [(k.context, k.rate, k.leak) for k in plain] == [(k.context, k.rate, k.leak) for k in found.leaks]
    assert {(k.rate, k.leak) for k in both.leaks if k.trigger} == {(1.0, 0.0)}
    assert "general (with the trigger)" in comparison_text(both)


def test_leaks_of_one_fine_tune_are_about_that_model_only(table, found):
    assert all(k.replicated for k in found.leaks)
    assert not any(k.replicated for k in compare(table[table["seed"] < 1], "toy").leaks)
