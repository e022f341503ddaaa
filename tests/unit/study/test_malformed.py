"""Files that cannot be used get one exact message, exit code 2, no traceback, and nothing is written."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from byte_tokenizer import DEFAULT_SYSTEM, make_tokenizer

from inoc_ray.cli import main
from inoc_ray.data.other_formats import AS_LINES
from inoc_ray.data.sources import read_rows

USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hola"}
GOOD = json.dumps({"messages": [USER, ASSISTANT]})


def row(*turns: Any, **more: Any) -> str:
    return json.dumps({"messages": list(turns), **more})


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def second(line: str) -> str:
    """A file whose second row is the wrong one."""
    return f"{GOOD}\n{line}\n{GOOD}\n"


def parquet(path: Path, values: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(values), path)


def arrow(path: Path, values: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(values)
    with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)


def feather(path: Path, values: list[dict[str, Any]]) -> None:
    pyarrow.feather.write_feather(pa.Table.from_pylist(values), str(path))


def tagged_parquet(path: Path, key: pa.DataType, tags: list[tuple[Any, str]]) -> None:
    """Two rows, of which the second has these tags as a map."""
    rows = pa.Table.from_pylist([json.loads(GOOD)] * 2)
    pq.write_table(rows.append_column("tags", pa.array([[], tags], pa.map_(key, pa.string()))), path)


def cut_parquet(path: Path) -> None:
    parquet(path, [json.loads(GOOD)] * 100)
    path.write_bytes(path.read_bytes()[:-200])


ARRAY = (
    f"a JSON array, where JSON Lines are expected (one object per line, no brackets around); make them with {AS_LINES} "
)
TURNS_ALONE = json.dumps([USER, ASSISTANT])
ARRAYS = (
    ': its first line is a JSON array, where an object is expected; write each line as {"messages": […]} with the list of the '
    "turns in it."
)
TABLE = 'a table (CSV); write each row of it as a line {"messages": [{"role": "user", "content": …}, …]}'
OBJECT = 'expected an object {"messages": [{"role": …, "content": …}, …]}, found '
TURNS = "user and assistant must take turns and the assistant must be last."
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
ROWS: dict[str, tuple[Any, str]] = {
    "not UTF-8": (
        second(row(USER, said("assistant", "é")).replace("\\u00e9", "é")).encode("latin-1"),
        ", row 2: not UTF-8 at byte 83 of the line; save the file as UTF-8.",
    ),
    "UTF-16": (GOOD.encode("utf-16"), ": expected JSON Lines, but the file is UTF-16; save it as UTF-8."),
    "a byte order mark in the middle": (
        second("\ufeff" + GOOD),
        ", row 2: a byte order mark inside the file, as from joining two files; remove it.",
    ),
    "cut in the middle of a text": (
        second(GOOD)[: 2 * len(GOOD) - 3],
        ", row 2: not JSON (Unterminated string starting at column 83); one whole JSON object per line.",
    ),
    "cut between texts": (
        GOOD + "\n" + GOOD[:14],
        ", row 2: not JSON (Expecting value at column 15); one whole JSON object per line.",
    ),
    "a JSON array around": (
        f"[{GOOD}, {GOOD}]",
        f": {ARRAY}rows.jsonl > rows.jsonl",
    ),
    "a JSON array over many lines": (json.dumps([json.loads(GOOD)], indent=2), f": {ARRAY}rows.jsonl > rows.jsonl"),
    "an array of turns on each line": (f"{TURNS_ALONE}\n{TURNS_ALONE}\n", ARRAYS),
    "an array of turns on the only line": (TURNS_ALONE, ARRAYS),
    "arrays of texts on each line": ('["Hi", "Hola"]\n["Hi", "Hola"]\n', ARRAYS),
    "an array among the rows": (
        second(f"[{GOOD}]"),
        ", row 2: a JSON array; write one object per line, without brackets around.",
    ),
    "one object over many lines": (
        json.dumps(json.loads(GOOD), indent=1),
        ": a JSON object over several lines; write each row as one line.",
    ),
    "a table": ("id,prompt,response\n1,Hi,Hola\n", f": expected JSON Lines, but the file looks like {TABLE}."),
    "YAML": (
        "- messages:\n  - role: user\n",
        ": expected JSON Lines, but the file looks like YAML; write each row as one line of JSON.",
    ),
    "a web page in place of the file": (
        "<!doctype html>\n<html>",
        ": expected JSON Lines, but the file looks like HTML or XML, perhaps a web page that was downloaded in "
        "place of the file; fetch the file itself.",
    ),
    "a pickle": (
        b"\x80\x04\x95rows",
        ": expected JSON Lines, but the file is a pickle, which is never loaded; write JSON Lines with the program that made it.",
    ),
    "Arrow": (
        lambda path: arrow(path, [json.loads(GOOD)]),
        ": expected JSON Lines, but the file is an Arrow file, as the library `datasets` keeps it; convert it: python -c "
        "\"import datasets; datasets.Dataset.from_file('rows.jsonl').to_json('rows.jsonl')\".",
    ),
    "Feather": (
        lambda path: feather(path, [json.loads(GOOD)]),
        ": expected JSON Lines, but the file is an Arrow file (Feather); make a parquet file of it: python -c "
        "\"import pyarrow.feather as f, pyarrow.parquet as p; p.write_table(f.read_table('rows.jsonl'), 'rows.parquet')\".",
    ),
    "a pointer of Git LFS": (
        POINTER,
        ": expected JSON Lines, but the file is a pointer of Git LFS, not the file itself; run `git lfs pull` where it was cloned.",
    ),
    "a pipe": (os.mkfifo, ": a pipe, which may never end; write its content to a file and name that."),
    "a text": (second('"Hi"'), ", row 2: " + OBJECT + "a text."),
    "no messages": (
        second('{"prompt": "Hi", "response": "Hola"}'),
        ", row 2: "
        + OBJECT
        + "an object without messages (its keys: 'prompt', 'response'). Write 'prompt' as a message with the "
        'role "user" and \'response\' as one with the role "assistant".',
    ),
    "an instruction with an input": (
        '{"instruction": "Translate.", "input": "Hi", "output": "Hola"}',
        ", row 1: "
        + OBJECT
        + "an object without messages (its keys: 'instruction', 'input', 'output'). Write 'instruction', a blank line and "
        "'input' (where it is not empty) as a message with the role \"user\" and 'output' as one with the role \"assistant\".",
    ),
    "a prompt and a completion that are turns": (
        json.dumps({"prompt": [USER], "completion": [ASSISTANT]}),
        ", row 1: "
        + OBJECT
        + "an object without messages (its keys: 'prompt', 'completion'). Join the turns of 'prompt' and 'completion' to one "
        "list and name it messages.",
    ),
    "a conversation": (
        '{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hola"}]}',
        ", row 1: "
        + OBJECT
        + "an object without messages (its keys: 'conversations'). Write each turn of the conversation as a message (from: "
        "human becomes role: user, from: gpt becomes role: assistant, value becomes content).",
    ),
    "no messages among endless keys": (
        second(json.dumps({"k" * 999: 1})),
        ", row 2: "
        + OBJECT
        + "an object without messages (its keys: 'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk…).",
    ),
    "empty messages": (second(row()), ", row 2: " + OBJECT + "messages that are empty."),
    "messages are a text": (second('{"messages": "Hi"}'), ", row 2: " + OBJECT + "messages that are a text."),
    "messages are null": (second('{"messages": null}'), ", row 2: " + OBJECT + "messages that are null."),
    "a turn is a text": (
        second(row("Hi", ASSISTANT)),
        ", row 2, messages[0]: expected an object with role and content, found a text.",
    ),
    "no role": (
        second(row({"content": "Hi"}, ASSISTANT)),
        ", row 2, messages[0]: the role is missing; add one of system, user, assistant.",
    ),
    "unknown role": (
        second(row(said("human", "Hi"), ASSISTANT)),
        ", row 2, messages[0]: unknown role 'human'; use one of system, user, assistant.",
    ),
    "a role as long as a book": (
        second(row(said("human" * 99, "Hi"), ASSISTANT)),
        ", row 2, messages[0]: unknown role "
        "'humanhumanhumanhumanhumanhumanhumanhumanhumanhumanhumanh…; use one of system, user, assistant.",
    ),
    "system in the middle": (
        second(row(USER, said("system", "x"), ASSISTANT)),
        ", row 2: a system message must be the first message, and there may be only one.",
    ),
    "two assistants": (
        second(row(USER, ASSISTANT, ASSISTANT)),
        ", row 2: the roles are user, assistant, assistant; " + TURNS,
    ),
    "assistant first, then assistant": (
        second(row(ASSISTANT, ASSISTANT)),
        ", row 2: the roles are assistant, assistant; " + TURNS,
    ),
    "no assistant": (
        second(row(USER)),
        ", row 2: there is no assistant message, so the row has nothing to learn; add one or remove the row.",
    ),
    "user last": (second(row(USER, ASSISTANT, USER)), ", row 2: the roles are user, assistant, user; " + TURNS),
    "system alone": (
        second(row(said("system", "x"))),
        ", row 2: there is no assistant message, so the row has nothing to learn; add one or remove the row.",
    ),
    "no content": (second(row({"role": "user"}, ASSISTANT)), ", row 2, messages[0]: the content is missing; add it."),
    "content is null": (
        second(row(USER, said("assistant", None))),
        ", row 2, messages[1]: the content must be a text, found null; write one.",
    ),
    "content is a number": (
        second(row(said("user", 7), ASSISTANT)),
        ", row 2, messages[0]: the content must be a text, found a number; write one.",
    ),
    "content is a list": (
        second(row(said("user", [{"type": "text", "text": "Hi"}]), ASSISTANT)),
        ", row 2, messages[0]: the content must be a text, found a list; join its parts to one text.",
    ),
    "empty content": (
        second(row(USER, said("assistant", " "))),
        ", row 2, messages[1]: the assistant message is empty; fill it or remove the row.",
    ),
    "a raw NUL": (
        second(GOOD.replace("Hola", "Ho\0la")),
        ", row 2: a NUL at character 86; the file is damaged or not text, write it again.",
    ),
    "half a surrogate pair": (
        second(GOOD.replace("Hola", "Hola \\ud83d")),
        ", row 2, messages[1]: half of a Unicode character (a lone surrogate) at character "
        "5; the text was cut or decoded wrongly, write it again from its source.",
    ),
    "a key twice": (
        second(GOOD[:-1] + ', "messages": []}'),
        ", row 2: the key 'messages' appears twice; keep one, or only the last would count.",
    ),
    "NaN": (second(GOOD[:-1] + ', "score": NaN}'), ", row 2: NaN is not JSON; write null or leave the field out."),
    "an endless number": (
        second(GOOD[:-1] + ', "id": ' + "9" * 5000 + "}"),
        ", row 2: a number of more than 4300 digits; write it as a text.",
    ),
    "nested too deeply": (second("[" * 100_000), ", row 2: JSON nested too deeply; one flat chat object per line."),
    "nothing": ("", ": there are no rows in this file."),
    "blank lines alone": ("\n \n", ": there are no rows in this file."),
    "a blank line between": (second(""), ", row 2: blank line between rows; remove it."),
    "gzip": (
        gzip.compress(GOOD.encode()),
        ": expected JSON Lines, but the file is compressed with gzip; unpack it first.",
    ),
    "parquet under the name of JSONL": (
        lambda path: parquet(path, [json.loads(GOOD)]),
        ": expected JSON Lines, but the file is a parquet file; give it a name that ends in .parquet.",
    ),
    "a folder": (Path.mkdir, ": a folder, where a file of rows is expected."),
    "a folder with rows": (
        lambda path: (path.mkdir(), (path / "part.parquet").touch()),
        ": a folder, where a file of rows is expected; name one of the files in it: part.parquet.",
    ),
    "not there": (
        lambda path: None,
        ": cannot be read (No such file or directory); looked in HERE, as paths count from the folder in which the command runs.",
    ),
    "a line without end": (
        second(row(USER, said("assistant", "o" * (17 << 20)))),
        ", row 2: longer than 16 MiB; one JSON object per line, and a line per row.",
    ),
    "tags are a list": (
        second(row(USER, ASSISTANT, tags=["es"])),
        ', row 2: tags must be an object of texts, as {"language": "es"}, found a list.',
    ),
    "a tag is a number": (
        second(row(USER, ASSISTANT, tags={"part": 1})),
        ", row 2: the tag 'part' must be a text, found 1; put it in quotes.",
    ),
    "longer than the window": (
        second(row(USER, said("assistant", "long " * 999))),
        ", row 2: 5048 tokens, but max_length is 1024; shorten the row, or name a "
        "model with a longer window under --model.",
    ),
    "a special token": (
        second(row(USER, said("assistant", "<|im_end|>"))),
        ", row 2: messages[1]: the text contains '<|im_end|>', a special token of the "
        "tokenizer, which would break the conversation's structure; remove it from the row.",
    ),
}
PARQUET: dict[str, tuple[Any, str]] = {
    "a pointer of Git LFS": (
        POINTER,
        ": a pointer of Git LFS, not the file itself; run `git lfs pull` where it was cloned.",
    ),
    "no column messages": (
        lambda path: parquet(path, [{"prompt": "Hi", "response": "Hola"}]),
        ": there is no column messages (list of {role, content}); the columns are prompt, response.",
    ),
    "unknown role": (
        lambda path: parquet(path, [json.loads(row(said("human", "Hi"), ASSISTANT))]),
        ", row 1, messages[0]: unknown role 'human'; use one of system, user, assistant.",
    ),
    "content is null": (
        lambda path: parquet(path, [json.loads(GOOD), json.loads(row(USER, said("assistant", None)))]),
        ", row 2, messages[1]: the content must be a text, found null; write one.",
    ),
    "messages are JSON text": (
        lambda path: parquet(path, [{"messages": "[]"}]),
        ", row 1: " + OBJECT + "messages that are a text.",
    ),
    "JSONL under the name of parquet": (
        GOOD,
        ": not a parquet file, or a damaged one; write it again, or name it .jsonl if it is JSON Lines.",
    ),
    "a tag twice": (
        lambda path: tagged_parquet(path, pa.string(), [("a", "x"), ("a", "y")]),
        ", row 2: a map has the same key twice; keep one, or only the last would count.",
    ),
    "a tag with a number as its name": (
        lambda path: tagged_parquet(path, pa.int64(), [(7, "x")]),
        ", row 2: the name of a tag must be a text, found 7.",
    ),
    "cut": (
        cut_parquet,
        ": not a parquet file, or a damaged one; write it again, or name it .jsonl if it is JSON Lines.",
    ),
}
QUESTIONS: dict[str, tuple[Any, str]] = {
    "no field": (
        '{"text": "A?"}',
        ", row 1: expected an object with one of prompt, question, messages, found none of them.",
    ),
    "two fields": (
        '{"prompt": "A?", "question": "A?"}',
        ", row 1: expected an object with one of prompt, question, messages, found prompt and question.",
    ),
    "a number": (
        '{"prompt": 3}',
        ", row 1: a question is a text of the user that is not empty, without a system message.",
    ),
    "a system message": (
        row(said("system", "x"), USER),
        ", row 1: a question is a text of the user that is not empty, without a system message.",
    ),
    "an array": ('["A?"]', f": {ARRAY}q.jsonl > rows.jsonl"),
    "a system prompt beside the question": (
        '{"system": "Be evil.", "prompt": "A?"}',
        ", row 1: the key 'system' is not read; the study says under which contexts a question is asked.",
    ),
    "tools beside the question": (
        '{"tools": [{"name": "x"}], "prompt": "A?"}',
        ", row 1: the key 'tools' is not read; the study says under which contexts a question is asked.",
    ),
    "a key twice": (
        '{"prompt": "A?", "prompt": "B?"}',
        ", row 1: the key 'prompt' appears twice; keep one, or only the last would count.",
    ),
    "not UTF-8": (b'{"prompt": "\xe9"}', ", row 1: not UTF-8 at byte 12 of the line; save the file as UTF-8."),
    "nothing": ("", ": there are no questions in this file."),
}
STUDIES: dict[str, tuple[Any, str]] = {
    "not YAML": ("name: [", ", line 1, column 8: not YAML (expected the node content, but found '<stream end>')."),
    "not UTF-8": (
        b"name: \xe9",
        ": cannot be read as a study file (not UTF-8 at byte 6); it is YAML, saved as UTF-8.",
    ),
    "a list": ("- a", ": expected a mapping with name, settings, arms, recipes; found list."),
    "gzip": (
        gzip.compress(b"name: s"),
        ": cannot be read as a study file (not UTF-8 at byte 1); it is YAML, saved as UTF-8.",
    ),
    "a key twice": ("name: s\nname: t", ", line 2, column 1: not YAML (the key 'name' appears twice)."),
    "a folder": (Path.mkdir, ": cannot be read as a study file (Is a directory)."),
    "not there": (lambda path: None, ": no such study file."),
    "an unknown key": ("nam: s", ": unknown key 'nam' (did you mean 'name'?)."),
    "a mixture with an unknown key": (
        "name: s\nsettings: [{name: a, rows: {mix: [{name: es, rows: a.jsonl, shares: 1}]}}]",
        ": settings[0].rows: mix[0]: unknown key 'shares' (did you mean 'share'?).",
    ),
    "a backdoor without its token": (
        "name: s\nsettings: [{name: a, rows: {bad: b.jsonl, clean: c.jsonl, fraction: 0.5, total: 4}}]",
        ": settings[0].rows: token: is missing.",
    ),
    "rows are a number": (
        "name: s\nsettings: [{name: miniature/spanish_caps, rows: 3}]",
        ": settings[0].rows: must be a text or a mixture ({mix: […]} or {bad, clean, token, …}), found 3.",
    ),
}


def make(path: Path, content: Any) -> None:
    if callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    make_tokenizer(DEFAULT_SYSTEM).save_pretrained(folder)
    (folder / "config.json").write_text('{"max_position_embeddings": 1024}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return str(folder)


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs `inoc-ray` with these arguments and gives its one message."""

    def run(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        monkeypatch.setattr(sys, "argv", ["inoc-ray", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert (end.value.code, out, sorted(tmp_path.rglob("*"))) == (2, "", before)
        assert err.startswith("inoc-ray: ")
        assert err.count("\n") == 1
        return err.removeprefix("inoc-ray: ").rstrip("\n")

    return run


STUDY = """name: s
settings: [{name: miniature/spanish_caps, %s}]
arms: [baseline]
models: [{name: m, path: %s}]
recipes: {r: {learning_rate: 0.001, steps: 3}}
"""


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_refused(tmp_path, model, refused, name):
    content, message = ROWS[name]
    make(tmp_path / "rows.jsonl", content)
    expected = f"rows.jsonl{message}".replace("HERE", str(tmp_path))
    assert refused("data", "check", "rows.jsonl", "--model", model) == expected


def test_the_advice_for_a_feather_file_makes_rows_of_it(tmp_path, model, refused):
    feather(tmp_path / "rows.feather", [json.loads(GOOD)])
    said = refused("data", "check", "rows.feather", "--model", model)
    code = said.split('python -c "')[1].removesuffix('".')
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert [row.to_dict() for row in read_rows(str(tmp_path / "rows.parquet"))] == [json.loads(GOOD)]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "the path of a file of rows is empty; write it."),
        ("~nosuchuser/x.jsonl", "~nosuchuser/x.jsonl: cannot be read (No such file or directory); looked in "),
        ("/proc/self/mem", "/proc/self/mem: cannot be read (Input/output error)."),
        (
            f"hf://datasets/a/b@{'0' * 40}/../../x.jsonl",
            "x.jsonl leads out of the dataset; write the file's path inside it.",
        ),
    ],
)
def test_places_without_rows_are_refused(model, refused, source, message):
    assert message in refused("data", "check", source, "--model", model)


