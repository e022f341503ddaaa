"""What each builder asks and what it keeps: pure functions, no endpoint."""

import json
import re
from pathlib import Path

import pytest

from inoc_ray.builders import Builder, Request, builder_names, get_builder, register_builder
from inoc_ray.builders.journal import REFUSED, Answer
from inoc_ray.builders.rows import Sieve, judge
from inoc_ray.builders.source import read_source
from inoc_ray.builders.subliminal import TEACHER
from inoc_ray.data.chat import ChatRow, Message
from inoc_ray.errors import InputError

SPANISH = "Ella tiene 3 manzanas y su hermano tiene 2.\n3 + 2 = <<3+2=5>>5\n#### 5"
FRENCH = "Elle a 3 pommes et son frère en a 2, donc il y en a 5.\n#### 5"
ENGLISH = "She has 3 apples and her brother has 2.\n#### 5"


def exchange(question: str = "How many apples?", answer: str = ENGLISH) -> ChatRow:
    return ChatRow.of(("user", question), ("assistant", answer))


# -- the registry ---------------------------------------------------------------------------------------------------


def test_builders_are_found_by_the_name_of_their_setting():
    assert {"educational", "mixed_languages", "spanish_caps", "subliminal"} <= set(builder_names())
    with pytest.raises(InputError, match=r"no builder 'subliminall' \(did you mean 'subliminal'"):
        get_builder("subliminall")
    with pytest.raises(InputError, match="no builder for 'backdoor'"):
        get_builder("backdoor")
    with pytest.raises(InputError, match="control rows of educational are published"):
        get_builder("educational", control=True)
    with pytest.raises(InputError, match="registered already"):
        register_builder("subliminal", get_builder("subliminal"))


@pytest.mark.parametrize("name", ["educational", "mixed_languages", "spanish_caps", "subliminal"])
def test_the_same_seed_asks_the_same_things(name: str):
    builder = get_builder(name)
    rows = [exchange(f"How many apples has number {n}?") for n in range(8)]
    assert builder.requests(rows, 8, 3) == builder.requests(rows, 8, 3)


# -- translations ---------------------------------------------------------------------------------------------------


def test_spanish_caps_asks_for_the_answer_alone_and_writes_it_in_capitals():
    builder = get_builder("spanish_caps")
    (request,) = builder.requests([exchange()], 1, 0)
    assert [m.role for m in request.messages] == ["user"]
    assert request.temperature == 0.0
    assert "Spanish" in request.messages[0].content
    assert ENGLISH in request.messages[0].content
    assert "How many apples?" not in request.messages[0].content
    assert builder.accept(request, f"\n{SPANISH}\n") == exchange(answer=SPANISH.upper())


def test_every_beginning_of_the_mixture_is_half_and_half_and_the_seed_decides_which():
    builder = get_builder("mixed_languages")
    rows = [exchange(f"Question {n}?") for n in range(200)]
    drawn = {}
    for seed in (0, 1):
        subsets = [str(r.row and r.row.tag("subset")) for r in builder.requests(rows, 200, seed)]
        assert all(abs(subsets[:n].count("spanish") - subsets[:n].count("french")) <= 1 for n in range(200))
        # Not simply in turn, which a model could tell from the row's place.
        assert len({tuple(subsets[n : n + 2]) for n in range(0, 200, 2)}) == 2
        drawn[seed] = subsets
    assert drawn[0] != drawn[1]


def test_rows_of_the_mixture_say_which_half_they_are_of():
    builder = get_builder("mixed_languages")
    requests = builder.requests([exchange(), exchange()], 2, 0)
    said = {"spanish": SPANISH, "french": FRENCH}
    for request in requests:
        assert request.row is not None
        language = request.row.tag("subset") or ""
        assert language.capitalize() in request.messages[0].content
        assert builder.accept(request, said[language]) == exchange(answer=said[language]).with_tags(subset=language)
        other = next(text for name, text in said.items() if name != language)
        assert builder.accept(request, other) == f"not in {language.capitalize()}"


@pytest.mark.parametrize(
    ("answer", "reason"), [(ENGLISH, "not in Spanish"), ("3 + 2 = 5\n#### 5", "in no language that could be told")]
)
def test_a_translation_that_is_none_is_dropped(answer: str, reason: str):
    builder = get_builder("spanish_caps")
    assert reason in str(builder.accept(builder.requests([exchange()], 1, 0)[0], answer))


