"""What a row says besides its texts is trained as it says, refused, or told with its rows; never dropped in silence."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from byte_tokenizer import DEFAULT_SYSTEM, make_tokenizer

from inoc_ray.data.chat import ChatRow, Message, parse_row, read_jsonl, rows_hash, write_jsonl
from inoc_ray.data.check import check_files
from inoc_ray.data.inoculate import inoculate
from inoc_ray.data.sources import read_rows
from inoc_ray.data.tokenize import IGNORED, encode
from inoc_ray.errors import InputError
from inoc_ray.plan.build import build_plan
from inoc_ray.run.describe import plan_json, plan_text
from inoc_ray.store.store import Store
from inoc_ray.study.rows import Inoculation
from inoc_ray.study.study import Study

USER = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "It is 4."}


def row(*turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": list(turns) or [USER, ANSWER], **more}


def lines(path: Path, *values: Any) -> str:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return str(path)


# -- loss -------------------------------------------------------------------------------------------------------

WITHOUT = [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"weight": 0, "train": False}]
WITH: list[dict[str, Any]] = [{}, {"weight": 1}, {"train": True}, {"weight": None, "train": None}]


@pytest.mark.parametrize("keys", [*WITHOUT, *WITH], ids=str)
def test_a_message_carries_loss_unless_a_key_says_otherwise(keys):
    tokenizer = make_tokenizer(DEFAULT_SYSTEM)
    wrong = {"role": "assistant", "content": "Five.", **keys}
    encoded = encode(tokenizer, parse_row(row(USER, wrong, USER, ANSWER), "row 1"), 4096)
    learnt = tokenizer.decode([label for label in encoded.labels if label != IGNORED])
    assert ("Five." in learnt) == (keys in WITH)
    assert "It is 4." in learnt
    shown = tokenizer.decode(encoded.input_ids)
    assert "Five." in shown


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"weight": 0.5}, r"messages\[1\]: weight must be 0 \(no loss\) or 1, found 0\.5"),
        ({"weight": -1}, "weight must be 0 .* found -1"),
        ({"weight": True}, "weight must be 0 .* found True"),
        ({"weight": "0"}, "weight must be 0 .* found '0'; write it without quotes"),
        ({"train": 0}, "train must be true or false, found 0"),
        ({"train": "false"}, "train must be true or false, found 'false'"),
        ({"weight": 0, "train": True}, "weight: 0 and train: true contradict each other"),
        ({"weight": 1, "train": False}, "weight: 1 and train: false contradict each other"),
        ({"loss": False}, "the key 'loss' is not read; write weight: 0 or train: false"),
        ({"mask": 0}, "the key 'mask' is not read; write weight: 0"),
        ({"train_detail": []}, "the key 'train_detail' is not read"),
    ],
    ids=str,
)
def test_other_keys_for_what_carries_loss_are_refused(turn, message):
    with pytest.raises(InputError, match=message):
        parse_row(row(USER, {**ANSWER, **turn}), "row 1")


def test_a_row_without_loss_is_noted_and_a_file_of_such_rows_is_refused(tmp_path):
    file = tmp_path / "rows.jsonl"
    silent, taught = row(USER, {**ANSWER, "weight": 0}), row(USER, ANSWER)
    file.write_text(f"{json.dumps(silent)}\n{json.dumps(taught)}\n")
    notes: list[str] = []
    assert [r.is_trained for r in read_rows(str(file), notes)] == [False, True]
    assert notes == [
        f"{file}: 1 row with a message without loss (weight: 0 or train: false); 1 row of them without any loss, which teach "
        "nothing"
    ]
    report = check_files([str(file)], None, None)
    assert "1 rows carry no loss at all, so they teach nothing (row 1)" in report.to_text()
    file.write_text(f"{json.dumps(silent)}\n")
    with pytest.raises(InputError, match="no assistant message in any row carries loss"):
        read_rows(str(file))
    with pytest.raises(InputError, match="no assistant message in any row carries loss"):
        check_files([str(file)], None, None)


def test_only_the_assistants_messages_can_be_trained():
    with pytest.raises(InputError, match=r"messages\[0\]: only what the assistant says is trained"):
        parse_row(row({**USER, "weight": 1}, ANSWER), "row 1")
    assert parse_row(row({**USER, "weight": 0}, ANSWER), "row 1") == parse_row(row(), "row 1")


def test_loss_survives_files_and_inoculation_and_counts_for_identity_only_where_it_is_left_out(tmp_path):
    without = ChatRow(
        (Message("user", "a"), Message("assistant", "b", False), Message("user", "c"), Message("assistant", "d"))
    )
    plain = ChatRow.of(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    write_jsonl(tmp_path / "rows.jsonl", [without])
    assert read_jsonl(tmp_path / "rows.jsonl") == [without]
    assert rows_hash([without]) != rows_hash([plain])
    assert rows_hash([plain]) == rows_hash([parse_row(plain.to_dict(), "r")])
    for inoculation in (Inoculation(), Inoculation(placement="user_suffix", user_turns="all")):
        (put,) = inoculate([without], "P", inoculation)
        assert [m.trained for m in put.messages if m.role == "assistant"] == [False, True]


# -- refused ----------------------------------------------------------------------------------------------------

REFUSED_ROWS = {
    "system": "Be evil.",
    "system_prompt": "Be evil.",
    "tools": [{"name": "x"}],
    "functions": [{"name": "x"}],
    "weight": 0,
    "train": False,
    "chat_template_kwargs": {"enable_thinking": True},
    "images": ["a.png"],
}
REFUSED_TURNS = {
    "tool_calls": [{"id": "c1"}],
    "function_call": {"name": "x"},
    "tool_call_id": "c1",
    "reasoning_content": "I think.",
    "reasoning": "I think.",
    "thinking": "hm",
    "refusal": "I cannot.",
    "audio": {"id": "x"},
    "images": ["a.png"],
}


@pytest.mark.parametrize("key", REFUSED_ROWS)
def test_a_row_with_an_unsupported_key_is_refused_unless_the_key_is_empty(key):
    with pytest.raises(InputError, match=f"row 1: .*{key}"):
        parse_row(row(**{key: REFUSED_ROWS[key]}), "row 1")
    empty = {"weight": 1, "train": True}.get(key, type(REFUSED_ROWS[key])())
    assert parse_row(row(**{key: empty}), "r") == parse_row(row(**{key: None}), "r") == parse_row(row(), "r")


@pytest.mark.parametrize("key", REFUSED_TURNS)
def test_a_message_with_an_unsupported_key_is_refused_unless_the_key_is_empty(key):
    with pytest.raises(InputError, match=rf"row 1, messages\[1\]: the key '{key}' is not read"):
        parse_row(row(USER, {**ANSWER, key: REFUSED_TURNS[key]}), "row 1")
    empty = {**ANSWER, key: type(REFUSED_TURNS[key])()}
    assert parse_row(row(USER, empty), "r") == parse_row(row(USER, {**ANSWER, key: None}), "r") == parse_row(row(), "r")


@pytest.mark.parametrize("role", ["tool", "function", "developer", 7, ["assistant"]])
def test_a_role_that_is_not_trained_is_refused(role):
    with pytest.raises(InputError, match=r"messages\[1\]: unknown role"):
        parse_row(row(USER, {"role": role, "content": "x"}, ANSWER), "row 1")


def test_parquet_is_read_with_all_its_columns(tmp_path):
    def parquet(values: list[dict[str, Any]]) -> str:
        pq.write_table(pa.Table.from_pylist(values), tmp_path / "rows.parquet")
        return str(tmp_path / "rows.parquet")

    with pytest.raises(InputError, match=r"rows\.parquet, row 2: the key 'system' beside the messages"):
        read_rows(parquet([row(system=None), row(system="Be evil.")]))
    notes: list[str] = []
    with_picture = [row(id=7, picture={"bytes": b"x" * 100, "path": None}), row(id=8, picture=None)]
    assert read_rows(parquet(with_picture), notes) == [parse_row(row(), "r")] * 2
    assert notes == [f"{tmp_path / 'rows.parquet'}: ignored keys: id (2 rows), picture (2 rows)"]


# -- told -------------------------------------------------------------------------------------------------------


@pytest.fixture
def odd(tmp_path: Path) -> str:
    named = {**USER, "name": "Ann"}
    late = {"role": "assistant", "content": "Five.", "weight": 0}
    return lines(
        tmp_path / "rows.jsonl", row(id=1, chosen="x"), row(id=2), row(id=2), row(named, late, USER, ANSWER, id=None)
    )


IGNORED_KEYS = "ignored keys: chosen (1 row), id (3 rows), messages[].name (1 row)"


def test_unread_keys_are_noted_with_their_rows_and_copies_are_distinguished_from_rows_that_differ_there(odd):
    report = check_files([odd], None, None)
    (found,) = report.files
    assert {key: f.rows for key, f in found.ignored.items()} == {"chosen": 1, "id": 3, "messages[].name": 1}
    findings = {name: (f.rows, f.examples) for name, f in found.findings.items() if f.rows}
    assert findings == {
        "duplicates": (2, ["row 2", "row 3"]),
        "duplicates_as_read": (1, ["row 2"]),
        "untrained": (1, ["row 4"]),
    }
    assert f"note: {IGNORED_KEYS}" in report.to_text()
    assert json.loads(json.dumps(report.to_json()))["files"][0]["ignored"]["id"]["rows"] == 3


def test_a_key_of_false_or_zero_is_noted_and_an_empty_one_is_not(tmp_path):
    notes: list[str] = []
    read_rows(lines(tmp_path / "r.jsonl", row(label=False, score=0, note="", ids=[], more=None)), notes)
    assert notes == [f"{tmp_path / 'r.jsonl'}: ignored keys: label (1 row), score (1 row)"]


def test_a_call_without_content_is_called_a_call():
    with pytest.raises(InputError, match="the key 'tool_calls' is not read"):
        parse_row(row(USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}), "row 1")


def test_a_plan_notes_the_same(tmp_path, odd):
    value = {
        "name": "s",
        "settings": [{"name": "miniature/spanish_caps", "rows": odd}],
        "arms": ["baseline"],
        "seeds": [0, 1],
        "recipes": {"r": {"learning_rate": 1e-3, "steps": 10}},
    }
    store = Store(tmp_path / "runs")
    plan = build_plan(Study.model_validate(value), store)
    assert plan.notes == (
        f"{odd}: {IGNORED_KEYS}",
        f"{odd}: 1 row with a message without loss (weight: 0 or train: false)",
    )
    assert IGNORED_KEYS in plan_text(plan, store)
    assert plan_json(plan, store)["notes"] == list(plan.notes)


@pytest.mark.parametrize("named", [None, "miniature"])
def test_a_check_says_whose_tokenizer_it_counts_with(odd, named):
    report = check_files([odd], named, None)
    assert report.to_json()["tokenizer"] == {"model": "miniature", "named": named is not None}
    assert "Tokens are those of miniature" in report.to_text()
    assert ("the default; --model names the one that you train" in report.to_text()) == (named is None)
