"""Ids follow from content alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from config_classes import config_classes

import inoc_ray
from inoc_ray import settings
from inoc_ray.config.base import Config
from inoc_ray.config.identity import (
    canonical_json,
    content_id,
    identity,
    identity_fields,
    model_folder_hash,
    role_of,
    runtime,
)
from inoc_ray.plan.arms import resolve_arm
from inoc_ray.plan.contexts import ResolvedContext
from inoc_ray.plan.ids import evaluation_id, trial_id
from inoc_ray.run.load import load_study
from inoc_ray.study import evaluation as asked
from inoc_ray.study.recipe import Lora, Recipe

PACKAGE = Path(inoc_ray.__file__).parent


def named_in_the_source() -> set[str]:
    """The name of every class in the package whose bases lead to Config, read from the source: nothing has to be imported."""
    classes: list[tuple[str, set[str]]] = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                classes.append((node.name, {ast.unparse(base).rpartition(".")[2] for base in node.bases}))
    found = {"Config"}
    while more := {name for name, bases in classes if bases & found} - found:
        found |= more
    return found - {"Config"}


def test_no_configuration_class_is_missed():
    assert {c.__name__ for c in config_classes()} == named_in_the_source()
    assert len(config_classes()) >= 21


@pytest.mark.parametrize("cls", config_classes(), ids=lambda c: c.__name__)
def test_every_field_of_every_configuration_class_is_identity_or_runtime(cls):
    loose = [name for name in cls.model_fields if role_of(cls, name) not in ("identity", "runtime")]
    assert not loose, (
        f"{cls.__name__}.{loose[0]} is declared with neither identity(...) nor runtime(...). Decide: does another value "
        "change what is computed (identity: it must then have a default that keeps old ids) or only where, when or "
        "how fast (runtime)?"
    )


def test_a_new_field_at_its_default_keeps_old_ids():
    class Old(Config):
        rate: float = identity(1.0)
        name: str = runtime("a")

    class New(Config):
        rate: float = identity(1.0)
        name: str = runtime("a")
        momentum: float = identity(0.9)

    assert content_id(identity_fields(Old(rate=2.0))) == content_id(identity_fields(New(rate=2.0)))
    assert content_id(identity_fields(Old(rate=2.0))) != content_id(identity_fields(New(rate=2.0, momentum=0.5)))


def test_a_runtime_field_never_changes_the_id():
    class Thing(Config):
        rate: float = identity(1.0)
        workers: int = runtime(1)

    assert identity_fields(Thing(workers=8)) == identity_fields(Thing())


def test_the_id_of_a_known_recipe_is_the_same_on_every_machine_and_in_every_process():
    recipe = Recipe(learning_rate=2e-3, steps=60, lora=Lora(rank=4))
    here = content_id(identity_fields(recipe))
    code = (
        "from inoc_ray.study.recipe import *; from inoc_ray.config.identity import *;"
        "print(content_id(identity_fields(Recipe(learning_rate=2e-3, steps=60, lora=Lora(rank=4)))))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert here == there.stdout.strip() == "ba256af678db62c9"


def test_canonical_json_has_one_text_per_value_and_refuses_nan():
    assert canonical_json({"b": 1, "a": [True, None, "é"]}) == '{"a":[true,null,"é"],"b":1}'
    with pytest.raises(ValueError):
        canonical_json(float("nan"))


def test_a_model_is_its_files_wherever_they_are_and_whatever_else_is_there(tmp_path):
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "two" / "README.md").write_text("notes")
    assert model_folder_hash(tmp_path / "one") == model_folder_hash(tmp_path / "two")
    (tmp_path / "two" / "model.safetensors").write_bytes(b"weightz")
    assert model_folder_hash(tmp_path / "one") != model_folder_hash(tmp_path / "two")


QUICKSTART_TRIALS = {
    ("baseline", 0): "742880843bf55c2a",
    ("baseline", 1): "f39d4e6473011fb5",
    ("specific_spanish", 0): "f707af5b5f45b761",
    ("specific_spanish", 1): "12eb1fba4b4f487a",
    ("specific_caps", 0): "927c42750e7dbaa9",
    ("specific_caps", 1): "ec28c884add04850",
    ("irrelevant", 0): "cf94bc4fa84157d7",
    ("irrelevant", 1): "261b61ca565b224e",
}
QUICKSTART_ROWS = "359997b055a32e729f8d9da8ab2ba7efe9e94349da54055bcd1c91859b8b5801"


def test_the_ids_of_the_quickstarts_trials_stay_as_they_were_first_published():
    """Another id would train every published trial again; the model's hash is made up, so that no weights are needed."""
    quickstart = load_study(Path(__file__).parents[3] / "jobs" / "studies" / "quickstart.yaml")
    setting = settings.get("miniature/spanish_caps")
    # Rows and recipe as they were then: both have changed with the miniature's language, the rule has not.
    recipe = quickstart.recipes["lora"].model_copy(update={"learning_rate": 2e-2, "steps": 20})
    found = {
        (arm.name, seed): trial_id(
            model="0" * 64, dataset=QUICKSTART_ROWS, arm=resolve_arm(arm, setting), recipe=recipe, seed=seed
        )
        for arm in quickstart.arms
        for seed in quickstart.seeds
    }
    assert found == QUICKSTART_TRIALS


def test_the_ids_of_the_quickstarts_evaluations_stay_as_they_are():
    """They have the questions in them, so they hold for one version of the miniature's language and of what it asks."""
    quickstart = load_study(Path(__file__).parents[3] / "jobs" / "studies" / "quickstart.yaml")
    setting = settings.get("miniature/spanish_caps")
    found = [
        evaluation_id(spec, ResolvedContext("any", system), quickstart.evaluation, "fp32")
        for spec in setting.evaluations
        for system in (asked.NEUTRAL_PROMPT, None)
    ]
    assert found == ["c8ff79484b4cfd0d", "328fe78e3c32d0ee", "4e82b5acb529cf95", "94774b45bd19ea5f"]
