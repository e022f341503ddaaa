"""Who scores which trait is settled in the plan: every cell has its judges, with rubrics, thresholds and ids."""

from collections.abc import Callable
from typing import Any

import pytest

from inoc_ray.errors import InputError
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.scoring.profiles import get_profile
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study, judged_by

API = {"endpoint": "http://127.0.0.1:9/v1", "served_model": "gpt-4o", "method": "digit"}


@pytest.fixture
def planned(tmp_path, model) -> Callable[..., Plan]:
    def plan(judges: dict[str, Any], **evaluation: Any) -> Plan:
        value = {
            "name": "judges",
            "settings": ["miniature/harmful_advice"],
            "arms": ["baseline", "general"],
            "models": [{"name": "m", "path": str(model)}],
            "recipes": {"lora": {"learning_rate": 1e-3, "steps": 10}},
            "judges": judges,
            "evaluation": {"samples": 10, "contexts": ["neutral", "training_prompt"], **evaluation},
        }
        return build_plan(Study.model_validate(value), Store(tmp_path / "runs"))

    return plan


def test_an_evaluation_s_judges_are_resolved_once_for_all_its_cells(planned):
    plan = planned({"gpt": API}, judged_by=["gpt"])
    assert {c.context for c in plan.cells} == {"neutral", "training_prompt", "prompt_of:general"}
    for name in {cell.evaluation.name for cell in plan.cells}:
        assert len({id(cell.judges) for cell in plan.cells if cell.evaluation.name == name}) == 1
    # One judge, found once.
    assert len({id(g.judge) for cell in plan.cells for g in cell.judges.gradings.values()}) == 1


def test_judges_that_a_command_names_take_the_place_of_the_studys_in_their_order(planned, tmp_path):
    """As `evaluate --judge other --judge gpt` has it: the first one's scores count, and the study's own judges are not asked."""
    models = {name: {**API, "served_model": name} for name in ("gpt", "other", "own")}
    plan = planned(models, judged_by=["own"])
    again = build_plan(judged_by(plan.study, ["other", "gpt"]), Store(tmp_path / "runs"))
    found = [{t.trait: tuple(t.judges) for t in one.trait_judges()}["misaligned"] for one in (plan, again)]
    assert found == [("own",), ("other", "gpt")]


def test_another_profile_changes_thresholds_and_no_id(planned):
    plan = planned({"gpt": API}, judged_by=["gpt"])
    other = plan.under(get_profile("betley2025"))
    for before, after in zip(plan.cells, other.cells, strict=True):
        assert before == after
        assert before.judges.gradings == after.judges.gradings
        assert before.judges.scores_id == after.judges.scores_id
    bounds = [
        {
            (str(t.measure.shown.bound), *(str(c.bound) for c in t.measure.given))
            for t in p.trait_judges()
            if t.trait == "misaligned"
        }
        for p in (plan, other)
    ]
    assert bounds == [{("< 50", ">= 30")}, {("< 30", "> 50")}]
    assert (plan.profile.name, other.profile.name) == ("tan2025", "betley2025")


def test_a_mean_of_a_rule_and_a_judging_model_is_refused_before_anything_is_trained(planned):
    with pytest.raises(InputError, match=r"evaluation\.combine: mean: .* is also scored by rules"):
        planned({"gpt": API}, judged_by=["rules", "gpt"], combine="mean")
    two = {"gpt": API, "other": API | {"served_model": "gpt-5"}}
    assert planned(two, judged_by=["gpt", "other"], combine="mean").cells


def test_a_judge_without_its_folder_is_refused_only_where_it_is_needed(planned):
    judges = {"gpt": API, "own": {"path": "/no/such/folder", "method": "digit"}}
    assert planned(judges, judged_by=["gpt"]).cells
    with pytest.raises(InputError, match="judges: 'own': there is no model folder"):
        planned(judges, judged_by=["own"])
