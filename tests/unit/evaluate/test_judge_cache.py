"""The cache of judges' answers: one file per process, complete lines only."""

import asyncio
import json
import multiprocessing
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inoc_ray.endpoint.auth import Api
from inoc_ray.evaluate.model_judge.batch import judge_items, prompts_of, question_key, stored_judgments
from inoc_ray.evaluate.model_judge.cache import JudgeCache
from inoc_ray.miniature import weights_path
from inoc_ray.models.tokenizer import load_tokenizer
from inoc_ray.scoring.judgment import Item, Judgment
from inoc_ray.scoring.rubrics import get_rubric
from inoc_ray.study.evaluation import Judge

ANSWER = {"text": "70\n\r ", "top": {"70": -0.1}}


def test_the_next_process_reads_what_was_stored(tmp_path: Path):
    with JudgeCache(tmp_path / "judge") as cache:
        assert cache.get("a") is None
        cache.put("a", ANSWER)
        assert cache.get("a") == ANSWER
        # Flushed before it is closed: a killed process has lost nothing.
        assert JudgeCache(tmp_path / "judge").get("a") == ANSWER
    assert JudgeCache(tmp_path / "judge").get("b") is None


def test_half_a_surrogate_pair_that_an_earlier_version_stored_is_replaced(tmp_path: Path):
    with JudgeCache(tmp_path) as cache:
        cache.put("a", {"text": "70 \ud83d", "top": {"\udc00": -0.1}})
    assert JudgeCache(tmp_path).get("a") == {"text": "70 \ufffd", "top": {"\ufffd": -0.1}}


def test_a_look_up_writes_nothing(tmp_path: Path):
    with JudgeCache(tmp_path / "judge") as cache:
        assert cache.get("a") is None
    assert not (tmp_path / "judge").exists()


def test_a_question_answered_twice_is_one_line_and_the_first_answer_is_kept(tmp_path: Path):
    with JudgeCache(tmp_path) as cache:
        cache.put("a", ANSWER)
        cache.put("a", {"text": "other"})
    (segment,) = tmp_path.glob("*.jsonl")
    assert segment.read_text().count("\n") == 1
    assert JudgeCache(tmp_path).get("a") == ANSWER


@given(data=st.data())
def test_a_segment_torn_anywhere_keeps_every_whole_line_before(tmp_path_factory: pytest.TempPathFactory, data):
    folder = tmp_path_factory.mktemp("cache")
    with JudgeCache(folder) as cache:
        for n in range(5):
            cache.put(f"k{n}", {"text": f"é {n}"})
    (segment,) = folder.glob("*.jsonl")
    whole = segment.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    segment.write_bytes(whole[:cut])
    again = JudgeCache(folder)
    # A line that lacks its line break or its seal is whole; half a seal is not one.
    complete = len(re.findall(rb"\}\](?:\t[0-9a-f]{16})?$", whole[:cut], re.MULTILINE))
    assert [again.get(f"k{n}") is not None for n in range(5)] == [n < complete for n in range(5)]
    # Going on puts a file beside it, and never writes behind the torn line.
    with again:
        again.put("new", ANSWER)
    assert JudgeCache(folder).get("new") == ANSWER


@pytest.mark.parametrize(
    "line", [b"null", b"[]", b"[1, {}]", b'["a"]', b'["a", 3]', b'{"a": {}}', b"\xff\xfe", b"[" * 9999]
)
def test_lines_in_another_format_are_skipped(tmp_path: Path, line: bytes):
    good = json.dumps(["a", ANSWER]).encode()
    (tmp_path / "x.jsonl").write_bytes(line + b"\n" + good + b"\n")
    assert JudgeCache(tmp_path).get("a") == ANSWER


def _write(folder: Path, name: str) -> None:
    with JudgeCache(folder) as cache:
        for n in range(200):
            cache.put(f"{name}{n}", {"text": name * 50})


def test_processes_that_write_at_once_do_not_damage_each_other_s_lines(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    cache = JudgeCache(tmp_path)
    assert all(cache.get(f"{name}{n}") == {"text": name * 50} for name in "abc" for n in range(200))
    assert len(list(tmp_path.glob("*.jsonl"))) == 3


def test_judgments_are_known_without_an_engine_when_every_answer_is_stored_and_not_a_single_one_before(tmp_path: Path):
    tokenizer = load_tokenizer(str(weights_path()))
    judge, rubrics = Judge(path="m", method="digit"), [get_rubric("caps"), get_rubric("alignment")]
    identity, items = {"model": "m"}, [(n, Item(f"question {n}", f"response {n}")) for n in range(3)]
    prompts = [prompt for _, item in items for _, prompt in prompts_of("digit", rubrics, item)]

    def known() -> list[tuple[int, str, Judgment]] | None:
        with JudgeCache(tmp_path) as cache:
            return stored_judgments(
                judge=judge, identity=identity, rubrics=rubrics, items=items, cache=cache, tokenizer=tokenizer
            )

    async def judged() -> list[tuple[int, str, Judgment]]:
        with JudgeCache(tmp_path) as cache:
            # Nothing listens there, and nobody is asked.
            asked = judge_items(
                Api("http://127.0.0.1:9/v1"),
                judge=judge,
                identity=identity,
                rubrics=rubrics,
                items=items,
                cache=cache,
                model="m",
                tokenizer=tokenizer,
            )
            return [found async for batch in asked for found in batch]

    assert known() is None
    for number, prompt in enumerate(prompts):
        assert known() is None
        with JudgeCache(tmp_path) as cache:
            cache.put(question_key(identity, "digit", prompt, 0), {"text": str(number), "top": {str(number): -0.1}})
    found = known()
    assert found is not None
    assert len({(key, rubric) for key, rubric, _ in found}) == len(prompts) == 6
    assert found == asyncio.run(judged())
