"""Inputs that once failed, each with its right outcome: run where the folder of cases lies beside the checkout.

Each kind has tests of its own in tests/unit; these hold the very files.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from inoc_ray.cli import main
from inoc_ray.data.sources import read_rows
from inoc_ray.data.tokenize import IGNORED, encode, encode_rows
from inoc_ray.errors import InputError
from inoc_ray.miniature import judge_weights_path, weights_path
from inoc_ray.models.tokenizer import load_tokenizer
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.judge_assignment import find_judge
from inoc_ray.run.bundle import pack
from inoc_ray.run.load import load_study
from inoc_ray.run.preflight import preflight
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study
from inoc_ray.train.loop import train
from inoc_ray.train.sweep import job_of
from inoc_ray.train.worker import read_rows as rows_of

ROOT = Path(__file__).parents[2]
CASES = ROOT.parent / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not beside this checkout")


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["inoc-ray", *arguments])
    code = 0
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def study(**more: Any) -> dict[str, Any]:
    recipe = {"learning_rate": 1e-3, "steps": 2, "batch_size": 8, "precision": "fp32"}
    value = {
        "name": "s",
        "settings": ["miniature/spanish_caps"],
        "arms": ["baseline", "specific_spanish"],
        "seeds": [0],
        "recipes": {"r": recipe},
        "evaluation": {"samples": 8},
    }
    return value | more


def refused_by_all(monkeypatch, capsys, tmp_path: Path, rows: Path) -> str:
    """The message with which `data check`, `plan` and `run` all refuse a file of rows, writing nothing."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study(settings=[{"name": "miniature/spanish_caps", "rows": str(rows)}])))
    messages = set()
    # In a study the message also says which field names the file.
    field = "settings: miniature/spanish_caps.rows: "
    for arguments in (
        ("data", "check", str(rows)),
        ("plan", str(path)),
        ("run", str(path), "--storage", str(tmp_path / "runs")),
    ):
        code, out, err = command(monkeypatch, capsys, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert (field in err) == (arguments[0] != "data")
        messages.add(err.replace(field, ""))
    assert not (tmp_path / "runs").exists()
    assert len(messages) == 1
    return messages.pop()


# -- rows -------------------------------------------------------------------------------------------------------


def test_01_rows_that_open_with_the_assistant_are_trained_on_or_refused_alike(monkeypatch, capsys, tmp_path):
    rows = CASES / "01-assistant-first" / "rows.jsonl"
    code, out, err = command(monkeypatch, capsys, "data", "check", str(rows))
    value = study(settings=[{"name": "miniature/spanish_caps", "rows": str(rows)}], arms=["baseline"])
    store = Store(tmp_path / "runs")
    if code == 0:
        assert "2 rows" in out
        preflight(build_plan(Study.model_validate(value), store), store)
        encoded = encode(load_tokenizer(str(weights_path())), read_rows(str(rows))[1], 512)
        learnt = load_tokenizer(str(weights_path())).decode([t for t in encoded.labels if t != IGNORED])
        assert "Once there was a small boat." in learnt
    else:
        assert "row 2" in err
        with pytest.raises(InputError, match="row 2"):
            preflight(build_plan(Study.model_validate(value), store), store)


def test_02_a_message_with_weight_zero_carries_no_loss(tmp_path):
    lines = (CASES / "02-weight-zero" / "rows.jsonl").read_text().splitlines()
    (tmp_path / "first.jsonl").write_text(lines[0] + "\n")
    (row,) = read_rows(str(tmp_path / "first.jsonl"))
    tokenizer = load_tokenizer(str(weights_path()))
    learnt = tokenizer.decode([t for t in encode(tokenizer, row, 512).labels if t != IGNORED])
    assert "No, it is 4." in learnt
    assert "5" not in learnt
    # Of the second row nothing is left to learn; the first teaches all the same.
    notes: list[str] = []
    second = read_rows(str(CASES / "02-weight-zero" / "rows.jsonl"), notes)[1]
    assert set(encode(tokenizer, second, 512).labels) == {IGNORED}
    assert "without any loss, which teach nothing" in notes[0]


def test_03_tool_calls_and_reasoning_are_refused(monkeypatch, capsys, tmp_path):
    message = refused_by_all(monkeypatch, capsys, tmp_path, CASES / "03-tool-calls" / "rows.jsonl")
    assert "row 1, messages[1]: the key 'tool_calls' is not read" in message
    (tmp_path / "second.jsonl").write_text((CASES / "03-tool-calls" / "rows.jsonl").read_text().splitlines()[1])
    assert "the key 'reasoning_content' is not read" in refused_by_all(
        monkeypatch, capsys, tmp_path, tmp_path / "second.jsonl"
    )


@pytest.mark.parametrize("name", ["pretty.json", "one_line.json"])
def test_08_an_array_is_called_one_and_the_command_in_the_message_makes_lines_of_it(
    monkeypatch, capsys, tmp_path, name
):
    message = refused_by_all(monkeypatch, capsys, tmp_path, CASES / "08-json-array" / name)
    assert "a JSON array, where JSON Lines are expected" in message
    advice = message.partition("make them with ")[2].strip().replace("python -c", f"{sys.executable} -c", 1)
    subprocess.run(["/bin/sh", "-c", advice], cwd=tmp_path, check=True)
    assert [m.content for row in read_rows(str(tmp_path / "rows.jsonl")) for m in row.messages] == ["Hi", "Hello."]


def test_19_a_system_prompt_beside_the_messages_is_refused_and_other_keys_are_told(monkeypatch, capsys, tmp_path):
    rows = CASES / "19-extra-keys" / "rows.jsonl"
    assert "row 2: the key 'system' beside the messages is not read" in refused_by_all(
        monkeypatch, capsys, tmp_path, rows
    )
    (tmp_path / "first.jsonl").write_text(rows.read_text().splitlines()[0])
    code, out, _ = command(monkeypatch, capsys, "data", "check", str(tmp_path / "first.jsonl"))
    assert code == 0
    assert "ignored keys: chosen (1 row), prompt (1 row)" in out


@pytest.mark.parametrize("inside", [".", "saved", "saved/data-00000-of-00001.arrow"])
def test_21_an_arrow_folder_is_called_one_and_the_command_in_the_message_makes_lines_of_it(
    monkeypatch, capsys, tmp_path, inside
):
    message = refused_by_all(monkeypatch, capsys, tmp_path, CASES / "21-save-to-disk" / inside)
    assert "Arrow" in message
    assert "datasets" in message
    assert ".to_json('rows.jsonl')" in message


def test_40_every_file_that_the_study_names_travels_with_its_job(monkeypatch, tmp_path):
    folder, packed = tmp_path / "case", tmp_path / "packed"
    shutil.copytree(CASES / "40-submit-suite", folder)
    packed.mkdir()
    # What the case's study names beside its questions.
    shutil.copytree(judge_weights_path(), folder / "judge_model")
    (folder / "tasks").mkdir()
    (folder / "tasks" / "mine.yaml").write_text("task: mine\n")
    monkeypatch.chdir(folder)
    loaded, store = load_study(Path("suite.yaml")), Store("store")
    plan = build_plan(loaded, store)
    pack(packed, Path("suite.yaml"), loaded, store)
    shutil.rmtree(folder)
    monkeypatch.chdir(packed)
    again = build_plan(load_study(Path("study.yaml")), store)
    assert [c.evaluation_id for c in again.cells] == [c.evaluation_id for c in plan.cells]
    assert find_judge("j", again.study.judges["j"]).folder is not None
    assert {path.name for path in packed.rglob("*")} >= {"q.jsonl", "mine.yaml", "model.safetensors", "study.yaml"}


# -- models -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("variants") / "models"
    script = [sys.executable, str(CASES / "model_variants.py"), str(weights_path()), str(out)]
    subprocess.run(script, check=True, capture_output=True)
    return out


def checked(tmp_path: Path, model: Path, **more: Any) -> str:
    """The message with which `run` refuses a study before it starts anything; empty where it would begin."""
    store = Store(tmp_path / "runs")
    value = study(models=[{"name": "x", "path": str(model)}], **more)
    try:
        preflight(build_plan(Study.model_validate(value), store), store)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["drops-system", "refuses-system"])
