"""Sampling from a local HTTP server that misbehaves on purpose, as no real endpoint does on demand."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiohttp import web

from inoc_ray.endpoint.completions import SampleRequest, SampleResult, group_requests, sample
from inoc_ray.endpoint.parallel import in_parallel
from inoc_ray.endpoint.retry import Retry
from inoc_ray.errors import InputError, TrialError

QUICK = Retry(tries=4, first_s=0.01, max_s=0.02, timeout_s=0.5)
Handler = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse | None]]


@dataclass
class Stub:
    """Answers /v1/completions as the endpoint does, once `faults` are used up, one a request."""

    faults: list[Handler] = field(default_factory=list)
    confirm_seeds: bool = True
    seen: list[dict[str, Any]] = field(default_factory=list)
    active: int = 0
    most_active: int = 0
    base_url: str = ""
    api_key: str | None = "key"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(body)
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            if self.faults:
                faulty = await self.faults.pop(0)(request, body)
                if faulty is not None:
                    return faulty
            await asyncio.sleep(0.01)
            return self.good(body)
        finally:
            self.active -= 1

    def good(self, body: dict[str, Any]) -> web.Response:
        prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        seeds = body.get("vllm_xargs", {}).get("seeds") or [body["seed"]]
        choices = [
            {
                "index": i,
                "text": f"{prompt}/{seed}",
                "finish_reason": "stop",
                "logprobs": None,
                "prompt_token_ids": list(range(len(prompt))),
                "token_ids": [1, 2],
            }
            for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        ]
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        # Out of order on purpose: only the index says which prompt an answer belongs to.
        value = {
            "id": "x",
            "object": "text_completion",
            "created": 0,
            "model": body["model"],
            "choices": choices[::-1],
            "usage": usage,
        }
        return web.json_response(value, headers={"x-prompt-seeds": "1"} if self.confirm_seeds else {})


@asynccontextmanager
async def serving(stub: Stub) -> AsyncIterator[Stub]:
    app = web.Application()
    app.router.add_post("/v1/completions", stub.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    stub.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield stub
    finally:
        await runner.cleanup()


def status(code: int, message: str = "no") -> Handler:
    async def fault(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": message, "code": code}}, status=code)

    return fault


async def hang(_: web.Request, __: dict[str, Any]) -> web.StreamResponse | None:
    await asyncio.sleep(30)
    return None


async def drop(request: web.Request, _: dict[str, Any]) -> web.StreamResponse | None:
    assert request.transport is not None
    request.transport.close()
    return None


async def not_json(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
    return web.Response(
        text="<html>bad gateway</html>", content_type="application/json", headers={"x-prompt-seeds": "1"}
    )


async def one_choice_short(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    answer = json.loads(Stub().good(body).text or "")
    answer["choices"].pop()
    return web.json_response(answer, headers={"x-prompt-seeds": "1"})


def requests(count: int, **changes: Any) -> list[SampleRequest]:
    plain = SampleRequest(key="", model="m", prompt="", max_tokens=8, temperature=1.0, top_p=1.0, seed=0)
    return [replace(plain, key=f"k{i}", prompt=f"p{i}", seed=100 + i, **changes) for i in range(count)]


def draw(stub: Stub, asked: list[SampleRequest], **settings: Any) -> list[list[SampleResult]]:
    async def run() -> list[list[SampleResult]]:
        async with serving(stub):
            return [batch async for batch in sample(stub, asked, **{"retry": QUICK, **settings})]

    return asyncio.run(run())


def test_every_prompt_gets_its_own_seed_and_its_own_answer():
    stub = Stub()
    batches = draw(stub, requests(10), list_size=4)
    assert sorted(len(batch) for batch in batches) == [2, 4, 4]
    assert {r.key: r.text for batch in batches for r in batch} == {f"k{i}": f"p{i}/{100 + i}" for i in range(10)}
    assert {(r.prompt_tokens, r.completion_tokens) for batch in batches for r in batch} == {(2, 2)}


def test_a_list_of_one_uses_nothing_beyond_the_standard_seed():
    stub = Stub(confirm_seeds=False)
    assert len(draw(stub, requests(3), list_size=1)) == 3
    assert sorted(body["seed"] for body in stub.seen) == [100, 101, 102]
    assert not any("vllm_xargs" in body for body in stub.seen)


def test_a_server_with_one_seed_for_a_list_is_rejected():
    with pytest.raises(InputError, match="list_size=1"):
        draw(Stub(confirm_seeds=False), requests(3), list_size=3)


def test_lists_share_only_what_one_http_request_can_carry():
    mixed = [*requests(3), *requests(2, model="other"), *requests(2, temperature=0.0), *requests(2, stop=("x",))]
    lists = group_requests(mixed, 64)
    assert sorted(len(part) for part in lists) == [2, 2, 2, 3]
    assert sorted(r.key for part in lists for r in part) == sorted(r.key for r in mixed)


def test_half_a_surrogate_pair_is_replaced_in_samples_and_in_messages():
    async def cut(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return Stub().good({**body, "prompt": ["cut \ud83d"]})

    [[found]] = draw(Stub(faults=[cut]), requests(1), list_size=1)
    assert found.text == "cut \ufffd/100"
    with pytest.raises(InputError, match="not this \ufffd"):
        draw(Stub(faults=[status(400, "not this \ud83d")]), requests(1))


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param([status(429), status(503), status(500)], id="429-503-500"),
        pytest.param([hang], id="timeout"),
        pytest.param([drop], id="connection-dropped"),
        pytest.param([not_json, one_choice_short], id="garbage"),
    ],
)
def test_a_passing_fault_costs_nothing_but_a_retry(faults: list[Handler]):
    stub = Stub(faults=list(faults))
    batches = draw(stub, requests(6), list_size=3)
    assert sorted(r.key for batch in batches for r in batch) == [f"k{i}" for i in range(6)]
    assert len(stub.seen) == 2 + len(faults)


def test_the_error_after_the_last_try_names_the_request_and_the_problem():
    stub = Stub(faults=[status(500, "engine is dead")] * 4)
    with pytest.raises(TrialError, match=r"(?s)sample k0 and 2 more of model m failed 4 times.*engine is dead"):
        draw(stub, requests(3))
    assert len(stub.seen) == 4


def test_a_refused_request_is_not_retried_and_quotes_the_server():
    stub = Stub(faults=[status(404, "The model `m` does not exist.")])
    with pytest.raises(InputError, match="404 The model `m` does not exist"):
        draw(stub, requests(1))
    assert len(stub.seen) == 1


def test_what_is_complete_before_a_failure_is_yielded():
    stub = Stub(faults=[])
    kept: list[SampleResult] = []

    async def run() -> None:
        async with serving(stub):
            async for batch in sample(stub, requests(6), list_size=2, concurrency=1, retry=QUICK):
                kept.extend(batch)
                stub.faults = [status(400, "bad")]

    with pytest.raises(InputError):
        asyncio.run(run())
    assert [r.key for r in kept] == ["k0", "k1"]


def test_results_come_before_errors_of_the_same_moment_and_asyncio_reports_no_unretrieved_error(caplog):
    async def job(number: int) -> int:
        if number in (0, 1, 3):
            raise TrialError(f"job {number}")
        return number

    kept: list[int] = []

    async def run() -> None:
        async for number in in_parallel((job(n) for n in range(6)), 6):
            kept.append(number)

    with pytest.raises(TrialError, match="job 0"):
        asyncio.run(run())
    gc.collect()
    assert kept == [2, 4, 5]
    assert caplog.text == ""


def test_no_more_than_concurrency_requests_are_in_flight():
    stub = Stub()
    draw(stub, requests(24), list_size=2, concurrency=3)
    assert stub.most_active == 3


def test_waits_grow_up_to_their_bound():
    retry = Retry(first_s=1.0, max_s=8.0)
    bounds = [(0.5, 1), (1, 2), (2, 4), (4, 8), (4, 8)]
    for failures, (low, high) in enumerate(bounds, start=1):
        assert low <= retry.wait_s(failures) <= high


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_a_seed_that_the_cpu_generator_would_truncate_is_rejected(seed: int):
    with pytest.raises(InputError, match="seed"):
        replace(requests(1)[0], seed=seed)
