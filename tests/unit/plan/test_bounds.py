"""Whatever a file or an option holds, a command answers soon, within bounds, and in one message of its own."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inoc_ray import settings
from inoc_ray.cli import MAX_MESSAGE, main
from inoc_ray.config.identity import identity_fields
from inoc_ray.data.chat import ChatRow, write_jsonl
from inoc_ray.errors import InputError, shown
from inoc_ray.run.load import load_study
from inoc_ray.study.study import MAX_TRIALS

SECONDS, BYTES = 30, 4 << 30
"""What one of these commands may take: CPU time, whatever else the machine does, and address space."""
GOOD = """settings: [miniature/spanish_caps]
arms: [baseline]
seeds: [0]
recipes: {r: {learning_rate: 0.001, steps: 3}}
"""


def command(
    folder: Path, *arguments: str, cpu_seconds: int = SECONDS, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`inoc-ray` with so much CPU time and memory and no more."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))

    environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "inoc_ray.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environ,
        preexec_fn=limit,
        encoding="utf-8",
    )


class Refused:
    """Runs a command in this process and gives the one message with which it refuses, having written nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, folder: Path, *arguments: str, **environment: str) -> str:
        before, began = sorted(folder.rglob("*")), time.process_time()
        with self.monkeypatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(sys, "argv", ["inoc-ray", *arguments])
            for name, value in environment.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as end:
                main()
        out, err = self.capsys.readouterr()
        assert (end.value.code, out, sorted(folder.rglob("*"))) == (2, "", before), err[-2000:]
        assert err.count("\n") == 1
        assert len(err) < MAX_MESSAGE + 100
        assert time.process_time() - began < SECONDS
        return err.removeprefix("inoc-ray: ").rstrip("\n")


@pytest.fixture
def refused(monkeypatch, capsys) -> Refused:
    return Refused(monkeypatch, capsys)


def aliases(first: str, entry: str, levels: int = 60) -> str:
    """YAML whose n-th line names the line before it twice and more."""
    lines = [f"a0: &a0 {first}", *(f"a{n}: &a{n} {entry.replace('#', f'*a{n - 1}')}" for n in range(1, levels))]
    return "\n".join(lines) + f"\nname: *a{levels - 1}\n"


