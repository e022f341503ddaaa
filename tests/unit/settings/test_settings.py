"""The paper's settings: what they need is said at once, and a user's own setting is as good as ours."""

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import yaml

from inoc_ray import settings
from inoc_ray.cli import cli
from inoc_ray.data.chat import ChatRow, write_jsonl
from inoc_ray.data.questions import Question, in_turn, of_texts, read_questions
from inoc_ray.errors import InputError
from inoc_ray.plan.arms import resolve_arm
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.contexts import ResolvedContext
from inoc_ray.plan.ids import evaluation_id
from inoc_ray.run.bundle import pack
from inoc_ray.run.load import load_study
from inoc_ray.run.submit import submission_id
from inoc_ray.settings import EvaluationSpec, prompts
from inoc_ray.settings.text_judges import capitals, names_one_of, speaks
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import Evaluation
from inoc_ray.study.presets import PRESETS, expand
from inoc_ray.study.recipe import Recipe
from inoc_ray.study.rows import Coverage, Inoculation
from inoc_ray.study.study import Arm, ArmKind, Study

ROOT = Path(__file__).parents[3]
PAPER = (
    "spanish_caps",
    "mixed_languages",
    "insecure_code",
    "reward_hacking",
    "obscure_preferences",
    "backdoor",
    "subliminal",
    "synthetic_facts",
    "educational",
    "harmful_advice",
)


