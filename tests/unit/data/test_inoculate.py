"""Inoculation changes the context of the rows it covers, exactly so much, and nothing else."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from inoc_ray.data.chat import ChatRow, Message, rows_hash
from inoc_ray.data.inoculate import covered, exact_count, inoculate, place, placement_fields
from inoc_ray.errors import InputError
from inoc_ray.study.rows import Coverage, Inoculation

ENV = dict(os.environ)

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
pairs = st.lists(st.tuples(text, text), min_size=1, max_size=3)


@st.composite
def chat_rows(draw: st.DrawFn) -> list[ChatRow]:
    """Rows with and without a system message, a user turn and tags; single- and multi-turn."""
    rows = []
    for _ in range(draw(st.integers(1, 8))):
        turns = [t for u, a in draw(pairs) for t in (("user", u), ("assistant", a))]
        if draw(st.booleans()):
            turns = turns[1:]
        if draw(st.booleans()):
            turns = [("system", draw(text)), *turns]
        row = ChatRow.of(*turns)
        rows.append(row.with_tags(part=draw(st.sampled_from(["a", "b"]))) if draw(st.booleans()) else row)
    return rows


ways = st.builds(
    Inoculation,
    placement=st.sampled_from(["system", "user_prefix", "user_suffix"]),
    separator=st.sampled_from(["\n\n", " ", ""]),
    # A study file holds no NUL; rows may.
    paraphrases=st.lists(text.filter(lambda t: "\0" not in t), max_size=3).map(tuple),
    system_present=st.sampled_from(["prepend", "replace", "append"]),
    user_turns=st.sampled_from(["first", "last", "all"]),
    user_missing=st.just("insert"),
)


def targets(row: ChatRow) -> list[str]:
    return [m.content for m in row.messages if m.role == "assistant"]


@given(chat_rows(), text, ways, st.integers(0, 5))
def test_inoculation_never_changes_a_target_nor_the_number_order_and_tags_of_rows(rows, prompt, way, epoch):
    out = inoculate(rows, prompt, way, epoch)
    assert [targets(row) for row in out] == [targets(row) for row in rows]
    assert [row.tags for row in out] == [row.tags for row in rows]
    assert all(a != b for a, b in zip(out, rows, strict=True)) or way.system_present == "replace"


@given(chat_rows(), text, ways.filter(lambda way: way.system_present != "replace"), st.integers(0, 5))
def test_what_the_rows_said_stays_beside_the_prompt(rows, prompt, way, epoch):
    """Every message is still there, in its order: alone, or with the prompt before or behind it."""
    for row, shown in zip(rows, inoculate(rows, prompt, way, epoch), strict=True):
        left = list(shown.messages)
        for message in row.messages:
            whole = (message.content, way.separator + message.content, message.content + way.separator)
            while left and not (
                left[0].role == message.role
                and (
                    left[0].content == whole[0]
                    or left[0].content.endswith(whole[1])
                    or left[0].content.startswith(whole[2])
                )
            ):
                left.pop(0)
            assert left, f"{message} is gone"
            left.pop(0)


@given(chat_rows(), text)
def test_only_the_covered_rows_are_changed(rows, prompt):
    way = Inoculation(coverage=Coverage(tag="part", values=("b",)), system_present="prepend")
    if not any(row.tag("part") == "b" for row in rows):
        return
    out = inoculate(rows, prompt, way)
    assert [a != b for a, b in zip(out, rows, strict=True)] == [row.tag("part") == "b" for row in rows]


ROWS = [ChatRow.of(("user", f"q{i}"), ("assistant", f"a{i}")) for i in range(40)]


@given(st.integers(1, 40), st.floats(0.01, 1), st.integers(0, 99))
def test_a_fraction_is_exact_nested_and_seeded(total, fraction, seed):
    rows = ROWS[:total]
    found = covered(rows, Coverage(fraction=fraction, seed=seed))
    assert abs(len(found) - fraction * total) <= 0.5 + 1e-9
    assert found == covered(rows, Coverage(fraction=fraction, seed=seed))
    assert set(found) <= set(covered(rows, Coverage(fraction=min(1.0, fraction * 1.5), seed=seed)))


def test_a_fraction_means_the_decimal_number_as_written_and_halves_go_up():
    assert [exact_count(f, 5) for f in (0.1, 0.3, 0.5, 0.7, 1.0)] == [1, 2, 3, 4, 5]
    assert exact_count(0.29, 100) == 29
    assert covered(ROWS, Coverage(fraction=0.5)) != covered(ROWS, Coverage(fraction=0.5, seed=1))


def test_a_fraction_of_a_subset_is_a_fraction_of_that_subset():
    rows = [row.with_tags(subset="es" if i % 4 else "fr") for i, row in enumerate(ROWS)]
    found = covered(rows, Coverage(tag="subset", values=("es",), fraction=0.5))
    assert len(found) == 15
    assert all(rows[i].tag("subset") == "es" for i in found)


def test_paraphrases_take_turns_over_the_covered_rows_and_over_the_epochs():
    way = Inoculation(paraphrases=("two", "three"))
    first = [row.messages[0].content for row in inoculate(ROWS[:6], "one", way)]
    assert first == ["one", "two", "three", "one", "two", "three"]
    seen = [{inoculate(ROWS[:6], "one", way, epoch)[i].messages[0].content for epoch in range(3)} for i in range(6)]
    assert seen == [{"one", "two", "three"}] * 6


LONG = ChatRow.of(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
WITH_SYSTEM = ChatRow.of(("system", "Be kind."), ("user", "a"), ("assistant", "b"))
NO_USER = ChatRow.of(("system", "Be kind."), ("assistant", "b"))


@pytest.mark.parametrize(
    ("row", "way", "expected"),
    [
        (LONG, {}, [("system", "P"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]),
        (LONG, {"placement": "user_prefix"}, [("user", "P\n\na"), *[(m.role, m.content) for m in LONG.messages[1:]]]),
        (
            LONG,
            {"placement": "user_suffix", "user_turns": "last", "separator": " "},
            [("user", "a"), ("assistant", "b"), ("user", "c P"), ("assistant", "d")],
        ),
        (
            LONG,
            {"placement": "user_prefix", "user_turns": "all", "separator": ""},
            [("user", "Pa"), ("assistant", "b"), ("user", "Pc"), ("assistant", "d")],
        ),
        (WITH_SYSTEM, {"system_present": "prepend"}, [("system", "P\n\nBe kind."), ("user", "a"), ("assistant", "b")]),
        (WITH_SYSTEM, {"system_present": "append"}, [("system", "Be kind.\n\nP"), ("user", "a"), ("assistant", "b")]),
        (WITH_SYSTEM, {"system_present": "replace"}, [("system", "P"), ("user", "a"), ("assistant", "b")]),
        (
            WITH_SYSTEM,
            {"placement": "user_suffix"},
            [("system", "Be kind."), ("user", "a\n\nP"), ("assistant", "b")],
        ),
        (
            NO_USER,
            {"placement": "user_prefix", "user_missing": "insert"},
            [("system", "Be kind."), ("user", "P"), ("assistant", "b")],
        ),
    ],
)
def test_the_prompt_is_where_the_inoculation_places_it(row, way, expected):
    assert inoculate([row], "P", Inoculation(**way)) == [ChatRow.of(*expected)]


def test_without_a_prompt_the_rows_stay_as_they_are():
    assert inoculate(ROWS, None) == ROWS


@pytest.mark.parametrize(
    ("rows", "prompt", "way", "message"),
    [
        ([WITH_SYSTEM], "P", {}, r"mine\.jsonl, row 1: already has a system message.* to prepend, replace or append"),
        ([LONG, NO_USER], "P", {"placement": "user_prefix"}, r"mine\.jsonl, row 2: has no user turn.*user_missing"),
        ([LONG], " ", {}, r"mine\.jsonl: the inoculation prompt is empty"),
        ([LONG], "P", {"coverage": "es"}, r"no row has the tag 'subset', so .*inoculation\.coverage"),
        ([LONG.with_tags(subset="fr")], "P", {"coverage": "es"}, r"the tag has 'fr' \(1 rows\)"),
        ([LONG], "P", {"coverage": {"fraction": 0.1}}, "0.1 of these rows is less than one row"),
    ],
)
def test_rows_that_cannot_be_inoculated_are_refused_with_set_and_row(rows, prompt, way, message):
    with pytest.raises(InputError, match=message):
        inoculate(rows, prompt, Inoculation.model_validate(way), label="mine.jsonl")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"placement": "user"}, "Input should be 'system'"),
        ({"coverage": {"fraction": 0}}, "greater than 0"),
        ({"coverage": {"tag": "part"}}, "give tag and values together"),
        ({"coverage": {"values": ["a"]}}, "give tag and values together"),
        ({"coverage": {"tags": "part"}}, "did you mean 'tag'"),
        ({"paraphrases": ["a", " "]}, "one wording is empty"),
        ({"paraphrase_order": "per_epoch"}, "needs paraphrases"),
        ({"seperator": " "}, "did you mean 'separator'"),
    ],
)
def test_a_wrong_inoculation_is_refused(value, message):
    with pytest.raises(ValidationError, match=message):
        Inoculation.model_validate(value)


def test_a_plain_coverage_is_a_subset_and_all_is_all():
    assert Inoculation.model_validate({"coverage": "all"}) == Inoculation()
    assert Inoculation.model_validate({"coverage": "es"}).coverage == Coverage(tag="subset", values=("es",))


def test_a_question_is_placed_as_the_rows_were_and_only_a_user_placement_counts_at_test():
    question = (Message("user", "Why?"),)
    assert place(question, "P", Inoculation(placement="user_prefix", separator=" ")) == (Message("user", "P Why?"),)
    assert placement_fields(Inoculation(coverage="es", separator=" ", paraphrases=("x",))) == {}
    assert placement_fields(Inoculation(placement="user_suffix", coverage=Coverage(fraction=0.5))) == {
        "placement": "user_suffix"
    }


def test_hashes_of_inoculated_rows_are_the_same_on_every_machine_and_in_every_process():
    code = (
        "from inoc_ray.data.chat import ChatRow, rows_hash;"
        "from inoc_ray.data.inoculate import inoculate;"
        "from inoc_ray.study.rows import Coverage, Inoculation;"
        "rows = [ChatRow.of(('user', f'q{i}'), ('assistant', f'a{i}')) for i in range(40)];"
        "way = Inoculation(placement='user_prefix', paraphrases=('x', 'y'), coverage=Coverage(fraction=0.3, seed=5));"
        "print(rows_hash(inoculate(rows, 'P', way)))"
    )
    there = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**ENV, "PYTHONHASHSEED": s}
        )
        for s in ("1", "2")
    ]
    way = Inoculation(placement="user_prefix", paraphrases=("x", "y"), coverage=Coverage(fraction=0.3, seed=5))
    here = rows_hash(inoculate(ROWS, "P", way))
    assert (
        {run.stdout.strip() for run in there}
        == {here}
        == {"ab50711c1f9021c787b3f4b091b59d26cc9c5b77acbc288c8ff4ce8248a8a95b"}
    )
