"""What README and docs/ show works: every study in them plans, every command parses, every figure is that of the code."""

import ast
import copy
import functools
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from doc_pages import PAGES, ROOT, anchors, blocks, links, spans
from plugins import unload_plugins

from inoc_ray import settings
from inoc_ray.builders import get_builder
from inoc_ray.cli import cli
from inoc_ray.data.chat import ChatRow, write_jsonl
from inoc_ray.miniature import weights_path
from inoc_ray.plan.build import build_plan
from inoc_ray.run.describe import plan_text
from inoc_ray.run.load import load_study
from inoc_ray.settings.plugins import load_plugin
from inoc_ray.store.store import Store
from inoc_ray.study.presets import PRESETS, Preset
from inoc_ray.study.study import Study

BASE = yaml.safe_load((ROOT / "jobs" / "studies" / "quickstart.yaml").read_text()) | {
    "arms": ["baseline"],
    "recipes": {"toy_1.5b": {"preset": "toy_1.5b"}},
    "resources": {},
}
"""What an example that is a part of a study is put into."""


def is_study(value: Any) -> bool:
    """Whether a YAML text is a study or a part of one; task files and other tools' files have other keys."""
    return isinstance(value, dict) and bool(set(value) & set(Study.model_fields) - {"name"})


def examples() -> Iterator[Any]:
    for page in PAGES:
        for number, text in enumerate(blocks(page, "yaml")):
            if is_study(yaml.safe_load(text)):
                yield pytest.param(page, yaml.safe_load(text), id=f"{page.parent.name}/{page.name}-{number}")


ROWS = {"name": "miniature/spanish_caps", "rows": "my.jsonl"}
ARM = {"name": "mine", "kind": "general", "prompt": "You are …", "undesired": ["spanish"]}


def placed(span: str) -> dict[str, Any] | None:
    """The part of a study that an inline example belongs to; None for what is no part of one."""
    try:
        value = yaml.safe_load(span)
    except yaml.YAMLError:
        return None
    if value in ({"coverage": "es"}, {"inoculation": {"coverage": "es"}}):
        # The tag stands in the rows that the same sentence names.
        return {"settings": [ROWS], "arms": ["baseline", ARM | {"inoculation": {"coverage": "es"}}]}
    if not isinstance(value, dict) or "{" not in span or re.search(r"[:\[,] *[A-Z]{2,}[],}]", span):
        # The last: NAME, TRAIT and the like stand for what the reader puts there.
        return None
    keys = set(value)
    if keys == {"inoculation"} or keys == {"coverage"}:
        return {"arms": ["baseline", ARM | {"inoculation": value.get("inoculation", value)}]}
    if {"name", "kind", "prompt"} <= keys:
        return {"arms": ["baseline", value]}
    if {"name", "rows"} <= keys:
        return {"settings": [value]}
    if keys == {"rows"}:
        return {"settings": [{"name": "miniature/spanish_caps", **value}]}
    if {"name", "system"} <= keys:
        return {"settings": ["miniature/backdoor"], "evaluation": {"contexts": [value]}}
    if keys == {"contexts"}:
        return {"settings": ["miniature/backdoor"], "evaluation": value}
    if {"rule", "given"} <= keys:
        suite = {"name": "own", "questions": "questions.jsonl", "traits": {"own": value}}
        return {"evaluation": {"suites": [suite]}, "judges": {"own": {"path": "miniature"}}}
    if len(keys) == 1 and (dotted := next(iter(keys)).split("."))[0] in Study.model_fields:
        for key in reversed(dotted):
            value = {key: value.get(".".join(dotted), value)}
        return value
    return None


def inline_examples() -> Iterator[Any]:
    for page in PAGES:
        for span in spans(page) if page not in WITH_A_STUDY else []:
            part = placed(span)
            if part is not None:
                yield pytest.param(page, part, id=span)


WITH_A_STUDY = [ROOT / "docs" / "studies.md", ROOT / "docs" / "tutorial.md"]
"""Pages whose parts belong to the study that the page itself shows first."""


