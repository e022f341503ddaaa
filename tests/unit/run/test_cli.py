"""The command line: one clear message and exit code 2 for wrong input, and nothing written."""

import json
import re
from pathlib import Path

import click
import pytest
import yaml
from results_table import score_table

from inoc_ray.cli import cli, show_when_made
from inoc_ray.results.compare import compare

ROOT = Path(__file__).parents[3]
STUDY = yaml.safe_load((ROOT / "jobs" / "studies" / "quickstart.yaml").read_text())


def write(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, "storage": str(tmp_path / "runs"), **changes}))
    return path


BAD_STUDY = {
    "unknown key": ({"sedes": [1]}, "unknown key 'sedes' (did you mean 'seeds'?)"),
    "unknown setting": ({"settings": ["miniature/spanish"]}, "did you mean 'miniature/spanish_caps'?"),
    "unknown arm": ({"arms": ["specific_spanisch"]}, "did you mean 'specific_spanish'?"),
    "unknown context": ({"evaluation": {"contexts": ["neutrall"]}}, "did you mean 'neutral'?"),
    "seed not an integer": ({"seeds": ["one"]}, "seeds[0]: must be an integer"),
    "two arms with one name": ({"arms": ["baseline", "baseline"]}, "'baseline' appears twice"),
    "empty prompt": ({"arms": [{"name": "a", "kind": "general", "prompt": ""}]}, "the prompt is empty"),
    "more workers than the cluster has": (
        {
            "resources": {"workers": 1024, "micro_batch_size": 1},
            "recipes": {"l": {"learning_rate": 1.0, "steps": 1, "batch_size": 1024}},
        },
        "one trial needs 1024 workers",
    ),
    "a batch that cannot be shared out": ({"resources": {"micro_batch_size": 3}}, "16 is not a multiple of"),
    "a model path that does not exist": ({"models": [{"name": "m", "path": "/nowhere"}]}, "no model folder /nowhere"),
    "unwritable storage": ({"storage": "/dev/null/runs"}, "storage: /dev/null is a file, not a folder"),
    "row not JSON": (
        {"settings": [{"name": "miniature/spanish_caps", "rows": "bad.jsonl"}]},
        "bad.jsonl, row 2: not JSON",
    ),
    "row longer than max_length": (
        {"settings": [{"name": "miniature/spanish_caps", "rows": "long.jsonl"}]},
        "long.jsonl (arm baseline), row 2: more than 256 tokens",
    ),
}


@pytest.mark.parametrize("name", BAD_STUDY)
def test_a_wrong_study_ends_run_with_one_message_and_code_2_and_nothing_written(inoc_ray, tmp_path, name):
    changes, message = BAD_STUDY[name]
    good = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "HOLA"}]}\n'
    (tmp_path / "bad.jsonl").write_text(good + "{\n")
    (tmp_path / "long.jsonl").write_text(good + good.replace("HOLA", "HOLA AMIGO " * 300))
    path = write(tmp_path, **changes)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = inoc_ray("run", path)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("inoc-ray: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "message"), [(None, "no such study file"), ("name: [", "not YAML"), ("- 1", "expected a mapping")]
)
@pytest.mark.parametrize(
    "command",
    ["plan", "run", "finetune", "status", "compare", "report", "sync", "serve", "submit", "evaluate", "logs", "stop"],
)
def test_every_command_refuses_a_missing_or_malformed_study_file(inoc_ray, tmp_path, command, text, message):
    path = tmp_path / "study.yaml"
    if text is not None:
        path.write_text(text)
    code, out, err = inoc_ray(command, path)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    "command",
    [
        ("plan",),
        ("run",),
        ("status",),
        ("evaluate",),
        ("compare",),
        ("report",),
        ("sync",),
        ("serve",),
        ("submit",),
        ("finetune",),
        ("logs",),
        ("stop",),
        ("settings",),
    ],
)
def test_with_json_an_error_is_json_too(inoc_ray, tmp_path, command):
    code, out, err = inoc_ray(*command, tmp_path / "missing.yaml", "--json")
    assert code == 2
    assert err == f"inoc-ray: {json.loads(out)['error']}\n"
    assert "missing.yaml: no such study file" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("plan",), "Missing argument 'STUDY'"),
        (("plan", "s.yaml", "--sotrage", "x"), "No such option '--sotrage'"),
        (("paln",), "No such command 'paln'"),
        (("data", "check", "missing.jsonl"), "missing.jsonl"),
        (("data", "build", "spanish_caps"), "give a file for the rows with --out FILE.jsonl"),
        (("prompts", "--kind", "x"), "unknown kind 'x'"),
        (("miniature", "pretrain", "--out", ROOT), "is not an empty folder"),
    ],
)
def test_with_json_wrong_usage_is_a_json_error(inoc_ray, words, message):
    code, out, _ = inoc_ray(*words, "--json")
    assert code == 2
    assert list(json.loads(out)) == ["error"]
    assert message in json.loads(out)["error"]


def test_with_json_a_result_stays_the_only_value_where_an_error_follows(inoc_ray, tmp_path):
    row = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "HOLA AMIGO"}]}\n'
    (tmp_path / "rows.jsonl").write_text(row * 2)
    (tmp_path / "asked.jsonl").write_text('{"prompt": "Hi"}\n')
    code, out, err = inoc_ray("data", "check", "rows.jsonl", "--against", "asked.jsonl", "--json")
    assert code == 2
    assert "to fix" in err
    assert "error" not in json.loads(out)


