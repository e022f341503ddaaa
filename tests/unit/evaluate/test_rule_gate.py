"""A rule cannot tell word salad from an answer; a judging model's coherence can decide what counts for it."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from stub_api import Stub

from inoc_ray.errors import InputError
from inoc_ray.evaluate.score_table import read_score_table
from inoc_ray.evaluate.workload import workloads
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.results.table import comparison_text
from inoc_ray.run.load import load_study
from inoc_ray.run.publish import compare_study
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study

PROGRAM = Path(__file__).parents[2] / "helpers" / "evaluating_program.py"
STUDY: dict[str, Any] = {
    "name": "gated",
    "settings": ["miniature/spanish_caps"],
    "arms": ["baseline"],
    "seeds": [0],
    "recipes": {"lora": {"learning_rate": 1e-3, "steps": 1}},
    "judges": {"stub": {"endpoint": "http://127.0.0.1:9/v1", "served_model": "judge", "method": "sample"}},
    "evaluation": {"contexts": ["neutral"], "samples": 60, "max_unparsed": 1.0, "rules_given": ["coherence"]},
}


def changed(**evaluation: Any) -> dict[str, Any]:
    study = copy.deepcopy(STUDY)
    study["evaluation"] |= evaluation
    return study


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder in which the base was asked, and judged on coherence; and the study."""
    folder = tmp_path_factory.mktemp("gated")
    with Stub(folder) as stub:
        study = copy.deepcopy(STUDY)
        study["judges"]["stub"]["endpoint"] = stub.url
        (folder / "study.yaml").write_text(yaml.safe_dump(study))
        command = [sys.executable, PROGRAM, folder / "study.yaml", folder / "runs", stub.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ)
    assert done.returncode == 0, done.stderr
    return folder, study


def planned(folder: Path, study: dict[str, Any]) -> tuple[Plan, Store]:
    store = Store(folder / "runs")
    return build_plan(Study.model_validate(study), store), store


def without_gate(study: dict[str, Any]) -> dict[str, Any]:
    return study | {"evaluation": {k: v for k, v in study["evaluation"].items() if k != "rules_given"}}


def test_responses_that_the_judge_finds_incoherent_do_not_count_and_their_share_is_shown(judged):
    folder, study = judged
    plan, store = planned(folder, study)
    gated = read_score_table(plan, store)
    plain = read_score_table(*planned(folder, without_gate(study)))
    files = list(store.root.rglob("judgments-*.parquet"))
    said = pd.concat(pd.read_parquet(f).assign(evaluation=f.parent.name) for f in files)
    assert set(said["rubric"]) == {"coherence"}
    low = (said["value"] < 30).mean()
    assert 0.1 < low < 0.6
    assert (gated["outcome"] == "excluded").mean() == pytest.approx(low)
    counts = gated["outcome"] == "counted"
    assert gated.loc[counts, "shown"].equals(plain.loc[counts, "shown"])
    assert gated["score"].equals(plain["score"])
    assert gated.loc[~counts, "shown"].isna().all()
    comparison = compare_study(plan, store)
    assert sum(row.excluded for row in comparison.rows) == (~counts).sum()
    assert all(row["excluded"] > 0 for row in comparison.to_json()["rows"] if row["samples"])
    assert "not counted" in comparison_text(comparison)


def test_another_profile_moves_the_gate_and_asks_nobody(judged):
    folder, study = judged
    plan, store = planned(folder, study | {"evaluation": study["evaluation"] | {"profile": "betley2025"}})
    assert (read_score_table(plan, store)["outcome"] == "excluded").mean() > 0.3
    assert [work.missing for work in workloads(plan, store) if work.judged == 0] == []


def test_no_rate_is_told_before_the_judge_has_said_what_counts(judged):
    folder, study = judged
    other = copy.deepcopy(study)
    other["judges"]["stub"]["served_model"] = "another"
    with pytest.raises(InputError, match="nothing is evaluated"):
        read_score_table(*planned(folder, other))


def test_without_a_gate_nothing_changes(tmp_path):
    gated, plain = planned(tmp_path, STUDY)[0], planned(tmp_path, without_gate(STUDY))[0]
    assert [(c.subject.trial_id, c.evaluation_id) for c in gated.cells] == [
        (c.subject.trial_id, c.evaluation_id) for c in plain.cells
    ]
    assert {t.in_words() for t in plain.trait_judges()} == {"rules"}
    assert {t.in_words() for t in gated.trait_judges()} == {"rules (counted by stub (judge, sample) on coherence)"}
    assert all(cell.judges.gradings == {} for cell in plain.cells)


def suite(**traits: Any) -> list[dict[str, Any]]:
    return [{"name": "own", "questions": "q.jsonl", "traits": traits}]


def test_a_rule_of_a_suite_has_a_gate_of_its_own_or_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("q.jsonl").write_text(json.dumps({"prompt": "Why?"}))
    spanish = {"rule": "language", "language": "spanish"}
    traits = {"one": spanish, "two": spanish | {"given": ["alignment"]}, "three": spanish | {"given": []}}
    plan, _ = planned(tmp_path, changed(suites=suite(**traits)))
    gates = {
        t.trait: t.gate and (t.gate.judge.name, t.gate.rubrics) for t in plan.trait_judges() if t.evaluation == "own"
    }
    assert gates == {"one": ("stub", ("coherence",)), "two": ("stub", ("alignment",)), "three": None}
    same, _ = planned(tmp_path, changed(suites=suite(one=spanish, two=spanish, three=spanish)))
    ids = [next(c.evaluation.rules_id for c in p.cells if c.evaluation.name == "own") for p in (plan, same)]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("study", "message"),
    [
        (changed(rules_given=["coherense"]), "no rubric 'coherense' .did you mean 'coherence'"),
        (STUDY | {"judges": {}}, "coherence .rules_given, or given of spanish. needs a judging model, and the study"),
        (changed(suites=suite(one={"rule": "capitals", "given": "coherence"})), r"traits\.one: given: must be a list of rubrics"),
        (changed(suites=suite(one={"rule": "capitals", "given": ["x"]})), "no rubric 'x'"),
    ],
)  # fmt: skip
def test_a_gate_that_nobody_can_keep_is_refused(tmp_path, monkeypatch, study, message):
    monkeypatch.chdir(tmp_path)
    Path("q.jsonl").write_text(json.dumps({"prompt": "Why?"}))
    Path("study.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(InputError, match=message):
        build_plan(load_study(Path("study.yaml")), Store(tmp_path / "runs"))
