"""A plan says what is new, and only what changes a result makes something new."""

import sys
from pathlib import Path
from typing import Any

import pytest

from inoc_ray.cluster.fit import Capacity
from inoc_ray.data.chat import ChatRow, Message, write_jsonl
from inoc_ray.errors import InputError
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.trials import Base, seed_of
from inoc_ray.run.describe import plan_text
from inoc_ray.run.status import status_json
from inoc_ray.settings import get
from inoc_ray.store.samples import Sample, commit_samples
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study
from inoc_ray.train.sweep import groups_of


def study(model: Path, **changes: Any) -> Study:
    value = {
        "name": "s",
        "settings": ["miniature/spanish_caps"],
        "arms": ["baseline", "specific_spanish"],
        "seeds": [0, 1],
        "models": [{"name": "base-model", "path": str(model)}],
        "recipes": {"lora": {"learning_rate": 1e-3, "steps": 10}},
        "evaluation": {"samples": 10},
    }
    return Study.model_validate({**value, **changes})


def ids(plan) -> set[str]:
    return {t.trial_id for t in plan.trials}


def commit(store: Store, trial_id: str) -> None:
    with store.stage_trial(trial_id) as folder:
        (folder / "trial.json").write_text("{}")


def sample(index: int) -> Sample:
    return Sample(index, f"q{index}", "?", "p", 0, "HOLA", "stop", 1, 1)


def test_names_places_and_widths_change_no_trial(tmp_path, model):
    store = Store(tmp_path / "runs")
    one = build_plan(study(model), store)
    moved = model.rename(tmp_path / "elsewhere")
    other = build_plan(
        study(
            moved,
            name="other",
            models=[{"name": "renamed", "path": str(moved)}],
            arms=[
                "baseline",
                {"name": "mine", "kind": "general", "prompt": "You always speak in Spanish.", "undesired": ["spanish"]},
            ],
            resources={"workers": 2, "zero_stage": 3, "micro_batch_size": 4, "trials_per_group": 3},
            evaluation={"samples": 99, "contexts": ["none"]},
        ),
        store,
    )
    assert ids(one) == ids(other)


@pytest.mark.parametrize(
    "change",
    [
        {"recipes": {"lora": {"learning_rate": 2e-3, "steps": 10}}},
        {"recipes": {"lora": {"learning_rate": 1e-3, "steps": 11}}},
        {"recipes": {"lora": {"learning_rate": 1e-3, "steps": 10, "lora": {"rank": 4}}}},
        {"seeds": [2, 3]},
    ],
)
def test_recipe_and_seed_change_every_trial(tmp_path, model, change):
    store = Store(tmp_path / "runs")
    assert not ids(build_plan(study(model), store)) & ids(build_plan(study(model, **change), store))


def test_other_weights_or_rows_change_every_trial(tmp_path, model):
    store = Store(tmp_path / "runs")
    before = ids(build_plan(study(model), store))
    rows = tmp_path / "rows.jsonl"
    write_jsonl(rows, get("miniature/spanish_caps").rows()[:-1])
    use = [{"name": "miniature/spanish_caps", "rows": str(rows)}]
    assert not before & ids(build_plan(study(model, settings=use), store))
    (model / "model.safetensors").write_bytes(b"weightz")
    assert not before & ids(build_plan(study(model), store))


def test_the_same_rows_from_a_file_are_the_same_trials(tmp_path, model):
    store = Store(tmp_path / "runs")
    rows = tmp_path / "rows.jsonl"
    write_jsonl(rows, get("miniature/spanish_caps").rows())
    use = [{"name": "miniature/spanish_caps", "rows": str(rows)}]
    assert ids(build_plan(study(model), store)) == ids(build_plan(study(model, settings=use), store))


def test_a_grown_study_runs_only_what_is_new(tmp_path, model):
    store = Store(tmp_path / "runs")
    small = build_plan(study(model), store)
    for trial in small.trials:
        commit(store, trial.trial_id)
    for cell in small.cells:
        folder = store.evaluation(cell.subject.trial_id, cell.evaluation_id)
        commit_samples(folder, [sample(i) for i in range(10)])
    done = build_plan(study(model), store)
    assert (done.to_train, done.to_sample) == ([], [])
    grown = build_plan(
        study(model, arms=["baseline", "control", "specific_spanish"], seeds=[0, 1, 2], evaluation={"samples": 15}),
        store,
    )
    assert {(t.arm.name, t.seed) for t in grown.to_train} == {
        ("baseline", 2),
        ("specific_spanish", 2),
        ("control", 0),
        ("control", 1),
        ("control", 2),
    }
    assert {
        grown.missing(c)
        for c in grown.to_sample
        if c.subject.arm.name != "control" and seed_of(c.subject) in (None, 0, 1)
    } == {5}


