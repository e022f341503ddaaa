"""Resources of a study, replaced per model, recipe and judge, and obeyed by everything that runs."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from inoc_ray.cluster.fit import Capacity
from inoc_ray.errors import InputError
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.run.preflight import check_batches, check_capacity
from inoc_ray.serve.models import serve_spec
from inoc_ray.store.store import Store
from inoc_ray.study.resources import EngineResources, Resources
from inoc_ray.study.study import Study
from inoc_ray.train.sweep import groups_of, job_of, waves_of

LORA = {"learning_rate": 1e-3, "steps": 10}
FULL = {"learning_rate": 1e-5, "steps": 10, "method": "full"}


def study(model: Path, resources: dict[str, Any], **changes: Any) -> Study:
    value = {
        "name": "s",
        "settings": ["miniature/spanish_caps"],
        "arms": ["baseline"],
        "seeds": [1, 2],
        "models": [{"name": "small", "path": str(model)}, {"name": "large", "path": str(model)}],
        "recipes": {"lora": LORA, "full": FULL},
        "evaluation": {"samples": 1},
        "resources": resources,
    }
    return Study.model_validate(value | changes)


def planned(model: Path, resources: dict[str, Any], **changes: Any) -> tuple[Plan, Store]:
    store = Store(model.parent / "runs")
    return build_plan(study(model, resources, **changes), store), store


def test_a_recipe_replaces_a_model_replaces_a_study():
    given = Resources.model_validate(
        {
            "micro_batch_size": 4,
            "models": {"large": {"workers": 4, "zero_stage": 3, "recipes": {"full": {"workers": 8}}}},
            "recipes": {"full": {"gpus_per_worker": 1}},
        }
    )
    small, large = given.of_fine_tune("small", "lora"), given.of_fine_tune("large", "lora")
    assert (small.workers, small.zero_stage, small.micro_batch_size) == (1, 0, 4)
    assert (large.workers, large.zero_stage, large.micro_batch_size) == (4, 3, 4)
    both = given.of_fine_tune("large", "full")
    assert (both.workers, both.zero_stage, both.gpus_per_worker) == (8, 3, 1)
    prior = given.of_fine_tune("large", None)
    assert (prior.workers, prior.gpus_per_worker) == (4, 0)


def test_a_value_equal_to_the_default_replaces_another():
    given = Resources.model_validate({"workers": 4, "models": {"small": {"workers": 1}}})
    assert given.of_fine_tune("small", "r").workers == 1


def test_two_values_of_one_field_are_refused_until_the_study_decides():
    value = {"models": {"large": {"workers": 4}}, "recipes": {"full": {"workers": 8}}}
    with pytest.raises(
        InputError, match=r"workers is 4 under models\.large and 8 under recipes\.full; say which holds"
    ):
        Resources.model_validate(value).of_fine_tune("large", "full")
    value["models"]["large"]["recipes"] = {"full": {"workers": 16}}  # type: ignore[assignment]
    assert Resources.model_validate(value).of_fine_tune("large", "full").workers == 16


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"models": {"larg": {}}}, r"resources.models: there is no model 'larg' \(did you mean 'large'\?\)"),
        ({"recipes": {"lore": {}}}, r"resources.recipes: there is no recipe 'lore' \(did you mean 'lora'\?\)"),
        ({"models": {"large": {"recipes": {"x": {}}}}}, r"resources.models.large.recipes: there is no recipe 'x'"),
        ({"judges": {"api": {}}}, r"resources.judges: there is no judge 'api'; a judge behind an API runs on nothing"),
    ],
)
def test_a_name_that_the_study_does_not_have_is_refused(model, resources, message):
    judges = {"api": {"endpoint": "https://h/v1", "served_model": "m", "api_key_env": "KEY"}}
    with pytest.raises(ValidationError, match=message):
        study(model, resources, judges=judges)


def test_every_fine_tune_and_engine_runs_on_its_own_resources(model):
    resources = {
        "micro_batch_size": 4,
        "models": {"large": {"zero_stage": 3, "serve_cpus": 2, "serve_loras": 7}},
        "recipes": {"full": {"micro_batch_size": 2}},
    }
    plan, store = planned(model, resources)
    runs_on = {(t.model.name, t.recipe_name): job_of(plan, store, t).spec.resources for t in plan.trials}
    stages = {pair: (found.zero_stage, found.micro_batch_size) for pair, found in runs_on.items()}
    assert stages == {
        ("small", "lora"): (0, 4),
        ("small", "full"): (0, 2),
        ("large", "lora"): (3, 4),
        ("large", "full"): (3, 2),
    }
    engines = {b.model.name: serve_spec(plan, store, b) for b in plan.bases}
    assert (engines["small"].cpus, engines["large"].cpus, engines["large"].max_loras) == (1.0, 2.0, 7)


def test_groups_share_resources_and_waves_share_a_shape_narrow_ones_first(model):
    resources = {"trials_per_group": 8, "models": {"large": {"workers": 2, "trials_per_group": 1}}}
    plan, _ = planned(model, resources, recipes={"lora": LORA})
    # Both names mean the same folder, so their trials are the same: the wider one is the last of the study.
    plan_small, _ = planned(model, {"trials_per_group": 8}, recipes={"lora": LORA})
    assert [len(groups_of(plan, wave)) for wave in waves_of(plan)] == [2]
    assert [len(groups_of(plan_small, wave)) for wave in waves_of(plan_small)] == [1]
    mixed, _ = planned(model, {"trials_per_group": 8, "recipes": {"lora": {"workers": 2}}})
    assert [{t.recipe_name for t in wave} for wave in waves_of(mixed)] == [{"full"}, {"lora"}]


def test_each_shape_must_fit_the_cluster(model):
    plan, _ = planned(model, {"recipes": {"full": {"workers": 4}}})
    check_capacity(plan, Capacity(4.0, 0.0, True))
    with pytest.raises(InputError, match="4 workers × 1 CPU = 4 CPU, and the cluster has 2"):
        check_capacity(plan, Capacity(2.0, 0.0, True))
    served, _ = planned(model, {"models": {"large": {"serve_cpus": 3}}})
    with pytest.raises(InputError, match="serving needs 3 CPU"):
        check_capacity(served, Capacity(2.0, 0.0, True))


def test_batches_are_divided_among_the_workers_of_each_recipe(model):
    plan, _ = planned(model, {"micro_batch_size": 4, "recipes": {"full": {"workers": 3}}})
    with pytest.raises(InputError, match=r"recipes\.full\.batch_size 16 is not a multiple of .* 4 × 3 = 12"):
        check_batches(plan)


def test_a_judge_has_an_engine_of_its_own_size():
    given = Resources.model_validate({"serve_gpus": 1, "judges": {"own": {"serve_gpus": 4, "serve_cpus": 2}}})
    assert given.of_judge("own") == EngineResources(serve_gpus=4, serve_cpus=2)
    assert given.of_judge("other").serve_gpus == 1
