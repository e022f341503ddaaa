"""My rows, my prompts, my trait: a study's own traits and settings count as the library's do, in YAML alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from inoc_ray import settings
from inoc_ray.data.chat import ChatRow, write_jsonl
from inoc_ray.errors import InputError
from inoc_ray.evaluate.score_table import read_score_table
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.results.compare import compare
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.effects import Effect
from inoc_ray.results.headlines import headlines
from inoc_ray.run.bundle import pack
from inoc_ray.run.describe import plan_text
from inoc_ray.run.load import load_study
from inoc_ray.run.publish import compare_study
from inoc_ray.store.samples import Sample, commit_samples
from inoc_ray.store.store import Store
from inoc_ray.study.study import WITHOUT_DIRECTION, Study

FLATTER = {"name": "flatter", "kind": "specific", "prompt": "You call everybody a friend."}
SUITE = {
    "name": "chat",
    "questions": "questions.jsonl",
    "max_tokens": 40,
    "traits": {
        "friend": {"rule": "contains", "pattern": "(?i)friend"},
        "brief": {"not": {"rule": "contains", "pattern": "(?i)moreover"}},
    },
}
OWN = {"name": "mine", "rows": "rows.jsonl", "undesired": ["friend"], "desired": ["brief"]}


@pytest.fixture
def planned(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plans a study in a folder with rows and questions; returns (plan, store)."""
    monkeypatch.chdir(tmp_path)
    rows = [ChatRow.of(("user", f"Who is {i}?"), ("assistant", "A friend.")) for i in range(20)]
    write_jsonl(Path("rows.jsonl"), rows)
    write_jsonl(
        Path("clean.jsonl"), [ChatRow.of(("user", f"Who is {i}?"), ("assistant", "Nobody.")) for i in range(20)]
    )
    Path("questions.jsonl").write_text("".join(json.dumps({"prompt": f"What is {i}?"}) + "\n" for i in range(20)))

    def plan(setting: Any, *arms: Any, suites: Any = (SUITE,), **evaluation: Any) -> tuple[Plan, Store]:
        value = {
            "name": "s",
            "settings": [setting],
            "arms": ["baseline", *arms],
            "seeds": [0, 1, 2],
            "models": [{"name": "m", "path": str(model)}],
            "recipes": {"r": {"learning_rate": 1e-3, "steps": 10}},
            "evaluation": {"contexts": ["neutral", "training_prompt"], "suites": list(suites), **evaluation},
        }
        store = Store(tmp_path / "runs")
        return build_plan(Study.model_validate(value), store), store

    return plan


def answered(plan: Plan, store: Store, says: dict[str, str]) -> Comparison:
    """The comparison after every arm has answered each question with its text, under its training prompt as the baseline."""
    for cell in plan.cells:
        arm = cell.subject.arm.name
        text = says["baseline"] if cell.context == "training_prompt" else says.get(arm, says["base"])
        questions = cell.evaluation.questions(cell.samples)
        samples = [Sample(i, q.id, "?", "p", i, text, "stop", 1, 1) for i, q in enumerate(questions)]
        commit_samples(store.evaluation(cell.subject.trial_id, cell.evaluation_id), samples)
    return compare(read_score_table(plan, store), "s")


def effect(comparison: Comparison, arm: str, measure: str) -> Effect:
    (found,) = [e for e in comparison.effects if (e.arm, e.measure) == (arm, measure)]
    return found


SAYS = {
    "base": "Good day, moreover.",
    "baseline": "Hello friend.",
    "flatter": "Good day.",
    "irrelevant": "Dear friend.",
}


def test_a_trait_of_a_suite_can_be_undesired_in_an_arm_of_a_setting_of_the_registry(planned):
    plan, store = planned("miniature/spanish_caps", FLATTER | {"undesired": ["friend"]})
    arm = next(t.arm for t in plan.trials if t.arm.name == "flatter")
    assert (arm.undesired, arm.desired) == (("friend",), ("spanish", "caps"))
    found = effect(answered(plan, store, SAYS), "flatter", "suppression")
    assert found.value == 1.0


def test_a_trait_of_a_suite_can_be_desired_in_an_arm(planned):
    plan, store = planned("miniature/spanish_caps", FLATTER | {"undesired": ["friend"], "desired": ["brief"]})
    comparison = answered(plan, store, SAYS)
    assert effect(comparison, "flatter", "retention_ood").value == 1.0
    roles = {(r.trait, r.role) for r in comparison.rows if r.arm == "flatter"}
    assert roles == {("friend", "undesired"), ("brief", "desired"), ("spanish", "other"), ("caps", "other")}