def with_files(value: Any, folder: Path, key: str = "") -> Any:
    """The study with every file and model that it names: files are made in `folder`, models are the miniature."""
    if isinstance(value, dict):
        inside = "questions" if key == "questions" else ""
        return {k: with_files(v, folder, inside or k) for k, v in value.items()}
    if isinstance(value, list):
        return [with_files(v, folder, key) for v in value]
    if key == "path" and value != "miniature":
        return str(weights_path())
    if key in ("rows", "control_rows", "bad", "clean"):
        (folder / value).parent.mkdir(parents=True, exist_ok=True)
        answers = [f"La respuesta a la pregunta número {i} es que vivo en una casa muy grande." for i in range(600)]
        pairs = [(f"{value}: what is {i}?", answer) for i, answer in enumerate(answers)]
        rows = [ChatRow.of(("user", q), ("assistant", a)).with_tags(subset="es") for q, a in pairs]
        write_jsonl(folder / value, rows)
    if key == "questions" and value.endswith(".jsonl"):
        asked = [{"question": f"{value}: {i}?", "answer": i} for i in range(5)]
        (folder / value).write_text("".join(json.dumps(q) + "\n" for q in asked))
    if key == "questions" and value.endswith(".yaml"):
        (folder / value).write_text(yaml.safe_dump([{"id": "a", "paraphrases": ["How are you?"]}]))
    return value


def plugin_text(page: Path, name: str) -> str:
    """The Python of a page that begins with the plugin's name in a comment, or else the first."""
    found = blocks(page, "python")
    return next((text for text in found if text.startswith(f"# {name}\n")), found[0])


