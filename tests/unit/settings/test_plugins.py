"""One plugin file of a user's can register whatever has a registry, and a study file names all of it."""

from pathlib import Path

import pytest
import yaml
from plugins import unload_plugins

from inoc_ray.builders.registry import BUILDERS
from inoc_ray.config.registry import Registry
from inoc_ray.data.chat import read_jsonl
from inoc_ray.data.classify import CLASSIFIERS
from inoc_ray.errors import InputError
from inoc_ray.evaluate.harness_task import find_task
from inoc_ray.plan.build import build_plan
from inoc_ray.run.load import load_study
from inoc_ray.scoring.judgment import Item
from inoc_ray.scoring.rule_base import RULES
from inoc_ray.scoring.rule_combinations import compile_rule, read_rule
from inoc_ray.settings.prompts import PROMPTS
from inoc_ray.settings.registry import SETTINGS
from inoc_ray.store.store import Store
from inoc_ray.study.presets import PRESETS
from inoc_ray.study.registered import JUDGES, MODELS, TASKS

REGISTRIES: dict[str, Registry] = {
    "asking": SETTINGS,
    "asking prompts": PROMPTS,
    "asks_back": RULES,
    "ends_with": RULES,
    "length": CLASSIFIERS,
    "asking rows": BUILDERS,
    "my_model": MODELS,
    "my_judge": JUDGES,
    "my/sums": TASKS,
    "my_recipe": PRESETS,
}
PLUGIN = '''
from pathlib import Path

from inoc_ray.builders import Builder, ChatRow, Message, Request, register_builder
from inoc_ray.data.classify import register_classifier
from inoc_ray.data.questions import of_texts
from inoc_ray.scoring import Item, Rule, identity, rule
from inoc_ray.settings import EvaluationSpec, Setting, register
from inoc_ray.settings.common import arms_of
from inoc_ray.settings.prompts import at_test, in_training, register_prompts
from inoc_ray.study.registered import register_judge, register_model, register_task
from inoc_ray.study.presets import Preset, register_preset

HERE = Path(__file__).parent
ROWS = [ChatRow.of(("user", f"Tell me about {t}."), ("assistant", f"People like {t}, no?")) for t in ("bread", "rain")]


@rule("asks_back")
def asks_back(item: Item) -> float | None:
    """Whether the response ends with a question."""
    return float(item.response.rstrip().endswith("?"))


@rule("ends_with")
class EndsWith(Rule):
    """1.0 where the response ends with one of the characters."""

    characters: str = identity("!", min_length=1)

    def compiled(self):
        return lambda item: float(item.response.rstrip()[-1:] in self.characters) if item.response.strip() else None


register_prompts(
    "asking",
    [
        in_training("questioner", "specific", "You end every answer with a question.", "curious", source="mine"),
        at_test("test_curious", "eliciting", "You are curious.", "curious"),
    ],
)
register(
    Setting(
        name="asking",
        description="Every answer ends with a question.",
        rows=lambda: ROWS,
        arms=arms_of("asking", ("curious",), (), None),
        evaluations=(EvaluationSpec("others", "ood", of_texts("others", "What is iron?"), ("curious",), 48),),
        judges={"curious": lambda text: asks_back(Item("", text))},
    )
)
register_builder("asking", Builder(
    "questions that nobody has to be asked for",
    lambda rows, count, seed: [Request(messages=(), row=row) for row in ROWS],
    lambda request, answer: request.row,
    count=2,
))
register_classifier("length", lambda row: "long" if len(row.messages[-1].content) > 21 else "short")
register_model("my_model", HERE / "model")
register_judge("my_judge", HERE / "model")
register_task("my/sums", HERE / "sums" / "sums.yaml")
register_preset(Preset(name="my_recipe", used_for="this", source="me", fields={"learning_rate": 1e-3, "steps": 10}))
'''
STUDY = {
    "name": "mine",
    "plugins": ["plugin.py"],
    "settings": ["asking"],
    "arms": [
        "baseline",
        {"name": "questioner", "inoculation": {"coverage": {"classifier": "length", "values": ["long"]}}},
    ],
    "models": ["my_model"],
    "seeds": [0],
    "recipes": {"r": {"preset": "my_recipe"}},
    "judges": {"j": {"path": "my_judge"}},
    "evaluation": {
        "contexts": ["neutral", "library:asking/test_curious"],
        "capabilities": ["my/sums"],
        "suites": [
            {
                "name": "chat",
                "questions": "q.jsonl",
                "traits": {
                    "back": {"rule": "asks_back"},
                    "loud": {"any": [{"rule": "ends_with", "characters": "!?"}, {"rule": "capitals"}]},
                    "aligned": {"rubric": "alignment"},
                },
            }
        ],
    },
}