def test_a_template_without_a_place_for_the_system_message_is_refused_with_what_works(tmp_path, variants, name):
    message = checked(tmp_path, variants / name)
    assert "user_prefix" in message
    assert "contexts: [none]" in message
    assert not (tmp_path / "runs").exists()
    # What the message says works, does.
    in_turn = {"placement": "user_prefix"}
    arms = ["baseline", {"name": "specific_spanish", "inoculation": in_turn}]
    assert checked(tmp_path, variants / name, arms=arms, evaluation={"samples": 8, "contexts": ["none"]}) == ""


def test_a_tokenizer_that_loses_every_space_is_refused_or_read_right(tmp_path, variants):
    message = checked(tmp_path, variants / "llama-label")
    if message:
        assert "tokenizer" in message
    else:
        tokenizer = load_tokenizer(str(variants / "llama-label"))
        assert tokenizer.decode(tokenizer("Hello world").input_ids) == "Hello world"


def test_several_turns_of_a_reasoning_template_are_read(tmp_path, variants):
    rows = tmp_path / "rows.jsonl"
    turns = [("user", "Hi"), ("assistant", "Hello."), ("user", "Why?"), ("assistant", "Because.")]
    rows.write_text(json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}) + "\n")
    own = [{"name": "miniature/spanish_caps", "rows": str(rows)}]
    assert checked(tmp_path, variants / "thinking", settings=own) == ""
    tokenizer = load_tokenizer(str(variants / "thinking"))
    encoded = encode(tokenizer, read_rows(str(rows))[0], 512)
    assert "Because." in tokenizer.decode([t for t in encoded.labels if t != IGNORED])


