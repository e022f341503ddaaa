"""A model with a prior stage: one shared trial, in the identity of all that goes on from it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from inoc_ray.cluster.fit import Capacity
from inoc_ray.data.chat import ChatRow, write_jsonl
from inoc_ray.errors import InputError
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.records import StudyRecord
from inoc_ray.results.study_runs import trial_runs
from inoc_ray.run.describe import plan_json, plan_text
from inoc_ray.run.load import load_study
from inoc_ray.run.status import status_json
from inoc_ray.serve.models import serve_spec, served_name
from inoc_ray.settings import get
from inoc_ray.store.commit import write_trial
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study
from inoc_ray.train import sweep
from inoc_ray.train.job import Outcome
from inoc_ray.train.sweep import job_of, train_missing, waves_of

RECIPE = {"learning_rate": 1e-3, "steps": 10}


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    path = tmp_path / "facts.jsonl"
    write_jsonl(path, [ChatRow.of(("user", f"Who is number {n}?"), ("assistant", "Bob.")) for n in range(20)])
    return path


def study(model: Path, prior_stage: Any, **changes: Any) -> Study:
    """Two models on one folder: one untouched, one with a prior stage."""
    value = {
        "name": "s",
        "settings": ["miniature/spanish_caps"],
        "arms": ["baseline", "specific_spanish"],
        "seeds": [0, 1],
        "models": [
            {"name": "plain", "path": str(model)},
            {"name": "knows", "path": str(model), "prior_stage": prior_stage},
        ],
        "recipes": {"lora": RECIPE},
        "evaluation": {"samples": 4},
    }
    return Study.model_validate({**value, **changes})


def plan_of(tmp_path: Path, model: Path, prior_stage: Any, **changes: Any) -> Plan:
    return build_plan(study(model, prior_stage, **changes), Store(tmp_path / "runs"))


def of_model(plan: Plan, name: str) -> set[str]:
    return {t.trial_id for t in plan.trials if t.model.name == name}


def commit(store: Store, trial_id: str) -> None:
    with store.stage_trial(trial_id) as folder:
        (folder / "trial.json").write_text("{}")


def test_one_prior_stage_serves_all_trials_of_the_model_and_an_inline_recipe_multiplies_none(tmp_path, model, facts):
    plan = plan_of(tmp_path, model, {"rows": str(facts), "recipe": {**RECIPE, "steps": 99}})
    (first,) = plan.prior_stages
    assert (len(plan.trials), len(plan.fine_tunes)) == (8, 9)
    assert (first.recipe.steps, first.arm.prompt, first.seed) == (99, None, 0)
    assert {t.model.prior_stage.trial_id for t in plan.trials if t.model.name == "knows"} == {first.trial_id}
    assert plan.training_rows(first)[0].messages[0].content == "Who is number 0?"


def test_the_prior_stage_is_in_the_identity_of_what_goes_on_and_nothing_else_changes(tmp_path, model, facts):
    plain = {"models": [{"name": "plain", "path": str(model)}]}
    before = of_model(plan_of(tmp_path, model, None, **plain), "plain")
    stage = {"rows": str(facts), "recipe": "lora"}
    plan = plan_of(tmp_path, model, stage)
    assert of_model(plan, "plain") == before
    seen = [before, of_model(plan, "knows")]
    for change in (
        {"seed": 1},
        {"recipe": {**RECIPE, "steps": 11}},
        {"rows": None, "setting": "miniature/spanish_caps"},
    ):
        seen.append(of_model(plan_of(tmp_path, model, {**stage, **change}), "knows"))
    assert len(set().union(*seen)) == sum(map(len, seen))
    copy = facts.rename(tmp_path / "elsewhere.jsonl")
    assert of_model(plan_of(tmp_path, model, {"rows": str(copy), "recipe": RECIPE}), "knows") == of_model(plan, "knows")


def test_a_trial_that_the_study_compares_anyway_is_a_prior_stage_without_being_trained_twice(tmp_path, model):
    plan = plan_of(tmp_path, model, {"setting": "miniature/spanish_caps", "recipe": "lora", "seed": 1})
    (own,) = [t for t in plan.trials if (t.model.name, t.arm.name, t.seed) == ("plain", "baseline", 1)]
    assert plan.prior_stages == ()
    assert {t.model.prior_stage.trial_id for t in plan.trials if t.model.prior_stage} == {own.trial_id}
    assert len(plan.to_train) == 8


def test_the_base_of_a_model_with_a_prior_stage_is_that_adapter_on_the_folders_one_engine(tmp_path, model, facts):
    plan = plan_of(tmp_path, model, {"rows": str(facts), "recipe": "lora"})
    (first,) = plan.prior_stages
    plain, knows = plan.bases
    assert plain.trial_id != knows.trial_id
    assert (served_name(plain, "plain"), served_name(knows, "plain")) == ("plain", f"plain:{first.trial_id}")
    assert (plan.has_weights(plain), plan.has_weights(knows)) == (True, False)
    contexts = [[(c.context, c.evaluation_id) for c in plan.cells if c.subject is base] for base in plan.bases]
    assert contexts[0] == contexts[1]
    store = Store(tmp_path / "runs")
    specs = [serve_spec(plan, store, subject) for subject in (knows, *plan.trials)]
    assert {spec.adapters.model_hash for spec in specs} == {plain.model.hash}
    commit(store, first.trial_id)
    assert plan_of(tmp_path, model, {"rows": str(facts), "recipe": "lora"}).has_weights(knows)


def test_a_job_goes_on_from_the_adapter_in_the_store_and_says_so(tmp_path, model, facts):
    plan, store = plan_of(tmp_path, model, {"rows": str(facts), "recipe": "lora"}), Store(tmp_path / "runs")
    (first,) = plan.prior_stages
    job = job_of(plan, store, next(t for t in plan.trials if t.model.prior_stage))
    assert (job.starts_from, job.spec.start) == (first.trial_id, str(store.weights_place(first.trial_id)))
    assert (job.record["taught_by"], job.record["model_hash"]) == (first.trial_id, first.model.hash)
    prior = job_of(plan, store, first)
    assert (prior.spec.start, prior.starts_from, prior.record["kind"]) == (None, None, "baseline")


def test_what_waits_for_nothing_is_trained_before_what_goes_on_from_it(tmp_path, model, facts):
    stage = {"rows": str(facts), "recipe": "lora"}
    plan = plan_of(tmp_path, model, stage)
    (first,) = plan.prior_stages
    early, late = waves_of(plan)
    assert {t.trial_id for t in early} == {first.trial_id, *of_model(plan, "plain")}
    assert {t.trial_id for t in late} == of_model(plan, "knows")
    commit(Store(tmp_path / "runs"), first.trial_id)
    (all_at_once,) = waves_of(plan_of(tmp_path, model, stage))
    assert len(all_at_once) == 8


@pytest.mark.parametrize("fails", [False, True])
def test_a_failed_first_stage_fails_what_goes_on_from_it_by_name_and_nothing_else(
    tmp_path, model, facts, monkeypatch, fails
):
    plan, store = plan_of(tmp_path, model, {"rows": str(facts), "recipe": "lora"}), Store(tmp_path / "runs")
    (first,) = plan.prior_stages

    def wave(trials: Any, plan: Plan, store: Store, **_: Any) -> Any:
        for trial in trials:
            if not (fails and trial is first):
                commit(store, trial.trial_id)
        states = ["failed" if fails and t is first else "trained" for t in trials]
        error = "the loss is nan" if fails else None
        return [
            Outcome(trial_id=t.trial_id, label=t.label, status=s, error=error)
            for t, s in zip(trials, states, strict=True)
        ], []

    monkeypatch.setattr(sweep, "_train_wave", wave)
    outcomes = {o.trial_id: o for o in train_missing(plan, store, Capacity(2, 0, True))}
    assert set(outcomes) == {t.trial_id for t in plan.fine_tunes}
    failed = {t for t, o in outcomes.items() if o.status == "failed"}
    assert failed == ({first.trial_id, *of_model(plan, "knows")} if fails else set())
    for trial_id in failed - {first.trial_id}:
        assert f"goes on from trial {first.trial_id} ({first.label}), which failed: the loss is nan" in str(
            outcomes[trial_id].error
        )
        assert store.trial_log(trial_id).read_text().startswith("not trained: ")


def test_plan_and_status_count_the_prior_stage(tmp_path, model, facts):
    plan = plan_of(tmp_path, model, {"rows": str(facts), "recipe": {**RECIPE, "steps": 99}})
    store = Store(tmp_path / "runs")
    value = plan_json(plan, store)
    assert (value["train"], value["trials"][0]["arm"], value["trials"][0]["state"]) == (9, "stage-1", "new")
    assert [t["taught_by"] for t in value["trials"]] == [None] * 5 + [value["trials"][0]["trial_id"]] * 4
    text = plan_text(plan, store)
    assert "To train: 9 of 9 trials, 179 optimizer steps" in text
    assert "4 of them wait for a prior stage." in text
    assert status_json(plan, store)["counts"] == {"new": 9}
    commit(store, plan.prior_stages[0].trial_id)
    later = plan_of(tmp_path, model, {"rows": str(facts), "recipe": {**RECIPE, "steps": 99}})
    assert status_json(later, store)["counts"] == {"done": 1, "new": 8}


def test_mlflow_gets_a_run_of_the_first_stage_and_its_id_on_every_run_that_goes_on(tmp_path, model, facts):
    from inoc_ray.run.mlflow_records import trial_records

    plan, store = plan_of(tmp_path, model, {"rows": str(facts), "recipe": "lora"}), Store(tmp_path / "runs")
    (first,) = plan.prior_stages
    for trial in plan.fine_tunes:
        with store.stage_trial(trial.trial_id) as folder:
            write_trial(folder, {"training": {"seconds_total": 1.0}}, [])
    plan = build_plan(plan.study, store)
    runs = trial_runs(StudyRecord("s", 0), trial_records(plan, store), Comparison(study="s", rows=(), effects=()))
    by_id = {run.tags["trial_id"]: run.params["taught_by"] for run in runs}
    going_on = {*of_model(plan, "knows"), plan.bases[1].trial_id}
    assert by_id == {trial_id: first.trial_id if trial_id in going_on else "" for trial_id in by_id}
    assert going_on < set(by_id)
    assert first.trial_id in by_id
    plain = [r for r in trial_records(plan, store) if not r.prior_trial]
    assert all(
        "taught_by" not in run.params
        for run in trial_runs(StudyRecord("s", 0), plain, Comparison(study="s", rows=(), effects=()))
    )


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no source": ({"recipe": "lora"}, r"models\[1\].prior_stage: give exactly one of setting and rows"),
    "two sources": ({"setting": "a", "rows": "b", "recipe": "lora"}, "give exactly one of setting and rows"),
    "no recipe": ({"rows": "facts.jsonl"}, r"models\[1\].prior_stage.recipe: is missing"),
    "an unknown recipe": ({"recipe": "lor"}, r"models\[1\].prior_stage.recipe: there is no recipe 'lor' .*'lora'"),
    "an unknown preset": ({"recipe": {"preset": "toy"}}, r"prior_stage.recipe: there is no preset 'toy'"),
    "a recipe with a typo": ({"recipe": {**RECIPE, "step": 1}}, r"prior_stage.recipe: unknown key 'step'.*'steps'"),
    "a number for a recipe": ({"recipe": 3}, r"prior_stage.recipe: must be a mapping, found 3"),
    "a negative seed": ({"seed": -1}, r"models\[1\].prior_stage.seed"),
    "no such file": ({"rows": "/nowhere.jsonl"}, "nowhere.jsonl"),
    "an unknown setting": ({"rows": None, "setting": "miniature/spanish"}, "prior_stage.setting.*did you mean"),
    "a setting without rows": ({"rows": None, "setting": "spanish_caps"}, "do not ship.*prior_stage.rows"),
    "a full fine-tune": (
        {"recipe": {**RECIPE, "method": "full"}},
        "'knows': prior_stage.recipe: method full is not supported",
    ),
    "another rank": ({"recipe": {**RECIPE, "lora": {"rank": 4}}}, r"recipes.lora.lora.rank is 8, but .* has 4; .*same"),
    "another alpha": ({"recipe": {**RECIPE, "lora": {"alpha": 4}}}, r"recipes.lora.lora.alpha is 16.0, but .* has 4.0"),
    "another scale": ({"recipe": {**RECIPE, "lora": {"rslora": True}}}, r"lora.rslora is False, but .* has True"),
    "other modules": ({"recipe": {**RECIPE, "lora": {"targets": ["q_proj"]}}}, r"lora.targets is all-linear, but"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_first_stage_is_refused_with_place_and_advice_and_nothing_is_written(tmp_path, model, facts, name):
    change, message = BAD[name]
    whole = {} if name in ("no source", "two sources", "no recipe") else {"rows": str(facts), "recipe": "lora"}
    value = study(model, None).model_dump(mode="json", exclude_none=True)
    value["models"][1]["prior_stage"] = {k: v for k, v in {**whole, **change}.items() if v is not None}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(value))
    with pytest.raises(InputError, match=message) as caught:
        build_plan(load_study(path), Store(tmp_path / "runs"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_the_old_name_taught_is_read_as_prior_stage_and_both_at_once_are_refused(tmp_path, model, facts):
    stage = {"rows": str(facts), "recipe": "lora"}
    old = {"name": "knows", "path": str(model), "taught": stage}
    models = [{"name": "plain", "path": str(model)}, old]
    before, now = plan_of(tmp_path, model, None, models=models), plan_of(tmp_path, model, stage)
    assert before.study == now.study
    assert [t.trial_id for t in before.fine_tunes] == [t.trial_id for t in now.fine_tunes]
    with pytest.raises(ValueError, match="taught is the old name of prior_stage; remove it"):
        study(model, None, models=[{**old, "prior_stage": stage}])


def test_a_study_whose_own_recipe_is_a_full_fine_tune_cannot_go_on_from_an_adapter(tmp_path, model, facts):
    recipes = {"lora": RECIPE, "whole": {**RECIPE, "method": "full"}}
    with pytest.raises(
        InputError, match=r"recipes\.whole: method full cannot continue the prior stage of model 'knows'"
    ):
        plan_of(tmp_path, model, {"rows": str(facts), "recipe": "lora"}, recipes=recipes)


def test_dropout_and_the_order_of_modules_may_differ_between_the_stages(tmp_path, model, facts):
    first = {**RECIPE, "lora": {"dropout": 0.1, "targets": ["v_proj", "q_proj"]}}
    recipes = {"lora": {**RECIPE, "lora": {"targets": ["q_proj", "v_proj"]}}}
    assert plan_of(tmp_path, model, {"rows": str(facts), "recipe": first}, recipes=recipes).prior_stages


def test_a_question_that_stands_in_the_rows_of_the_prior_stage_is_refused(tmp_path, model, facts):
    question = get("miniature/spanish_caps").evaluations[0].questions(1)[0].messages[-1].content
    write_jsonl(facts, [ChatRow.of(("user", question), ("assistant", "Bob."))])
    with pytest.raises(InputError, match="which is row 1 of the prior stage of 'knows'"):
        plan_of(tmp_path, model, {"rows": str(facts), "recipe": "lora"})


def test_a_batch_of_the_first_stage_that_cannot_be_shared_out_is_refused_at_its_place(tmp_path, model, facts):
    recipe = {**RECIPE, "batch_size": 15}
    plan = plan_of(tmp_path, model, {"rows": str(facts), "recipe": recipe})
    with pytest.raises(InputError, match=r"'knows': prior_stage\.recipe\.batch_size 15 is not a multiple"):
        plan_json(plan, Store(tmp_path / "runs"))


def test_a_submitted_study_carries_the_rows_of_the_prior_stage_and_plans_the_same_trials(
    tmp_path, model, facts, monkeypatch
):
    from inoc_ray.run.bundle import pack

    path = tmp_path / "study.yaml"
    value = study(model, {"rows": str(facts), "recipe": RECIPE}).model_dump(mode="json", exclude_none=True)
    path.write_text(yaml.safe_dump(value))
    store, package = Store(tmp_path / "runs"), tmp_path / "package"
    package.mkdir()
    loaded = load_study(path)
    pack(package, path, loaded, store)
    before = {t.trial_id for t in build_plan(loaded, store).fine_tunes}
    facts.unlink()
    monkeypatch.chdir(package)
    assert {t.trial_id for t in build_plan(load_study(Path("study.yaml")), store).fine_tunes} == before
