"""What a study means is what its models see, or it is refused before anything starts."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from model_folders import folder_of
from template_parts import Parts

from inoc_ray.cli import main
from inoc_ray.data.chat import ChatRow, write_jsonl
from inoc_ray.errors import InputError
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.templates import check_roles, identical_contexts
from inoc_ray.run.preflight import check_rows, say_identical_contexts
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study
from inoc_ray.train.sweep import job_of


def study(folder: Path, **changes: Any) -> Study:
    value = {
        "name": "s",
        "settings": ["miniature/spanish_caps"],
        "arms": ["baseline", "specific_spanish"],
        "seeds": [0],
        "models": [{"name": "m", "path": str(folder)}],
        "recipes": {"lora": {"learning_rate": 1e-3, "steps": 10, "max_length": 512}},
        "evaluation": {"samples": 4},
    }
    return Study.model_validate({**value, **changes})


def arm(name: str, prompt: str, **inoculation: Any) -> dict[str, Any]:
    own = {"inoculation": inoculation} if inoculation else {}
    return {"name": name, "kind": "specific", "prompt": prompt, "undesired": ["spanish"], **own}


IN_THE_USER_TURN = ["baseline", arm("mine", "You speak Spanish.", placement="user_prefix")]


@pytest.mark.parametrize("system", ["dropped", "refused"])
def test_a_model_without_a_place_for_a_system_message_is_refused_before_training(tmp_path, system):
    folder = folder_of(tmp_path / "m", Parts(system=system).source)
    store = Store(tmp_path / "runs")
    with pytest.raises(InputError, match=r"arm specific_spanish\), row 1: .*user_prefix or user_suffix.*\[none\]"):
        check_roles(build_plan(study(folder), store))
    with pytest.raises(InputError, match=r"in the context 'neutral'.*evaluation.contexts: \[none\]"):
        check_roles(build_plan(study(folder, arms=IN_THE_USER_TURN), store))
    works = build_plan(
        study(folder, arms=IN_THE_USER_TURN, evaluation={"samples": 4, "contexts": ["none", "training_prompt"]}), store
    )
    check_roles(works)
    check_rows(works)


def test_a_row_that_is_longer_than_a_forward_pass_is_refused_before_training(tmp_path):
    folder, store = folder_of(tmp_path / "m", Parts().source), Store(tmp_path / "runs")
    check_rows(build_plan(study(folder, resources={"micro_batch_tokens": 10_000}), store))
    with pytest.raises(
        InputError,
        match=r"\(arm .*\), row \d+ has \d+ tokens, but resources.micro_batch_tokens is 20, and a row is never cut",
    ):
        check_rows(build_plan(study(folder, resources={"micro_batch_tokens": 20}), store))


def test_prompts_of_the_leak_audit_are_system_messages(tmp_path):
    folder = folder_of(tmp_path / "m", Parts(system="refused").source)
    asked = {"samples": 4, "contexts": ["none"]}
    store = Store(tmp_path / "runs")
    audit = build_plan(study(folder, arms=IN_THE_USER_TURN, evaluation={**asked, "leak_audit": True}), store)
    with pytest.raises(InputError, match=r"'library:.*The leak audit adds .* remove evaluation\.leak_audit"):
        check_roles(audit)
    named = next(c.context for c in audit.cells if c.context.startswith("library:"))
    asked["contexts"] = ["none", named]
    with pytest.raises(InputError, match=r"contexts: \[none\]\)\.$"):
        check_roles(build_plan(study(folder, arms=IN_THE_USER_TURN, evaluation={**asked, "leak_audit": True}), store))


def test_plan_check_and_run_refuse_the_same_row(tmp_path, monkeypatch, capsys):
    folder = folder_of(tmp_path / "m", Parts(alternates=True).source)
    rows = tmp_path / "rows.jsonl"
    write_jsonl(rows, [ChatRow.of(("user", "a"), ("assistant", "b")), ChatRow.of(("assistant", "Water boils."))])
    asked = study(
        folder,
        settings=[{"name": "miniature/spanish_caps", "rows": str(rows)}],
        arms=["baseline"],
        name="s",
        storage=str(tmp_path / "r"),
    )
    (tmp_path / "s.yaml").write_text(json.dumps(asked.model_dump(mode="json", exclude_unset=True)))
    commands = (["plan", "s.yaml"], ["run", "s.yaml"], ["data", "check", str(rows), "--model", str(folder)])
    monkeypatch.chdir(tmp_path)
    for command in commands:
        monkeypatch.setattr(sys, "argv", ["inoc-ray", *command])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        assert "row 2: the chat template refuses" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("template", "arms"),
    [
        (Parts(trims=True).source, [arm("one", "Speak Spanish."), arm("two", "Speak Spanish.\n")]),
        (
            Parts(system="in the first user turn").source,
            [arm("one", "Speak Spanish."), arm("two", "Speak Spanish.", placement="user_prefix")],
        ),
    ],
)
def test_two_arms_that_the_template_renders_identically_are_refused(tmp_path, template, arms):
    folder = folder_of(tmp_path / "m", template)
    store = Store(tmp_path / "runs")
    with pytest.raises(InputError, match=r"'one' and 'two' .* identical for model 'm'"):
        check_rows(build_plan(study(folder, arms=["baseline", *arms]), store))
    shipped = build_plan(study(Path("miniature"), arms=["baseline", *arms]), store)
    check_rows(shipped)


def test_a_prior_stage_on_the_setting_s_own_rows_may_equal_the_baseline(tmp_path):
    folder = folder_of(tmp_path / "m", Parts().source)
    lesson = {"setting": "miniature/spanish_caps", "recipe": "lora", "seed": 5}
    models = [{"name": "plain", "path": str(folder)}, {"name": "taught", "path": str(folder), "prior_stage": lesson}]
    plan = build_plan(study(folder, models=models, arms=["baseline"]), Store(tmp_path / "runs"))
    # The lesson trains on what the baseline of the setting trains on, under the setting's name.
    assert [(t.setting, t.seed) for t in plan.prior_stages] == [("miniature/spanish_caps", 5)]
    check_rows(plan)


def test_control_rows_equal_to_the_rows_are_noted_and_not_blamed_on_the_template(tmp_path):
    folder = folder_of(tmp_path / "m", Parts().source)
    rows = tmp_path / "rows.jsonl"
    write_jsonl(rows, [ChatRow.of(("user", f"Question {n}?"), ("assistant", f"Answer {n}.")) for n in range(8)])
    use = {"name": "miniature/spanish_caps", "rows": str(rows), "control_rows": str(rows)}
    asked = study(folder, settings=[use], arms=["baseline", "control"], seeds=[0, 1])
    plan = build_plan(asked, Store(tmp_path / "runs"))
    assert any("the same fine-tunes" in note for note in plan.notes)
    check_rows(plan)


@pytest.mark.parametrize(("own", "alike"), [("You are a helpful assistant.", True), ("You are Qwen.", False)])
def test_contexts_that_the_template_renders_identically_are_noted(tmp_path, own, alike, capsys):
    """Templates like Qwen2.5's write a system message where there is none."""
    template = (
        "{% if messages[0].role != 'system' %}<|im_start|>system\n" + own + "<|im_end|>\n{% endif %}" + Parts().source
    )
    folder = folder_of(tmp_path / "m", template)
    for path, contexts in (
        (folder, ["neutral", "none"]),
        (folder, ["none", "neutral"]),
        (Path("miniature"), ["neutral", "none"]),
    ):
        asked = study(path, evaluation={"samples": 4, "contexts": contexts})
        plan = build_plan(asked, Store(tmp_path / "runs"))
        notes = identical_contexts(plan.to_sample)
        both = f"model m: the chat template renders the contexts {' and '.join(contexts)} identically"
        shows = f"model m: the chat template adds its own system message to the context none: {own!r}"
        assert set(notes) == (({shows, both} if alike else {shows}) if path == folder else set())
        say_identical_contexts(plan)
        told = capsys.readouterr().err
        assert all(f"note: {note}" in told for note in notes)