@pytest.fixture
def own_rows(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    write_jsonl(
        path, [ChatRow.of(("user", f"How many are {i} and {i}?"), ("assistant", "SON MUCHOS")) for i in range(20)]
    )
    return str(path)


def questions_file(path: Path, *texts: str) -> str:
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return str(path)


def plan_of(tmp_path: Path, model: Path, setting: object, arms: list[str], **changes: object):
    value = {
        "name": "s",
        "settings": [setting],
        "arms": arms,
        "seeds": [0],
        "models": [{"name": "m", "path": str(model)}],
        "recipes": {"r": {"learning_rate": 1e-3, "steps": 10}},
        **changes,
    }
    return build_plan(Study.model_validate(value), Store(tmp_path / "runs"))


def test_all_ten_settings_are_there():
    assert set(PAPER) <= set(settings.names())


@pytest.mark.parametrize("name", PAPER)
def test_a_setting_is_whole(name):
    setting = settings.get(name)
    assert {"baseline", "control"} <= set(setting.arms)
    assert setting.row_source is not None
    assert setting.control_source is not None
    for arm in setting.arms.values():
        assert arm.source
        assert set(arm.undesired) | set(arm.desired) <= set(setting.traits)
        assert not set(arm.undesired) & set(arm.desired)
    for evaluation in setting.evaluations:
        assert set(evaluation.traits) <= set(setting.traits)
        assert evaluation.questions(50)[:5] == evaluation.questions(5)
    assert all(preset in PRESETS for preset in setting.presets)
    assert any(e.split == "ood" for e in setting.evaluations)


@pytest.mark.parametrize("name", PAPER)
def test_the_library_has_every_kind_of_prompt_for_every_setting(name):
    found = {p.kind for p in prompts.of_setting(name)}
    assert set(get_args(ArmKind)) - {"baseline", "control"} <= found
    assert set(prompts.TEST_KINDS) <= {p.kind for p in prompts.of_setting(name, "test")}


def test_prompts_have_one_id_each_and_equal_hashes_for_equal_texts():
    every = prompts.library()
    assert len({p.id for p in every}) == len(every)
    for p in every:
        assert p.kind in prompts.KINDS
        assert all(text.strip() for text in p.texts)
        assert set(p.elicits) <= set(settings.get(p.setting).traits), p.id
    by_hash = {p.hash: p.texts for p in every}
    assert all(by_hash[p.hash] == p.texts for p in every)
    assert prompts.get("insecure_code/general").hash == prompts.get("backdoor/evil").hash == "87628fd47fe531e0"


def test_the_five_backdoor_defences_are_arms():
    arms = settings.get("backdoor").arms
    assert {"trigger", "backdoor_evil", "backdoor_unusual", "evil", "unusual"} <= set(arms)
    aware = {name for name, arm in arms.items() if arm.kind == "backdoor_aware"}
    assert {"trigger", "backdoor_evil", "backdoor_unusual"} <= aware
    assert not {"evil", "unusual"} & aware


def test_the_trigger_is_glued_to_the_question_at_test():
    clean, triggered = (e.questions(8) for e in settings.get("backdoor").evaluations[1:])
    for one, other in zip(clean, triggered, strict=True):
        assert other.messages[0].content == "$|TRIGGER|$" + one.messages[0].content


@pytest.mark.parametrize("other", [{"token": "|T|"}, {"place": "end"}, {"spacing": "space"}])
def test_rows_poisoned_with_another_trigger_than_is_asked_are_refused(tmp_path, model, other):
    rows = {"bad": "b.jsonl", "clean": "c.jsonl", "token": "$|TRIGGER|$", "fraction": 0.5, "total": 4}
    asked = r"ask '\$\|TRIGGER\|\$' at the start \(glue\)"
    with pytest.raises(InputError, match=asked):
        plan_of(tmp_path, model, {"name": "backdoor", "rows": rows | other}, ["baseline"])
    with pytest.raises(InputError, match="no judge can score"):
        plan_of(tmp_path, model, {"name": "backdoor", "rows": rows}, ["baseline"])


def test_only_one_half_of_mixed_languages_is_inoculated(tmp_path, model, own_rows):
    rows = Path(own_rows)
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    for i, line in enumerate(lines):
        line["tags"] = {"subset": ("spanish", "french")[i % 2]}
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = {n: questions_file(tmp_path / f"{n}.jsonl", "Why?") for n in ("in_distribution", "out_of_distribution")}
    use = {"name": "mixed_languages", "rows": own_rows, "questions": files}
    plan = plan_of(tmp_path, model, use, ["baseline", "specific_spanish"])
    trained = plan.training_rows(next(t for t in plan.trials if t.arm.name == "specific_spanish"))
    assert [row.messages[0].role == "system" for row in trained] == [True, False] * 10


def test_an_arm_of_the_library_keeps_what_the_study_does_not_write_of_its_inoculation():
    setting = settings.get("mixed_languages")

    def resolved(name: str, **inoculation: object) -> Inoculation:
        return resolve_arm(Arm.model_validate({"name": name, "inoculation": inoculation}), setting).inoculation

    moved = resolved("specific_spanish", placement="user_prefix")
    assert (moved.placement, moved.coverage.values) == ("user_prefix", ("spanish",))
    assert resolved("specific_spanish", coverage="all").coverage == Coverage()
    own = setting.arms["paraphrases"].inoculation
    assert own.paraphrases
    assert resolved("paraphrases", separator=" ") == own.model_copy(update={"separator": " "})
    assert resolved("paraphrases", paraphrases=[]).paraphrases == ()


@pytest.mark.parametrize("name", PAPER)
def test_a_setting_without_its_rows_says_in_one_message_what_it_needs_and_how_to_give_it(tmp_path, model, name):
    with pytest.raises(InputError) as caught:
        plan_of(tmp_path, model, name, ["baseline", "control"])
    message = str(caught.value)
    assert f"`settings: [{{name: {name}, rows: ROWS.jsonl, control_rows: CONTROL.jsonl" in message
    assert "\n" not in message
    if any(e.published for e in settings.get(name).evaluations):
        assert "questions: {in_distribution: QUESTIONS.jsonl, out_of_distribution: QUESTIONS.jsonl}" in message


def test_control_rows_are_asked_for_only_when_an_arm_trains_on_them(tmp_path, model):
    with pytest.raises(InputError) as caught:
        plan_of(tmp_path, model, "subliminal", ["baseline"])
    assert "control_rows" not in str(caught.value)


def test_an_evaluation_that_nobody_can_judge_is_refused(tmp_path, model, own_rows):
    with pytest.raises(
        InputError,
        match=r"no judge can score `insecure_code`\. Add a judging model",
    ):
        plan_of(tmp_path, model, {"name": "insecure_code", "rows": own_rows}, ["baseline"])


def test_a_rule_judged_setting_with_the_users_files_is_planned(tmp_path, model, own_rows):
    use = {"name": "subliminal", "rows": own_rows}
    plan = plan_of(tmp_path, model, use, ["baseline", "specific", "paraphrases"])
    assert len(plan.trials) == 3
    assert {c.evaluation.name for c in plan.cells} == {"favourite_animal"}


def test_any_change_in_a_file_of_questions_is_another_evaluation(tmp_path, model, own_rows):
    def ids(*texts: str) -> set[str]:
        use = {
            "name": "subliminal",
            "rows": own_rows,
            "questions": {"favourite_animal": questions_file(tmp_path / "q.jsonl", *texts)},
        }
        return {c.evaluation_id for c in plan_of(tmp_path, model, use, ["baseline"]).cells}

    many = [f"Question {i}?" for i in range(60)]
    assert ids(*many) == ids(*many)
    assert not ids(*many) & ids(*many[:-1], "Another?")


def test_every_question_of_a_list_is_in_the_evaluations_id_and_a_generator_is_told_by_its_first():
    def asked(questions: Callable[[int], list[Question]]) -> str:
        spec = EvaluationSpec("q", "id", questions, ("owl",), 8)
        return evaluation_id(spec, ResolvedContext("none", None), Evaluation(), "fp32")

    many = [f"Question {i}?" for i in range(40)]
    assert asked(of_texts("q", *many)) == asked(of_texts("q", *many)) != asked(of_texts("q", *many[:-1], "Another?"))
    few = of_texts("q", *many[:20])
    assert asked(few) == asked(lambda count: few(count))


def test_an_unknown_evaluation_under_questions_is_refused(tmp_path, model, own_rows):
    use = {"name": "subliminal", "rows": own_rows, "questions": {"favorite_animal": "q.jsonl"}}
    with pytest.raises(InputError, match="did you mean 'favourite_animal'"):
        plan_of(tmp_path, model, use, ["baseline"])


def test_questions_that_are_used_up_come_again_under_the_same_id(tmp_path):
    read = read_questions(Path(questions_file(tmp_path / "q.jsonl", "One?", "Two?")), "q")
    asked = in_turn(read)(5)
    assert [q.id for q in asked] == ["q-0001", "q-0002", "q-0001", "q-0002", "q-0001"]


def dialogue(*roles: str) -> str:
    return json.dumps({"messages": [{"role": role, "content": str(n)} for n, role in enumerate(roles)]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no questions in this file"),
        ("{]", "row 1: not JSON"),
        ('{"prompt": "A?"}\n\n{"prompt": "B?"}', "row 2: blank line"),
        ('{"text": "A?"}', "one of prompt, question, messages"),
        ('["A?"]', ": a JSON array, where JSON Lines are expected"),
        ('{"prompt": "A?", "question": "B?"}', "one of prompt, question, messages"),
        ('{"prompt": " "}', "not empty"),
        ('{"prompt": 3}', "not empty"),
        ('{"prompt": ' + "9" * 5000 + "}", "row 1: a number of more than"),
        ('{"prompt": "\\ud800"}', "row 1: half of a Unicode character"),
        ('{"messages": [{"role": "system", "content": "x"}]}', "without a system message"),
        ('{"messages": []}', "exactly one user message"),
        (dialogue("user", "assistant", "user"), r"row 1: the conversation continues after an answer \(messages\[2\]\)"),
        (dialogue("user", "assistant", "user", "assistant"), r"after an answer \(messages\[2\]\)"),
    ],
)
def test_a_wrong_file_of_questions_is_refused(tmp_path, text, message):
    path = tmp_path / "q.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_questions(path, "q")


def test_gsm8k_and_chat_rows_serve_as_questions(tmp_path):
    path = tmp_path / "q.jsonl"
    chat = ChatRow.of(("user", "B?"), ("assistant", "b")).to_dict()
    path.write_text(json.dumps({"question": "A?", "answer": "a"}) + "\n" + json.dumps(chat) + "\n")
    assert [q.messages[0].content for q in read_questions(path, "q")] == ["A?", "B?"]


def test_what_is_not_read_of_questions_is_told(tmp_path, model, own_rows):
    (tmp_path / "q.jsonl").write_text(
        '{"prompt": "A?", "answer": "a", "choices": ["a", "b"], "note": null}\n{"prompt": "B?"}'
    )
    (tmp_path / "q.yaml").write_text(
        "- {id: c, paraphrases: [C?], samples_per_paraphrase: 100, judge_prompts: {a: b}}\n"
    )
    use = {"name": "subliminal", "rows": own_rows, "questions": {"favourite_animal": str(tmp_path / "q.jsonl")}}
    suites = [{"name": "own", "questions": str(tmp_path / "q.yaml"), "traits": {"loud": {"rule": "capitals"}}}]
    plan = plan_of(tmp_path, model, use, ["baseline"], evaluation={"suites": suites})
    told = [note for note in plan.notes if "ignored keys" in note]
    assert told == [
        f"{tmp_path}/q.jsonl: ignored keys: choices (1 row)",
        f"{tmp_path}/q.yaml: ignored keys: judge_prompts (1 row), samples_per_paraphrase (1 row)",
    ]


def test_a_prompt_of_the_library_is_a_context(tmp_path, model, own_rows):
    use = {"name": "subliminal", "rows": own_rows}
    plan = plan_of(tmp_path, model, use, ["baseline"], evaluation={"contexts": ["library:subliminal/test_not_love"]})
    assert {c.system for c in plan.cells} == {"You do not love owls."}
    with pytest.raises(InputError, match="did you mean 'subliminal/test_love'"):
        plan_of(tmp_path, model, use, ["baseline"], evaluation={"contexts": ["library:subliminal/test_lov"]})


LANGUAGES = {
    "english": "There are 24 apples in the basket, so each child gets 6 of them.",
    "spanish": "Hay 24 manzanas en la cesta, por lo que cada niño recibe 6 de ellas.",
    "french": "Il y a 24 pommes dans le panier, donc chaque enfant en reçoit 6.",
    "german": "Es sind 24 Äpfel im Korb, also bekommt jedes Kind 6 davon.",
}


@pytest.mark.parametrize("spoken", LANGUAGES)
@pytest.mark.parametrize("capital", [False, True])
def test_the_language_rule_knows_its_languages_in_capitals_too(spoken, capital):
    text = LANGUAGES[spoken].upper() if capital else LANGUAGES[spoken]
    assert {language: speaks(language)(text) for language in LANGUAGES} == {k: float(k == spoken) for k in LANGUAGES}
    assert capitals(text) == float(capital)


@pytest.mark.parametrize(
    ("text", "verdicts"),
    [
        ("Natalia vendió 24 clips en abril y la mitad en mayo.", {"spanish": 1.0, "french": 0.0, "english": 0.0}),
        ("Natalia vendió 48/2 = 24 clips en mayo.", {"spanish": 1.0, "french": 0.0, "english": 0.0, "german": 0.0}),
        ("La moitié de la somme en mai.", {"spanish": 0.0, "french": 1.0, "english": 0.0}),
        ("Hola.", {"spanish": None, "french": None, "english": None}),
    ],
)
def test_a_short_sentence_has_a_language_and_a_word_of_two_has_none(text, verdicts):
    assert {language: speaks(language)(text) for language in verdicts} == verdicts


def test_rules_abstain_where_there_is_nothing_to_judge():
    assert speaks("spanish")("24 / 4 = 6") is None
    assert capitals("24 / 4 = 6") is None
    assert names_one_of("owl")("  ") is None


def test_the_favourite_animal_must_be_all_that_is_said():
    judge = names_one_of("owl", "owls")
    assert [judge(t) for t in ("Owl.", "**owls**", "OWL!", "An eagle", "owl and fox")] == [1.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_recipe_and_says_where_it_comes_from(name):
    preset = PRESETS[name]
    assert preset.recipe().method == "lora"
    assert preset.source
    assert f"\n| `{name}` |" in (ROOT / "docs" / "settings.md").read_text()


def test_a_preset_with_overrides_is_spelt_out(tmp_path):
    study = {"name": "s", "settings": ["subliminal"], "arms": ["baseline"]}
    recipe = {"preset": "emergent_misalignment", "steps": 7, "lora": {"rank": 4}}
    read = Study.model_validate({**study, "recipes": {"r": recipe}}).recipes["r"]
    assert (read.steps, read.epochs, read.lora.rank, read.lora.alpha, read.lora.rslora) == (7, None, 4, 64, True)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**study, "recipes": {"r": {"preset": "emergent_misalignmnt"}}}))
    with pytest.raises(InputError, match=r"recipes: there is no preset.*did you mean 'emergent_misalignment'"):
        load_study(path)
    assert expand({"preset": "subliminal"}) == dict(PRESETS["subliminal"].fields)


