"""A wrong study file gets one message that says what is wrong, where, and what to write instead."""

import copy
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from inoc_ray.config.base import Config, first_message
from inoc_ray.errors import InputError
from inoc_ray.run.load import load_study

GOOD: dict[str, Any] = {
    "name": "s",
    "settings": ["miniature/spanish_caps"],
    "arms": ["baseline", "specific_spanish"],
    "seeds": [0, 1],
    "recipes": {"lora": {"learning_rate": 1e-3, "steps": 10}},
}


def broken(path: str, value: Any) -> dict[str, Any]:
    study = copy.deepcopy(GOOD)
    at: Any = study
    *parents, last = path.split(".")
    for key in parents:
        at = at.setdefault(key, {})
    at[last] = value
    return study


BAD = {
    "unknown key": (broken("sedes", [1]), r"unknown key 'sedes' \(did you mean 'seeds'\?\)"),
    "a key of an arm beside the arms": (
        broken("inoculation", {"placement": "user_prefix"}),
        r"study\.yaml: unknown key 'inoculation'; its place is arms\[\]\.inoculation\.$",
    ),
    "a key that is nearly right, and right elsewhere": (
        broken("evaluation.seeds", [1]),
        r"evaluation: unknown key 'seeds' \(did you mean 'seed'\?\); its place is the top level\.$",
    ),
    "a key of the study inside": (
        broken("evaluation.storage", "runs"),
        r"study\.yaml: evaluation: unknown key 'storage'; its place is the top level\.$",
    ),
    "unknown nested key": (broken("recipes.lora.learning_rat", 1), r"recipes\.lora: unknown key.*'learning_rate'"),
    "seed is a word": (broken("seeds", [0, "one"]), r"seeds\[1\]: must be an integer, found 'one'"),
    "seed is a fraction": (broken("seeds", [1.5]), r"seeds\[0\]: must be an integer, found 1.5"),
    "seed is a digit in quotes": (
        broken("seeds", ["1"]),
        r"seeds\[0\]: must be an integer, found the text '1'; write the number without quotes",
    ),
    "seed is a fraction in quotes": (broken("seeds", ["1.5"]), r"seeds\[0\]: must be an integer, found '1\.5'\."),
    "name is a number": (broken("name", 2024), "name: must be a text, found 2024; put it in quotes"),
    "prompt is yes": (
        broken("arms", [{"name": "a", "kind": "general", "prompt": True}]),
        r"arms\[0\]\.prompt: must be a text, found True; put it in quotes",
    ),
    "seed is true": (broken("seeds", [True]), r"seeds\[0\]: must be an integer, found True"),
    "steps are yes": (broken("recipes.lora.steps", True), r"recipes\.lora\.steps: must be an integer, found True"),
    "rank is true": (broken("recipes.lora.lora", {"rank": True}), r"lora\.rank: must be an integer, found True"),
    "learning rate is yes": (
        broken("recipes.lora.learning_rate", True),
        r"recipes\.lora\.learning_rate: must be a number, found True",
    ),
    "samples are on": (broken("evaluation.samples", True), r"evaluation\.samples: must be an integer, found True"),
    "a GPU is off": (
        broken("resources", {"gpus_per_worker": False}),
        r"gpus_per_worker: must be a number, found False",
    ),
    "steps with an underscore in quotes": (
        broken("recipes.lora.steps", "1_0"),
        r"recipes\.lora\.steps: must be an integer, found '1_0'",
    ),
    "seed is negative": (broken("seeds", [-1]), "seeds: a seed is a whole number from 0 to 2"),
    "a seed twice": (broken("seeds", [1, 1]), r"seeds: 1 appears twice; remove one\.$"),
    "no seeds": (broken("seeds", []), "seeds: must have at least one entry"),
    "arms with one name": (broken("arms", ["baseline", "baseline"]), "arms: 'baseline' appears twice; remove one"),
    "a setting twice, with questions": (
        broken(
            "settings", [{"name": "a", "questions": {"q": "a.jsonl"}}, {"name": "a", "questions": {"q": "b.jsonl"}}]
        ),
        r"settings: 'a' appears twice; give each its own name\.$",
    ),
    "two own arms with one name": (
        broken(
            "arms", [{"name": "a", "kind": "general", "prompt": "x"}, {"name": "a", "kind": "placebo", "prompt": "y"}]
        ),
        "arms: 'a' appears twice; give each its own name",
    ),
    "empty prompt": (
        broken("arms", [{"name": "a", "kind": "general", "prompt": "  "}]),
        "arm 'a': the prompt is empty",
    ),
    "prompt without kind": (broken("arms", [{"name": "a", "prompt": "x"}]), "needs both kind and prompt"),
    "unknown kind": (broken("arms", [{"name": "a", "kind": "specifc", "prompt": "x"}]), r"arms\[0\].kind: must be"),
    "an arm called base": (broken("arms", ["base"]), "'base' is the untouched model"),
    "an arm with a prompt called baseline": (
        broken("arms", [{"name": "baseline", "kind": "general", "prompt": "x"}]),
        "arm 'baseline': this name means the setting's arm without a prompt",
    ),
    "an arm with a prompt called control": (
        broken("arms", [{"name": "control", "kind": "general", "prompt": "x"}]),
        "arm 'control': this name means .*; give an arm with a prompt another name",
    ),
    "no name": ({k: v for k, v in GOOD.items() if k != "name"}, "name: is missing"),
    "a name with a slash": (broken("name", "a/b"), "'a/b' is not a name"),
    "steps and epochs": (broken("recipes.lora.epochs", 1), "exactly one of steps and epochs"),
    "no recipe": (broken("recipes", {}), "recipes: must have at least one entry"),
    "learning rate zero": (
        broken("recipes.lora.learning_rate", 0),
        r"recipes\.lora\.learning_rate: must be more than 0, found 0\.$",
    ),
    "rank too large": (
        broken("recipes.lora.lora", {"rank": 1000}),
        r"recipes\.lora\.lora\.rank: must be at most 512, found 1000\.$",
    ),
    "targets are a word": (
        broken("recipes.lora.lora", {"targets": "all"}),
        r"recipes\.lora\.lora\.targets: must be all-linear or must be a list, found 'all'\.$",
    ),
    "a target is a number": (
        broken("recipes.lora.lora", {"targets": ["q_proj", 1]}),
        r"recipes\.lora\.lora\.targets\[1\]: must be a text, found 1; put it in quotes\.$",
    ),
    "a method that there is none": (
        broken("judges", {"gpt": {"path": "x", "method": "digits"}}),
        r"judges\.gpt\.method: must be one of auto, logprob, candidates, digit, sample or json, found 'digits'\.$",
    ),
    "a rule by its name alone": (
        broken("evaluation.suites", [{"name": "q", "questions": "q.jsonl", "traits": {"rude": "capitals"}}]),
        r"evaluation\.suites\[0\]\.traits\.rude: must be a rule or a rubric, as \{rule: capitals\} or \{rubric: NAME\}, "
        r"found 'capitals'\.$",
    ),
    "a rubric is a number": (
        broken("evaluation.suites", [{"name": "q", "questions": "q.jsonl", "traits": {"rude": {"rubric": 1}}}]),
        r"evaluation\.suites\[0\]\.traits\.rude\.rubric: must be a text, found 1; put it in quotes\.$",
    ),
    "a name that is a number": (
        broken("judges", {1: {"path": "x"}}),
        r"judges\.1: must be a text, found 1; put it in quotes\.$",
    ),
    "storage is no storage": (broken("storage", "hdfs://host/x"), "no storage; write a folder"),
    "samples zero": (broken("evaluation.samples", 0), r"evaluation\.samples"),
    "settings is a number": (broken("settings", 3), "settings: must be a list, found 3"),
    "context twice": (broken("evaluation.contexts", ["none", "none"]), "appears twice"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_study_is_refused_with_place_and_advice(tmp_path, name):
    value, message = BAD[name]
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(value))
    with pytest.raises(InputError, match=message) as caught:
        load_study(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "line 1.*not YAML"),
        ("a: 1\nb: 2\na: 3\n", "line 3.*the key 'a' appears twice"),
        ("- a\n- b\n", "expected a mapping"),
        ("", "the file is empty"),
        ("# nothing yet\n", "the file is empty"),
        (
            "a: 010",
            r"line 1, column 4: YAML reads 010 as the number 8; write 8, or put it in quotes if it is a text\.$",
        ),
        ("a: 1:30", "YAML reads 1:30 as the number 90; write 90"),
        ("a: [-1_000]", "as the number -1000; write -1000"),
        ("a: 1_0.5", r"as the number 10\.5; write 10\.5"),
        ("07: x", "YAML reads 07 as the number 7; write 7"),
        ("name: !!python/object/apply:os.system ['true']", "not YAML"),
        ("a: \x00", "not YAML"),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_refused(tmp_path, text, message):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_study(path)


def _parts(kind: type[Config]) -> Iterator[type[Config]]:
    for part in kind.__subclasses__():
        if part.__module__.startswith("inoc_ray.") and not inspect.isabstract(part):
            yield part
        yield from _parts(part)


_FIELDS = sorted({(k.__name__, f, k) for k in _parts(Config) for f in k.model_fields}, key=lambda field: field[:2])


@pytest.mark.parametrize(
    "value", [{3: {}}, {"a": 3}, [3], [[]], -3, 1e300, "", "x" * 2000, object(), {"a": {"b": object()}}]
)
def test_no_message_has_the_words_of_pydantic(value):
    """Whatever a field takes and whatever stands there: the place is one of the file, and the words are the project's own."""
    for name, field, kind in _FIELDS:
        try:
            kind.model_validate({kind.model_fields[field].alias or field: value})
        except ValidationError as error:
            at_fault = [e for e in error.errors() if e["type"] not in ("missing", "unknown_key")]
            said = first_message(ValidationError.from_exception_data("s", at_fault)) if at_fault else ""
            place = said.partition(": ")[0]
            assert not re.search(r"Input|should|[a-z]-?\[[a-z(]|function-|Config|\(", place), (name, field, said)
            assert not re.search(r"Input|should|valid ", said.partition(", found")[0]), (name, field, said)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such study file"):
        load_study(tmp_path / "none.yaml")


def test_a_directory_or_binary_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_study(tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        load_study(tmp_path / "b.yaml")


def test_plain_names_are_short_for_mappings(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**GOOD, "settings": "miniature/spanish_caps"}))
    study = load_study(path)
    assert [s.name for s in study.settings] == ["miniature/spanish_caps"]
    assert [a.name for a in study.arms] == ["baseline", "specific_spanish"]