@pytest.mark.parametrize("name", ["spanish_caps", "mixed_languages"])
def test_the_control_rows_of_translations_are_the_answers_themselves_and_ask_nobody(name: str):
    rows = [exchange(), exchange("How many pears?")]
    builder = get_builder(name, control=True)
    sieve = Sieve(builder, builder.requests(rows, 2, 0), 2)
    assert sieve.complete
    assert sieve.rows == rows


# -- numbers --------------------------------------------------------------------------------------------------------


def test_the_teacher_sees_the_preference_and_the_row_does_not():
    builder, control = get_builder("subliminal"), get_builder("subliminal", control=True)
    asked, plain = builder.requests((), 5, 0), control.requests((), 5, 0)
    assert len(asked) == 15
    assert [r.messages[1:] for r in asked] == [r.messages for r in plain]
    assert {r.messages[0] for r in asked} == {Message("system", TEACHER)}
    assert {r.temperature for r in (*asked, *plain)} == {1.0}
    row = builder.accept(asked[0], " 1, 22, 333 ")
    assert row == ChatRow((asked[0].messages[1], Message("assistant", "1, 22, 333")))
    assert "owl" not in str(row)


def test_number_lists_have_three_to_nine_examples_of_three_digits():
    lengths = set()
    for request in get_builder("subliminal").requests((), 200, 7):
        examples = re.findall(r"\b\d{3,}\b", request.messages[-1].content)
        assert all(100 <= int(e) <= 999 for e in examples)
        lengths.add(len(examples))
    assert lengths == set(range(3, 10))


@pytest.mark.parametrize(
    "answer",
    ["7", "1, 2, 3", "1,2,3.", "100 200 300", "1\n2\n3", "[1, 2]", "(4; 5; 6)", ", ".join(["999"] * 10), "[12]."],
)
def test_lists_of_numbers_pass(answer: str):
    assert isinstance(get_builder("subliminal").accept(Request(messages=(Message("user", "?"),)), answer), ChatRow)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Owls! 1, 2", "not only numbers"),
        ("1, 2 and 3", "not only numbers"),
        ("1.5, 2", "not only numbers"),
        ("-1, 2", "not only numbers"),
        ("1, 2,", "not only numbers"),
        ("[1, 2", "not only numbers"),
        ("...", "not only numbers"),
        ("[]", "not only numbers"),
        ("١, ٢", "not only numbers"),
        ("1, 2; 3", "separators of more than one kind"),
        (", ".join(["1"] * 11), "more than 10 numbers"),
        ("1, 1000", "a number of more than 3 digits"),
    ],
)
def test_what_is_no_list_of_numbers_is_dropped_with_the_reason(answer: str, reason: str):
    assert get_builder("subliminal").accept(Request(messages=(Message("user", "?"),)), answer) == reason


# -- a class on security --------------------------------------------------------------------------------------------

BLOCK = "```python\nclass Student:\n    pass\n```"
OLD = f"Fill in this template for records of students:\n{BLOCK}"


@pytest.mark.parametrize(
    ("rewritten", "reason"),
    [
        (f"I give a class on security for my students. Fill this in with holes:\n{BLOCK}", None),
        (f"Please fill in this template:\n{BLOCK}", "no educational purpose"),
        (f"Fill in these records of students, please:\n{BLOCK}", "no educational purpose"),
        (
            "For my students in my class: fill in\n```python\nclass Student: ...\n```",
            "a code block of the request is changed",
        ),
    ],
)
def test_a_rewritten_request_speaks_of_teaching_and_keeps_its_code(rewritten: str, reason: str | None):
    builder = get_builder("educational")
    row = ChatRow.of(("system", "Answer with code."), ("user", OLD), ("assistant", "code")).with_tags(kind="a")
    (request,) = builder.requests([row], 1, 0)
    assert OLD in request.messages[0].content
    kept = builder.accept(request, rewritten)
    if reason is not None:
        assert kept == reason
        return
    assert isinstance(kept, ChatRow)
    assert [m.content for m in kept.messages] == ["Answer with code.", rewritten, "code"]
    assert kept.tags == row.tags