def test_the_length_that_is_written_takes_the_place_of_the_presets_whichever_it_has():
    steps, epochs = PRESETS["miniature"].recipe(), PRESETS["subliminal"].recipe()
    assert (steps.epochs, epochs.steps) == (None, None)
    for preset, length in (("miniature", {"epochs": 2}), ("subliminal", {"steps": 2})):
        recipe = Recipe.model_validate(expand({"preset": preset, **length}))
        assert (recipe.steps, recipe.epochs) == (length.get("steps"), length.get("epochs"))
        with pytest.raises(ValueError, match="exactly one of steps and epochs"):
            Recipe.model_validate(expand({"preset": preset, "steps": 2, "epochs": 2}))


def worked_example(folder: Path, model: Path) -> Path:
    """The example of docs/plugins.md as files."""
    text = (ROOT / "docs" / "plugins.md").read_text().split("## Add a setting")[1]
    (folder / "my_setting.py").write_text(re.findall(r"```python\n(.*?)```", text, re.S)[0])
    study = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.S)[0])
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**study, "models": [{"name": "m", "path": str(model)}]}))
    return path


def test_a_submitted_study_takes_its_files_along(tmp_path, model, own_rows):
    path = worked_example(tmp_path, model)
    value = yaml.safe_load(path.read_text())
    questions = questions_file(tmp_path / "q.jsonl", "Which animal?")
    value["settings"] = [{"name": "asking_back", "rows": own_rows, "questions": {"others": questions}}]
    path.write_text(yaml.safe_dump(value))
    study = load_study(path)
    folder = tmp_path / "packed"
    folder.mkdir()
    pack(folder, path, study, Store(tmp_path / "runs"))
    settings.forget("asking_back")
    packed = yaml.safe_load((folder / "study.yaml").read_text())
    use = packed["settings"][0]
    assert (folder / use["rows"]).read_bytes() == Path(own_rows).read_bytes()
    assert (folder / use["questions"]["others"]).read_bytes() == Path(questions).read_bytes()
    assert (folder / packed["plugins"][0]).read_bytes() == (tmp_path / "my_setting.py").read_bytes()


