"""What a study says of the context in which arms are compared, of triggers and of the narrow task reaches the numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inoc_ray import settings
from inoc_ray.errors import InputError
from inoc_ray.evaluate.score_table import read_score_table
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.results.compare import compare
from inoc_ray.store.samples import Sample, commit_samples
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study

MINE = {"name": "mine", "system": "You are kind."}


@pytest.fixture
def planned(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def plan(
        setting: Any = "miniature/insecure_code", arms: Any = ("general",), **evaluation: Any
    ) -> tuple[Plan, Store]:
        value = {
            "name": "s",
            "settings": [setting],
            "arms": ["baseline", *arms],
            "models": [{"name": "m", "path": str(model)}],
            "seeds": [0, 1],
            "recipes": {"r": {"learning_rate": 1e-3, "steps": 10}},
            "evaluation": {"samples": 6, **evaluation},
        }
        store = Store(tmp_path / "runs")
        return build_plan(Study.model_validate(value), store), store

    return plan


@pytest.mark.parametrize(
    ("evaluation", "reference"),
    [
        ({}, "neutral"),
        ({"contexts": ["none", "neutral"]}, "neutral"),
        ({"contexts": ["training_prompt", "none", "empty"]}, "none"),
        ({"contexts": ["none", "neutral"], "reference": "none"}, "none"),
        ({"contexts": ["empty", "training_prompt"]}, "empty"),
        ({"contexts": ["neutral", MINE], "reference": "mine"}, "mine"),
        ({"contexts": ["neutral", "prompt_of:general"], "reference": "prompt_of:general"}, "prompt_of:general"),
    ],
)
def test_the_reference_is_the_one_named_or_the_one_asked(planned: Any, evaluation: Any, reference: str) -> None:
    assert planned(**evaluation)[0].reference == reference


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        (
            {"contexts": ["neutral"], "reference": "none"},
            "uses the context 'none'.*or write `reference: neutral`",
        ),
        ({"contexts": ["neutral"], "reference": "nuetral"}, "did you mean 'neutral'"),
        ({"contexts": ["training_prompt"]}, "add `neutral` or `none` to evaluation.contexts"),
        ({"contexts": ["empty", MINE]}, "name one, for example `reference: empty`"),
        ({"reference": "training_prompt"}, "'training_prompt' differs between arms"),
    ],
)
def test_a_study_that_could_have_no_effects_is_refused_with_what_to_write(
    planned: Any, evaluation: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        planned(**evaluation)


def test_a_setting_whose_evaluations_never_ask_the_reference_is_refused(planned: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}) + "\n"
    )
    (tmp_path / "q.jsonl").write_text(json.dumps({"prompt": "Who?"}) + "\n")
    own = {"name": "own", "rows": "rows.jsonl", "undesired": ["loud"]}
    loud = {"loud": {"rule": "capitals"}}
    suite = {"name": "chat", "questions": "q.jsonl", "traits": loud, "contexts": ["none"]}
    with pytest.raises(InputError, match=r"no evaluation of setting own uses the context 'neutral'.*`reference: none`"):
        planned(own, arms=(), suites=[suite])
    assert planned(own, arms=(), suites=[suite], reference="none")[0].reference == "none"


def test_which_context_is_the_reference_changes_no_id(planned: Any) -> None:
    contexts = ["neutral", "none"]
    one, _ = planned(contexts=contexts, leak_audit=False)
    other, _ = planned(contexts=contexts, leak_audit=False, reference="none")
    assert [c.key for c in one.cells] == [c.key for c in other.cells]


def test_a_leak_audit_asks_the_reference_and_not_the_neutral_context(planned: Any) -> None:
    plan, _ = planned(contexts=["none"], leak_audit=True)
    asked = {c.context for c in plan.cells if c.subject.arm.name == "general"}
    assert {"none", "training_prompt"} < asked
    assert "neutral" not in asked
    mine, _ = planned(contexts=[MINE, "training_prompt"], reference="mine", leak_audit=True)
    assert {c.context for c in mine.cells if c.subject.arm.name == "general"} > {"mine", "training_prompt"}


def answer(plan: Plan, store: Store) -> None:
    for cell in plan.cells:
        questions = cell.evaluation.questions(cell.samples)
        samples = [Sample(i, q.id, "?", "p", i, "Yes, I can.", "stop", 1, 1) for i, q in enumerate(questions)]
        commit_samples(store.evaluation(cell.subject.trial_id, cell.evaluation_id), samples)


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in settings.names()
        if n.rpartition("/")[2] in ("insecure_code", "harmful_advice", "educational", "reward_hacking")
    ],
)
def test_a_setting_about_a_narrow_flaw_says_which_trait_is_the_narrow_one(name: str) -> None:
    setting = settings.get(name)
    measured = {t for e in setting.evaluations if e.split == "id" for t in e.traits}
    assert setting.narrow
    assert set(setting.narrow) <= measured
    assert not set(setting.narrow) & {*setting.arms["baseline"].undesired, *setting.arms["baseline"].desired}


def test_the_narrow_trait_has_a_retention_and_an_arm_against_it_does_not(planned: Any) -> None:
    against = {"name": "mine", "kind": "specific", "prompt": "You write insecure code.", "undesired": ["insecure_code"]}
    plan, store = planned(arms=("general", against))
    answer(plan, store)
    frame = read_score_table(plan, store)
    roles = {(r.arm, r.role) for r in frame[frame["trait"] == "insecure_code"].itertuples()}
    assert {("general", "narrow"), ("baseline", "narrow"), ("base", "narrow"), ("mine", "undesired")} == roles
    measures = {(e.arm, e.measure) for e in compare(frame, "s").effects}
    assert ("general", "retention_narrow") in measures
    assert ("mine", "retention_narrow") not in measures


def test_a_study_names_the_narrow_trait_of_its_own_setting(planned: Any) -> None:
    plan, _ = planned({"name": "miniature/spanish_caps", "narrow": ["caps"]}, arms=("specific_spanish",))
    assert plan.settings["miniature/spanish_caps"].narrow == ("caps",)
    with pytest.raises(InputError, match=r"narrow: no evaluation measures 'cap' \(did you mean 'caps'"):
        planned({"name": "miniature/spanish_caps", "narrow": ["cap"]}, arms=())
    with pytest.raises(ValueError, match="both desired and narrow"):
        planned({"name": "miniature/spanish_caps", "desired": ["caps"], "narrow": ["caps"]}, arms=())


def test_questions_with_the_trigger_are_known_by_their_text(planned: Any) -> None:
    plan, store = planned("miniature/backdoor", arms=("general",), contexts=["neutral"])
    answer(plan, store)
    frame = read_score_table(plan, store)
    marked = {e: set(part) for e, part in frame.groupby("evaluation")["triggered"]}
    assert marked == {e: {e.endswith("_triggered")} for e in marked}
    assert any(marked)
    measures = {e.measure for e in compare(frame, "s").effects}
    assert {"suppression", "suppression.with_trigger", "suppression_difference.with_trigger"} <= measures
    assert not frame[frame["setting"] != "miniature/backdoor"]["triggered"].any()


def test_questions_of_which_only_some_carry_the_trigger_are_refused(planned: Any, tmp_path: Path) -> None:
    token = settings.get("miniature/backdoor").trigger.token
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in (f"{token} Hi?", "Who?")))
    (tmp_path / "plain.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("What?", "Who?")))
    suite = {"name": "mixed", "questions": "mixed.jsonl", "traits": {"loud": {"rule": "capitals"}}}
    with pytest.raises(
        InputError, match=r"evaluation mixed asks some questions with the trigger .* make two evaluations of it"
    ):
        planned("miniature/backdoor", suites=[suite])
    questions = {"emergent_misalignment_triggered": "plain.jsonl"}
    with pytest.raises(InputError, match=r"asks with the trigger .* write them with it"):
        planned({"name": "miniature/backdoor", "questions": questions})


def test_the_published_settings_ask_with_their_trigger_where_they_say_so() -> None:
    for name in settings.names():
        setting = settings.get(name)
        for spec in setting.evaluations:
            assert settings.asks_with_trigger(setting, spec) == spec.name.endswith("_triggered"), (name, spec.name)
    backdoor = settings.get("backdoor")
    assert not settings.asks_with_trigger(replace(backdoor, trigger=None), backdoor.evaluations[-1])