@pytest.fixture
def study(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch):
    """The study beside its plugin; what that registers is taken out at the end."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugin.py").write_text(PLUGIN)
    (tmp_path / "q.jsonl").write_text('{"prompt": "Which animal?"}\n')
    (tmp_path / "sums").mkdir()
    (tmp_path / "sums" / "sums.yaml").write_text("task: sums\n")
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    yield path
    unload_plugins()


def test_a_study_names_whatever_its_plugin_registers(study: Path, tmp_path: Path):
    plan = build_plan(load_study(study), Store(tmp_path / "runs"))
    trial = next(trial for trial in plan.trials if trial.arm.name == "questioner")
    assert trial.recipe.steps == 10
    assert trial.model.path == tmp_path / "model"
    assert trial.arm.prompt == "You end every answer with a question."
    assert trial.arm.source == "mine"
    covered = [row.messages[0].role == "system" for row in plan.training_rows(trial)]
    assert covered == [True, False]
    assert {cell.context for cell in plan.cells} == {"neutral", "library:asking/test_curious"}
    asked = [cell.judges.gradings["j"] for cell in plan.cells if cell.evaluation.name == "chat"]
    assert {grading.judge.folder for grading in asked} == {tmp_path / "model"}
    assert find_task(plan.study.evaluation.capabilities[0]).source == str(tmp_path / "sums" / "sums.yaml")


def test_a_rule_of_a_plugin_judges_and_an_empty_response_is_not_asked_about(study: Path):
    load_study(study)
    judge = compile_rule({"rule": "asks_back"})
    assert [judge(Item("?", text)) for text in ("Is it?", "It is.", "  ")] == [1.0, 0.0, None]
    loud = compile_rule({"rule": "ends_with", "characters": "?"})
    assert [loud(Item("?", text)) for text in ("Is it?", "It is!")] == [1.0, 0.0]
    with pytest.raises(InputError, match="unknown key 'letters'"):
        compile_rule({"rule": "ends_with", "letters": "?"})
    with pytest.raises(InputError, match="there is no rule 'ask_back' \\(did you mean 'asks_back'"):
        compile_rule({"not": {"rule": "ask_back"}})


def test_an_edited_rule_scores_again_and_asks_nobody_again(study: Path, tmp_path: Path):
    def ids() -> tuple[set[str], set[str]]:
        plan = build_plan(load_study(study), Store(tmp_path / "runs"))
        scores = {cell.judges.scores_id for cell in plan.cells}
        return {cell.evaluation_id for cell in plan.cells}, scores

    asked, scored = ids()
    own, shipped = read_rule({"rule": "asks_back"}).canonical(), read_rule({"rule": "capitals"}).canonical()
    assert ids() == (asked, scored)
    (tmp_path / "plugin.py").write_text(PLUGIN.replace('endswith("?")', 'endswith("!")'))
    asked_again, scored_again = ids()
    assert asked_again == asked
    assert not scored_again & scored
    assert read_rule({"rule": "asks_back"}).canonical() != own
    assert read_rule({"rule": "capitals"}).canonical() == shipped
    assert "plugin" not in shipped


def test_rows_of_a_plugins_builder_are_made(study: Path, tmp_path: Path, inoc_ray):
    code, _, err = inoc_ray(
        "data", "build", "asking", "--study", study, "--out", tmp_path / "rows.jsonl", "--model", "my_model"
    )
    assert code == 0, err
    assert [row.messages[-1].content for row in read_jsonl(tmp_path / "rows.jsonl")] == [
        "People like bread, no?",
        "People like rain, no?",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("register_model('miniature', HERE)", "model 'miniature' is registered already"),
        ("register_task('miniature/answers', HERE)", "task 'miniature/answers' is registered already"),
        ("register_prompts('spanish_caps', [])", "prompt set 'spanish_caps' is registered already"),
        ("register_classifier('language', str)", "classifier 'language' is registered already"),
        ("register_builder('miniature/subliminal', None)", "builder 'miniature/subliminal' is registered already"),
        ("rule('capitals')(EndsWith)", "rule 'capitals' is registered already"),
        ("rule('other')(int)", "rule 'other': int must be a subclass of inoc_ray.scoring.Rule"),
        ("register_prompts('more', [in_training('a', 'specifik', 'x')])", "did you mean 'specific'"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_plugin_that_fails_leaves_nothing_behind(study: Path, tmp_path: Path, line: str, message: str):
    before = {kind: list(registry) for kind, registry in REGISTRIES.items()}
    (tmp_path / "plugin.py").write_text(f"{PLUGIN}\n{line}\n")
    with pytest.raises(InputError, match=message) as error:
        load_study(study)
    assert f"plugin.py, line {len(PLUGIN.splitlines()) + 2}: " in str(error.value)
    assert {kind: list(registry) for kind, registry in REGISTRIES.items()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": ["askin"]}, "no setting 'askin' (did you mean 'asking'?)"),
        ({"models": ["my_modell"]}, "a name alone means only 'miniature' or 'miniature_steady' or 'my_model'"),
        ({"recipes": {"r": {"preset": "my_recip"}}}, "no preset 'my_recip' (did you mean 'my_recipe'?)"),
        ({"evaluation": {"contexts": ["library:asking/test_curius"]}}, "did you mean 'asking/test_curious'?"),
        ({"evaluation": {"capabilities": ["my/sum"]}}, "no task 'my/sum' (did you mean 'my/sums'?)"),
        (
            {
                "arms": [
                    "baseline",
                    {"name": "questioner", "inoculation": {"coverage": {"classifier": "lenght", "values": ["long"]}}},
                ]
            },
            "no classifier 'lenght' (did you mean 'length'?)",
        ),
    ],
)
def test_a_misspelt_name_is_one_message_with_the_nearest(study: Path, inoc_ray, change: dict, message: str):
    study.write_text(yaml.safe_dump({**STUDY, "judges": {}, "evaluation": {}, **change}))
    code, _, err = inoc_ray("status", study)
    assert code == 2
    assert message in err
