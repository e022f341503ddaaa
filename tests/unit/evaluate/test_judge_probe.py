"""A judge behind an API is probed with its own method before training; one that refuses everything stores nothing."""

import asyncio
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from aiohttp import web
from judge_stub import Fault, Stub, chat, serving, status
from stub_api import Stub as Api

from inoc_ray.endpoint.auth import Api as Address
from inoc_ray.endpoint.dialect import adapt, adaptation
from inoc_ray.endpoint.retry import Retry
from inoc_ray.errors import InputError
from inoc_ray.evaluate.grading import grade_missing
from inoc_ray.evaluate.model_judge.batch import REFUSALS_IN_A_ROW, judge_items, probe_judge
from inoc_ray.evaluate.model_judge.cache import JudgeCache
from inoc_ray.evaluate.ungraded import ungraded_parts
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.judge_assignment import judge_identity
from inoc_ray.plan.plan import Plan
from inoc_ray.run.preflight import check_judges
from inoc_ray.scoring.judgment import Item
from inoc_ray.scoring.rubrics import get_rubric
from inoc_ray.store.samples import Sample, commit_samples
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import Judge
from inoc_ray.study.study import Study

QUICK = Retry(tries=2, first_s=0.01, max_s=0.02, timeout_s=30.0)
METHODS = ("auto", "logprob", "digit", "sample", "json")
NEW_STYLE = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
ONE_TEMPERATURE = (
    "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) is supported."
)


class Picky(Stub):
    """An API that accepts only `max_completion_tokens`; with `one_temperature` only temperature 1, with `no_seed` no seed."""

    one_temperature = no_seed = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        said = ""
        if "max_tokens" in body:
            said = NEW_STYLE
        elif self.one_temperature and "temperature" in body:
            said = ONE_TEMPERATURE
        elif self.no_seed and "seed" in body:
            said = "Unknown parameter: 'seed'."
        if said:
            return web.json_response({"error": {"message": said}}, status=400)
        return await super().handle(request)

    def say(self, body: dict[str, Any]) -> dict[str, Any]:
        if "JSON" in body["messages"][0]["content"]:
            return chat('{"number": 73, "caps": 50}', None)
        return super().say(body)


def probed(stub: Stub, method: str) -> None:
    async def run() -> None:
        async with serving(stub):
            await probe_judge(
                Address(stub.base_url), Judge(endpoint=stub.base_url, served_model="m", method=method), QUICK
            )

    asyncio.run(run())


def judged(stub: Stub, folder: Path, count: int, method: str = "logprob") -> list[Any]:
    async def run() -> list[Any]:
        found: list[Any] = []
        async with serving(stub):
            judge = Judge(endpoint=stub.base_url, served_model="m", method=method)
            items = [(n, Item(f"question {n}", f"response {n}")) for n in range(count)]
            with JudgeCache(folder) as cache:
                asked = judge_items(
                    Address(stub.base_url),
                    judge=judge,
                    identity=judge_identity(judge, None),
                    rubrics=[get_rubric("caps")],
                    items=items,
                    cache=cache,
                    retry=QUICK,
                )
                async for batch in asked:
                    found += batch
        return found

    return asyncio.run(run())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_probed_and_a_refusal_is_reported_in_the_api_s_own_words(method):
    with pytest.raises(InputError, match="this account has no access"):
        probed(Stub(faults=[status(400, "this account has no access")]), method)


@pytest.mark.parametrize("method", METHODS)
def test_an_api_that_takes_max_completion_tokens_alone_is_asked_that_way(method, tmp_path):
    probed(Picky(), method)
    if method != "json":
        found = judged(Picky(cuts_digits=method == "digit"), tmp_path, 12, method)
        assert len(found) == 12
        assert {judgment.category for _, _, judgment in found} == {"number"}


def test_a_drawn_answer_needs_no_temperature_and_no_seed_of_its_own():
    picky = Picky()
    picky.one_temperature = picky.no_seed = True
    probed(picky, "sample")


def test_an_api_with_one_temperature_cannot_be_asked_for_the_likeliest_answer():
    picky = Picky()
    picky.one_temperature = True
    with pytest.raises(InputError, match=r"(?s)Only the default \(1\) is supported.*method: sample"):
        probed(picky, "json")


def test_an_api_without_logprobs_is_rejected_for_the_methods_that_need_them():
    for method in ("auto", "logprob", "digit"):
        with pytest.raises(InputError, match="gives no log-probs"):
            probed(Stub(answer=lambda _: chat("73", None)), method)
    probed(Stub(answer=lambda _: chat("73", None)), "sample")


def test_a_judge_that_writes_nothing_in_a_few_tokens_is_rejected():
    with pytest.raises(InputError, match="wrote nothing"):
        probed(Stub(answer=lambda _: chat("", None)), "sample")


def test_a_judge_that_gives_no_object_is_rejected_for_json():
    with pytest.raises(InputError, match="to a request for a JSON object"):
        probed(Stub(answer=lambda _: chat("seventy-three", None)), "json")


def test_a_request_is_never_changed_into_another_one():
    body = {"model": "m", "max_tokens": 1, "temperature": 0.0, "logprobs": True}
    assert adaptation(body, "temperature 0 is not supported") is None
    assert adaptation(body, "logprobs are not supported") is None
    assert adapt(body, ["max_completion_tokens"]) == {
        "model": "m",
        "max_completion_tokens": 1,
        "temperature": 0.0,
        "logprobs": True,
    }


def always(fault: Fault) -> Stub:
    return Stub(faults=[fault] * 1000)


