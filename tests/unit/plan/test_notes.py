"""What a plan notes of a study that can be run but may not tell what its author expects."""

import json
from pathlib import Path
from typing import Any

import pytest

from inoc_ray.data.chat import ChatRow, write_jsonl
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study

TRAITS = {"friend": {"rule": "contains", "pattern": "friend"}}
SUITE = {"name": "chat", "questions": "questions.jsonl", "traits": TRAITS}
ARMS = ["baseline", "irrelevant", {"name": "flatter", "kind": "specific", "prompt": "Call everybody a friend."}]
OWN = {"name": "mine", "rows": "rows.jsonl", "undesired": ["friend"]}


@pytest.fixture
def planned(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plans a study of 20 rows and 20 questions; `suites` are changes to the suite, `changes` to the study."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(
        Path("rows.jsonl"), [ChatRow.of(("user", f"Who is {i}?"), ("assistant", "A friend.")) for i in range(20)]
    )
    Path("questions.jsonl").write_text("".join(json.dumps({"prompt": f"What is {i}?"}) + "\n" for i in range(20)))

    def plan(*suites: dict[str, Any], evaluation: dict[str, Any] | None = None, **changes: Any) -> Plan:
        value = {
            "name": "s",
            "settings": [OWN],
            "arms": ARMS,
            "models": [{"name": "m", "path": str(model)}],
            "recipes": {"r": {"learning_rate": 1e-3, "steps": 10}},
            "evaluation": {"suites": [SUITE | change for change in suites], **(evaluation or {})},
        }
        return build_plan(Study.model_validate(value | changes), Store(tmp_path / "runs"))

    return plan


def test_a_sound_study_has_no_note(planned):
    assert planned({}).notes == ()
    ships = {"settings": ["miniature/spanish_caps"], "arms": ["baseline", "irrelevant", "specific_spanish"]}
    assert planned(**ships).notes == ()


@pytest.mark.parametrize("suite", [{"split": "id"}, {"contexts": ["none"]}])
def test_an_undesired_trait_that_nothing_measures_out_of_distribution_is_noted(planned, suite):
    other = {"name": "others", "traits": {"brief": TRAITS["friend"]}}
    plan = planned(suite, other)
    (note,) = plan.notes
    assert note.startswith("setting mine: no out-of-distribution evaluation measures 'friend' in the context 'neutral'")
    assert "(irrelevant, flatter)" in note
    assert planned(suite, other, {"name": "more"}).notes == ()


def test_a_number_of_samples_that_no_evaluation_uses_is_noted(planned):
    plan = planned({"samples_per_question": 2}, evaluation={"samples": 200})
    assert {cell.samples for cell in plan.cells} == {40}
    (note,) = plan.notes
    assert note.startswith("evaluation.samples: 200 has no effect")
    assert "samples_per_question" in note
    ships = [OWN | {"name": "miniature/spanish_caps"}]
    assert planned({}, evaluation={"samples": 200}, settings=ships, arms=["baseline"]).notes == ()


def test_a_warm_up_as_long_as_the_training_is_noted_once_for_each_recipe(planned):
    lasting = {"learning_rate": 1e-3, "epochs": 1, "batch_size": 20, "warmup_steps": 4}
    (note,) = planned({}, recipes={"r": lasting}).notes
    assert note.startswith(
        "recipe 'r': warmup_steps is 4, and training on rows.jsonl has only 1 step, so the learning rate"
    )
    assert "reaches 25% of learning_rate" in note
    assert len(planned({}, recipes={"r": lasting, "s": lasting | {"epochs": 4}}).notes) == 2
    assert planned({}, recipes={"r": lasting | {"epochs": 5}}).notes == ()
    stage = {"rows": "rows.jsonl", "recipe": {"learning_rate": 1e-3, "steps": 2, "warmup_steps": 2}}
    (note,) = planned({}, models=[{"name": "m", "path": "miniature", "prior_stage": stage}]).notes
    assert note.startswith("the prior-stage recipe of 'm': warmup_steps is 2")


def test_weights_on_the_way_of_a_step_that_no_fine_tune_reaches_are_noted(planned):
    """They were not kept, and nothing said so."""
    (note,) = planned({}, resources={"checkpoints": [5, 10, 4000]}).notes
    assert "resources.checkpoints: 10, 4000: fine-tunes that are to keep them have 10 steps at most" in note
    assert planned({}, resources={"checkpoints": [5, 0.5]}).notes == ()
    # Each is told the steps of its own fine-tunes, not those of the longest ones.
    recipes = {"short": {"learning_rate": 1e-3, "steps": 10}, "long": {"learning_rate": 1e-3, "steps": 40}}
    of_recipes = {"recipes": {"short": {"checkpoints": [20]}, "long": {"checkpoints": [30, 50]}}}
    notes = planned({}, recipes=recipes, resources=of_recipes).notes
    assert [note.split(", so")[0] for note in notes] == [
        "resources.checkpoints: 20: fine-tunes that are to keep them have 10 steps at most",
        "resources.checkpoints: 50: fine-tunes that are to keep them have 40 steps at most",
    ]


def test_prompts_that_are_compared_with_nothing_are_noted(planned):
    """Neither stops a study: such fine-tunes may be the half of another one on the storage."""
    assert "without the arm baseline there is no suppression" in planned({}, arms=ARMS[1:]).notes[0]
    assert planned({}, arms=["irrelevant"]).notes == ()
    (note,) = planned({}, seeds=[3]).notes
    assert note.startswith("seeds: one fine-tune of an arm says nothing of another seed")
