"""Rows are read with checks that name file, row and field."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inoc_ray.data.chat import ChatRow, read_jsonl, rows_hash, write_jsonl
from inoc_ray.errors import InputError

GOOD = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}'


def row(*turns: tuple[str, object]) -> str:
    return json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]})


BAD = {
    "not JSON": ('{"messages": [', "not JSON"),
    "a number": ("7", "expected an object"),
    "no messages": ('{"text": "Hi"}', "expected an object"),
    "no turns": ('{"messages": []}', "expected an object"),
    "a turn is a text": ('{"messages": ["Hi"]}', r"messages\[0\].*found a text"),
    "no role": ('{"messages": [{"content": "Hi"}]}', r"messages\[0\].*role is missing"),
    "unknown role": (row(("human", "Hi"), ("assistant", "Hello")), "unknown role 'human'"),
    "no content": ('{"messages": [{"role": "user"}]}', "content is missing"),
    "content is a list": (row(("user", ["Hi"])), "content must be a text, found a list"),
    "empty message": (row(("user", "Hi"), ("assistant", "  ")), r"messages\[1\].*assistant message is empty"),
    "no assistant": (row(("user", "Hi")), "no assistant message"),
    "two users": (row(("user", "a"), ("user", "b"), ("assistant", "c")), "take turns"),
    "user last": (row(("user", "a"), ("assistant", "b"), ("user", "c")), "take turns"),
    "system in the middle": (row(("user", "a"), ("system", "b"), ("assistant", "c")), "first message"),
    "blank line": ("", "blank line"),
    "a JSON array": (f"[{GOOD}]", "a JSON array; write one object per line"),
    "nested too deeply": ("[" * 100_000, "nested too deeply"),
    "an endless number": ('{"messages": ' + "1" * 5000 + "}", "a number of more than 4300 digits"),
    "half a character": (GOOD.replace("Hello", "Hello \\ud83d"), r"messages\[1\]: half of a Unicode character"),
    "role is null": ('{"messages": [{"role": null, "content": "Hi"}]}', r"messages\[0\].*unknown role None"),
    "assistant first, then assistant": (row(("assistant", "a"), ("assistant", "b")), "take turns"),
    "two systems": (row(("system", "a"), ("system", "b"), ("user", "c"), ("assistant", "d")), "only one"),
    "tags are a list": (GOOD[:-1] + ', "tags": ["es"]}', "tags must be an object of texts.*found a list"),
    "a tag is a number": (GOOD[:-1] + ', "tags": {"part": 1}}', "the tag 'part' must be a text, found 1"),
    "a row as long as a file": (GOOD.replace("Hello", "o" * (17 << 20)), "longer than 16 MiB"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_refused_with_its_file_and_number(tmp_path, name):
    line, message = BAD[name]
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{GOOD}\n{line}\n{GOOD}\n")
    with pytest.raises(InputError, match=rf"rows\.jsonl, row 2.*{message}"):
        read_jsonl(path)


def test_bytes_that_are_not_utf8_are_refused_with_the_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD.encode() + b"\n" + GOOD.replace("Hello", "é").encode("latin-1"))
    with pytest.raises(InputError, match="row 2: not UTF-8"):
        read_jsonl(path)


@pytest.mark.parametrize(("content", "message"), [("", "no rows"), (None, "cannot be read")])
def test_a_missing_or_empty_file_is_refused(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_jsonl(path)


def test_a_byte_order_mark_and_a_final_blank_line_are_accepted(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode() + b"\n\n")
    assert read_jsonl(path) == [ChatRow.of(("user", "Hi"), ("assistant", "Hello"))]


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
rows = st.lists(
    st.builds(
        lambda turns: ChatRow.of(*(t for u, a in turns for t in (("user", u), ("assistant", a)))),
        st.lists(st.tuples(text, text), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=5,
)


@given(rows)
def test_rows_survive_the_file_and_keep_their_hash(tmp_path_factory, found):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_jsonl(path, found)
    assert read_jsonl(path) == found
    assert rows_hash(read_jsonl(path)) == rows_hash(found)


def test_the_hash_of_known_rows_is_the_same_on_every_machine():
    known = [ChatRow.of(("user", "Hi"), ("assistant", "Héllo"))]
    assert rows_hash(known) == "af0c3ecce71cad624234f8cac3cfe43acedbd62c03dd37a5e5c02e7018417ac7"


def test_tags_survive_the_file_and_count_in_the_hash_only_where_there_are_any(tmp_path):
    plain = ChatRow.of(("user", "Hi"), ("assistant", "Hello"))
    tagged = plain.with_tags(subset="es", poisoned="yes")
    write_jsonl(tmp_path / "rows.jsonl", [plain, tagged])
    assert read_jsonl(tmp_path / "rows.jsonl") == [plain, tagged]
    assert (tagged.tag("subset"), plain.tag("subset")) == ("es", None)
    assert (tmp_path / "rows.jsonl").read_text().splitlines()[0] == (
        '{"messages":[{"content":"Hi","role":"user"},{"content":"Hello","role":"assistant"}]}'
    )
    assert rows_hash([plain]) != rows_hash([tagged]) == rows_hash([plain.with_tags(poisoned="yes", subset="es")])