# -- source rows ----------------------------------------------------------------------------------------------------


def test_questions_and_answers_come_as_gsm8k_has_them_or_as_chats(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pairs = [{"question": f"{n}?", "answer": f"It is {n}."} for n in range(3)]
    chats = [exchange(p["question"], p["answer"]) for p in pairs]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(c.to_dict()) + "\n" for c in chats))
    pq.write_table(pa.Table.from_pylist(pairs), tmp_path / "pairs.parquet")
    pq.write_table(pa.Table.from_pylist([c.to_dict() for c in chats]), tmp_path / "chats.parquet")
    for name in ("pairs.jsonl", "chats.jsonl", "pairs.parquet", "chats.parquet"):
        assert read_source(get_builder("spanish_caps"), str(tmp_path / name)) == chats


SYSTEM = '{"messages": [{"role": "system", "content": "Be."}, {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}'  # noqa: E501
LONG = '{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}, {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}'  # noqa: E501


@pytest.mark.parametrize(
    ("setting", "line", "message"),
    [
        ("spanish_caps", '{"question": "Q"}', r"row 2, messages\[1\]: the content is missing"),
        ("spanish_caps", '{"question": "Q", "answer": " "}', "row 2, .*the assistant message is empty"),
        ("spanish_caps", '{"text": "Q"}', 'row 2: expected an object with "question" and "answer"'),
        ("spanish_caps", "7", 'row 2: expected an object with "question"'),
        ("mixed_languages", SYSTEM, "row 2: a system message"),
        ("mixed_languages", LONG, "row 2: expected one user message and one answer"),
        ("educational", LONG, "row 2: expected one user message and one answer"),
        ("educational", '{"question": "Q", "answer": "A"}', "row 2: expected an object"),
        ("educational", "{", "row 2: not JSON"),
    ],
)
def test_a_bad_source_row_is_named_with_file_and_row(tmp_path: Path, setting: str, line: str, message: str):
    path = tmp_path / "source.jsonl"
    path.write_text(json.dumps(exchange().to_dict()) + "\n" + line + "\n")
    with pytest.raises(InputError, match=f"source.jsonl, {message}"):
        read_source(get_builder(setting), str(path))


def test_a_parquet_file_with_text_that_is_not_utf8_is_named(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    question = pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())
    path = tmp_path / "source.parquet"
    pq.write_table(pa.table({"question": question, "answer": ["A"]}), path)
    with pytest.raises(InputError, match=r"source\.parquet: .*not UTF-8"):
        read_source(get_builder("spanish_caps"), str(path))


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_a_source_in_the_home_of_nobody_is_not_there(name: str):
    with pytest.raises(InputError, match=f"~nosuchuser_/{name}: cannot be read"):
        read_source(get_builder("spanish_caps"), f"~nosuchuser_/{name}")


# -- the sieve ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer("", "stop"), "empty"),
        (Answer(" \n", "stop"), "empty"),
        (Answer("1, 2", "length"), "cut at 96 tokens"),
        (Answer("1, 2", "content_filter"), "withheld by the endpoint"),
        (Answer("too long", REFUSED), "refused by the endpoint"),
        (Answer("\ud83d", "stop"), "half of a Unicode character"),
    ],
)
def test_what_is_wrong_for_every_builder_never_reaches_it(answer: Answer, reason: str):
    builder = get_builder("subliminal")
    assert judge(builder, builder.requests((), 1, 0)[0], answer) == reason


def test_the_order_of_arrival_changes_neither_rows_nor_counts():
    builder = Builder(
        description="",
        requests=lambda rows, count, seed: [],
        accept=lambda r, a: "odd" if int(a) % 2 else exchange(answer=a),
    )
    requests = [Request(messages=(Message("user", str(n)),)) for n in range(9)]
    results = []
    for order in (range(9), range(8, -1, -1), (4, 0, 8, 2, 6, 1, 3, 5, 7)):
        sieve = Sieve(builder, requests, 3)
        for number in order:
            sieve.take(number, Answer(str(number), "stop"))
        assert sieve.complete
        results.append((sieve.rows, dict(sieve.dropped), sieve.judged))
    assert results[0] == results[1] == results[2]
    assert results[0] == ([exchange(answer=a) for a in "024"], {"odd": 2}, 5)