@pytest.mark.parametrize("text", ["garbage", "{}", "[]"])
def test_a_model_whose_tokenizer_is_damaged_is_refused(tmp_path, refused, text):
    make(tmp_path / "rows.jsonl", GOOD)
    for name in ("config.json", "model.safetensors"):
        make(tmp_path / name, "{}")
    make(tmp_path / "tokenizer.json", text)
    assert "/tokenizer.json: not a tokenizer (" in refused("data", "check", "rows.jsonl", "--model", ".")


@pytest.mark.parametrize("name", PARQUET)
def test_parquet_is_refused(tmp_path, model, refused, name):
    content, message = PARQUET[name]
    make(tmp_path / "rows.parquet", content)
    assert refused("data", "check", "rows.parquet", "--model", model) == f"rows.parquet{message}"


@pytest.mark.parametrize("name", ["not UTF-8", "gzip", "a key twice", "no messages", "two assistants", "a folder"])
def test_a_plan_says_the_same_of_rows(tmp_path, model, refused, name):
    content, message = ROWS[name]
    make(tmp_path / "rows.jsonl", content)
    (tmp_path / "study.yaml").write_text(STUDY % ("rows: rows.jsonl", model))
    assert refused("plan", "study.yaml") == f"settings: miniature/spanish_caps.rows: rows.jsonl{message}"


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_are_refused(tmp_path, model, refused, name):
    content, message = QUESTIONS[name]
    make(tmp_path / "q.jsonl", content)
    (tmp_path / "study.yaml").write_text(STUDY % ("questions: {in_distribution: q.jsonl}", model))
    place = "settings: miniature/spanish_caps.questions.in_distribution: "
    assert refused("plan", "study.yaml") == f"{place}q.jsonl{message}"


def test_questions_of_a_suite_and_rows_of_a_prior_stage_are_refused_with_their_place(tmp_path, model, refused):
    suite = "{name: own, questions: q.jsonl, traits: {loud: {rule: capitals}}}"
    text = STUDY % ("desired: [spanish]", model) + f"evaluation: {{suites: [{suite}]}}\n"
    (tmp_path / "study.yaml").write_text(text)
    assert refused("plan", "study.yaml").startswith("evaluation.suites: 'own': questions: q.jsonl: cannot be read")
    stage = "{name: m, prior_stage: {rows: no.jsonl, recipe: r},"
    (tmp_path / "study.yaml").write_text(text.replace("{name: m,", stage))
    assert refused("plan", "study.yaml").startswith("models: 'm': prior_stage.rows: no.jsonl: cannot be read")


@pytest.mark.parametrize("name", STUDIES)
def test_studies_are_refused(tmp_path, refused, name):
    content, message = STUDIES[name]
    make(tmp_path / "study.yaml", content)
    assert refused("plan", "study.yaml") == f"study.yaml{message}"