@pytest.mark.parametrize("think", ["none", "open prompt"])
def test_enable_thinking_that_the_template_ignores_is_refused(tmp_path, think):
    folder = folder_of(tmp_path / "m", Parts(think=think).source)
    for thinking in (True, False):
        asked = study(folder, models=[{"name": "m", "path": str(folder), "enable_thinking": thinking}])
        with pytest.raises(InputError, match=f"'m': enable_thinking: {str(thinking).lower()} has no effect"):
            check_roles(build_plan(asked, Store(tmp_path / "runs")))
    thinks = folder_of(tmp_path / "n", Parts(think="hybrid").source)
    asked = study(thinks, models=[{"name": "m", "path": str(thinks), "enable_thinking": False}])
    check_roles(build_plan(asked, Store(tmp_path / "runs")))


def test_enable_thinking_is_part_of_a_trial_s_identity_only_if_set(tmp_path):
    folder = folder_of(tmp_path / "m", Parts(think="last turn").source)
    store = Store(tmp_path / "runs")

    def plan(**more: Any) -> Any:
        return build_plan(study(folder, models=[{"name": "m", "path": str(folder), **more}]), store)

    left, thinks, answers = plan(), plan(enable_thinking=True), plan(enable_thinking=False)
    ids = [{s.trial_id for s in p.subjects} for p in (left, thinks, answers)]
    assert not ids[0] & ids[1] | ids[1] & ids[2] | ids[0] & ids[2]
    assert ids[0] == {s.trial_id for s in plan(enable_thinking=None).subjects}
    assert {c.evaluation_id for c in left.cells} == {c.evaluation_id for c in answers.cells}
    assert job_of(answers, store, answers.trials[0]).spec.enable_thinking is False