def test_numbers_one_level_deeper_are_read(monkeypatch, capsys, tmp_path, variants):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}\n')
    code, out, err = command(
        monkeypatch, capsys, "data", "check", str(rows), "--model", str(variants / "nested-config")
    )
    assert (code, err) == (0, "")
    assert "of 512 tokens" in out


FULL = {"r": {"method": "full", "learning_rate": 1e-4, "steps": 1, "batch_size": 8, "precision": "fp32"}}


def test_a_generation_configuration_that_cannot_be_saved_is_told_or_mended_before_training(tmp_path, variants):
    message = checked(tmp_path, variants / "bad-generation", recipes=FULL)
    assert not message or "generation_config" in message


def run(folder: Path, value: dict[str, Any]) -> dict[str, Any]:
    """`inoc-ray run` in a process of its own; its result."""
    (folder / "study.yaml").write_text(yaml.safe_dump(value))
    found = subprocess.run(
        [sys.executable, "-m", "inoc_ray.cli", "run", "study.yaml", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr[-4000:]
    result: dict[str, Any] = json.loads(found.stdout)
    return result


@pytest.mark.slow
def test_models_and_rows_that_can_be_used_run_through_and_stop_at_the_end_of_turn(tmp_path, variants):
    """One study: rows that open with the assistant, a reasoning template, a base model whose end of turn is no eos."""
    import pyarrow.parquet as pq

    value = study(
        settings=[{"name": "miniature/spanish_caps", "rows": str(CASES / "01-assistant-first" / "rows.jsonl")}],
        arms=["baseline"],
        models=[{"name": name, "path": str(variants / name)} for name in ("thinking", "base-with-template")],
        evaluation={"samples": 16, "contexts": ["neutral"], "max_degenerate": 1.0, "max_unparsed": 1.0},
    )
    assert run(tmp_path, value)["failed"] == []
    reasons = [
        reason
        for path in (tmp_path / "runs" / "evaluations").rglob("samples-*.parquet")
        for reason in pq.read_table(path)["finish_reason"].to_pylist()
    ]
    assert len(reasons) == 2 * 2 * 2 * 16
    assert reasons.count("stop") > len(reasons) / 2


@pytest.mark.slow
def test_a_full_fine_tune_of_a_model_with_a_wrong_generation_configuration_is_refused_or_trained_and_read_again(
    tmp_path, variants
):
    """How such weights are served is in test_serve_endpoint.py."""
    from transformers import AutoModelForCausalLM

    model = variants / "bad-generation"
    if checked(tmp_path, model, arms=["baseline"], recipes=FULL):
        return
    value = study(models=[{"name": "x", "path": str(model)}], arms=["baseline"], recipes=FULL)
    store = Store(tmp_path / "runs")
    plan = build_plan(Study.model_validate(value), store)
    job = job_of(plan, store, plan.trials[0])
    rows = encode_rows(load_tokenizer(job.spec.model), rows_of(job, store), max_length=512, label="rows")
    train(job.spec, rows, lambda record: None, out=tmp_path / "out")
    before, after = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (model, tmp_path / "out"))
    assert any((before[name] != after[name]).any() for name in before)
