"""A study can say how the settings' own evaluations are asked, and what it does not say changes no id."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from inoc_ray.errors import InputError
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.cells import Cell
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study


def cells(tmp_path: Path, questions: str | None = None, **evaluation: Any) -> list[Cell]:
    setting: dict[str, Any] = {"name": "miniature/harmful_advice"}
    if questions is not None:
        setting["questions"] = {"emergent_misalignment": questions}
    study = Study.model_validate(
        {
            "name": "s",
            "settings": [setting],
            "arms": ["baseline"],
            "seeds": [0],
            "models": [{"name": "miniature"}],
            "recipes": {"lora": {"learning_rate": 1e-3, "steps": 10}},
            "evaluation": {"contexts": ["neutral"], "samples": 20} | evaluation,
        }
    )
    return list(build_plan(study, Store(tmp_path / "runs")).cells)


def of(found: list[Cell], name: str) -> Cell:
    return next(c for c in found if c.evaluation.name == name)


def test_writing_a_default_out_changes_no_id(tmp_path):
    plain = cells(tmp_path)
    names = {c.evaluation.name: c.evaluation.max_tokens for c in plain}
    written = {name: {"max_tokens": tokens, "samples": 20} for name, tokens in names.items()}
    assert [c.evaluation_id for c in cells(tmp_path, overrides=written)] == [c.evaluation_id for c in plain]


def test_an_override_is_of_its_evaluation_alone_and_comes_before_the_study_s_number(tmp_path):
    plain = cells(tmp_path)
    name = plain[0].evaluation.name
    other = next(c.evaluation.name for c in plain if c.evaluation.name != name)
    found = cells(tmp_path, max_tokens=64, overrides={name: {"max_tokens": 96, "samples": 7, "temperature": 0.5}})
    assert (of(found, name).evaluation.max_tokens, of(found, name).samples) == (96, 7)
    assert of(found, name).evaluation.temperature == 0.5
    assert (of(found, other).evaluation.max_tokens, of(found, other).samples) == (64, 20)
    assert of(found, name).evaluation_id != of(plain, name).evaluation_id


def test_the_number_of_samples_is_no_part_of_the_id(tmp_path):
    plain = cells(tmp_path)
    name = plain[0].evaluation.name
    assert of(cells(tmp_path, overrides={name: {"samples": 7}}), name).evaluation_id == of(plain, name).evaluation_id


def test_every_question_can_be_asked_so_many_times(tmp_path):
    name, file = "emergent_misalignment", tmp_path / "q.jsonl"
    file.write_text("".join(f'{{"prompt": "Question {n}?"}}\n' for n in range(8)))
    asked = of(cells(tmp_path, str(file), overrides={name: {"samples_per_question": 100}}), name)
    counts = Counter(q.id for q in asked.evaluation.questions(asked.samples))
    assert asked.samples == 800
    assert (len(counts), set(counts.values())) == (8, {100})


def test_a_suite_takes_the_study_s_number_unless_it_has_its_own(tmp_path):
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"prompt": "Who are you?"}\n')
    suite = {"questions": str(questions), "traits": {"t": {"rule": "contains", "pattern": "me"}}}
    suites = [suite | {"name": "plain"}, suite | {"name": "own", "max_tokens": 5}]
    for study, expected in (({}, (600, 5)), ({"max_tokens": 64}, (64, 5))):
        found = cells(tmp_path, suites=suites, **study)
        assert tuple(of(found, name).evaluation.max_tokens for name in ("plain", "own")) == expected


WRONG = {
    "an unknown evaluation": ({"emergent_misalignmnt": {"samples": 3}}, "did you mean 'emergent_misalignment'"),
    "an unknown field": ({"emergent_misalignment": {"max_token": 3}}, "did you mean 'max_tokens'"),
    "two numbers": ({"emergent_misalignment": {"samples": 3, "samples_per_question": 3}}, "not both"),
    "nothing": ({"emergent_misalignment": {"max_tokens": 0}}, "max_tokens"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_override_is_named(case, tmp_path):
    overrides, message = WRONG[case]
    with pytest.raises((InputError, ValueError), match=message):
        cells(tmp_path, overrides=overrides)


def test_made_questions_have_no_number_per_question(tmp_path):
    with pytest.raises(InputError, match="set samples instead"):
        cells(tmp_path, overrides={"advice": {"samples_per_question": 3}})