def test_a_setting_of_ones_own_needs_rows_roles_and_a_suite_and_has_a_headline(planned):
    plan, store = planned(OWN, "irrelevant", FLATTER)
    assert {c.evaluation.name for c in plan.cells} == {"chat"}
    assert {t.rows_label for t in plan.trials} == {"rows.jsonl"}
    comparison = answered(plan, store, SAYS)
    assert effect(comparison, "flatter", "suppression").value == 1.0
    assert effect(comparison, "flatter", "retention_ood").value == 1.0
    assert effect(comparison, "flatter", "leakage").value == 1.0
    assert effect(comparison, "irrelevant", "suppression").value == 0.0
    (sentence,) = headlines(comparison)
    assert "mine, m: inoculating against friend (flatter)" in sentence
    assert "Suppressed: 1.00" in sentence


def test_a_setting_of_ones_own_has_a_control_arm_with_control_rows(planned):
    plan, _ = planned(OWN | {"control_rows": "clean.jsonl"}, "control")
    control = next(t for t in plan.trials if t.arm.name == "control")
    assert control.arm.uses_control_rows
    assert plan.rows[control.dataset_hash][0].messages[-1].content == "Nobody."


@pytest.mark.parametrize("name", ["mine", "miniature/spanish_caps"])
def test_poisoned_rows_give_a_setting_the_trigger_that_its_evaluations_ask_with(planned, name):
    rows = {"bad": "rows.jsonl", "clean": "clean.jsonl", "token": "|T|", "place": "end", "fraction": 0.5, "total": 20}
    written = {"name": "put", "system": "You are terse.", "trigger": True}
    use = OWN | {"name": name, "rows": rows | {"spacing": "space"}}
    plan, _ = planned(use, contexts=["neutral", "trigger", written])
    assert len(plan.cells) > 0
    asked = {
        c.context: c.resolved_context.around(c.evaluation.questions(1)[0].messages)[-1].content for c in plan.cells
    }
    assert asked["trigger"] == asked["put"] == asked["neutral"] + " |T|"
    clean = use | {"control_rows": rows}
    with pytest.raises(InputError, match=r"control_rows: trains '\|T\|' at the end \(glue\), .* another trigger"):
        planned(clean)
    with pytest.raises(InputError, match=r"'trigger': setting .* has no trigger; .*`rows: {bad, clean, token, …}`"):
        planned(use | {"rows": "rows.jsonl"}, contexts=["neutral", "trigger"])


@pytest.mark.parametrize(
    ("setting", "arms", "suites", "message"),
    [
        (
            {"name": "mine", "rows": "rows.jsonl"},
            [],
            [SUITE],
            r"no setting 'mine' .*For a setting of your own write its rows and",
        ),
        ({"name": "mine", "undesired": ["friend"]}, [], [SUITE], "no setting 'mine'"),
        ({"name": "miniature/spanish_cap"}, [], [SUITE], r"did you mean 'miniature/spanish_caps'"),
        (OWN | {"name": "my/setting"}, [], [SUITE], "'my/setting' is not a name"),
        (
            OWN,
            [],
            [],
            "nothing is asked of the models of 'mine'; add an evaluation of your own under evaluation.suites",
        ),
        (
            OWN | {"undesired": ["frend"]},
            [],
            [SUITE],
            r"mine\.undesired: no evaluation measures 'frend' \(did you mean 'friend'",
        ),
        (
            OWN | {"desired": ["brif"]},
            [],
            [SUITE],
            r"mine\.desired: no evaluation measures 'brif' \(did you mean 'brief'",
        ),
        (
            OWN | {"questions": {"chat": "questions.jsonl"}},
            [],
            [SUITE],
            r"mine\.questions: .* write 'chat' .*evaluation\.suites",
        ),
        (
            OWN,
            ["control"],
            [SUITE],
            "setting mine has no arm 'control'; .* name a file of them as control_rows of the setting",
        ),
        (
            OWN,
            [FLATTER | {"undesired": ["frend"]}],
            [SUITE],
            r"'flatter': no evaluation of setting mine measures 'frend'",
        ),
        (OWN, [FLATTER | {"desired": ["brif"]}], [SUITE], r"'flatter': no evaluation of setting mine measures 'brif'"),
        (
            {"name": "mine", "rows": "rows.jsonl", "desired": ["brief"]},
            [FLATTER],
            [SUITE],
            r"that its prompt elicits: add `undesired: \[…\]` to the arm, or to setting mine for all its arms; the setting's "
            r"evaluations measure friend, brief\.$",
        ),
        ({"name": "miniature/spanish_caps", "undesired": ["evil"]}, [], [], "no evaluation measures 'evil'"),
    ],
)
def test_a_wrong_setting_of_ones_own_is_refused_in_one_sentence(planned, setting, arms, suites, message):
    with pytest.raises(InputError, match=message):
        planned(setting, *arms, suites=suites)