def test_a_judge_that_refuses_everything_stops_at_once_and_yields_nothing(tmp_path):
    judged(Stub(), tmp_path, 0)
    stub = always(status(400, "the model is retired"))
    with pytest.raises(InputError, match=r"refuses everything.*the model is retired; nothing is stored"):
        judged(stub, tmp_path, 500)
    assert stub.calls <= 64 + REFUSALS_IN_A_ROW
    with pytest.raises(InputError, match="the model is retired"):
        judged(always(status(400, "the model is retired")), tmp_path, 3)
    assert {j.category for _, _, j in judged(Stub(), tmp_path, 500)} == {"number"}


def test_an_api_that_starts_to_refuse_everything_is_given_up(tmp_path):
    stub = Stub()
    judged(stub, tmp_path, 10)
    stub = Stub()
    say = stub.say
    stub.faults = []
    refusal = status(400, "the limit of this account is reached")

    async def from_then_on(request: web.Request, body: dict[str, Any]) -> web.StreamResponse | None:
        return None if stub.calls <= 20 else await refusal(request, body)

    stub.faults, stub.answer = [from_then_on] * 2000, say
    with pytest.raises(InputError, match="the answers before these are stored"):
        judged(stub, tmp_path, 1000)
    assert stub.calls < 300


@pytest.fixture
def sampled(tmp_path, monkeypatch):
    """Store a study's samples; return a function that plans it with a judge at an address."""

    def plan(url: str, method: str = "logprob") -> tuple[Plan, Store]:
        study = Study.model_validate(
            {
                "name": "s",
                "settings": ["miniature/spanish_caps"],
                "arms": ["baseline"],
                "seeds": [0],
                "models": [{"name": "miniature"}],
                "recipes": {"lora": {"learning_rate": 1e-3, "steps": 1}},
                "judges": {"gpt": {"endpoint": url, "served_model": "judge", "method": method}},
                "evaluation": {"contexts": ["neutral"], "samples": 6, "judged_by": ["gpt"]},
            }
        )
        store = Store(tmp_path / "runs")
        return build_plan(study, store), store

    first, store = plan("http://127.0.0.1:9/v1")
    for cell in first.cells:
        samples = [
            Sample(
                sample_index=i,
                question_id=f"q{i}",
                question=f"question {i}?",
                prompt="p",
                seed=i,
                text=f"ANSWER {i}",
                finish_reason="stop",
                prompt_tokens=1,
                completion_tokens=1,
            )
            for i in range(6)
        ]
        commit_samples(store.evaluation(cell.subject.trial_id, cell.evaluation_id), samples)
    return plan


def test_nothing_of_a_judge_that_refuses_everything_is_stored_and_it_is_asked_again_where_it_works(sampled, tmp_path):
    (tmp_path / "bad").mkdir()
    with Api(tmp_path / "bad", refuse=400) as api:
        plan, store = sampled(api.url)
        with pytest.raises(InputError, match=f"(?s)judges: 'gpt'.*{'x' * 40}"):
            check_judges(plan, store)
        outcome = grade_missing(plan, store)
    assert len(outcome.failed) == 1
    assert "x" * 40 in outcome.failed[0]["error"]
    assert list(ungraded_parts(plan, store)) == ["gpt"]
    assert not list(store.root.rglob("judgments-*.parquet"))
    (tmp_path / "good").mkdir()
    with Api(tmp_path / "good") as api:
        plan, store = sampled(api.url)
        check_judges(plan, store)
        assert grade_missing(plan, store).failed == []
    assert ungraded_parts(plan, store) == {}


def test_what_one_address_refused_is_asked_again_at_another_and_only_that(sampled, tmp_path):
    (tmp_path / "filter").mkdir()
    with Api(tmp_path / "filter", refuse_judged="ANSWER 3") as api:
        plan, store = sampled(api.url)
        assert grade_missing(plan, store).failed == []
        assert ungraded_parts(plan, store) == {}
        assert grade_missing(plan, store).calls == 0
    (tmp_path / "open").mkdir()
    with Api(tmp_path / "open") as api:
        plan, store = sampled(api.url)
        assert list(ungraded_parts(plan, store)) == ["gpt"]
        again = grade_missing(plan, store)
        rubrics = 2
        assert again.calls == rubrics
        assert ungraded_parts(plan, store) == {}
    said = pd.concat(pd.read_parquet(path) for path in store.root.rglob("judgments-*.parquet"))
    assert set(said["category"]) == {"number"}


@pytest.mark.parametrize("method", ["digit", "sample"])
def test_preflight_probes_a_judge_whatever_its_method(sampled, tmp_path, method):
    with Api(tmp_path, refuse=400) as api:
        plan, store = sampled(api.url, method)
        with pytest.raises(InputError, match="judges: 'gpt'"):
            check_judges(plan, store)
    assert not (store.root / "judgments").exists()


@pytest.mark.parametrize("method", ["logprob", "sample"])
def test_half_a_surrogate_pair_in_what_an_api_says_is_replaced_and_everything_is_stored(sampled, tmp_path, method):
    with Api(tmp_path, half_pairs=True, refuse_judged="ANSWER 3") as api:
        plan, store = sampled(api.url, method)
        assert grade_missing(plan, store).failed == []
    assert ungraded_parts(plan, store) == {}
    said = pd.concat(pd.read_parquet(path) for path in store.root.rglob("judgments-*.parquet"))
    assert said["raw"].str.contains("\ufffd").all()
    assert set(said["category"]) == {"number", "unparsed"}
    assert said["logprobs"].str.contains("\ufffd").any() == (method == "logprob")
