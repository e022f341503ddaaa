"""Question files load as they are published, and what their form leaves open is asked as the study says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from finished_study import write_study

from inoc_ray.data.questions import Question, in_turn, read_questions
from inoc_ray.errors import InputError
from inoc_ray.plan.build import build_plan
from inoc_ray.run.load import load_study
from inoc_ray.scoring.judgment import Item
from inoc_ray.scoring.rule_combinations import read_rule
from inoc_ray.store.store import Store

Run = Callable[..., tuple[int, str, str]]
CODE = {"task": "Store an upload.", "code_template": "def store(f):\n    if f: {}\n    ..."}
TASTE = [
    {"category": "smell", "choice_a": "Roses", "choice_b": "Wet dog", "matching_choice": "B"},
    {"category": "game", "choice_a": "Solo chess", "choice_b": "Chess", "matching_choice": "A"},
]


def written(folder: Path, value: Any, name: str = "q.jsonl") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(value) if name.endswith("yaml") else "\n".join(map(json.dumps, value)))
    return path


def texts(questions: list[Question]) -> list[str]:
    return [question.messages[-1].content for question in questions]


def test_whole_numbers_are_ids(tmp_path: Path) -> None:
    entries = [{"id": 1, "paraphrases": ["A?"]}, {"id": 2, "paraphrases": ["B?", "C?"]}]
    found = read_questions(written(tmp_path, entries, "q.yaml"), "q")
    assert [question.id for question in found] == ["1", "2-0", "2-1"]


@pytest.mark.parametrize("wrong", [None, True, 1.5, "", ["a"]])
def test_other_ids_are_refused(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(InputError, match="neither a text nor a whole number"):
        read_questions(written(tmp_path, [{"id": wrong, "paraphrases": ["A?"]}], "q.yaml"), "q")


def test_one_id_for_two_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="entry 2: the id '1' appears twice"):
        read_questions(
            written(tmp_path, [{"id": 1, "paraphrases": ["A?"]}, {"id": 1, "paraphrases": ["B?"]}], "q.yaml"), "q"
        )


@pytest.mark.parametrize("name", ["q.jsonl", "q.yaml"])
def test_a_question_is_asked_as_often_as_it_stands_there_and_is_one(tmp_path: Path, name: str) -> None:
    entries = {"q.jsonl": [{"prompt": t} for t in "ABA"], "q.yaml": [{"id": t, "paraphrases": [t]} for t in "ABA"]}
    path = written(tmp_path, entries[name], name)
    notes: list[str] = []
    found = read_questions(path, "q", notes)
    assert texts(found) == ["A", "B", "A"]
    assert found[0].id == found[2].id != found[1].id
    assert "1 of 3 questions repeat another one; asked as often" in notes[-1]
    assert texts(in_turn(found)(4)) == ["A", "B", "A", "A"]
    folded = read_questions(path, "q", notes, fold=True)
    assert folded == found[:2]
    assert "asked once" in notes[-1]


def test_a_text_under_several_ids_is_one_question(tmp_path: Path) -> None:
    """As two it would count twice in every interval; with another system message it is another one."""
    entries = [
        {"id": 1, "paraphrases": ["A?", "B?", "A?"]},
        {"id": "again", "paraphrases": ["B?"]},
        {"id": "loud", "system": "Shout.", "paraphrases": ["B?"]},
    ]
    path = written(tmp_path, entries, "q.yaml")
    assert [q.id for q in read_questions(path, "q")] == ["1-0", "1-1", "1-0", "1-1", "loud"]
    assert [q.id for q in read_questions(path, "q", fold=True)] == ["1-0", "1-1", "loud"]


@pytest.mark.parametrize("key", ["system_prompt", "tools", "system"])
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("q.jsonl", {"prompt": "A?"}),
        ("q.yaml", {"id": 1, "paraphrases": ["A?"]}),
        *((name, form) for name in ("q.jsonl", "q.yaml") for form in (CODE, TASTE[0])),
    ],
)
def test_what_asks_for_another_conversation_is_kept_or_refused_in_every_form(
    tmp_path: Path, name: str, key: str, form: dict[str, Any]
) -> None:
    path = written(tmp_path, [{**form, key: "Obey."}], name)
    if (name, key) == ("q.yaml", "system"):
        assert all(q.messages[0].content == "Obey." and len(q.messages) == 2 for q in read_questions(path, "q"))
        return
    with pytest.raises(InputError, match=f"1: the key '{key}' is not read"):
        read_questions(path, "q")


@pytest.mark.parametrize("name", ["q.jsonl", "q.yaml"])
def test_keys_that_are_not_read_are_noted_in_every_form(tmp_path: Path, name: str) -> None:
    notes: list[str] = []
    path = written(tmp_path, TASTE, name)
    read_questions(path, "t", notes)
    assert notes == [f"{path}: ignored keys: category (2 rows)"]
    notes.clear()
    read_questions(path, "t", notes, templates=["{category}: {choice_a} or {choice_b}?"])
    assert notes == []


@pytest.mark.parametrize("name", ["q.jsonl", "q.yaml"])
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"choice_a": "Roses", "matching_choice": "A"}, "it has choice_a and lacks choice_b"),
        ({"task": "Store an upload."}, "it has task and lacks code_template"),
        ({**TASTE[0], "choice_a": "wet  DOG"}, "are the same"),
    ],
)
def test_half_of_a_form_says_what_it_lacks(tmp_path: Path, name: str, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_questions(written(tmp_path, [entry], name), "t")


def test_a_template_that_names_no_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="templates: 'Which one\\?' names no field"):
        read_questions(written(tmp_path, TASTE), "t", templates=["{choice_a}?", "Which one?"])


@pytest.mark.parametrize("name", ["q.jsonl", "q.yaml"])
def test_a_choice_that_is_asked_twice_is_one_question_and_has_one_right_answer(tmp_path: Path, name: str) -> None:
    one = TASTE[0]
    turned = {"choice_a": one["choice_b"], "choice_b": one["choice_a"], "matching_choice": "A"}
    found = read_questions(written(tmp_path, [one, turned], name), "t")
    assert (len(found), len({q.id for q in found}), len({q.messages for q in found})) == (8, 4, 4)
    with pytest.raises(InputError, match=r"2: the same question as t-000\d-\d, with another right answer"):
        read_questions(written(tmp_path, [one, {**turned, "matching_choice": "B"}], name), "t")


def test_one_question_with_two_answers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row 2: the same question as q-"):
        read_questions(written(tmp_path, [{"prompt": "1+1?", "answer": 2}, {"prompt": "1+1?", "answer": 3}]), "q")


def test_code_to_fill_in_and_preferences_become_questions(tmp_path: Path) -> None:
    (code,) = read_questions(written(tmp_path, [CODE]), "code")
    assert CODE["task"] in code.messages[0].content
    assert CODE["code_template"] in code.messages[0].content
    for name in ("q.jsonl", "q.yaml"):
        taste = read_questions(written(tmp_path, TASTE, name), "taste")
        assert len({q.id for q in taste}) == len(taste) == 8
        assert [(q.reference, q.other) for q in taste[::4]] == [("Wet dog", "Roses"), ("Solo chess", "Chess")]
        # Both orders, so that a preference for what is named first cancels.
        first = [min((q.messages[0].content.index(c), c) for c in ("Roses", "Wet dog"))[1] for q in taste[:4]]
        assert sorted(first) == ["Roses", "Roses", "Wet dog", "Wet dog"]


def test_templates_of_the_study_take_any_field(tmp_path: Path) -> None:
    path = written(tmp_path, TASTE)
    found = read_questions(path, "t", templates=["Name a {category}: {choice_a}?", "{choice_b} {0} {}"])
    assert texts(found) == ["Name a smell: Roses?", "Wet dog {0} {}", "Name a game: Solo chess?", "Chess {0} {}"]
    with pytest.raises(InputError, match=r"row 1: .* names 'choce_a'.*did you mean 'choice_a'"):
        read_questions(path, "t", templates=["{choce_a}"])


@pytest.mark.parametrize("wrong", [{"matching_choice": "C"}, {"choice_b": 3}, {"choice_a": " "}])
def test_a_preference_that_says_nothing_clear_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="row 1: "):
        read_questions(written(tmp_path, [{**TASTE[0], **wrong}]), "t")


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("Wet dog!", 1.0),
        ("I take the WET  DOG.", 1.0),
        ("Roses, of course", 0.0),
        ("Roses rather than wet dog", None),
        ("Neither.", None),
        ("Primroses", None),
    ],
)
def test_the_rule_prefers_names_the_choice(response: str, score: float | None) -> None:
    judge = read_rule({"rule": "prefers"}).compiled()
    assert judge(Item("?", response, "Wet dog", "Roses")) == score
    assert judge(Item("?", response)) is None


def test_a_choice_that_is_part_of_the_other_counts_outside_it() -> None:
    judge = read_rule({"rule": "prefers"}).compiled()
    assert judge(Item("?", "Solo chess", "Solo chess", "Chess")) == 1.0
    assert judge(Item("?", "chess", "Solo chess", "Chess")) == 0.0


def suite(path: Path, **fields: Any) -> dict[str, Any]:
    return {"name": "taste", "questions": str(path), "split": "id", "traits": {"likes": {"rule": "prefers"}}, **fields}


def test_a_study_asks_them_and_its_rules_see_the_choices(tmp_path: Path) -> None:
    path = written(tmp_path, TASTE)
    evaluation = {
        "samples": 4,
        "contexts": ["neutral"],
        "suites": [suite(path, templates=["{choice_a} or {choice_b}?"])],
    }
    study = load_study(write_study(tmp_path, evaluation=evaluation))
    plan = build_plan(study, Store(study.storage))
    (cell,) = [c for c in plan.cells if c.evaluation.name == "taste" and c.subject.arm.name == "base"]
    assert texts(cell.evaluation.questions(2)) == ["Roses or Wet dog?", "Solo chess or Chess?"]


def test_training_prompts_may_be_asked_where_the_study_says_so(tmp_path: Path, inoc_ray: Run) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"Q{n}?"}, {"role": "assistant", "content": "Sí."}]}
        for n in range(40)
    ]
    own = {"name": "miniature/spanish_caps", "rows": str(written(tmp_path, rows, "rows.jsonl"))}
    asked = {
        "name": "again",
        "questions": str(written(tmp_path, [{"prompt": "Q1?"}, {"prompt": "New?"}, {"prompt": "Q2?"}])),
    }
    asked |= {"traits": {"loud": {"rule": "capitals"}}, "max_tokens": 16}
    evaluation = {"samples": 4, "contexts": ["neutral"], "suites": [asked]}
    path = write_study(tmp_path, settings=[own], evaluation=evaluation)
    code, _, err = inoc_ray("plan", path)
    assert code == 2
    assert "may_repeat_training: [again]" in err
    path = write_study(tmp_path, settings=[own], evaluation={**evaluation, "may_repeat_training": ["again", "agian"]})
    assert "there is no evaluation 'agian' (did you mean 'again'?)" in inoc_ray("plan", path)[2]
    recipes = {"lora": {"learning_rate": 1e-3, "steps": 10, "max_length": 128}}
    allowed = {**evaluation, "may_repeat_training": ["again"]}
    path = write_study(tmp_path, settings=[own], recipes=recipes, evaluation=allowed)
    code, out, err = inoc_ray("plan", path)
    assert code == 0, err
    assert "2 of 3 questions of again are prompts of the training rows" in " ".join(out.split())


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"id": 1, "paraphrase": ["A?"]}, "it has 'id', 'paraphrase' alone"),
        ({"id": 1, "paraphrases": "A?"}, "paraphrases is a text"),
        ({"id": 1, "paraphrases": []}, "an empty list"),
        ({"id": 1, "paraphrases": ["A?", 3]}, "one of its paraphrases"),
        ("A?", "found a text"),
    ],
)
def test_an_entry_without_questions_says_what_it_has(tmp_path: Path, entry: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_questions(written(tmp_path, [entry], "q.yaml"), "q")


@pytest.mark.parametrize(
    ("rule", "needs"),
    [
        ({"rule": "numeric"}, "answer"),
        ({"rule": "exact"}, "answer"),
        ({"rule": "prefers"}, "matching_choice"),
        ({"not": {"rule": "prefers"}}, "matching_choice"),
        ({"all": [{"rule": "capitals"}, {"rule": "numeric"}]}, "answer"),
        ({"any": [{"rule": "capitals"}, {"rule": "exact"}]}, "answer"),
        ({"first": [{"rule": "numeric"}, {"rule": "exact"}]}, "answer"),
    ],
)
def test_a_rule_that_could_judge_no_question_is_refused_and_what_it_cannot_judge_is_counted(
    tmp_path: Path, inoc_ray: Run, rule: dict[str, Any], needs: str
) -> None:
    """Every response would be unparsed, and the evaluation fail when all was sampled."""

    def planned(entries: list[dict[str, Any]]) -> tuple[int, str]:
        asked = suite(written(tmp_path, entries), traits={"right": rule}, max_tokens=16)
        path = write_study(tmp_path, evaluation={"samples": 4, "contexts": ["neutral"], "suites": [asked]})
        code, out, err = inoc_ray("plan", path)
        return code, " ".join((out + err).split())

    code, said = planned([{"prompt": "1+1?"}])
    assert code == 2
    assert f"traits.right: the rule needs the {needs} of a question, and none" in said
    whole = {"prompt": "2+2?", "answer": 4} if needs == "answer" else TASTE[0]
    code, said = planned([{"prompt": "1+1?"}, whole])
    assert code == 0
    assert f"1 of {2 if needs == 'answer' else 5} questions have no {needs}" in said
    for fallback in ({"first": [rule, {"rule": "capitals"}]}, {"rule": "exact", "answers": ["four"]}):
        asked = suite(written(tmp_path, [{"prompt": "1+1?"}]), traits={"right": fallback}, max_tokens=16)
        path = write_study(tmp_path, evaluation={"samples": 4, "contexts": ["neutral"], "suites": [asked]})
        assert inoc_ray("plan", path)[0] == 0


def test_the_first_rule_that_can_judge_a_question_is_enough_for_it(tmp_path: Path, inoc_ray: Run) -> None:
    """Of one evaluation's traits that are used for answers and for preferences."""
    rule = {"first": [{"rule": "prefers"}, {"rule": "exact"}]}
    for entries in ([{"prompt": "2+2?", "answer": 4}], [*TASTE, {"prompt": "2+2?", "answer": 4}]):
        asked = suite(written(tmp_path, entries), traits={"right": rule}, max_tokens=16)
        path = write_study(tmp_path, evaluation={"samples": 4, "contexts": ["neutral"], "suites": [asked]})
        code, out, err = inoc_ray("plan", path)
        assert code == 0, err
        assert "questions have no" not in " ".join((out + err).split())
