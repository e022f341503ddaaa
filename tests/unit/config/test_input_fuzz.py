"""Whatever JSON stands in a row and whatever YAML in a study: read, or refused in one short line."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from inoc_ray.data.chat import parse_row
from inoc_ray.data.questions import read_questions
from inoc_ray.data.row_keys import RowNotes, unread
from inoc_ray.errors import InputError
from inoc_ray.run.load import load_study

WORDS = st.sampled_from(
    ["user", "assistant", "system", "tool", "Hi", "0", "1e-3", "~", "hf://a/b@main", "\0", "é\ud83d"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | WORDS
VALUES = st.recursive(
    SCALARS, lambda c: st.lists(c, max_size=3) | st.dictionaries(st.text(max_size=4), c, max_size=3), max_leaves=6
)
TURN_KEYS = ("weight", "train", "tool_calls", "reasoning_content", "name", "loss", "refusal", "images")
ROW_KEYS = ("tags", "system", "tools", "weight", "train", "id", "chosen", "prompt", "question", "answer")
TURNS = st.fixed_dictionaries(
    {"role": WORDS | VALUES, "content": st.text(min_size=1, max_size=4) | VALUES},
    optional=dict.fromkeys(TURN_KEYS, VALUES),
)
ROWS = VALUES | st.fixed_dictionaries(
    {}, optional={"messages": st.lists(TURNS | VALUES, max_size=4) | VALUES, **dict.fromkeys(ROW_KEYS, VALUES)}
)


def check_one_line(message: object) -> None:
    assert "\n" not in str(message)
    assert len(str(message)) < 1500


@settings(max_examples=examples(400))
@given(ROWS)
def test_a_row_is_read_or_refused(value):
    try:
        row = parse_row(value, "row 1")
    except InputError as error:
        check_one_line(error)
    else:
        assert parse_row(row.to_dict(), "row 1") == row
    told = RowNotes()
    told.add(unread(value), False)
    for note in told.notes("rows.jsonl"):
        check_one_line(note)


@settings(max_examples=examples(100))
@given(ROWS)
def test_a_question_is_read_or_refused(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "q.jsonl"
    path.write_text(json.dumps(value) + "\n")
    try:
        assert read_questions(path, "q")
    except InputError as error:
        check_one_line(error)


GOOD: dict[str, Any] = {
    "name": "s",
    "settings": [{"name": "miniature/spanish_caps", "rows": "x", "questions": {"a": "b"}}],
    "arms": [
        "baseline",
        {"name": "a", "kind": "general", "prompt": "p", "inoculation": {"coverage": {"fraction": 0.5}}},
    ],
    "seeds": [0],
    "models": [{"name": "m", "path": "p", "prior_stage": {"rows": "r", "recipe": "r"}}],
    "recipes": {"r": {"learning_rate": 1e-3, "steps": 3, "lora": {"rank": 4}}},
    "evaluation": {
        "samples": 4,
        "contexts": ["neutral", {"name": "x", "system": "y"}],
        "suites": [{"name": "q", "questions": "f", "traits": {"t": {"rubric": "alignment"}}}],
        "capabilities": ["gsm8k"],
    },
    "judges": {"j": {"path": "x"}},
    "plugins": [],
    "storage": "runs",
}
LARGE = st.sampled_from(["x" * 20_000, 10**4000, ["y" * 1000] * 100, {"k" * 1000: 1}, {1: 2}, {None: 1}, "é" * 1000])


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, one in inner for place in places(one, (*at, key)))]


@settings(max_examples=examples(250))
@given(st.sampled_from(places(GOOD)), VALUES | LARGE)
def test_a_study_with_anything_at_any_place_is_read_or_refused(tmp_path_factory, place, value):
    study: Any = copy.deepcopy(GOOD)
    at = study
    for key in place[:-1]:
        at = at[key]
    if place:
        at[place[-1]] = value
    else:
        study = value
    try:
        text = yaml.safe_dump(study).encode()
    except ValueError:
        return  # Half a surrogate pair, which no file of UTF-8 holds.
    path: Path = tmp_path_factory.getbasetemp() / "study.yaml"
    path.write_bytes(text)
    try:
        load_study(path)
    except InputError as error:
        check_one_line(error)


def test_the_study_of_these_tests_is_read(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(GOOD))
    assert load_study(tmp_path / "study.yaml").name == "s"
    with pytest.raises(InputError):
        parse_row({}, "row 1")