def test_numbers_are_read_as_they_look(tmp_path):
    path = tmp_path / "study.yaml"
    recipes = "recipes: {a: {learning_rate: 1e-4, steps: 0x10, weight_decay: 0.05, clip_norm: 1}}"
    path.write_text(f"name: s\nsettings: [miniature/spanish_caps]\narms: [baseline]\nseeds: [0]\n{recipes}\n")
    recipe = load_study(path).recipes["a"]
    assert (recipe.learning_rate, recipe.steps, recipe.weight_decay, recipe.clip_norm) == (1e-4, 16, 0.05, 1)


@pytest.mark.parametrize(
    "text",
    [
        "name: 2024-99-99",
        "name: !!int x",
        "name: !!timestamp x",
        "seeds: [" + "9" * 5000 + "]",
        'storage: "a\\0b"',
        'storage: ""',
        "seeds: [4294967296]",
        'arms: [{name: a, kind: general, prompt: "\\ud800"}]',
        "settings: [{name: miniature/spanish_caps, rows: ''}]",
        "evaluation: {contexts: [{name: neutral, system: You are evil.}]}",
        "recipes: {a: {learning_rate: .inf, steps: 1}}",
        "recipes: {a: {learning_rate: 1, steps: 1, clip_norm: .inf}}",
        "recipes: {a: {preset: [openweights]}}",
        'settings: [{name: miniature/spanish_caps, questions: {in_distribution: "a\\0b"}}]',
        'arms: [{name: specific_spanish, inoculation: {paraphrases: ["\\ud800"]}}]',
    ],
)
def test_values_that_no_run_can_use_are_refused_when_the_study_is_read(tmp_path, text):
    good = {
        "name": "name: s",
        "settings": "settings: [miniature/spanish_caps]",
        "arms": "arms: [baseline]",
        "recipes": "recipes: {a: {learning_rate: 1, steps: 1}}",
    }
    path = tmp_path / "study.yaml"
    path.write_text("\n".join({**good, "x": ""}.values()))
    load_study(path)
    path.write_text("\n".join({**good, text.split(":")[0]: text}.values()))
    with pytest.raises(InputError, match=r"study\.yaml"):
        load_study(path)