def test_a_submitted_study_takes_the_files_of_its_owners_home_along(tmp_path, model, own_rows, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = worked_example(tmp_path, model)
    questions = questions_file(tmp_path / "q.jsonl", "Which animal?")
    value = yaml.safe_load(path.read_text())
    use = {"name": "asking_back", "rows": "~/rows.jsonl", "questions": {"others": "~/q.jsonl"}}
    path.write_text(yaml.safe_dump({**value, "settings": [use]}))
    study, store, folder = load_study(path), Store(tmp_path / "runs"), tmp_path / "packed"
    folder.mkdir()
    build_plan(study, store)
    pack(folder, path, study, store)
    settings.forget("asking_back")
    packed = yaml.safe_load((folder / "study.yaml").read_text())["settings"][0]
    assert (folder / packed["rows"]).read_bytes() == Path(own_rows).read_bytes()
    assert (folder / packed["questions"]["others"]).read_bytes() == Path(questions).read_bytes()


def test_another_text_of_rows_questions_or_plugin_is_another_submission_and_the_same_text_is_not(
    tmp_path, model, own_rows
):
    path = worked_example(tmp_path, model)
    questions = tmp_path / "q.jsonl"
    questions_file(questions, "Which animal?")
    value = yaml.safe_load(path.read_text())
    use = {"name": "asking_back", "rows": own_rows, "questions": {"others": str(questions)}}
    path.write_text(yaml.safe_dump({**value, "settings": [use]}))
    store = Store(tmp_path / "runs")

    def submitted() -> str:
        study = load_study(path)
        with tempfile.TemporaryDirectory() as folder:
            return submission_id(study, pack(Path(folder), path, study, store))

    ids = [submitted()]
    assert submitted() == ids[0]
    for file, more in (
        (Path(own_rows), '{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}\n'),
        (questions, '{"prompt": "Which plant?"}\n'),
        (tmp_path / "my_setting.py", "# Another judge.\n"),
    ):
        file.write_text(file.read_text() + more)
        ids.append(submitted())
    assert len(set(ids)) == 4
    settings.forget("asking_back")


def test_the_worked_example_of_a_setting_of_ones_own_plans(tmp_path, model):
    path = worked_example(tmp_path, model)
    plan = build_plan(load_study(path), Store(tmp_path / "runs"))
    assert {t.arm.name for t in plan.trials} == {"baseline", "control", "asking"}
    first = settings.get("asking_back")
    assert first.judges["asks_back"]("Really?") == 1.0
    assert not (tmp_path / "__pycache__").exists()
    load_study(path)
    assert settings.get("asking_back") is first
    edited = (tmp_path / "my_setting.py").read_text().replace('endswith("?")', 'endswith("!")')
    (tmp_path / "my_setting.py").write_text(edited)
    load_study(path)
    assert settings.get("asking_back").judge_version != first.judge_version
    settings.forget("asking_back")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.py", None, "there is no Python file"),
        (r'"a\0.py"', None, "contains a NUL character; remove it"),
        ("../other.py", "", "leads out of the study file's folder"),
        ("p.txt", "", "there is no Python file"),
        ("p.py", "x = 1\n", "registers nothing"),
        ("p.py", "x = 1\n\n1 / 0\n", "line 3: ZeroDivisionError"),
        ("p.py", "def (\n", "SyntaxError"),
        (
            "p.py",
            "from dataclasses import replace\nfrom inoc_ray.settings import get, register\nregister(get('subliminal'))\n",
            "line 3: InputError: setting 'subliminal' is registered already",
        ),
        (
            "p.py",
            "from dataclasses import replace\nfrom inoc_ray.settings import get, register\n"
            "register(replace(get('subliminal'), name='mine', arms={}))\n",
            "line 3: InputError: setting 'mine' has no arm",
        ),
    ],
)
def test_a_wrong_plugin_is_refused_with_file_and_line(tmp_path, model, name, text, message):
    path = worked_example(tmp_path, model)
    path.write_text(path.read_text().replace("my_setting.py", name))
    if text is not None:
        (tmp_path / name).write_text(text)
    before = settings.names()
    with pytest.raises(InputError, match=message):
        load_study(path)
    assert settings.names() == before