BAD_ROWS = {
    "not JSON": ('{"messages": [', "rows.jsonl, row 2: not JSON"),
    "no role": ('{"messages": [{"content": "Hi"}]}', "rows.jsonl, row 2, messages[0]: the role is missing"),
    "empty message": (
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}]}',
        "rows.jsonl, row 2, messages[1]: the assistant message is empty",
    ),
    "too long": (
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "' + "so " * 900 + '"}]}',
        "rows.jsonl, row 2: ",
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_data_check_names_file_and_row(inoc_ray, tmp_path, name):
    line, message = BAD_ROWS[name]
    good = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "HOLA"}]}\n'
    (tmp_path / "rows.jsonl").write_text(good + line + "\n")
    code, out, err = inoc_ray("data", "check", "rows.jsonl")
    assert (code, out) == (2, "")
    assert message in err


def test_an_unknown_judge_is_reported_with_the_option_that_names_it(inoc_ray, tmp_path):
    study = write(tmp_path, judges={"small": {"endpoint": "https://judge.example/v1", "served_model": "s"}})
    code, out, err = inoc_ray("evaluate", study, "--judge", "smal")
    assert (code, out) == (2, "")
    assert "--judge smal: the study has no such judge (did you mean 'small'?)" in err


def test_data_check_reports_good_rows(inoc_ray, tmp_path):
    good = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "HOLA"}]}\n'
    (tmp_path / "rows.jsonl").write_text(good * 2)
    code, out, _ = inoc_ray("data", "check", "rows.jsonl", "--json")
    assert code == 0
    found = json.loads(out)["files"][0]
    assert (found["rows"], found["duplicates"], found["with_system"]) == (2, 1, 0)


def test_plan_writes_nothing_and_lists_every_trial(inoc_ray, tmp_path):
    path = write(tmp_path)
    code, out, _ = inoc_ray("plan", path, "--json")
    value = json.loads(out)
    assert code == 0
    assert (len(value["trials"]), value["train"]) == (8, 8)
    assert not (tmp_path / "runs").exists()
    code, out, _ = inoc_ray("plan", path)
    assert code == 0
    assert "To train: 8 of 8 trials" in out


@pytest.mark.parametrize("command", ["prompts", "settings", "doctor"])
def test_listings_come_as_text_and_as_json(inoc_ray, command):
    code, out, _ = inoc_ray(command)
    assert code == 0
    assert out.strip()
    code, out, _ = inoc_ray(command, "--json")
    assert code == 0
    assert json.loads(out)


def test_prompts_can_be_filtered_and_refuse_an_unknown_kind(inoc_ray):
    _, out, _ = inoc_ray("prompts", "--kind", "specific", "--json")
    assert {p["kind"] for p in json.loads(out)} == {"specific"}
    code, _, err = inoc_ray("prompts", "--kind", "specifc")
    assert code == 2
    assert "did you mean 'specific'" in err


def test_the_table_of_prompts_says_where_paraphrases_are(inoc_ray):
    _, out, _ = inoc_ray("prompts", "miniature/spanish_caps", "--json")
    others = next(p["paraphrases"] for p in json.loads(out) if p["paraphrases"])
    _, out, _ = inoc_ray("prompts", "miniature/spanish_caps")
    assert f"(+{len(others)} wordings in --json)" in out
    assert others[0] not in out


@pytest.mark.parametrize("args", [("plan",), ("paln", "x"), ("plan", "x", "--jsn"), ("miniature", "pretrain")])
def test_wrong_usage_is_code_2_without_traceback(inoc_ray, args):
    code, out, err = inoc_ray(*args)
    assert (code, out) == (2, "")
    assert err.startswith("inoc-ray: ")


def test_compare_before_anything_ran_says_what_to_do(inoc_ray, tmp_path):
    code, _, err = inoc_ray("compare", write(tmp_path))
    assert code == 2
    assert "inoc-ray run" in err
    assert not (tmp_path / "runs").exists()


def test_every_command_offers_json():
    def leaves(group, prefix=()):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from leaves(command, (*prefix, name))
            else:
                yield (*prefix, name), command

    without = [" ".join(name) for name, c in leaves(cli) if not any(p.name == "as_json" for p in c.params)]
    assert without == []


def test_the_page_of_commands_has_each_of_them_and_no_other():
    text = (ROOT / "docs" / "commands.md").read_text()
    assert set(re.findall(r"^\| `inoc-ray (\w+)", text, re.M)) == set(cli.list_commands(click.Context(cli)))


@pytest.mark.parametrize(
    ("changes", "file"),
    [
        ({"settings": [{"name": "miniature/spanish_caps", "rows": "friend.jsonl"}]}, "friend.jsonl"),
        ({"settings": [{"name": "miniature/spanish_caps", "rows": "friend.parquet"}]}, "friend.parquet"),
        ({"settings": [{"name": "miniature/spanish_caps", "questions": {"in_distribution": "q.jsonl"}}]}, "q.jsonl"),
        (
            {"evaluation": {"suites": [{"name": "a", "questions": "q.yaml", "traits": {"b": {"rule": "capitals"}}}]}},
            "q.yaml",
        ),
    ],
)
def test_a_file_that_is_missing_is_named_with_the_folder_in_which_it_was_looked_for(inoc_ray, tmp_path, changes, file):
    code, _, err = inoc_ray("plan", write(tmp_path, **changes))
    assert code == 2
    assert f"{file}: cannot be read" in err
    assert f"(No such file or directory); looked in {tmp_path}, as paths count from" in err


def test_a_comparison_is_shown_as_soon_as_it_is_made_and_not_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = compare(score_table(seeds=2, questions=10), "toy")
    show_when_made(as_json=False)(found)
    assert capsys.readouterr().out.startswith("study toy\n")
    show_when_made(as_json=True)(found)
    assert capsys.readouterr().out == ""
