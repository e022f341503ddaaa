"""From a judge's answers, good or bad, to rates, tables and files; engines and judges are stubs."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from finished_study import finish, write_study
from stub_api import Stub

from inoc_ray.evaluate.grading import _OpenPart
from inoc_ray.evaluate.score_table import read_score_table, score_warnings
from inoc_ray.evaluate.ungraded import ungraded_parts
from inoc_ray.plan.build import build_plan
from inoc_ray.results.table import comparison_text
from inoc_ray.run.load import load_study
from inoc_ray.run.publish import compare_study, sync_study, write_study_report
from inoc_ray.scoring.judgment import Judgment
from inoc_ray.scoring.profiles import Profile, parse_bound
from inoc_ray.store.store import Store

PROGRAM = Path(__file__).parents[2] / "helpers" / "evaluating_program.py"
KEY = "sk-0123456789-a-key-that-must-not-be-seen"


def evaluated(folder: Path, stub: Stub, **judge: object) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Return the study file, and the finished program that sampled and judged it."""
    study = {
        "name": "stubbed",
        "settings": ["miniature/spanish_caps"],
        "arms": ["baseline"],
        "seeds": [0],
        "recipes": {"lora": {"learning_rate": 1e-3, "steps": 1}},
        "judges": {"stub": {"endpoint": stub.url, "served_model": "judge", "method": "sample", **judge}},
        "evaluation": {"contexts": ["neutral"], "samples": 50, "judged_by": ["stub"], "max_unparsed": 0.25},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    command = [sys.executable, PROGRAM, path, folder / "runs", stub.url]
    environment = os.environ | {"STUB_KEY": KEY, "PYTHONASYNCIODEBUG": "1", "PYTHONWARNINGS": "default"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    return path, done


def test_a_judge_that_answers_rubbish_now_and_then_leaves_rates_over_the_rest_and_its_share_everywhere(tmp_path):
    with Stub(tmp_path, rubbish=0.3) as stub:
        path, done = evaluated(tmp_path, stub)
    assert done.returncode == 0, done.stderr
    study, store = load_study(path), Store(tmp_path / "runs")
    plan = build_plan(study, store)
    frame = read_score_table(plan, store)
    unread = frame["outcome"] == "unparsed"
    assert 0.1 < unread.mean() < 0.5
    assert frame.loc[unread, ["score", "shown"]].isna().all(axis=None)
    comparison = compare_study(plan, store)
    # The arm is not trained, so there is a row for it that has nothing.
    assert {row.arm for row in comparison.rows if not row.samples} == {"baseline"}
    for row in (row for row in comparison.rows if row.samples):
        own = frame[(frame["arm"] == row.arm) & (frame["evaluation"] == row.evaluation) & (frame["trait"] == row.trait)]
        assert row.unparsed == (own["outcome"] == "unparsed").sum() > 0
        assert row.rate == pytest.approx((own["shown"] == 1).sum() / own["shown"].notna().sum())
    assert "could not be read" in comparison_text(comparison)
    page = write_study_report(plan, store, comparison).read_text()
    row = comparison.rows[0]
    assert f"{row.unparsed} ({row.unparsed / row.samples:.0%})" in page
    shares = frame["outcome"].eq("unparsed").groupby([frame["evaluation"], frame["trait"]]).mean()
    assert len(score_warnings(plan, frame)) == (shares > 0.25).sum() > 0


@pytest.mark.parametrize(
    ("behaviour", "succeeds"),
    [
        pytest.param({}, True, id="well", marks=pytest.mark.slow),
        pytest.param({"quote_key": True}, True, id="quoted"),
        pytest.param({"quote_key": True, "refuse": 401}, False, id="refused", marks=pytest.mark.slow),
    ],
)
def test_a_key_is_in_no_file_no_log_and_no_message_whatever_the_judge_does_with_it(tmp_path, behaviour, succeeds):
    with Stub(tmp_path, **behaviour) as stub:
        path, done = evaluated(tmp_path, stub, api_key_env="STUB_KEY")
    assert (done.returncode == 0) == succeeds, done.stderr
    if succeeds:
        study, store = load_study(path), Store(tmp_path / "runs")
        plan = build_plan(study, store)
        comparison = compare_study(plan, store)
        write_study_report(plan, store, comparison)
        sync_study(plan, store, comparison)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) > 3
    for half in (KEY, KEY[:16], KEY[-16:]):
        assert half not in done.stdout + done.stderr
        assert [p for p in files if half.encode() in p.read_bytes()] == []


def test_another_profile_applies_to_rates_agreement_and_examples_alike(tmp_path):
    """The rule agrees with the judge above 20, and the study's profile requires more than 50."""
    judges = {"gpt": {"endpoint": "http://127.0.0.1:9/v1", "served_model": "gpt", "method": "digit"}}
    asked = {"contexts": ["neutral"], "samples": 12, "judged_by": ["gpt", "rules"]}
    plan, store = finish(write_study(tmp_path, judges=judges, evaluation=asked))
    for work in ungraded_parts(plan, store)["gpt"]:
        part = _OpenPart(work, plan.study.judges["gpt"])
        for place, rubric in itertools.product(range(len(part.sample_index)), work.rubrics):
            spanish = "El perro" in part.items[place].response
            part.add(
                place,
                rubric,
                Judgment(
                    value=30.0 if spanish else 0.0, category="number", raw="3", logprobs="", mass=1.0, method="digit"
                ),
            )
    low = Profile("low", "test", {"spanish": parse_bound("> 20"), "caps": parse_bound("> 20")}, {})
    found = {}
    for name, under in (("study", plan), ("low", plan.under(low))):
        comparison = compare_study(under, store)
        [row] = [r for r in comparison.rows if (r.arm, r.trait, r.split) == ("baseline", "spanish", "id")]
        [pair] = [a for a in comparison.agreement if a["trait"] == "spanish"]
        page = write_study_report(under, store, comparison, tmp_path / f"{name}.html").read_text()
        found[name] = (row.rate, pair["agreement"] == 1.0, "spanish: yes" in page)
    assert found == {"study": (0.0, False, False), "low": (pytest.approx(10 / 12), True, True)}
