"""What is missing is shown as missing: in every row, effect and headline, whatever of the plan is not there."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from results_table import ARMS, planned, score_table

from inoc_ray.results.compare import compare
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.completeness import Planned, PlannedCapability, PlannedCell
from inoc_ray.results.effects import Effect
from inoc_ray.results.figures.rates import draw
from inoc_ray.results.headlines import headlines
from inoc_ray.results.records import StudyRecord, TrialRecord
from inoc_ray.results.report.meta import JudgeLine, ReportMeta
from inoc_ray.results.report.page import render
from inoc_ray.results.rows import Row
from inoc_ray.results.run_metrics import arm_estimates, in_words
from inoc_ray.results.study_runs import arm_runs, study_run, trial_runs
from inoc_ray.results.table import comparison_text
from inoc_ray.results.wording import shortfall
from inoc_ray.store.failures import Failure

CELLS = planned(2).cells


def left(cells: list[PlannedCell]) -> Comparison:
    """The comparison of a study whose cells have what `cells` say is stored."""
    frame = score_table(2)
    for cell in cells:
        mine = (
            (frame["arm"] == cell.arm) & (frame["evaluation"] == cell.evaluation) & (frame["context"] == cell.context)
        )
        mine &= frame["seed"].isna() if cell.seed is None else (frame["seed"] == cell.seed).fillna(False)
        frame = frame[~(mine & (frame["question_id"].str[1:].astype(int) >= cell.stored))]
    return compare(frame, "toy", planned=Planned(cells=cells))


def with_stored(stored: int, **where: object) -> list[PlannedCell]:
    """All cells, those at a place with `stored` responses."""
    hit = [all(getattr(cell, name) == value for name, value in where.items()) for cell in CELLS]
    assert any(hit)
    judged = {trait: {"rules": stored} for trait in ("spanish", "capitals")}
    return [replace(c, stored=stored, judged=judged) if h else c for c, h in zip(CELLS, hit, strict=True)]


def row(found: Comparison, arm: str, split: str = "ood", context: str = "neutral", trait: str = "spanish") -> Row:
    [one] = [r for r in found.rows if (r.arm, r.split, r.context, r.trait) == (arm, split, context, trait)]
    return one


def effect(found: Comparison, arm: str, measure: str) -> Effect:
    [one] = [e for e in found.effects if (e.arm, e.measure) == (arm, measure)]
    return one


def headline(found: Comparison, arm: str) -> str:
    [one] = [sentence for sentence in headlines(found) if f"({arm})" in sentence]
    return one


def page(found: Comparison, meta: ReportMeta | None = None) -> str:
    return render(found, meta or ReportMeta(title="t"))


def test_a_whole_study_is_complete_everywhere() -> None:
    found = left(list(CELLS))
    assert found.complete
    assert all(r.complete and (r.seeds, r.samples) == (r.seeds_planned, r.samples_planned) for r in found.rows)
    assert all(e.complete for e in found.effects)
    assert "incomplete" not in (comparison_text(found) + page(found)).lower()
    assert "Suppressed: 1.00" in headline(found, "inoc_spanish")
    assert re.search(r"inoc_spanish +1\.00 \[[^]]*\] \*", comparison_text(found))


def test_two_cells_of_one_seed_that_are_gone_make_one_of_two_seeds_without_headline_and_star() -> None:
    gone = [replace(c, stored=0) if (c.arm, c.seed, c.context) == ("inoc_spanish", 1, "neutral") else c for c in CELLS]
    found = left(gone)
    assert not found.complete
    assert (row(found, "inoc_spanish").seeds, row(found, "inoc_spanish").seeds_planned) == (1, 2)
    assert not row(found, "inoc_spanish").complete
    assert not effect(found, "inoc_spanish", "suppression").complete
    assert effect(found, "inoc_spanish", "suppression").p is None
    assert "no statement, the arm is incomplete (1 of 2 seeds" in headline(found, "inoc_spanish")
    for text in (comparison_text(found), page(found)):
        assert "inoc_spanish seed 1, ood_questions × neutral: 0 of 40 samples" in text
        assert "1 of 2" in text
        assert not re.search(r"inoc_spanish +1\.00 \[[^]]*\] \*", text)
    # Another arm is whole, and so is what it is compared with.
    assert effect(found, "inoc_capitals", "suppression").complete
    assert "Suppressed" in headline(found, "inoc_capitals")


def test_samples_that_are_missing_make_a_row_incomplete_though_every_seed_is_there() -> None:
    found = left(with_stored(15, arm="inoc_spanish", seed=0, split="ood", context="neutral"))
    assert (row(found, "inoc_spanish").seeds, row(found, "inoc_spanish").samples) == (2, 55)
    assert "55 of 80 samples" in comparison_text(found)
    assert "no statement" in headline(found, "inoc_spanish")


def test_what_an_arm_is_compared_with_counts_as_its_own() -> None:
    for arm in ("base", "baseline"):
        found = left(with_stored(15, arm=arm, split="ood"))
        assert effect(found, "inoc_spanish", "suppression").p is None
        assert "no statement, what it is compared with is incomplete" in headline(found, "inoc_spanish")
        assert not effect(found, "inoc_spanish", "retention_ood").complete or arm == "base"


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize(
    ("kind", "measure", "untouched"),
    [("irrelevant", "conditionalisation", "suppression"), ("baseline", "suppression_difference", "leakage")],
)
def test_a_mean_over_the_arms_of_a_kind_is_incomplete_without_one_of_them(
    kind: str, measure: str, untouched: str, lost: int
) -> None:
    """Of the second arm of the kind one seed is missing, or all are: the mean over the other one passed for the whole."""
    arms = {**ARMS, f"{kind}_two": (kind, "spanish", (0.95, 0.95, 0.3, 0.6))}
    gone = {(f"{kind}_two", seed) for seed in range(lost)}
    found = compare(score_table(2, arms=arms, without=gone), "toy", planned=planned(2, arms=arms, without=gone))
    assert effect(found, "inoc_spanish", measure).value is not None
    assert (effect(found, "inoc_spanish", measure).complete, effect(found, "inoc_spanish", measure).p) == (False, None)
    assert effect(found, "inoc_spanish", untouched).complete
    if kind == "irrelevant":
        # Of its own effects only those of the arm that lacks something.
        assert effect(found, "irrelevant", "suppression").complete


def test_an_arm_an_evaluation_or_a_context_of_which_nothing_is_there_has_rows_that_say_so() -> None:
    for where in ({"arm": "irrelevant"}, {"split": "id"}, {"context": "training_prompt"}):
        found = left(with_stored(0, **where))
        empty = [r for r in found.rows if all(getattr(r, name) == value for name, value in where.items())]
        assert empty
        assert {(r.rate, r.seeds, r.samples, r.complete) for r in empty} == {(None, 0, 0, False)}
        assert all(r.seeds_planned == (1 if r.kind == "base" else 2) for r in empty)
        assert "0 of" in comparison_text(found)
        assert "0 of" in page(found)
        assert draw(found) is not None
    arms = list(dict.fromkeys(r.arm for r in left(with_stored(0, arm="base")).rows))
    assert (arms[0], arms[-1]) == ("base", "irrelevant")


def test_an_evaluation_that_is_missing_makes_the_mean_over_its_split_incomplete() -> None:
    """Out of distribution there is one more suite, of which nothing is there: the mean is over fewer than its name says."""
    more = [replace(c, evaluation="chat", stored=0, judged={}) for c in CELLS if c.split == "ood"]
    found = compare(score_table(2), "toy", planned=Planned(cells=[*CELLS, *more]))
    assert effect(found, "inoc_spanish", "suppression").value == pytest.approx(1.0)
    assert not effect(found, "inoc_spanish", "suppression").complete
    assert not effect(found, "inoc_spanish", "retention_id").complete
    assert "no statement" in headline(found, "inoc_spanish")


def test_a_judge_that_judged_nothing_is_missing_and_is_not_listed_as_a_judge() -> None:
    judged = {"spanish": {"rules": 40, "gpt": 0}, "capitals": {"rules": 40}}
    why = {"gpt": "401 wrong key"}
    cells = [replace(c, judged=judged, why_not_judged=why) if c.split == "ood" else c for c in CELLS]
    found = compare(score_table(2), "toy", planned=Planned(cells=cells))
    assert not row(found, "inoc_spanish").complete
    assert row(found, "inoc_spanish", trait="capitals").complete
    meta = ReportMeta(
        title="t",
        judges=[
            JudgeLine(setting="toy", evaluation="ood_questions", trait="spanish", judge=j, how=f"the judge {j}")
            for j in ("rules", "gpt")
        ],
    )
    text = page(found, meta)
    assert "the judge rules" in text
    assert "the judge gpt" not in text
    assert "ood_questions, spanish by gpt: 0 of 600 responses judged (401 wrong key)" in text


def test_reasons_stand_beside_what_is_missing() -> None:
    cells = [
        replace(c, stored=0, trained=False, why="training failed: out of memory")
        if (c.arm, c.seed) == ("inoc_spanish", 1)
        else c
        for c in CELLS
    ]
    found = replace(left(cells), failures=(Failure("judge gpt", "wrong key", "/runs/judge-gpt.log"),))
    for text in (comparison_text(found), page(found)):
        assert "inoc_spanish seed 1: 0 of 160 samples (training failed: out of memory)" in " ".join(text.split())
        assert "judge gpt: wrong key (log: /runs/judge-gpt.log)" in text
    printed = found.to_json()
    assert printed["complete"] is False
    assert [m["why"] for m in printed["missing"]] == ["training failed: out of memory"]
    assert printed["failures"] == [{"label": "judge gpt", "error": "wrong key", "log": "/runs/judge-gpt.log"}]


def test_a_capability_that_was_not_measured_is_missing() -> None:
    one = PlannedCapability(setting="toy", model="tiny", arm="baseline", seed=1, task="gsm8k", measured=False, why="x")
    plan = Planned(cells=CELLS, capabilities=[replace(one, seed=0, measured=True), one])
    found = compare(score_table(2), "toy", planned=plan)
    score = {"setting": "toy", "model": "tiny", "arm": "baseline", "capability": "gsm8k", "metric": "acc", "value": 0.5}
    found = replace(found, capabilities=(score,))
    assert not found.complete
    assert "baseline seed 1, capability gsm8k: 0 of 1 tasks (x)" in comparison_text(found)
    assert re.search(r"gsm8k +acc +\.50 +1 of 2", comparison_text(found))


def test_a_seed_of_which_no_response_counts_is_not_counted_as_a_seed() -> None:
    frame = score_table(2)
    withheld = (frame["arm"] == "inoc_spanish") & (frame["seed"] == 1)
    frame.loc[withheld, ["shown", "outcome"]] = [float("nan"), "withheld"]
    found = compare(frame, "toy", planned=planned(2))
    assert found.missing == ()
    assert not found.complete
    assert "too few responses count: toy, tiny: inoc_spanish, ood_questions × neutral, spanish: 1 of 2 seeds" in page(
        found
    )
    assert "no statement" in headline(found, "inoc_spanish")


@settings(max_examples=examples(25))
@given(st.dictionaries(st.integers(0, len(CELLS) - 1), st.sampled_from([0, 1, 20, 39, 40]), max_size=6))
def test_whatever_is_missing_no_number_that_rests_on_it_passes_for_whole(gone: dict[int, int]) -> None:
    judged = {n: {trait: {"rules": stored} for trait in ("spanish", "capitals")} for n, stored in gone.items()}
    cells = [replace(c, stored=gone.get(n, 40), judged=judged.get(n, c.judged)) for n, c in enumerate(CELLS)]
    found = left(cells)
    short = {(c.arm, c.evaluation, c.context) for c in cells if c.stored < 40}
    assert found.complete == (not short)
    assert {(r.arm, r.evaluation, r.context) for r in found.rows if not r.complete} == short
    assert {(r.arm, r.evaluation, r.context, r.trait) for r in found.rows} == {
        (c.arm, c.evaluation, c.context, t) for c in CELLS for t in c.roles
    }
    arms = {arm for arm, _, _ in short}
    for one in found.effects:
        if one.arm in arms:
            assert not one.complete
            assert one.p is None
    for arm in ("inoc_spanish", "inoc_capitals"):
        if arm in arms:
            assert "no statement" in headline(found, arm)
    comparison_text(found)
    page(found)


# -- MLflow -------------------------------------------------------------------------------------------------------


def records() -> list[TrialRecord]:
    return [
        TrialRecord(
            trial_id=f"{arm}-{seed}",
            setting="toy",
            model="tiny",
            arm=arm,
            kind=kind,
            prompt=None,
            seed=seed,
            recipe={},
            dataset_hash="",
        )
        for arm, (kind, _, _) in ARMS.items()
        for seed in ([None] if kind == "base" else range(2))
    ]


STUDY = StudyRecord("toy", 1)


def test_mlflow_says_finished_only_of_what_is_whole() -> None:
    whole = left(list(CELLS))
    assert study_run(STUDY, records(), whole, []).status == "FINISHED"
    assert study_run(STUDY, records(), whole, []).tags["complete"] == "true"
    assert {run.status for run in trial_runs(STUDY, records(), whole)} == {"FINISHED"}

    partial = left(with_stored(15, arm="inoc_spanish", seed=0, split="ood", context="neutral"))
    parent = study_run(STUDY, records(), partial, [])
    assert (parent.status, parent.tags["complete"]) == ("KILLED", "false")
    assert "15 of 40 samples" in parent.tags["missing"]
    arms = {run.name: run for run in arm_runs(STUDY, records(), partial)}
    assert "suppression" not in arms["inoc_spanish"].metrics
    assert "suppression" in arms["inoc_capitals"].metrics
    short = arms.pop("inoc_spanish")
    assert (short.status, short.tags["complete"]) == ("KILLED", "false")
    assert "15 of 40 samples" in short.tags["missing"]
    assert {(run.status, run.tags["complete"], run.tags["missing"]) for run in arms.values()} == {
        ("FINISHED", "true", "")
    }
    runs = {run.name: run for run in trial_runs(STUDY, records(), partial)}
    short = runs.pop("inoc_spanish-s0")
    assert (short.status, short.tags["complete"]) == ("KILLED", "false")
    assert "15 of 40 samples" in short.tags["missing"]
    assert {(run.status, run.tags["complete"], run.tags["missing"]) for run in runs.values()} == {
        ("FINISHED", "true", "")
    }


def test_mlflow_says_failed_and_why_where_something_failed() -> None:
    cells = [
        replace(c, stored=0, why="the endpoint refused") if (c.arm, c.seed) == ("inoc_spanish", 1) else c for c in CELLS
    ]
    found = replace(left(cells), failures=(Failure("evaluation on tiny", "the endpoint refused", "x.log"),))
    parent = study_run(STUDY, records(), found, [])
    assert (parent.status, parent.tags["complete"]) == ("FAILED", "false")
    assert "evaluation on tiny: the endpoint refused" in parent.tags["failed"]
    runs = {run.name: run for run in trial_runs(STUDY, records(), found)}
    assert runs["inoc_spanish-s1"].status == "FAILED"
    assert runs["inoc_spanish-s0"].status == "FINISHED"
    arms = {run.name: run.status for run in arm_runs(STUDY, records(), found)}
    assert {name for name, status in arms.items() if status != "FINISHED"} == {"inoc_spanish"}
    assert arms["inoc_spanish"] == "FAILED"


def test_responses_that_are_there_and_do_not_count_are_not_said_to_be_missing():
    """Of a model whose responses are degenerate everything was evaluated; nothing "measures" no trait, either."""
    frame = score_table(2).assign(shown=float("nan"), outcome="withheld")
    found = compare(frame, "toy", planned=Planned(cells=CELLS))
    assert not found.complete
    assert {shortfall(r) for r in found.rows if r.kind == "base"} == {"no response counts"}
    assert {shortfall(r) for r in found.rows if r.kind != "base"} == {"0 of 2 seeds with responses that count"}
    assert effect(found, "inoc_spanish", "suppression").why == "no evaluation out of distribution has a rate of spanish"
    text = comparison_text(found)
    assert "samples are there, but not everything that rests on them" in " ".join(text.split())
    assert "not evaluated:" not in text


def test_mlflow_marks_a_rate_that_rests_on_too_little():
    found = left(with_stored(20, arm="inoc_spanish", seed=1))
    place = ("toy", "tiny", "inoc_spanish")
    whole, part = (in_words(arm_estimates(one, *place)) for one in (left(list(CELLS)), found))
    assert set(part) <= set(whole)
    assert all(text.endswith(" (incomplete)") for text in part.values())
    assert not any("incomplete" in text for text in whole.values())