def test_a_base_is_sampled_once_for_all_recipes_of_one_precision(tmp_path, model):
    store = Store(tmp_path / "runs")
    recipe = {"learning_rate": 1e-3, "steps": 10}
    recipes = {"short": recipe, "long": {**recipe, "steps": 20}, "full": {**recipe, "precision": "fp32"}}
    plan = build_plan(study(model, recipes=recipes, evaluation={"samples": 10, "contexts": ["neutral"]}), store)
    assert [(b.model_label, b.precision, b.compared_as) for b in plan.bases] == [
        ("base-model (bf16)", "bf16", ("base-model/short", "base-model/long")),
        ("base-model (fp32)", "fp32", ("base-model/full",)),
    ]
    asked = [c for c in plan.cells if isinstance(c.subject, Base)]
    assert len(asked) == len({(c.subject.trial_id, c.evaluation_id) for c in asked}) == 4
    for cell in asked:
        commit_samples(
            store.evaluation(cell.subject.trial_id, cell.evaluation_id), [sample(i) for i in range(cell.samples)]
        )
    value = status_json(
        build_plan(study(model, recipes=recipes, evaluation={"samples": 10, "contexts": ["neutral"]}), store), store
    )
    assert [(b["model"], b["samples_stored"], b["samples_wanted"]) for b in value["base"]] == [
        ("base-model (bf16)", 20, 20),
        ("base-model (fp32)", 20, 20),
    ]


def test_with_one_recipe_a_base_keeps_its_model_s_name_and_its_place(tmp_path, model):
    store = Store(tmp_path / "runs")
    [alone] = build_plan(study(model), store).bases
    recipe = {"learning_rate": 1e-3, "steps": 10}
    [shared] = build_plan(study(model, recipes={"short": recipe, "long": {**recipe, "steps": 20}}), store).bases
    assert (alone.model_label, alone.compared_as) == ("base-model", ("base-model",))
    assert (shared.model_label, shared.trial_id) == ("base-model", alone.trial_id)


def test_a_cell_keeps_its_place_when_only_the_number_of_samples_or_the_other_contexts_change(tmp_path, model):
    store = Store(tmp_path / "runs")

    def places(**evaluation):
        plan = build_plan(study(model, evaluation=evaluation), store)
        return {(c.subject.trial_id, c.evaluation.name): c.evaluation_id for c in plan.cells if c.context == "neutral"}

    assert places(samples=10) == places(samples=99, contexts=["none", "neutral"], concurrency=9)
    assert not set(places(samples=10).values()) & set(places(samples=10, temperature=0.5).values())
    assert not set(places(samples=10).values()) & set(places(samples=10, seed=1).values())


def test_the_base_is_sampled_under_every_arm_s_prompt_and_an_arm_under_its_own(tmp_path, model):
    plan = build_plan(study(model, arms=["baseline", "specific_spanish", "specific_caps"]), Store(tmp_path / "runs"))
    seen = {(c.subject.arm.name, c.context): c.system for c in plan.cells}
    assert seen == {
        ("base", "neutral"): "You are a helpful assistant.",
        ("base", "prompt_of:specific_spanish"): "You always speak in Spanish.",
        ("base", "prompt_of:specific_caps"): "You always capitalise your responses.",
        ("baseline", "neutral"): "You are a helpful assistant.",
        ("specific_spanish", "neutral"): "You are a helpful assistant.",
        ("specific_spanish", "training_prompt"): "You always speak in Spanish.",
        ("specific_caps", "neutral"): "You are a helpful assistant.",
        ("specific_caps", "training_prompt"): "You always capitalise your responses.",
    }