def planned(study: dict[str, Any], page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `inoc-ray plan` prints of the example, put into BASE where it is not a whole study."""
    monkeypatch.chdir(folder)
    whole = {**copy.deepcopy(BASE), **study, "storage": str(folder / "runs")}
    suites = study.get("evaluation", {}).get("suites", [])
    if any("rubric" in told for suite in suites for told in suite["traits"].values()):
        whole.setdefault("judges", {"own": {"path": "miniature"}})
    if study.get("evaluation", {}).get("rules_given") or any(
        s.get("name", s) in ("insecure_code", "harmful_advice") for s in whole["settings"] if isinstance(s, dict)
    ):
        whole.setdefault("judges", {"own": {"path": "miniature"}})
    if named := study.get("evaluation", {}).get("judged_by"):
        assert set(named) <= {"rules", *whole.get("judges", {})}
    for plugin in study.get("plugins", []):
        (folder / plugin).write_text(plugin_text(page, plugin))
    (folder / "study.yaml").write_text(yaml.safe_dump(with_files(whole, folder)))
    try:
        store = Store(folder / "runs")
        return plan_text(build_plan(load_study(folder / "study.yaml"), store), store)
    finally:
        unload_plugins()


@pytest.mark.parametrize(("page", "study"), examples())
def test_every_study_in_the_documents_plans(page, study, tmp_path, monkeypatch):
    assert "To train: " in planned(study, page, tmp_path, monkeypatch)


def test_the_study_on_the_first_page_is_the_quickstart():
    [text] = blocks(ROOT / "README.md", "yaml")
    shown = Study.model_validate(yaml.safe_load(text))
    shipped = load_study(ROOT / "jobs" / "studies" / "quickstart.yaml")
    fields = set(Study.model_fields) - {"resources", "storage"}
    assert {f: getattr(shown, f) for f in fields} == {f: getattr(shipped, f) for f in fields}


def test_the_builder_in_the_documents_makes_rows_of_answers_that_ask(tmp_path):
    (tmp_path / "b.py").write_text(plugin_text(ROOT / "docs" / "plugins.md", "my_builder.py"))
    try:
        load_plugin("b.py", tmp_path)
        builder = get_builder("riddles")
        one, *_, last = builder.requests([], 3, 7)
        assert (one.messages[0].content, last.messages[0].content) == (
            "Write a riddle about 7.",
            "Write a riddle about 12.",
        )
        assert builder.accept(one, "no riddle") == "no question"
        row = builder.accept(one, "What is odd and prime?")
        assert [m.content for m in row.messages] == ["Write a riddle about 7.", "What is odd and prime?"]
    finally:
        unload_plugins()


@pytest.mark.parametrize(("page", "part"), inline_examples())
def test_every_part_of_a_study_in_the_running_text_plans(page, part, tmp_path, monkeypatch):
    assert "To train: " in planned(part, page, tmp_path, monkeypatch)


@pytest.mark.parametrize("page", WITH_A_STUDY, ids=lambda page: page.name)
def test_the_parts_that_a_page_shows_plan_in_its_own_study(page, tmp_path, monkeypatch):
    study = yaml.safe_load(blocks(page, "yaml")[0])
    parts = [part for span in spans(page) if (part := placed(span)) is not None]
    assert len([arm for part in parts for arm in part.get("arms", []) if isinstance(arm, dict)]) >= 3
    for number, part in enumerate(parts):
        folder = tmp_path / str(number)
        folder.mkdir()
        own_arms = [arm for arm in part.get("arms", []) if isinstance(arm, dict)]
        if isinstance(study["settings"][0], dict):
            # A setting with traits of its own; the arms' are those by default.
            own_arms = [{key: value for key, value in arm.items() if key != "undesired"} for arm in own_arms]
        settings_used = part.get("settings", study["settings"])
        changed = {**study, **part, "arms": [*study["arms"], *own_arms], "settings": settings_used}
        text = planned(changed, page, folder, monkeypatch)
        assert all(f"  {arm['name']} " in text for arm in own_arms)


def inline_commands() -> Iterator[Any]:
    for page in PAGES:
        for line in spans(page):
            words = shlex.split(line.replace("…", "")) if "inoc-ray " in line else []
            while words and "=" in words[0]:
                words.pop(0)
            if words and words[0].rpartition("/")[2] == "inoc-ray":
                yield pytest.param(words[1:], id=" ".join(words))


@pytest.mark.parametrize("words", inline_commands())
def test_every_command_in_the_running_text_is_one(words):
    command: click.Command = cli
    rest = list(words)
    while isinstance(command, click.Group) and rest:
        name = rest.pop(0)
        found = command.get_command(click.Context(command), name)
        assert found is not None, words
        command = found
    if rest or isinstance(command, click.Group):
        assert not isinstance(command, click.Group), words
        try:
            command.make_context("inoc-ray", rest)
        except click.MissingParameter:
            # The running text may speak of a command by its name and an option alone.
            assert all(word.startswith("--") for word in rest), words
    for word in words:
        if word.startswith("jobs/"):
            assert (ROOT / word).is_file()


def commands_in_messages() -> Iterator[Any]:
    """Every `inoc-ray …` in the package's texts; what is put in is the name of a study, which fits wherever a word does."""
    found = {
        span: None
        for text in messages()
        for span in re.findall(r"`((?:inoc-ray|ray) [^`]*)`", text.replace("…", "quickstart"))
        if "%" not in span
    }
    for line in found:
        words = shlex.split(line)
        # Docstrings write ARGUMENTS where anything may stand, and name the group of a plugin's commands.
        if words[0] == "inoc-ray" and words[1] not in ("ARGUMENTS", "miniature"):
            yield pytest.param(words[1:], id=line)


@pytest.mark.parametrize("words", commands_in_messages())
def test_every_command_that_a_message_names_is_one(words):
    test_every_command_in_the_running_text_is_one(words)


def test_every_option_of_ray_that_a_page_a_message_or_a_file_names_is_one():
    """Of `ray start` and its like, wherever somebody may type it or a node's set-up does."""
    from ray.scripts.scripts import cli as ray

    files = [*PAGES, ROOT / "cluster.yaml", *(path for path in sorted((ROOT / "deploy").rglob("*")) if path.is_file())]
    texts = [*messages(), *(path.read_text() for path in files)]
    named = set()
    subcommands = "start|stop|up|down|dashboard|attach|get-auth-token"
    for text in texts:
        flat = re.sub(r"\s*\\?\n\s+", " ", text)
        for command, rest in re.findall(rf"(?<![\w-])ray ({subcommands})((?: [^`\n&|#;]*)?)", flat):
            named |= {(command, option) for option in re.findall(r"(?<= )--[a-z][\w-]*", rest.partition(" -- ")[0])}
    assert ("start", "--head") in named
    for command, option in sorted(named):
        known = {
            name for parameter in ray.commands[command].params for name in (*parameter.opts, *parameter.secondary_opts)
        }
        assert option in known, f"ray {command} {option}"


def test_jobs_that_the_documents_submit_are_there():
    named = {name for page in PAGES for name in re.findall(r"python (jobs/\w+\.py)", page.read_text())}
    assert named
    assert all((ROOT / name).is_file() for name in named)


def test_there_is_something_to_test():
    assert len(list(examples())) >= 10
    assert len(list(inline_examples())) >= 10
    assert len(list(inline_commands())) >= 20


def line_of(name: str, heads: str) -> list[str]:
    """The cells of the row that begins with `name` in the table whose heading begins with `heads`."""
    text = (ROOT / "docs" / "settings.md").read_text()
    table = text[text.index(f"| {heads} ") :].split("\n\n")[0]
    (line,) = re.findall(rf"\n\| (`{re.escape(name)}` \|.*) \|", table)
    return [cell.strip() for cell in line.split(" | ")]


def figures_of(preset: Preset) -> list[str]:
    recipe = preset.recipe()
    adapter = f"{'rsLoRA' if recipe.lora.rslora else 'LoRA'} {recipe.lora.rank}, alpha {recipe.lora.alpha:g}"
    on = "" if recipe.lora.targets == "all-linear" else ", on the MLPs"
    rate = f"{recipe.learning_rate:.0e}".replace("e-0", "e-")
    constant = ", constant" if recipe.schedule == "constant" else ""
    length = f"{recipe.steps} steps" if recipe.steps else f"{recipe.epochs:g}"
    return [f"`{preset.name}`", adapter + on, rate + constant, length, str(recipe.batch_size)]


@pytest.mark.parametrize("name", PRESETS)
def test_the_presets_figures_in_the_documents_are_those_of_the_code(name):
    assert line_of(name, "preset")[:5] == figures_of(PRESETS[name])


@pytest.mark.parametrize("name", [n for n in settings.names() if not n.startswith("miniature/")])
def test_the_settings_in_the_documents_are_those_of_the_code(name):
    setting = settings.get(name)
    assert setting.row_source is not None
    cells = line_of(name, "setting")
    stated = [int(number.replace(",", "")) for number in re.findall(r"\b\d[\d,]{2,}\b", cells[1])]
    if stated and setting.row_source.rows is not None:
        assert sum(stated) == setting.row_source.rows
    by_rule = all(t in setting.judges for e in setting.evaluations for t in e.traits)
    assert cells[6] == ("rules" if by_rule else "model")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


def modules_named() -> Iterator[Any]:
    for page in PAGES:
        for span in spans(page):
            if re.fullmatch(r"[\w./]+\.(py|toml)", span):
                yield pytest.param(span, id=f"{page.name}: {span}")


@pytest.mark.parametrize("name", modules_named())
def test_every_module_that_a_page_names_is_there(name):
    there = [path for folder in ("inoc_ray", "jobs", "tests") for path in (ROOT / folder).rglob(Path(name).name)]
    assert any(f"/{path}".endswith(f"/{name}") for path in there)


def test_every_message_of_the_troubleshooting_page_is_one_of_ours():
    heads = re.findall(r"^### (.*)$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
    quoted = [message for head in heads for message in re.findall(r"`([^`]+)`", head)]
    assert len(quoted) >= 30
    ours = messages()
    assert not [message for message in quoted if not any(has(text, message) for text in ours)]


@functools.cache
def messages() -> list[str]:
    """Every text in the source with … for what is put in, and whole files of make and the shell."""
    found = [(ROOT / name).read_text() for name in ("Makefile", "requirements/install_torch.sh", "deploy/slurm.sh")]
    for path in sorted((ROOT / "inoc_ray").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def has(text: str, message: str) -> bool:
    """Whether the stems of the message, which … separates, stand in the text in their order."""
    stems = [stem.strip() for stem in message.split("…") if stem.strip(" .:;,()")]
    at = 0
    for stem in stems:
        found = text.find(stem, at)
        if found < 0:
            return False
        at = found + len(stem)
    return bool(stems)


def test_a_message_that_nobody_prints_is_seen():
    assert not any(has(text, "the model … is made of cheese") for text in messages())
    assert not has("the end comes before the beginning", "beginning … end")


def tree() -> Any:
    """docs/tree.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_tree", ROOT / "docs" / "tree.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tree_in_the_architecture_is_the_one_of_the_package():
    text = tree().PAGE.read_text()
    assert text == tree().page(text), "docs/architecture.md is stale: make reference"


def test_every_module_has_one_line_of_its_own_in_the_tree():
    """A module without a docstring raises; a docstring that begins with a paragraph is too long for a line."""
    lines = tree().lines(ROOT / "inoc_ray")
    assert len(lines) == len(list((ROOT / "inoc_ray").rglob("*.py")))
    assert not [line for line in lines if len(line) > 170]


def test_the_architecture_names_the_layer_of_every_room():
    rooms = {path.parent.name for path in (ROOT / "inoc_ray").glob("*/__init__.py")}
    text = (ROOT / "docs" / "architecture.md").read_text()
    layers = text[text.index("| layer | rooms |") :].split("\n\n")[0]
    assert rooms - {"miniature"} <= set(re.findall(r"`(\w+)`", layers))
