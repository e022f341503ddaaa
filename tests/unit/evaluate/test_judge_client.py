"""Judging over HTTP with a local stub that answers like an API, and misbehaves on purpose."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from judge_stub import Stub, chat, number_for, serving, status

from inoc_ray.endpoint.auth import Api
from inoc_ray.endpoint.retry import Retry
from inoc_ray.errors import InputError, TrialError
from inoc_ray.evaluate.model_judge.api_judge import judge_api
from inoc_ray.evaluate.model_judge.batch import Counts, judge_items
from inoc_ray.evaluate.model_judge.cache import JudgeCache
from inoc_ray.plan.judge_assignment import judge_identity
from inoc_ray.scoring.judge_prompt import number_prompt
from inoc_ray.scoring.judgment import Item, Judgment
from inoc_ray.scoring.rubrics import Rubric, get_rubric
from inoc_ray.study.evaluation import Judge

QUICK = Retry(tries=4, first_s=0.01, max_s=0.02, timeout_s=30.0)
CAPS = [get_rubric("caps")]
KEY = "sk-a-key-that-nobody-may-see-0123456789"


def items(count: int) -> list[tuple[int, Item]]:
    return [(n, Item(f"question {n}", f"response {n}")) for n in range(count)]


def judge_all(
    stub: Stub,
    folder: Path,
    asked: list[tuple[int, Item]],
    rubrics: list[Rubric] = CAPS,
    counts: Counts | None = None,
    debug: bool = False,
    **settings: Any,
) -> dict[tuple[int, str], Judgment]:
    async def run() -> dict[tuple[int, str], Judgment]:
        async with serving(stub):
            judge = Judge(endpoint=stub.base_url, served_model="stub", **settings)
            found: dict[tuple[int, str], Judgment] = {}
            with JudgeCache(folder) as cache:
                stream = judge_items(
                    Api(stub.base_url, stub.api_key),
                    judge=judge,
                    identity=judge_identity(judge, None),
                    rubrics=rubrics,
                    items=asked,
                    cache=cache,
                    retry=QUICK,
                    counts=counts,
                )
                async for batch in stream:
                    for key, rubric, judged in batch:
                        assert (key, rubric) not in found
                        found[key, rubric] = judged
            return found

    return asyncio.run(run(), debug=debug)


def test_every_item_is_judged_on_every_rubric_with_the_number_that_the_judge_gave(tmp_path: Path):
    stub, counts = Stub(), Counts()
    rubrics = [get_rubric("alignment"), get_rubric("coherence")]
    found = judge_all(stub, tmp_path, items(20), rubrics=rubrics, counts=counts)
    assert set(found) == {(n, rubric.name) for n in range(20) for rubric in rubrics}
    for (n, name), judged in found.items():
        assert judged.value == pytest.approx(number_for(number_prompt(get_rubric(name), items(20)[n][1], 100)))
        assert (judged.category, judged.method, judged.mass) == ("number", "logprob", pytest.approx(0.9))
        assert len(json.loads(judged.logprobs)) == 20
    assert counts == Counts(calls=41, stored=0, failed=0)  # 40 and the probe


def test_a_second_pass_makes_no_call_and_gives_the_same(tmp_path: Path):
    first = judge_all(Stub(), tmp_path, items(30))
    stub, counts = Stub(), Counts()
    assert judge_all(stub, tmp_path, items(30), counts=counts) == first
    assert (stub.calls, counts) == (0, Counts(calls=0, stored=30))


def test_the_mass_that_must_be_readable_is_applied_to_what_is_stored(tmp_path: Path):
    judge_all(Stub(), tmp_path, items(3))
    stub = Stub()
    found = judge_all(stub, tmp_path, items(3), min_mass=0.95)
    assert stub.calls == 0
    assert {j.category for j in found.values()} == {"unparsed"}


def test_the_same_response_is_asked_about_once(tmp_path: Path):
    stub = Stub()
    same = [(n, Item("q", "the same response")) for n in range(10)]
    found = judge_all(stub, tmp_path, same)
    assert len(found) == 10
    assert len(stub.prompts) == 1


def test_a_judge_that_answers_rubbish_for_some_is_unparsed_and_never_zero(tmp_path: Path):
    rubbish = [
        "<html>bad gateway</html>",
        {},
        {"choices": []},
        {"choices": [{"message": None}]},
        [],
        {"choices": "x"},
        chat("70", None),
        chat("no", {"no": 1.0}),
        {"choices": [{"message": {"content": 7}}]},
        chat("٧٠", {"٧٠": 1.0}),
    ]
    stub = Stub()

    def answer(body: dict[str, Any]) -> Any:
        text = body["messages"][0]["content"]
        number = text.split("response ")[-1].split("\n")[0] if "response " in text else ""
        return rubbish[int(number)] if number.isdigit() and int(number) < 10 else stub.say(body)

    stub.answer = answer
    counts = Counts()
    found = judge_all(stub, tmp_path, items(33), counts=counts)
    bad = {n for n, _ in found if found[n, "caps"].value is None}
    assert bad == set(range(10))
    assert {found[n, "caps"].category for n in bad} == {"unparsed"}
    assert all(found[n, "caps"].category == "number" for n in range(10, 33))
    assert counts.failed == 7
    # What was no answer at all is not stored, so the next pass asks it again; the other three are.
    again = Counts()
    judge_all(Stub(), tmp_path, items(33), counts=again)
    assert (again.calls, again.stored) == (7, 26)


def test_too_many_requests_lower_the_limit_and_all_are_answered(tmp_path: Path):
    stub, counts = Stub(room=4, latency_s=0.01), Counts()
    found = judge_all(stub, tmp_path, items(120), counts=counts, concurrency=32)
    assert len(found) == 120
    assert all(j.category == "number" for j in found.values())
    assert stub.turned_away > 0
    assert counts.calls == 121 + stub.turned_away
    # At full concurrency nearly every call would be turned away; the limit learns how many the endpoint bears.
    assert stub.turned_away < 120


def test_retry_after_holds_all_requests_back(tmp_path: Path):
    stub = Stub(faults=[status(500)])
    times: list[float] = []

    async def busy(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        times.append(time.monotonic())
        return web.json_response({"error": {"message": "busy"}}, status=503, headers={"Retry-After": "0.4"})

    stub.faults.append(busy)
    answer = stub.say

    def say(body: dict[str, Any]) -> Any:
        times.append(time.monotonic())
        return answer(body)

    stub.answer = say
    assert len(judge_all(stub, tmp_path, items(3), concurrency=1)) == 3
    assert times[1] - times[0] >= 0.39


def test_passing_errors_cost_nothing_but_a_retry(tmp_path: Path):
    stub = Stub(faults=[status(500), status(429), status(503), status(502)])
    found = judge_all(stub, tmp_path, items(8))
    assert all(j.category == "number" for j in found.values())


def test_an_endpoint_that_goes_down_ends_the_pass_and_what_was_answered_is_stored(tmp_path: Path):
    stub = Stub()
    good = stub.say
    stub.answer = lambda body: good(body) if stub.calls <= 6 else (_ for _ in ()).throw(web.HTTPInternalServerError())
    with pytest.raises(TrialError, match="failed 4 times"):
        judge_all(stub, tmp_path, items(20), concurrency=1)
    counts = Counts()
    judge_all(Stub(), tmp_path, items(20), counts=counts)
    assert (counts.stored, counts.calls) == (5, 15)


def test_a_request_refused_for_its_content_is_unparsed_with_the_reason_and_the_rest_continues(tmp_path: Path):
    stub = Stub()
    judge_all(stub, tmp_path, [])
    stub.faults = [status(400, "the prompt breaks our rules")]
    found = judge_all(stub, tmp_path, items(6))
    (refused,) = [j for j in found.values() if j.value is None]
    assert (refused.category, refused.mass) == ("unparsed", None)
    assert "the prompt breaks our rules" in refused.raw


@pytest.mark.parametrize(
    ("code", "hint"), [(401, "api_key_env"), (403, "api_key_env"), (404, "served_model"), (402, "judge stub")]
)
def test_a_wrong_key_or_an_unknown_model_ends_the_pass_at_once(tmp_path: Path, code: int, hint: str):
    stub = Stub(faults=[status(code, f"no entry with {KEY}")], api_key=KEY)
    with pytest.raises(InputError, match=hint) as caught:
        judge_all(stub, tmp_path, items(5))
    assert stub.calls == 1
    assert KEY not in str(caught.value)


def test_an_empty_account_does_not_count_as_overload(tmp_path: Path):
    stub = Stub(faults=[status(429, "you have no credit left", code="insufficient_quota")])
    with pytest.raises(InputError, match="no credit left"):
        judge_all(stub, tmp_path, items(5))
    assert stub.calls == 1


@pytest.mark.parametrize("how", ["missing", "refused"])
def test_the_error_about_an_api_without_logprobs_suggests_samples(tmp_path: Path, how: str):
    stub = Stub(answer=lambda _: chat("73", None))
    if how == "refused":
        stub.faults = [status(400, "this model does not support logprobs")]
    with pytest.raises(InputError, match="method: sample"):
        judge_all(stub, tmp_path, items(2))


def test_a_judge_whose_tokenizer_splits_numbers_is_asked_on_a_scale_of_one_digit(tmp_path: Path):
    found = judge_all(Stub(cuts_digits=True), tmp_path, items(5))
    for n, item in items(5):
        assert found[n, "caps"].value == pytest.approx(number_for(number_prompt(CAPS[0], item, 9), 9) * 100 / 9)
        assert found[n, "caps"].method == "digit"
    with pytest.raises(InputError, match="cuts them between digits"):
        judge_all(Stub(cuts_digits=True), tmp_path, items(5), method="logprob")


def test_samples_are_drawn_with_their_own_seeds_and_more_of_them_ask_only_the_new_ones(tmp_path: Path):
    bodies: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> Any:
        bodies.append(body)
        return chat(str(body["seed"] % 101), None)

    found = judge_all(Stub(answer=answer), tmp_path, items(4), method="sample", samples=5)
    assert len({b["seed"] for b in bodies}) == len(bodies) == 20
    assert {b["temperature"] for b in bodies} == {1.0}
    assert not any("logprobs" in b for b in bodies)
    texts = json.loads(found[0, "caps"].raw)
    assert found[0, "caps"].value == pytest.approx(sum(map(int, texts)) / 5)
    counts = Counts()
    judge_all(Stub(answer=answer), tmp_path, items(4), method="sample", samples=7, counts=counts)
    assert (counts.calls, counts.stored) == (8, 20)


def test_json_is_one_call_for_all_rubrics_and_a_bad_key_costs_its_own_rubric_alone(tmp_path: Path):
    stub = Stub(answer=lambda _: chat('```json\n{"alignment": 30, "coherence": "high"}\n```', None))
    found = judge_all(stub, tmp_path, items(3), [get_rubric("alignment"), get_rubric("coherence")], method="json")
    assert stub.calls == 3
    assert [found[n, "alignment"].value for n in range(3)] == [30.0] * 3
    assert {found[n, "coherence"].category for n in range(3)} == {"unparsed"}


def test_judging_can_be_stopped_and_leaves_no_request_in_flight(tmp_path: Path):
    stub = Stub(latency_s=0.02)

    async def run() -> int:
        async with serving(stub):
            judge = Judge(endpoint=stub.base_url, served_model="stub")
            with JudgeCache(tmp_path) as cache:
                stream = judge_items(
                    Api(stub.base_url),
                    judge=judge,
                    identity={"served_model": "stub"},
                    rubrics=CAPS,
                    items=items(200),
                    cache=cache,
                )
                async for _ in stream:
                    break
                await stream.aclose()
        await asyncio.sleep(0.05)
        return len(asyncio.all_tasks() - {asyncio.current_task()})

    assert asyncio.run(run()) == 0
    assert len(stub.prompts) < 200


# -- the key --------------------------------------------------------------------------------------------------------


def everything(error: BaseException | None) -> str:
    """Return all that an error and its causes can print, whether a traceback shows them or not."""
    if error is None:
        return ""
    here = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
    return here + everything(error.__cause__) + everything(error.__context__)


@pytest.mark.parametrize("place", ["status", "status at the cut", "html", "answer", "retry"])
def test_the_key_is_in_no_error_log_or_file(tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str):
    caplog.set_level(logging.DEBUG)
    stub = Stub(api_key=KEY)
    found: dict[tuple[int, str], Judgment] = {}
    errors = ""
    quoting = {
        "status": [status(401, f"wrong key {KEY}")],
        "status at the cut": [status(401, "x" * 485 + KEY)],
        "retry": [status(500, f"failed with {KEY}")] * 99,
    }
    if place == "html":
        stub.answer = lambda _: "<html>" + "x" * 450 + KEY
    elif place == "answer":
        stub.answer = lambda body: stub.say(body) if "Repeat" in str(body) else chat(KEY, {KEY: 0.5, "70": 0.5})
    else:
        stub.faults = list(quoting[place])
    try:
        found = judge_all(stub, tmp_path, items(3), debug=True)
    except (InputError, TrialError) as error:
        errors = everything(error)
    assert bool(errors) == (place != "answer")
    files = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    seen = errors + caplog.text + "".join(str(vars(r)) for r in caplog.records) + files + str(found)
    assert len(seen) > 100
    # No half of it either, as a cut would leave it.
    assert KEY[:12] not in seen
    assert KEY[-12:] not in seen


def test_the_key_comes_from_the_variable_that_the_study_names(monkeypatch: pytest.MonkeyPatch):
    judge = Judge(endpoint="https://host/v1", served_model="m", api_key_env="JUDGE_KEY")
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(InputError, match="JUDGE_KEY: there is no such environment variable"):
        judge_api(judge, "gpt")
    monkeypatch.setenv("JUDGE_KEY", KEY + "\n")
    assert judge_api(judge, "gpt").api_key == KEY
    assert KEY not in repr(judge_api(judge, "gpt"))
    monkeypatch.setenv("JUDGE_KEY", "schlüssel-of-ours")
    with pytest.raises(InputError, match="not a key") as caught:
        judge_api(judge, "gpt")
    assert "schlüssel" not in str(caught.value)
    with pytest.raises(InputError, match="not an address"):
        judge_api(Judge(endpoint="host:8000", served_model="m"), "gpt")


# -- being killed ---------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, sys
from pathlib import Path
from inoc_ray.study.evaluation import Judge
from inoc_ray.scoring.judgment import Item
from inoc_ray.evaluate.model_judge.cache import JudgeCache
from inoc_ray.endpoint.auth import Api
from inoc_ray.evaluate.model_judge.batch import judge_items
from inoc_ray.plan.judge_assignment import judge_identity
from inoc_ray.scoring.rubrics import get_rubric

async def main(url, folder):
    judge = Judge(endpoint=url, served_model="stub", concurrency=4)
    items = [(n, Item(f"question {n}", f"response {n}")) for n in range(150)]
    with JudgeCache(Path(folder)) as cache:
        identity = judge_identity(judge, None)
        rubrics = [get_rubric("caps")]
        async for batch in judge_items(
            Api(url), judge=judge, identity=identity, rubrics=rubrics, items=items, cache=cache
        ):
            pass

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_killed_pass_resumes_and_repeats_no_stored_call(tmp_path: Path):
    stub = Stub(latency_s=0.02)
    folder = tmp_path / "cache"

    def stored() -> int:
        return sum(path.read_bytes().count(b"\n") for path in folder.glob("*.jsonl"))

    async def run() -> None:
        async with serving(stub):
            for limit in (20, 70):
                process = subprocess.Popen([sys.executable, "-c", PROGRAM, stub.base_url, str(folder)])
                while stored() < limit:
                    assert process.poll() is None
                    await asyncio.sleep(0.01)
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                # What the killed one had sent still reaches the server, and counts there.
                await asyncio.sleep(0.3)
                while stub.active:
                    await asyncio.sleep(0.01)
            assert stored() < 151
            before, calls = stored(), stub.calls
            last = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, stub.base_url, str(folder))
            assert await last.wait() == 0
            assert stub.calls - calls == 151 - before

    asyncio.run(run())
    assert stored() == 151
    # Only what was under way at a kill was asked again: at most as many as may be at once, each time.
    assert len(set(stub.prompts)) == 150
    assert len(stub.prompts) <= 150 + 2 * 4
    found = judge_all(again := Stub(), folder, items(150))
    assert (again.calls, len(found)) == (0, 150)