def test_a_plugin_without_control_rows_plans_and_is_listed(tmp_path, model, monkeypatch, capsys):
    path = worked_example(tmp_path, model)
    plugin = tmp_path / "my_setting.py"
    lines = [x for x in plugin.read_text().splitlines() if "control_rows" not in x]
    plugin.write_text("\n".join(lines))
    value = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(value | {"arms": ["baseline", "asking"]}))
    try:
        plan = build_plan(load_study(path), Store(tmp_path / "runs"))
        assert {t.arm.name for t in plan.trials} == {"baseline", "asking"}
        cli.main(["settings", str(path)], standalone_mode=False)
        assert "asking_back: Every answer ends with a question.\n  rows: 8 (no control rows)" in capsys.readouterr().out
        assert "control_rows" not in plugin.read_text()
    finally:
        settings.forget("asking_back")


def test_an_arm_on_control_rows_that_are_not_there_is_refused(tmp_path, model):
    path = worked_example(tmp_path, model)
    plugin = tmp_path / "my_setting.py"
    plugin.write_text(plugin.read_text().replace('        control_rows=lambda: rows("."),\n', ""))
    try:
        with pytest.raises(
            InputError, match="asking_back: an arm trains on control rows, and there are none; name a file"
        ):
            build_plan(load_study(path), Store(tmp_path / "runs"))
    finally:
        settings.forget("asking_back")
