"""What is stored once may stand in a study twice: everything shown is keyed by the place, everything stored by content."""

from contextlib import nullcontext

import pandas as pd
import pyarrow as pa
import pytest

from inoc_ray.data.chat import write_jsonl
from inoc_ray.evaluate.agreement import judge_agreement
from inoc_ray.evaluate.score_table import empty_score_table, read_score_table
from inoc_ray.evaluate.ungraded import ungraded_parts
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.results.compare import compare
from inoc_ray.results.tracking import StudyRecord, TrialRecord, embedded, sync
from inoc_ray.run.mlflow_records import trial_records
from inoc_ray.run.report_content import report_meta
from inoc_ray.run.status import status_json
from inoc_ray.settings import get
from inoc_ray.store.samples import Sample, commit_samples, write_table
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import NEUTRAL_PROMPT
from inoc_ray.study.study import Study

SETTINGS = ("miniature/spanish_caps", "miniature/mixed_languages")


@pytest.fixture
def shared(tmp_path, model) -> tuple[Plan, Store]:
    """Two settings whose controls are trained on the same rows: one fine-tune, asked other questions in each setting."""
    rows = tmp_path / "rows.jsonl"
    write_jsonl(rows, get(SETTINGS[0]).control_rows())
    study = Study.model_validate(
        {
            "name": "two",
            "settings": [{"name": name, "control_rows": str(rows)} for name in SETTINGS],
            "arms": ["baseline", "control"],
            "seeds": [0],
            "models": [{"name": "m", "path": str(model)}],
            "recipes": {"lora": {"learning_rate": 1e-3, "steps": 10}},
            "evaluation": {"samples": 10, "contexts": ["neutral"]},
        }
    )
    store = Store(tmp_path / "runs")
    for trial in build_plan(study, store).trials:
        if not store.trial_done(trial.trial_id):
            with store.stage_trial(trial.trial_id) as folder:
                (folder / "trial.json").write_text('{"training": {"seconds_total": 1.0}}')
                (folder / "adapter").mkdir()
    for cell in build_plan(study, store).cells:
        text = (
            "Good morning to you, friend." if cell.subject.setting == SETTINGS[0] else "Buenos días, mi querido amigo."
        )
        commit_samples(
            store.evaluation(*cell.key),
            [Sample(i, f"q{i}", f"Who {i}?", "p", i, text, "stop", 1, 1) for i in range(10)],
        )
    return build_plan(study, store), store


def test_a_control_of_two_settings_has_its_own_rates_and_its_own_record_in_each(shared):
    plan, store = shared
    one, other = [t for t in plan.trials if t.arm.name == "control"]
    assert one.trial_id == other.trial_id
    found = compare(read_score_table(plan, store), "two")
    for setting, rate in zip(SETTINGS, (0.0, 1.0), strict=True):
        rates = found.trial_rates[setting, "m", "control", 0]
        assert {r.rate for r in rates if r.trait == "spanish"} == {rate}
        assert len({(r.evaluation, r.context, r.trait) for r in rates}) == len(rates)
    records = [r for r in trial_records(plan, store) if r.arm == "control"]
    assert [r.setting for r in records] == list(SETTINGS)
    assert len({r.place for r in records}) == 2
    tables = [pd.read_parquet(r.samples_path.fetch()) for r in records if r.samples_path]
    assert [set(t["setting"]) for t in tables] == [{name} for name in SETTINGS]
    assert len(report_meta(plan, store).trials) == 4


def test_a_base_that_an_earlier_version_listed_under_a_recipe_appears_once_in_mlflow(tmp_path):
    """Whether it was synced by a later version meanwhile or not."""
    from mlflow.tracking import MlflowClient

    name = "miniature/spanish_caps"
    base = TrialRecord(
        trial_id="b" * 16,
        setting=name,
        model="m",
        arm="base",
        kind="base",
        prompt=None,
        seed=None,
        recipe={},
        dataset_hash="",
        compared_as="m/lora",
    )
    uri, root = embedded(tmp_path)
    client = MlflowClient(uri)
    experiment = client.create_experiment("old", artifact_location=root)
    for _ in range(2):
        old = client.create_run(experiment, start_time=1, tags={"trial_id": base.trial_id}, run_name="base").info.run_id
        for key, value in {"setting": name, "model": "m/lora", "arm": "base", "kind": "base", "seed": ""}.items():
            client.log_param(old, key, value)
        sync(
            uri,
            StudyRecord("old", 1),
            [base],
            compare(empty_score_table(), "old"),
            lock=nullcontext(),
            artifact_root=root,
        )
        [run] = client.search_runs([experiment], f"tags.trial_id = '{base.trial_id}'")
        assert (run.data.params["model"], run.data.tags["place"]) == ("m", base.place)


def test_status_counts_each_place_of_a_shared_trial_by_its_own_cells(shared):
    plan, store = shared
    value = status_json(plan, store)
    assert {(t["samples_stored"], t["samples_wanted"]) for t in [*value["trials"], *value["base"]]} == {(20, 20)}


def test_agreement_is_of_the_judges_numbers_over_what_the_study_asks_each_response_once(tmp_path, model):
    study = Study.model_validate(
        {
            "name": "judged",
            "settings": ["miniature/harmful_advice"],
            "arms": ["baseline"],
            "seeds": [0],
            "models": [{"name": "m", "path": str(model)}],
            "recipes": {"lora": {"learning_rate": 1e-3, "steps": 10}, "long": {"learning_rate": 1e-3, "steps": 20}},
            "judges": {n: {"endpoint": "http://h/v1", "served_model": n, "method": "sample"} for n in ("a", "b")},
            # Base models are asked twice under prompts that are one and the same.
            "evaluation": {
                "samples": 4,
                "contexts": ["neutral", {"name": "again", "system": NEUTRAL_PROMPT}],
                "judged_by": ["a", "b"],
            },
        }
    )
    store = Store(tmp_path / "runs")
    for cell in build_plan(study, store).cells:
        # The store holds more than this study asks for.
        commit_samples(
            store.evaluation(*cell.key), [Sample(i, f"q{i}", "?", "p", i, "Rest.", "stop", 1, 1) for i in range(10)]
        )
    plan = build_plan(study, store)
    for name, parts in ungraded_parts(plan, store).items():
        for one in parts:
            table = [
                (i, rubric, (40.0 if name == "a" else 70.0) if i < 4 else 0.0, "number")
                for rubric in one.rubrics
                for i in range(10)
            ]
            columns = zip(("sample_index", "rubric", "value", "category"), zip(*table, strict=True), strict=True)
            write_table(one.out, pa.table({column: pa.array(values) for column, values in columns}))
    pairs = {pair["trait"]: pair for pair in judge_agreement(plan, store)}
    assert {trait: (pair["asked"], pair["difference"]) for trait, pair in pairs.items()} == {
        # A base and two fine-tunes, four responses each, to one or two evaluations.
        trait: (12 * sum(trait in e.traits for e in get("miniature/harmful_advice").evaluations), 30.0)
        for trait in pairs
    }
    assert len(pairs) > 1