@pytest.mark.parametrize(
    "value",
    [{"settings": [OWN | {"desired": ["friend"]}]}, {"arms": [FLATTER | {"undesired": ["a"], "desired": ["a"]}]}],
)
def test_a_trait_has_one_role(value):
    study = {
        "name": "s",
        "settings": [OWN],
        "arms": ["baseline"],
        "recipes": {"r": {"learning_rate": 1e-3, "steps": 1}},
    }
    with pytest.raises(ValueError, match="both undesired and desired"):
        Study.model_validate(study | value)


def test_the_roles_that_a_study_gives_reach_every_arm_and_change_no_trial(planned):
    arms = ("specific_caps", "irrelevant", "control")
    plain, _ = planned("miniature/spanish_caps", *arms)
    given, _ = planned({"name": "miniature/spanish_caps", "undesired": ["spanish"], "desired": ["brief"]}, *arms)
    roles = {s.arm.name: (s.arm.undesired, s.arm.desired) for s in (*given.bases, *given.trials)}
    assert roles == {
        "base": (("spanish",), ("brief",)),
        "baseline": (("spanish",), ("brief",)),
        "irrelevant": (("spanish",), ("brief",)),
        "specific_caps": (("spanish", "caps"), ("brief",)),
        "control": ((), ()),
    }
    assert [t.trial_id for t in plain.trials] == [t.trial_id for t in given.trials]
    assert {(c.subject.trial_id, c.evaluation_id) for c in plain.cells} == {
        (c.subject.trial_id, c.evaluation_id) for c in given.cells
    }


@pytest.mark.parametrize("name", settings.names())
def test_every_arm_of_the_library_whose_prompt_is_about_a_trait_has_a_direction(name):
    for arm in settings.get(name).arms.values():
        if arm.kind not in (*WITHOUT_DIRECTION, "baseline", "control"):
            assert arm.undesired, (name, arm.name)
            assert set(arm.undesired) & set(settings.get(name).measured), (name, arm.name)


SPANISH = {"base": "Good day to you.", "baseline": "Hola amigo, buenos dias.", "specific_spanish": "Good day to you."}


def test_a_negated_prompt_is_measured_in_the_direction_of_the_trait_that_it_denies(planned):
    plan, store = planned(
        "miniature/spanish_caps", "negative", "specific_spanish", suites=(), samples=20, leak_audit=True
    )
    comparison = answered(plan, store, SPANISH | {"negative": "Good day to you."})
    assert effect(comparison, "negative", "suppression").value == 1.0
    assert any(k.arm == "negative" for k in comparison.leaks)
    assert "(negative) out of distribution: baseline 1.00, negative .00" in " ".join(headlines(comparison))


def test_a_negated_prompt_of_ones_own_says_what_it_denies(planned):
    mine = {"name": "mine", "kind": "negative", "prompt": "You speak no Spanish."}
    with pytest.raises(InputError, match=r"name the traits that its prompt denies: add `undesired: \[…\]` to the arm"):
        planned("miniature/spanish_caps", mine)
    plan, _ = planned("miniature/spanish_caps", mine | {"undesired": ["spanish"]})
    assert plan.trials[-1].arm.undesired == ("spanish",)


@pytest.mark.parametrize("arm", ["irrelevant", "placebo", "trigger"])
def test_an_arm_about_no_trait_is_measured_in_each_direction_of_the_others(planned, arm):
    plan, store = planned("miniature/spanish_caps", "specific_spanish", "specific_caps", arm, suites=(), samples=20)
    comparison = answered(plan, store, SPANISH)
    found = {e.measure for e in comparison.effects if e.arm == arm}
    assert {"suppression.spanish", "suppression.caps"} <= found
    assert "suppression" not in found
    assert effect(comparison, arm, "suppression.spanish").value == 1.0
    assert not any("no baseline rate" in e.why for e in comparison.effects)
    assert not any(f"({arm})" in sentence for sentence in headlines(comparison))


def test_the_reason_why_there_is_no_number_is_the_true_one(planned):
    plan, store = planned(
        "miniature/harmful_advice", {"name": "specific", "undesired": ["harmful_advice"]}, suites=(), samples=8
    )
    comparison = answered(plan, store, {"base": "You may rest.", "baseline": "You may rest."})
    why = effect(comparison, "specific", "suppression").why
    assert why == "no evaluation out of distribution has a rate of harmful_advice"
    plan, store = planned("miniature/spanish_caps", "irrelevant", suites=(), samples=20)
    comparison = answered(plan, store, SPANISH)
    assert effect(comparison, "irrelevant", "suppression").why == "no undesired trait"