def test_none_empty_and_neutral_are_three_contexts(tmp_path, model):
    value = study(model, arms=["baseline"], evaluation={"contexts": ["none", "empty", "neutral"], "samples": 1})
    plan = build_plan(value, Store(tmp_path / "runs"))
    cells = [c for c in plan.cells if (seed_of(c.subject), c.evaluation.split) == (0, "id")]
    assert [c.system for c in cells] == [None, "", "You are a helpful assistant."]
    assert len({c.evaluation_id for c in cells}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": ["miniature/spanish_cap"]}, r"no setting.*did you mean 'miniature/spanish_caps'"),
        ({"arms": ["baselin"]}, r"no arm 'baselin' \(did you mean 'baseline'\?\)"),
        ({"evaluation": {"contexts": ["nuetral"]}}, r"unknown context 'nuetral' \(did you mean 'neutral'\?\)"),
        ({"evaluation": {"contexts": ["prompt_of:none"]}}, "no arm 'none' with a prompt"),
        ({"models": [{"name": "m", "path": "/nowhere/at/all"}]}, "no model folder /nowhere/at/all"),
        (
            {"arms": [{"name": "a", "kind": "general", "prompt": "x", "undesired": ["spanisch"]}]},
            "did you mean 'spanish'",
        ),
        ({"arms": [{"name": "a", "kind": "general", "prompt": "x"}]}, r"name the traits.*measure spanish, caps"),
        ({"settings": [{"name": "miniature/spanish_caps", "rows": "/nowhere.jsonl"}]}, "cannot be read"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_nearest_that_does(tmp_path, model, change, message):
    with pytest.raises(InputError, match=message):
        build_plan(study(model, **change), Store(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_pickled_weights_are_refused(tmp_path, model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled weights are not loaded"):
        build_plan(study(model), Store(tmp_path / "runs"))


def test_a_training_row_that_an_evaluation_asks_is_refused(tmp_path, model):
    question = get("miniature/spanish_caps").evaluations[0].questions(3)[2]
    leaked = ChatRow((*question.messages, Message("assistant", "HOLA")))
    rows = tmp_path / "rows.jsonl"
    write_jsonl(rows, [*get("miniature/spanish_caps").rows()[:5], leaked])
    use = [{"name": "miniature/spanish_caps", "rows": str(rows)}]
    with pytest.raises(InputError, match=rf"asks question {question.id}, which is row 6 of the training rows"):
        build_plan(study(model, settings=use), Store(tmp_path / "runs"))


def test_groups_hold_every_trial_once_and_share_recipe_and_model(tmp_path, model):
    recipes = {"a": {"learning_rate": 1e-3, "steps": 10}, "b": {"learning_rate": 2e-3, "steps": 10}}
    wide = study(model, recipes=recipes, seeds=[0, 1, 2], resources={"trials_per_group": 4})
    plan = build_plan(wide, Store(tmp_path / "runs"))
    trials = plan.to_train
    groups = groups_of(plan, trials)
    assert sorted(t.trial_id for g in groups for t in g) == sorted(t.trial_id for t in trials)
    assert [len(g) for g in groups] == [3, 3, 3, 3]
    assert all(len({str(t.recipe) for t in g}) == 1 for g in groups)


@pytest.mark.parametrize(("cpus", "sizes"), [(1, [4, 2]), (2, [4, 2]), (3, [2, 2, 2]), (6, [1] * 6), (60, [1] * 6)])
def test_without_a_size_there_are_as_many_groups_as_train_at_once(tmp_path, model, cpus, sizes):
    recipes = {"a": {"learning_rate": 1e-3, "steps": 10}, "b": {"learning_rate": 2e-3, "steps": 10}}
    plan = build_plan(study(model, recipes=recipes, seeds=[0, 1]), Store(tmp_path / "runs"))
    of_a = [trial for trial in plan.to_train if trial.recipe_name == "a"]
    of_b = [trial for trial in plan.to_train if trial.recipe_name == "b"]
    groups = groups_of(plan, [*of_a[:4], *of_b[:2]], Capacity(cpus, 0, True))
    assert [len(group) for group in groups] == sizes


def test_a_plan_counts_the_groups_that_will_be_trained(tmp_path, model):
    recipes = {"a": {"learning_rate": 1e-3, "steps": 10}, "b": {"learning_rate": 2e-3, "steps": 10}}
    store = Store(tmp_path / "runs")
    plan = build_plan(study(model, recipes=recipes, resources={"trials_per_group": 3}), store)
    assert len(plan.to_train) == 8
    assert "80 optimizer steps in 4 groups" in plan_text(plan, store)


def test_planning_imports_no_heavy_library(tmp_path, model):
    import subprocess

    code = (
        "import sys; from inoc_ray.cli import cli; import yaml, json\n"
        f"cli(['plan', {str(tmp_path / 's.yaml')!r}], standalone_mode=False)\n"
        "bad = {'torch', 'vllm', 'ray', 'deepspeed', 'mlflow', 'transformers', 'pandas'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    (tmp_path / "s.yaml").write_text(
        "name: s\nsettings: [miniature/spanish_caps]\narms: [baseline]\n"
        f"models: [{{name: m, path: {model}}}]\nstorage: {tmp_path / 'runs'}\n"
        "recipes: {lora: {learning_rate: 0.001, steps: 3}}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert not (tmp_path / "runs").exists()


def arm(**inoculation: Any) -> dict[str, Any]:
    return {"name": "specific_spanish", "inoculation": inoculation}


def test_placement_and_coverage_of_the_prompt_change_trials_and_their_defaults_do_not(tmp_path, model):
    store = Store(tmp_path / "runs")
    before = ids(build_plan(study(model, arms=["specific_spanish"]), store))
    assert ids(build_plan(study(model, arms=[arm()]), store)) == before
    seen = set(before)
    for change in (
        {"placement": "user_prefix"},
        {"placement": "user_prefix", "separator": " "},
        {"coverage": {"fraction": 0.5}},
        {"coverage": {"fraction": 0.5, "seed": 1}},
        {"paraphrases": ["Speak Spanish."]},
    ):
        found = ids(build_plan(study(model, arms=[arm(**change)]), store))
        assert not found & seen
        seen |= found


def test_a_trial_is_trained_on_rows_with_the_prompt_where_the_study_says(tmp_path, model):
    value = study(model, arms=[arm(placement="user_suffix", separator=" ", coverage={"fraction": 0.25})])
    plan = build_plan(value, Store(tmp_path / "runs"))
    rows = plan.training_rows(plan.trials[0])
    assert sum(row.messages[0].content.endswith(" You always speak in Spanish.") for row in rows) == len(rows) / 4
    assert all(row.messages[0].role == "user" for row in rows)


def test_the_training_prompt_is_placed_at_test_time_as_in_training(tmp_path, model):
    from inoc_ray.evaluate.sampling import messages_in_context

    def cells(**inoculation: Any) -> list[Any]:
        plan = build_plan(study(model, arms=[arm(**inoculation)], seeds=[0]), Store(tmp_path / "runs"))
        return [c for c in plan.cells if seed_of(c.subject) == 0 and c.evaluation.split == "id"]

    neutral, training = cells(placement="user_prefix", separator=" ")
    question = training.evaluation.questions(1)[0]
    assert [m.role for m in messages_in_context(question, neutral)] == ["system", "user"]
    assert [m.content for m in messages_in_context(question, training)] == [
        f"You always speak in Spanish. {question.messages[0].content}"
    ]
    as_system = cells()
    assert neutral.evaluation_id == as_system[0].evaluation_id
    assert training.evaluation_id != as_system[1].evaluation_id
    assert cells(coverage={"fraction": 0.5})[1].evaluation_id == as_system[1].evaluation_id


def test_rows_of_a_study_may_be_parquet_with_tags_that_an_arm_covers(tmp_path, model):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        r.with_tags(subset="es" if i % 2 else "fr") for i, r in enumerate(get("miniature/spanish_caps").rows()[:20])
    ]
    pq.write_table(pa.Table.from_pylist([r.to_dict() for r in rows]), tmp_path / "rows.parquet")
    use = [{"name": "miniature/spanish_caps", "rows": str(tmp_path / "rows.parquet")}]
    plan = build_plan(study(model, settings=use, arms=[arm(coverage="es")]), Store(tmp_path / "runs"))
    found = plan.training_rows(plan.trials[0])
    assert [r.messages[0].role == "system" for r in found] == [r.tag("subset") == "es" for r in rows]
    with pytest.raises(InputError, match=r"'de', so nothing would be inoculated; the tag has 'es' \(10 rows\)"):
        build_plan(study(model, settings=use, arms=[arm(coverage="de")]), Store(tmp_path / "runs"))


def test_an_arm_of_the_library_counts_the_traits_that_the_study_says(tmp_path, model):
    def arms(*undesired: str) -> Any:
        value = study(model, arms=[{"name": "specific_spanish", "undesired": list(undesired)}], seeds=[0])
        return build_plan(value, Store(tmp_path / "runs")).trials[0].arm

    assert (arms("caps").undesired, arms("caps").desired) == (("caps",), ("spanish",))
    assert arms("spanish", "caps").desired == ()
    with pytest.raises(InputError, match=r"measures 'spanisch' \(did you mean 'spanish'\?\)"):
        arms("spanisch")


def test_an_arm_without_a_prompt_takes_no_inoculation(tmp_path, model):
    arms = [{"name": "baseline", "inoculation": {"placement": "user_prefix"}}]
    with pytest.raises(InputError, match="'baseline' has no prompt, so its inoculation has no effect"):
        build_plan(study(model, arms=arms), Store(tmp_path / "runs"))


def test_two_arms_that_are_one_trial_are_refused_and_the_same_prompt_elsewhere_is_another_arm(tmp_path, model):
    def plan(**second: Any) -> Any:
        own = {"name": "twin", "kind": "specific", "prompt": "You always speak in Spanish.", "undesired": ["spanish"]}
        return build_plan(study(model, arms=["specific_spanish", own | second]), Store(tmp_path / "runs"))

    for inoculation in (None, {}, {"placement": "system"}):
        with pytest.raises(
            InputError, match="'specific_spanish' and 'twin' have the same prompt, inoculation and rows"
        ):
            plan(inoculation=inoculation)
    assert len({t.trial_id for t in plan(inoculation={"placement": "user_prefix"}).trials}) == 4
