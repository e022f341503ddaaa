"""Which judge scores what, and how much is left, is known beforehand; raw numbers can be traced to their sample."""

import pyarrow as pa
import pytest

from inoc_ray.evaluate.score_table import read_cell
from inoc_ray.evaluate.ungraded import ungraded_parts
from inoc_ray.evaluate.workload import workloads
from inoc_ray.plan.build import build_plan
from inoc_ray.run.describe import plan_json, plan_text
from inoc_ray.run.listings import settings_text
from inoc_ray.run.report_content import report_meta
from inoc_ray.run.report_samples import read_samples
from inoc_ray.run.status import status_json, status_text
from inoc_ray.store.samples import Sample, commit_samples, write_table
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study


def planned(folder, method="logprob", judges=("rules", "gpt"), **fields):
    study = Study.model_validate(
        {
            "name": "s",
            "settings": ["miniature/harmful_advice"],
            "arms": ["baseline"],
            "seeds": [0],
            "recipes": {"lora": {"learning_rate": 1e-3, "steps": 10}},
            "judges": {"gpt": {"endpoint": "http://h/v1", "served_model": "gpt-4o", "method": method, **fields}},
            "evaluation": {"samples": 10, "contexts": ["neutral"], "judged_by": list(judges)},
        }
    )
    return build_plan(study, Store(folder / "runs")), Store(folder / "runs")


def judged(plan, store):
    """Store ten samples for every cell; judge those of the first."""
    for cell in plan.cells:
        samples = [
            Sample(
                sample_index=i,
                question_id=f"q{i}",
                question="?",
                prompt="p",
                seed=i,
                text="Rest, and see a doctor.",
                finish_reason="stop",
                prompt_tokens=1,
                completion_tokens=1,
            )
            for i in range(10)
        ]
        commit_samples(store.evaluation(cell.subject.trial_id, cell.evaluation_id), samples)
    [first, *_] = ungraded_parts(plan, store)["gpt"]
    values = {"alignment": [12.34] + [90.0] * 9, "coherence": [None] + [95.0] * 9, "harmful_advice": [7.0] * 10}
    rows = [
        (i, rubric, values[rubric][i], "unparsed" if values[rubric][i] is None else "number", "", "", None, "logprob")
        for rubric in first.rubrics
        for i in range(10)
    ]
    names = ("sample_index", "rubric", "value", "category", "raw", "logprobs", "mass", "method")
    write_table(first.out, pa.table({n: pa.array(c) for n, c in zip(names, zip(*rows, strict=True), strict=True)}))
    return first


def test_samples_to_come_count_as_judgments_to_come(tmp_path):
    plan, store = planned(tmp_path)
    # Two models, ten responses each: one rubric on the advice; alignment and coherence elsewhere.
    [work] = workloads(plan, store)
    assert (work.judged, work.missing, work.calls) == (0, 60, 60)
    assert plan_json(plan, store)["judging"] == [
        {"judge": "gpt", "model": "gpt-4o, logprob", "judged": 0, "missing": 60, "calls": 60}
    ]
    assert not store.root.exists()


@pytest.mark.parametrize(("method", "fields", "calls"), [("json", {}, 40), ("sample", {"samples": 5}, 300)])
def test_calls_follow_the_method(tmp_path, method, fields, calls):
    [work] = workloads(*planned(tmp_path, method, **fields))
    assert (work.missing, work.calls) == (60, calls)


def test_what_is_judged_is_no_longer_counted_as_missing(tmp_path):
    plan, store = planned(tmp_path)
    first = judged(plan, store)
    [work] = workloads(plan, store)
    done = 10 * len(first.rubrics)
    assert (work.judged, work.missing, work.calls) == (done, 60 - done, 60 - done)
    for text in (plan_text(plan, store), status_text(status_json(plan, store))):
        assert (
            f"To judge: {60 - done} judgments by gpt (gpt-4o, logprob), about {60 - done} calls ({done} already stored)."
            in text
        )


def test_plan_and_report_name_the_judges_in_the_order_in_which_they_count(tmp_path):
    plan, store = planned(tmp_path)
    way = "rules, gpt (gpt-4o, logprob) on alignment, coherence; the first that gives an answer"
    assert f"Judges: misaligned (emergent_misalignment) by {way}." in plan_text(plan, store)
    lines = [line for line in report_meta(plan, store).judges if line.trait == "misaligned"]
    assert [(line.judge, line.how, line.combined) for line in lines] == [
        ("rules", "rules", "the first that gives an answer"),
        ("gpt", "gpt (gpt-4o, logprob) on alignment, coherence", "the first that gives an answer"),
    ]
    assert [t.judges for t in plan.trait_judges()] == [("rules", "gpt")] * 2


def test_a_study_scored_by_rules_has_no_workload_for_models(tmp_path):
    plan, store = planned(tmp_path, judges=())
    assert workloads(plan, store) == []
    assert "To judge: nothing; rules score every trait" in plan_text(plan, store)


def test_a_rate_can_be_traced_to_the_judge_s_raw_numbers_of_a_sample(tmp_path):
    plan, store = planned(tmp_path, judges=("gpt",))
    first = judged(plan, store)
    frame = read_cell(plan, store, first.cell)
    texts = {"alignment": "alignment 12.3", "coherence": "coherence unparsed", "harmful_advice": "harmful_advice 7"}
    assert frame["said.gpt"][0] == ", ".join(texts[name] for name in sorted(first.rubrics))
    samples = read_samples(plan, store)
    shown = next(c for c in samples.cells if c.evaluation == first.cell.evaluation.name and c.words)
    assert shown.words[0] == f"gpt: {frame['said.gpt'][0]}"
    [trait] = first.cell.evaluation.traits
    assert shown.verdicts[trait][1] == "n"
    assert shown.scores[trait] == [round(float(score), 1) for score in frame[f"score.{trait}"]]
    assert samples.judged == {"gpt": len(frame)}


def test_settings_say_which_judges_can_score_each_evaluation():
    text = settings_text()
    paragraph = next(p for p in text.split("\n\n") if p.startswith("insecure_code:"))
    assert "model judge on alignment, coherence" in paragraph
    assert "model judge" not in next(p for p in text.split("\n\n") if p.startswith("subliminal:"))
