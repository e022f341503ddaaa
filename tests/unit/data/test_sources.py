"""Rows come from JSONL, parquet and pinned datasets of the hub, with one message for whatever is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inoc_ray.data.chat import ChatRow, write_jsonl
from inoc_ray.data.sources import read_rows
from inoc_ray.errors import InputError

COMMIT = "5f4160e0123456789abcdef0123456789abcdef0"
ROWS = [
    ChatRow.of(("user", "Hi"), ("assistant", "Hola")).with_tags(language="es"),
    ChatRow.of(("system", "Be kind."), ("user", "Hi"), ("assistant", "Salut")),
]


def parquet(path: Path, values: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(values), path)
    return path


def test_the_same_rows_come_from_jsonl_and_from_parquet(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    values = [{"id": i, **row.to_dict()} for i, row in enumerate(ROWS)]
    assert read_rows(str(tmp_path / "rows.jsonl")) == ROWS
    assert read_rows(str(parquet(tmp_path / "rows.parquet", values))) == ROWS


def test_parquet_tags_may_be_a_map(tmp_path):
    schema = pa.schema(
        [
            ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
            ("tags", pa.map_(pa.string(), pa.string())),
        ]
    )
    values = [{"messages": r.to_dict()["messages"], "tags": list(r.tags)} for r in ROWS]
    pq.write_table(pa.Table.from_pylist(values, schema=schema), tmp_path / "rows.parquet")
    assert read_rows(str(tmp_path / "rows.parquet")) == ROWS


GOOD = ROWS[0].to_dict()
BAD_PARQUET = {
    "no messages": ([{"prompt": "Hi", "response": "Hola"}], "no column messages.*prompt, response"),
    "a text": ([{"messages": "Hi"}], "row 1: expected an object"),
    "null": ([GOOD, {"messages": None}], "row 2: expected an object"),
    "unknown role": ([{"messages": [{"role": "human", "content": "Hi"}]}], "row 1.*unknown role 'human'"),
    "no content": ([{"messages": [{"role": "user"}]}], "content must be a text, found null|content is missing"),
    "a tag is a number": ([{**GOOD, "tags": {"part": 1}}], "'part' must be a text"),
    "no rows": ([], "no column messages"),
}


@pytest.mark.parametrize("name", BAD_PARQUET)
def test_bad_parquet_is_refused_with_file_and_row(tmp_path, name):
    values, message = BAD_PARQUET[name]
    with pytest.raises(InputError, match=rf"rows\.parquet.*{message}"):
        read_rows(str(parquet(tmp_path / "rows.parquet", values)))


def test_a_file_that_is_not_parquet_a_cut_one_and_a_missing_one_are_refused(tmp_path):
    (tmp_path / "rows.parquet").write_text("PAR?")
    with pytest.raises(InputError, match="not a parquet file"):
        read_rows(str(tmp_path / "rows.parquet"))
    whole = parquet(tmp_path / "whole.parquet", [GOOD] * 100).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a parquet file"):
        read_rows(str(tmp_path / "cut.parquet"))
    with pytest.raises(InputError, match=r"nowhere\.parquet: cannot be read"):
        read_rows(str(tmp_path / "nowhere.parquet"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf://owner/name", "not a dataset of the hub"),
        ("hf://datasets/name", "not a dataset of the hub"),
        ("hf://datasets/owner/name/rows.jsonl", "not pinned"),
        ("hf://datasets/owner/name@main/rows.jsonl", "not pinned.*full commit"),
        ("hf://datasets/owner/name@5f4160e/rows.jsonl", "not pinned.*40 hex"),
        (f"hf://datasets/owner/name@{COMMIT}/rows.csv", r"rows\.csv is neither \.jsonl nor \.parquet"),
    ],
)
def test_a_dataset_that_is_not_pinned_or_not_readable_is_refused_without_network(source, message):
    with pytest.raises(InputError, match=message):
        read_rows(source)


def read_in_another_process(source: str, home: Path) -> subprocess.CompletedProcess[str]:
    """The hub's client reads its environment once, when it is imported."""
    code = (
        "import sys; from inoc_ray.data.sources import read_rows; from inoc_ray.errors import InputError\n"
        "try: print(len(read_rows(sys.argv[1])))\n"
        "except InputError as error: print('refused:', error)"
    )
    env = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-c", code, source], capture_output=True, text=True, env=env, check=True)


@pytest.mark.parametrize("file", ["/rows.jsonl", ""])
def test_a_dataset_that_is_not_there_offline_is_one_clear_message(tmp_path, file):
    found = read_in_another_process(f"hf://datasets/owner/name@{COMMIT}{file}", tmp_path)
    assert found.stdout.startswith("refused: hf://datasets/owner/name@")
    assert "not in the local cache, and the hub cannot be reached" in found.stdout


def test_a_pinned_dataset_in_the_cache_is_read_offline(tmp_path):
    snapshot = tmp_path / "hub" / "datasets--owner--name" / "snapshots" / COMMIT / "data"
    snapshot.mkdir(parents=True)
    write_jsonl(snapshot / "rows.jsonl", ROWS)
    found = read_in_another_process(f"hf://datasets/owner/name@{COMMIT}/data/rows.jsonl", tmp_path)
    assert found.stdout.strip() == "2"
