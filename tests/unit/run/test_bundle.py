"""Whatever file a study names travels with its job, and a field that names files cannot be forgotten."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from config_classes import config_classes
from model_folders import folder_of
from pydantic import BaseModel
from template_parts import Parts

from inoc_ray import settings
from inoc_ray.config.base import Config
from inoc_ray.config.identity import path_kind_of, runtime
from inoc_ray.data.chat import ChatRow, write_jsonl
from inoc_ray.errors import InputError
from inoc_ray.evaluate.harness_task import find_task
from inoc_ray.miniature import judge_weights_path, weights_path
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.judge_assignment import find_judge
from inoc_ray.run import bundle
from inoc_ray.run.bundle import pack, replace_paths
from inoc_ray.run.load import load_study
from inoc_ray.run.not_here import not_here
from inoc_ray.scoring import Rule
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study

COMMIT = "0" * 40
TEXTS = {
    "All": {"all"},
    "Any_": {"any"},
    "Arm": {"name", "prompt", "undesired", "desired"},
    "Backdoor": {"token"},
    "Claim": {
        *(
            "name",
            "says",
            "source",
            "arms",
            "than",
            "trait",
            "evaluation",
            "context",
            "than_context",
            "task",
            "settings",
        ),
        "models",
    },
    "Context": {"name", "system"},
    "ContainsRule": {"pattern"},
    "Coverage": {"tag", "classifier", "values"},
    "Dynamics": {"contexts"},
    "Evaluation": {
        "may_repeat_training",
        "contexts",
        "judged_by",
        "rules_given",
        "profile",
        "reference",
        "rubrics",
        "overrides",
    },
    "ExactRule": {"answers"},
    "First": {"first"},
    "Inoculation": {"separator", "paraphrases"},
    "Judge": {"endpoint", "served_model", "api_key_env"},
    "Lora": {"targets"},
    "MeasureOf": {"rubric", "given"},
    "Model": {"name"},
    "ClusterShape": {"nodes"},
    "GroupResources": {"deepspeed", "checkpoints"},
    "ModelResources": {"deepspeed", "checkpoints", "recipes"},
    "NodesOfOneKind": {"machine", "gpu"},
    "Not": {"not_"},
    "OwnRubric": {"question", "low", "high"},
    "Part": {"name"},
    "SettingUse": {"name", "undesired", "desired", "narrow"},
    "PriorStage": {"setting", "recipe"},
    "ProbeSet": {"name", "trait"},
    "Response": {"question", "response"},
    "Resources": {"deepspeed", "checkpoints", "models", "recipes", "judges"},
    "Study": {"name", "recipes", "judges", "tracking_uri"},
    "Suite": {"name", "settings", "choices", "contexts", "traits", "templates"},
    "Thresholds": {"name", "shown", "counts"},
    "TrialResources": {"deepspeed", "checkpoints"},
}
"""Fields that hold texts and name no file."""


def holds_texts(annotation: Any) -> bool:
    """True for a field whose value may be or hold a text that is none of a few given ones."""
    return bool(re.search(r"\b(str|Path|PosixPath|Any)\b", re.sub(r"Literal\[[^]]*\]", "", str(annotation))))


@pytest.mark.parametrize("cls", config_classes(), ids=lambda c: c.__name__)
def test_every_text_field_of_a_study_is_known_to_name_a_file_or_not(cls):
    for name, info in cls.model_fields.items():
        if path_kind_of(cls, name) is None and (holds_texts(info.annotation) or "path" in name or "file" in name):
            assert name in TEXTS.get(cls.__name__, ()) or (name == "rule" and issubclass(cls, Rule)), (
                f"{cls.__name__}.{name} holds texts. If they name files, declare it with runtime(path=…), so that `submit` takes "
                "the files along; if not, add it to TEXTS here."
            )


def reachable(cls: type[BaseModel], seen: set[type] | None = None) -> set[type]:
    """The configuration classes that a value of this one may hold."""
    seen = set() if seen is None else seen
    if cls in seen:
        return seen
    seen.add(cls)
    waiting = [info.annotation for info in cls.model_fields.values()]
    while waiting:
        one = waiting.pop()
        if isinstance(one, type) and issubclass(one, BaseModel):
            reachable(one, seen)
        waiting += get_args(one)
    return seen


def test_a_class_with_a_field_that_names_files_is_walked():
    """A part of a study that is read later, as rules are, is plain values for the walk: it must name no files."""
    naming = {cls for cls in config_classes() if any(path_kind_of(cls, field) for field in cls.model_fields)}
    assert naming <= reachable(Study)
    assert len(naming) >= 8


def test_a_field_that_names_files_is_found_at_any_depth():
    class Inner(Config):
        file: str = runtime(path="rows")
        word: str = runtime("w")

    class Outer(Config):
        one: Inner | str = runtime(path="questions")
        many: dict[str, tuple[Inner, ...]] = runtime({})
        plain: tuple[str, ...] = runtime((), path="plugin")
        left: str | None = runtime(None, path="model")

    seen: list[tuple[str, str, str]] = []

    def put(source: str, kind: str, place: str) -> str:
        seen.append((source, kind, place))
        return f"new/{source}"

    outer = Outer(one=Inner(file="a"), many={"x": (Inner(file="b", word="v"),)}, plain=("c", "d"))
    assert replace_paths(outer, put) == {
        "one": {"file": "new/a"},
        "many": {"x": [{"file": "new/b", "word": "v"}]},
        "plain": ["new/c", "new/d"],
    }
    assert [(kind, place) for _, kind, place in seen] == [
        ("rows", "one.file"),
        ("rows", "many.x[0].file"),
        ("plugin", "plain[0]"),
        ("plugin", "plain[1]"),
    ]
    assert replace_paths(Outer(one="q"), put) == {"one": "new/q"}


# -- a study that names a file in every way ---------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a study and all that it names, some of it by names that begin with ~."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    for name in ("rows", "clean", "bad", "mixed", "prior"):
        write_jsonl(
            folder / f"{name}.jsonl", [ChatRow.of(("user", f"{name} {n}?"), ("assistant", name)) for n in range(40)]
        )
    for name in ("q", "own"):
        (folder / f"{name}.jsonl").write_text(f'{{"prompt": "{name}?"}}\n')
    (folder / "first.yaml").write_text("- {id: a, paraphrases: [What?]}\n")
    folder_of(folder / "base", Parts(think="hybrid").source)
    shutil.copytree(judge_weights_path(), folder / "judge_model")
    (folder / "tasks").mkdir()
    (folder / "tasks" / "mine.yaml").write_text("task: mine\n")
    (folder / "tasks" / "items.jsonl").write_text('{"a": 1}\n')
    (folder / "plugins" / "words").mkdir(parents=True)
    (folder / "plugins" / "words" / "list.txt").write_text("hola\n")
    (folder / "plugins" / "helper.py").write_text("WORDS = 'words/list.txt'\n")
    (folder / "plugins" / ".hidden").write_text("secret")
    (folder / "plugins" / "mine.py").write_text(
        "import sys\nfrom pathlib import Path\nfrom dataclasses import replace\n"
        "sys.path.insert(0, str(Path(__file__).parent))\nfrom helper import WORDS\n"
        "(Path(__file__).parent / WORDS).read_text()\n"
        "from inoc_ray.settings import get, register\n"
        "register(replace(get('miniature/spanish_caps'), name='bundled'))\n"
    )
    value = {
        "name": "s",
        "settings": [
            {"name": "miniature/spanish_caps", "rows": "~/rows.jsonl", "questions": {"in_distribution": "q.jsonl"}},
            {
                "name": "bundled",
                "rows": {"mix": [{"name": "a", "rows": "rows.jsonl"}, {"name": "b", "rows": "mixed.jsonl"}]},
            },
            {
                "name": "miniature/backdoor",
                "rows": {
                    "bad": "bad.jsonl",
                    "clean": "clean.jsonl",
                    "token": "$|TRIGGER|$",
                    "fraction": 0.5,
                    "total": 20,
                },
            },
        ],
        "arms": [
            "baseline",
            {
                "name": "own",
                "kind": "general",
                "prompt": "You …",
                "undesired": ["caps"],
                "inoculation": {"coverage": {"fraction": 0.5}, "placement": "user_prefix"},
            },
        ],
        "seeds": [0],
        "models": [
            {"name": "base", "path": "~/base", "enable_thinking": False},
            {"name": "knows", "path": "base", "prior_stage": {"rows": "prior.jsonl", "recipe": "r"}},
            "miniature",
        ],
        "recipes": {"r": {"preset": "miniature", "steps": 3}},
        "judges": {"j": {"path": "judge_model", "method": "digit"}, "m": {"path": "miniature"}},
        "evaluation": {
            "capabilities": [{"task": "tasks/mine.yaml", "limit": 2}, "miniature/answers", "gsm8k"],
            "contexts": ["neutral", {"name": "pirate", "system": "Arr"}],
            "suites": [
                {
                    "name": "own",
                    "questions": "own.jsonl",
                    "max_tokens": 16,
                    "traits": {"hola": {"rule": "contains", "pattern": "h"}},
                },
                {
                    "name": "first",
                    "questions": "~/first.yaml",
                    "traits": {"bad": {"rubric": "alignment"}},
                    "max_tokens": 16,
                },
            ],
        },
        "plugins": ["plugins/mine.py"],
    }
    del value["settings"][2], value["arms"][1]["undesired"]
    value["settings"][0]["control_rows"] = {
        "bad": "bad.jsonl",
        "clean": "clean.jsonl",
        "token": "$|T|$",
        "fraction": 0.5,
        "total": 20,
    }
    value["arms"][1]["undesired"] = ["spanish"]
    (folder / "study.yaml").write_text(yaml.safe_dump(value))
    yield folder
    if "bundled" in settings.names():
        settings.forget("bundled")


def paths_of(study: BaseModel) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    replace_paths(study, lambda source, kind, place: (found.append((source, kind, place)), source)[1])
    return found


def test_a_job_finds_all_that_a_study_names_and_plans_the_same(home, tmp_path, monkeypatch):
    study, store = load_study(Path("study.yaml")), Store(tmp_path / "runs")
    named = paths_of(study)
    # The study of this test names something in every field that can: else a new one would go untested.
    there = {(cls.__name__, f) for cls in config_classes() for f in cls.model_fields if path_kind_of(cls, f)}
    assert {part for _, _, place in named for part in re.findall(r"\w+", place)} >= {f for _, f in there} - {"storage"}
    plan = build_plan(study, store)
    tasks = [find_task(c).content for c in study.evaluation.capabilities]
    judge = find_judge("j", study.judges["j"]).id
    packed = tmp_path / "packed"
    packed.mkdir()
    pack(packed, Path("study.yaml"), study, store)
    settings.forget("bundled")
    home.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(packed)
    again = load_study(Path("study.yaml"))
    for source, kind, place in paths_of(again):
        known = source in ("miniature", "miniature/answers", "gsm8k")
        assert known or kind == "storage" or (packed / source).exists(), (place, source)
    there = build_plan(again, store)
    assert [t.trial_id for t in there.fine_tunes] == [t.trial_id for t in plan.fine_tunes]
    assert [c.evaluation_id for c in there.cells] == [c.evaluation_id for c in plan.cells]
    assert find_judge("j", again.judges["j"]).id == judge
    assert [find_task(c).content for c in again.evaluation.capabilities] == tasks
    assert [m.enable_thinking for m in again.models] == [False, None, None]
    assert not list(packed.rglob(".hidden"))


def test_the_packed_study_plans_in_a_process_that_knows_nothing_else(home, tmp_path):
    packed = tmp_path / "packed"
    packed.mkdir()
    pack(packed, Path("study.yaml"), load_study(Path("study.yaml")), Store(tmp_path / "runs"))
    home.rename(tmp_path / "elsewhere")
    found = subprocess.run(
        [sys.executable, "-m", "inoc_ray.cli", "plan", "study.yaml", "--json"],
        cwd=packed,
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert found.returncode == 0, found.stderr


def test_the_id_of_a_bundle_follows_from_what_is_in_it(home, tmp_path):
    def packed(name: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        return pack(folder, Path("study.yaml"), load_study(Path("study.yaml")), Store(tmp_path / "runs"))

    ids = [packed("a")]
    assert packed("b") == ids[0]
    for number, file in enumerate(
        ("own.jsonl", "tasks/items.jsonl", "plugins/words/list.txt", "judge_model/chat_template.jinja")
    ):
        (home / file).write_text((home / file).read_text() + "\n")
        ids.append(packed(f"c{number}"))
    assert len(set(ids)) == 5


def tiny(tmp_path: Path, **more: Any) -> tuple[Path, Study, Store]:
    value = {
        "name": "s",
        "settings": ["miniature/spanish_caps"],
        "arms": ["baseline"],
        "recipes": {"r": {"learning_rate": 1e-3, "steps": 1}},
        **more,
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(value))
    (tmp_path / "packed").mkdir()
    return path, Study.model_validate(value), Store(tmp_path / "runs")


def test_a_large_file_stays_if_its_path_is_absolute_and_is_refused_otherwise(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(weights_path(), tmp_path / "base")
    with (tmp_path / "base" / "more.safetensors").open("wb") as large:
        large.truncate(bundle.MAX_BYTES)
    path, study, store = tiny(tmp_path, models=[{"name": "b", "path": "base"}])
    with pytest.raises(InputError) as refused:
        pack(tmp_path / "packed", path, study, store)
    head, largest, *_, advice = str(refused.value).splitlines()
    assert re.fullmatch(r"the study names 7\.\d MB of files, and at most 5\.0 MB travel with a job:", head)
    assert largest == f"     5.0 MB  models[0].path: {tmp_path}/base/more.safetensors"
    assert "give its absolute path there" in advice
    assert "hf://OWNER/NAME@COMMIT" in advice
    assert list((tmp_path / "packed").iterdir()) == []
    study = study.model_validate(
        {**study.model_dump(exclude_unset=True), "models": [{"name": "b", "path": str(tmp_path / "base")}]}
    )
    pack(tmp_path / "packed", path, study, store)
    assert yaml.safe_load((tmp_path / "packed" / "study.yaml").read_text())["models"][0]["path"] == str(
        tmp_path / "base"
    )
    assert "is not sent with the job" in capsys.readouterr().err


JUDGES = {"j": {"endpoint": "https://me:very-secret@host/v1", "served_model": "x", "method": "sample"}}


@pytest.mark.parametrize(
    ("field", "more"),
    [
        ("tracking_uri", {"tracking_uri": "postgresql://me:very-secret@host/db"}),
        ("tracking_uri", {"tracking_uri": "postgresql://host/db?password=very-secret"}),
        ("tracking_uri", {"tracking_uri": "https://very-secret@host"}),
        ("judges.j.endpoint", {"judges": JUDGES}),
    ],
)
def test_a_password_in_an_address_does_not_travel(tmp_path, field, more):
    path, study, store = tiny(tmp_path, **more)
    folder = tmp_path / "packed"
    with pytest.raises(InputError, match=f"^{field}: .*PGPASSWORD") as caught:
        pack(folder, path, study, store)
    assert "very-secret" not in str(caught.value)
    assert not list(folder.iterdir())


def test_a_database_without_its_password_travels(tmp_path):
    path, study, store = tiny(tmp_path, tracking_uri="postgresql://me@host/db")
    pack(tmp_path, path, study, store)
    assert "postgresql://me@host/db" in (tmp_path / bundle.STUDY_FILE).read_text()


def test_a_hub_address_is_left_unchanged(tmp_path):
    rows = f"hf://datasets/a/b@{COMMIT}/x.jsonl"
    model = {"name": "b", "path": f"hf://a/b@{COMMIT}"}
    path, study, store = tiny(tmp_path, models=[model], settings=[{"name": "miniature/spanish_caps", "rows": rows}])
    pack(tmp_path / "packed", path, study, store)
    packed = yaml.safe_load((tmp_path / "packed" / "study.yaml").read_text())
    assert (packed["models"], packed["settings"][0]["rows"]) == ([model], rows)
    assert packed["storage"] == str(store.root)


def test_a_missing_file_and_a_plugin_beside_too_many_files_are_refused(tmp_path):
    path, study, store = tiny(tmp_path, settings=[{"name": "miniature/spanish_caps", "rows": "nowhere.jsonl"}])
    with pytest.raises(
        InputError, match=r"^settings\[0\]\.rows: .*/nowhere\.jsonl: cannot be packed for the job \(No such file"
    ):
        pack(tmp_path / "packed", path, study, store)
    (tmp_path / "p.py").write_text("")
    (tmp_path / "many").mkdir()
    for number in range(1001):
        (tmp_path / "many" / str(number)).write_text("")
    study = study.model_validate(
        {**study.model_dump(exclude_unset=True), "settings": ["miniature/spanish_caps"], "plugins": ["p.py"]}
    )
    with pytest.raises(InputError, match=r"^plugins\[0\]: beside .*/p\.py are more than .*to a folder of their own"):
        pack(tmp_path / "packed", path, study, store)


def test_a_folder_beside_a_plugin_that_is_a_link_travels_with_it(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "words.txt").write_text("hola")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "p.py").write_text("")
    (tmp_path / "plugins" / "data").symlink_to(tmp_path / "elsewhere")
    path, study, store = tiny(tmp_path, plugins=["plugins/p.py"])
    pack(tmp_path / "packed", path, study, store)
    assert [file.read_text() for file in (tmp_path / "packed").rglob("words.txt")] == ["hola"]


def test_neither_a_link_back_nor_one_to_the_storage_travels_with_a_plugin(tmp_path):
    (tmp_path / "plugins" / "inner").mkdir(parents=True)
    (tmp_path / "plugins" / "p.py").write_text("")
    (tmp_path / "plugins" / "back").symlink_to(tmp_path / "plugins")
    (tmp_path / "plugins" / "inner" / "up").symlink_to(tmp_path)
    (tmp_path / "plugins" / "other").mkdir()
    (tmp_path / "plugins" / "other" / "to").symlink_to(tmp_path / "plugins" / "inner")
    (tmp_path / "plugins" / "inner" / "fro").symlink_to(tmp_path / "plugins" / "other")
    (tmp_path / "plugins" / "other" / "words.txt").write_text("")
    path, study, store = tiny(tmp_path, plugins=["plugins/p.py"])
    Path(store.address).mkdir(parents=True, exist_ok=True)
    (Path(store.address) / "result").write_text("")
    (tmp_path / "plugins" / "runs").symlink_to(store.address)
    for number in range(30):
        (tmp_path / "plugins" / f"{number}.txt").write_text("")
    pack(tmp_path / "packed", path, study, store)
    assert len([*(tmp_path / "packed").rglob("0.txt")]) == 1
    assert len([*(tmp_path / "packed").rglob("words.txt")]) == 2
    assert not [*(tmp_path / "packed").rglob("result")]


def test_many_files_that_are_too_large_together_are_listed_by_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = []
    for number in range(12):
        (tmp_path / f"r{number:02d}.jsonl").write_text("x" * (450_000 + number))
        parts.append({"name": f"p{number}", "rows": f"r{number:02d}.jsonl"})
    path, study, store = tiny(tmp_path, settings=[{"name": "miniature/spanish_caps", "rows": {"mix": parts}}])
    with pytest.raises(InputError) as refused:
        pack(tmp_path / "packed", path, study, store)
    listed = [line for line in str(refused.value).splitlines() if "MB  settings" in line]
    assert len(listed) == 10
    assert listed[0].endswith(f"settings[0].rows.mix[11].rows: {tmp_path}/r11.jsonl")
    assert "… and 2 more" in str(refused.value)


def test_a_path_that_only_the_cluster_has_stays_as_it_is(tmp_path, capsys):
    away = "/mnt/of-the-cluster/models/large"
    path, study, store = tiny(tmp_path, models=[{"name": "b", "path": away}])
    pack(tmp_path / "packed", path, study, store)
    assert yaml.safe_load((tmp_path / "packed" / "study.yaml").read_text())["models"][0]["path"] == away
    assert f"{away} is not on this machine; every node of the cluster must have it" in capsys.readouterr().err
    assert not_here(study) == [away]


def test_the_id_does_not_depend_on_where_the_files_lie_or_what_they_are_called(tmp_path, monkeypatch):
    ids = []
    for folder, name in (("one", "rows.jsonl"), ("two", "mine.jsonl")):
        home = tmp_path / folder
        home.mkdir()
        monkeypatch.chdir(home)
        (home / name).write_text('{"messages": []}\n')
        shutil.copytree(weights_path(), home / f"model-{folder}")
        value = {
            "settings": [{"name": "miniature/spanish_caps", "rows": name}],
            "models": [{"name": "m", "path": f"model-{folder}"}],
        }
        path, study, _ = tiny(home, **value)
        ids.append(pack(home / "packed", path, study, Store("/storage")))
    assert ids[0] == ids[1]
    (tmp_path / "two" / "mine.jsonl").write_text('{"messages": [1]}\n')
    (tmp_path / "again").mkdir()
    assert pack(tmp_path / "again", path, study, Store("/storage")) != ids[0]