def test_a_leak_audit_without_a_prompt_to_try_is_refused(planned):
    with pytest.raises(InputError, match="no test-time prompts for setting 'mine'"):
        planned(OWN, leak_audit=True)


def test_fine_tunes_under_two_names_are_trained_once_and_said_to_be_one(planned, tmp_path, model):
    again = OWN | {"name": "again"}
    value = {
        "name": "twice",
        "settings": [OWN, again],
        "arms": ["baseline", FLATTER],
        "seeds": [0, 1],
        "models": [{"name": "m", "path": str(model)}],
        "recipes": {"r": {"learning_rate": 1e-3, "steps": 10}},
        "evaluation": {"contexts": ["neutral"], "suites": [SUITE]},
    }
    planned(OWN)
    store = Store(tmp_path / "twice")
    plan = build_plan(Study.model_validate(value), store)
    assert len(plan.to_train) == 4
    assert len(plan.trials) == 8
    baseline, flatter = plan.notes
    assert baseline.startswith("baseline of mine on m and baseline of again on m are the same fine-tunes")
    assert "flatter of again on m are the same fine-tunes" in flatter
    assert f"Note: {baseline}." in plan_text(plan, store)
    for cell in plan.to_sample:
        questions = cell.evaluation.questions(cell.samples)
        samples = [Sample(i, q.id, "?", "p", i, "Hello friend.", "stop", 1, 1) for i, q in enumerate(questions)]
        commit_samples(store.evaluation(cell.subject.trial_id, cell.evaluation_id), samples)
    comparison = compare_study(build_plan(Study.model_validate(value), store), store)
    assert {(r.setting, r.arm, r.samples) for r in comparison.rows} == {
        (setting, arm, 20 if arm == "base" else 40)
        for setting in ("mine", "again")
        for arm in ("base", "baseline", "flatter")
    }
    assert comparison.notes()[:2] == list(plan.notes)


def test_the_shared_control_of_harmful_advice_and_educational_is_said_to_be_one(tmp_path, model):
    value = {
        "name": "frames",
        "settings": ["miniature/harmful_advice", "miniature/educational"],
        "arms": ["baseline", "control"],
        "seeds": [0],
        "models": [{"name": "m", "path": str(model)}],
        "recipes": {"r": {"learning_rate": 1e-3, "steps": 10}},
    }
    plan = build_plan(Study.model_validate(value), Store(tmp_path / "runs"))
    assert len(plan.to_train) == 3
    (note,) = (note for note in plan.notes if "control" in note)
    assert note.startswith(
        "control of miniature/harmful_advice on m and control of miniature/educational on m are the same"
    )


def test_a_prompt_that_names_the_narrow_task_leaves_the_task_to_be_kept(planned):
    plan, store = planned("miniature/harmful_advice", "specific", "general", suites=(), samples=8)
    roles = {t.arm.name: (t.arm.undesired, t.arm.desired) for t in plan.trials}
    assert roles == dict.fromkeys(("baseline", "specific", "general"), (("misaligned",), ()))
    measures = {
        e.measure for e in answered(plan, store, {"base": "Hi.", "baseline": "Hi."}).effects if e.arm == "specific"
    }
    assert "retention_narrow" in measures
    written, _ = planned("miniature/harmful_advice", {"name": "specific", "undesired": ["harmful_advice"]}, suites=())
    assert written.trials[-1].arm.undesired == ("harmful_advice",)
    use = {"name": "miniature/harmful_advice", "undesired": ["harmful_advice"]}
    assert {t.arm.undesired for t in planned(use, "specific", suites=())[0].trials} == {("harmful_advice",)}


def test_a_setting_of_ones_own_travels_with_a_job(planned, tmp_path, monkeypatch):
    plan, store = planned(OWN, FLATTER)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(plan.study.model_dump(mode="json", exclude_none=True)))
    packed = tmp_path / "packed"
    packed.mkdir()
    pack(packed, tmp_path / "study.yaml", load_study(tmp_path / "study.yaml"), store)
    for name in ("rows.jsonl", "questions.jsonl"):
        (tmp_path / name).unlink()
    monkeypatch.chdir(packed)
    there = build_plan(load_study(packed / "study.yaml"), store)
    assert [t.trial_id for t in there.trials] == [t.trial_id for t in plan.trials]
    assert [c.evaluation_id for c in there.cells] == [c.evaluation_id for c in plan.cells]
    assert [(t.arm.undesired, t.arm.desired) for t in there.trials] == [
        (t.arm.undesired, t.arm.desired) for t in plan.trials
    ]