UNFOLDS = "its aliases unfold to more than anybody writes."
BOMBS = {
    "aliases in lists": (aliases("[x, x, x]", "[#, #, #, #]"), UNFOLDS),
    "aliases in merge keys": (aliases("{k: v}", "{<<: [#, #], k: w}"), UNFOLDS),
    "aliases of a long text": (f"a: &a {'x' * 500_000}\nname: [{', '.join(['*a'] * 500)}]\n", UNFOLDS),
    "a list that holds itself": ("name: &a [*a]\n", "a value that contains itself."),
    "a mapping that holds itself": ("name: &a {b: *a}\n", "a value that contains itself."),
    "deep lists": (f"name: {'[' * 100_000}\n", "nested too deeply."),
    "deep mappings": (f"name: {'{a: ' * 100_000}\n", "nested too deeply."),
    "too large": ("name: s\n" + "# much\n" * 300_000, "larger than 1 MiB, which cannot be a study file."),
    "a name of a megabyte": (f"name: {'x' * 900_000}\n{GOOD}", "is not a name: use letters, digits"),
    "a number of thousands of digits": (
        f"name: s\n{GOOD}storage: 0x{'f' * 10_000}\n",
        "a number of thousands of digits",
    ),
    "a key of a megabyte": (f"? {'k' * 900_000}\n: 1\n", "unknown key 'kkk"),
    "a list of thousands in place of a name": (
        f"name: [{', '.join(['x'] * 50_000)}]\n{GOOD}",
        "name: must be a text, found ['x'",
    ),
    "20,000 seeds": (
        f"name: s\n{GOOD.replace('seeds: [0]', f'seeds: {list(range(20_000))}')}",
        f"are 20,000 trials, and one study may have {MAX_TRIALS:,}",
    ),
    "50,000 arms": (f"name: s\n{GOOD.replace('[baseline]', str(['a'] * 40_000))}", "arms: 'a' appears twice"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_study_that_unfolds_nests_or_never_ends_is_refused_soon(tmp_path, name, refused):
    text, message = BOMBS[name]
    (tmp_path / "study.yaml").write_text(text)
    assert message in refused(tmp_path, "plan", "study.yaml")


@pytest.mark.parametrize("name", ["aliases in lists", "a list that holds itself", "deep lists", "too large"])
def test_questions_that_unfold_are_refused_as_a_study_is(tmp_path, name, refused):
    text, message = BOMBS[name]
    (tmp_path / "q.yaml").write_text(text)
    use = "{name: miniature/spanish_caps, questions: {in_distribution: q.yaml}}"
    (tmp_path / "study.yaml").write_text(f"name: s\n{GOOD.replace('miniature/spanish_caps', use)}")
    assert message.replace("a study file", "questions") in refused(tmp_path, "plan", "study.yaml")


@pytest.mark.parametrize("place", ["/dev/zero", "/dev/urandom", "pipe", "."])
def test_only_regular_files_are_read(tmp_path, place, refused):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x.jsonl").write_text("{}")
    kinds = {"pipe": "a pipe, which may never end", ".": "folder|directory"}
    for arguments in (
        ("plan", place),
        ("data", "check", place),
        ("data", "check", "x.jsonl", "--against", place),
    ):
        kind = kinds.get(place, "a device, which may never end")
        message = refused(tmp_path, *arguments)
        assert any(part in message for part in kind.split("|")), message


def test_merge_keys_are_read_and_own_keys_override_them(tmp_path):
    (tmp_path / "study.yaml").write_text(
        "name: s\nsettings: [miniature/spanish_caps]\narms: [baseline]\n"
        "recipes:\n  short: &r {learning_rate: 0.001, steps: 3, batch_size: 8}\n  long: {<<: *r, steps: 30}\n"
        "  both: {<<: [*r, {steps: 4, warmup_steps: 0}]}\n"
    )
    recipes = load_study(tmp_path / "study.yaml").recipes
    steps = {name: (recipe.steps, recipe.batch_size, recipe.warmup_steps) for name, recipe in recipes.items()}
    assert steps == {"short": (3, 8, 5), "long": (30, 8, 5), "both": (3, 8, 0)}
    assert identity_fields(recipes["short"])["batch_size"] == 8


def test_a_key_twice_beside_a_merge_key_is_refused(tmp_path):
    (tmp_path / "study.yaml").write_text("a: &r {x: 1}\nb: {<<: *r, x: 1, x: 2}\n")
    with pytest.raises(InputError, match=r"line 2, column 19: not YAML .the key 'x' appears twice"):
        load_study(tmp_path / "study.yaml")


@pytest.mark.parametrize(
    "row",
    [
        ChatRow.of(("user", "Hi"), ("assistant", "o" * 10_000_000)),
        ChatRow.of(("user", "word " * 2_000_000), ("assistant", "ok")),
        ChatRow.of(*([("user", "some words"), ("assistant", "and more words")] * 100_000)),
    ],
    ids=["one word", "two million words", "200,000 turns"],
)
def test_a_row_of_megabytes_is_refused_by_its_beginning(tmp_path, row):
    write_jsonl(tmp_path / "rows.jsonl", [ChatRow.of(("user", "Hi"), ("assistant", "Hello")), row])
    found = command(tmp_path, "data", "check", "rows.jsonl", cpu_seconds=SECONDS // 2)
    assert found.returncode == 2
    (message,) = found.stderr.splitlines()
    assert "rows.jsonl, row 2: more than 512 tokens (" in message
    assert "but max_length is 512" in message


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", "the name of the folder is empty"),
        (" ", "the name of the folder is empty"),
        ("s3:/bucket/x", "no storage; write 's3://bucket/x'"),
        ("hdfs://host/x", "no storage; write a folder"),
        ("s3://KEY:SECRET@bucket/x", "credentials and endpoint belong in the environment"),
    ],
)
@pytest.mark.parametrize("by", ["field", "option"])
def test_a_storage_is_refused_alike_in_the_study_and_on_the_command_line(tmp_path, place, message, by, refused):
    (tmp_path / "study.yaml").write_text(f"name: s\n{GOOD}" + (f"storage: '{place}'\n" if by == "field" else ""))
    option = () if by == "field" else ("--storage", place)
    said = refused(tmp_path, "plan", "study.yaml", *option)
    assert message in said
    assert "SECRET" not in said


def test_a_terminal_gets_a_replacement_for_a_character_it_cannot_encode_and_json_an_escape(tmp_path):
    (tmp_path / "study.yaml").write_text(f"name: s\n{GOOD}")
    found = command(tmp_path, "plan", "study.yaml", PYTHONIOENCODING="ascii")
    assert (found.returncode, found.stderr) == (0, "")
    assert "?" in found.stdout
    found = command(tmp_path, "prompts", "spanish_caps", "--json", PYTHONIOENCODING="ascii")
    there = command(tmp_path, "prompts", "spanish_caps", "--json")
    assert json.loads(found.stdout) == json.loads(there.stdout)
    assert not there.stdout.isascii() or found.stdout == there.stdout
    found = command(tmp_path, "plan", "é.yaml", PYTHONIOENCODING="ascii")
    assert found.returncode == 2
    assert found.stderr.startswith("inoc-ray: ")
    assert found.stderr.endswith(".yaml: no such study file.\n")


@pytest.mark.parametrize(
    "code", ["raise SystemExit(0)", "import sys; sys.exit()", "exit('bye')", "def f(): raise SystemExit\nf()"]
)
def test_a_plugin_that_ends_the_program_is_refused_with_its_line(tmp_path, code, refused):
    (tmp_path / "p.py").write_text(f"x = 1\n{code}\n")
    (tmp_path / "study.yaml").write_text(f"name: s\n{GOOD}plugins: [p.py]\n")
    message = refused(tmp_path, "plan", "study.yaml")
    assert "plugins: 'p.py': " in message
    assert "p.py, line 2: SystemExit" in message


def test_code_of_a_plugin_that_ends_the_program_later_is_a_message_too(tmp_path, refused):
    (tmp_path / "p.py").write_text(
        "import sys\nfrom dataclasses import replace\nfrom inoc_ray.settings import get, register\n"
        "register(replace(get('miniature/spanish_caps'), name='mine', rows=lambda: sys.exit(0)))\n"
    )
    (tmp_path / "study.yaml").write_text(f"name: s\n{GOOD}plugins: [p.py]\n".replace("miniature/spanish_caps", "mine"))
    try:
        assert "a plugin of the study ended the program (SystemExit: 0)" in refused(tmp_path, "plan", "study.yaml")
    finally:
        settings.forget("mine")


def test_an_empty_key_of_the_endpoint_is_refused(tmp_path, refused):
    (tmp_path / "study.yaml").write_text(f"name: s\n{GOOD}")
    for host in ("127.0.0.1", "0.0.0.0"):
        for key in ("", " "):
            message = refused(tmp_path, "serve", "study.yaml", "--host", host, INOC_RAY_API_KEY=key)
            assert message == "INOC_RAY_API_KEY is empty; set it to a key, or unset it."


@pytest.mark.parametrize(
    "value",
    ["x" * 10**7, ["y" * 10**6] * 10**5, {str(n): n for n in range(10**5)}, 1 << 10**5, None, 3.5],
    ids=["text", "list", "mapping", "number", "none", "fraction"],
)
def test_a_value_in_a_message_is_one_short_line(value):
    before = time.process_time()
    text = shown(value)
    assert len(text) <= 60
    assert "\n" not in text
    assert time.process_time() - before < 2


def test_a_message_that_quotes_the_input_is_cut(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["inoc-ray", "plan", f"{'d' * 200}/" * 200])
    with pytest.raises(SystemExit):
        main()
    assert len(capsys.readouterr().err) < MAX_MESSAGE + 100
