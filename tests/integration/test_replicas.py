"""Several engines behind one address: the samples of one, the load spread over all, and what the death of one costs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from clients import ask_for
from tiny_adapter import save_adapter
from tiny_base import make_base

from inoc_ray.cluster.connect import connected
from inoc_ray.endpoint.completions import SampleRequest, SampleResult, sample
from inoc_ray.serve.adapters import FolderCatalogue
from inoc_ray.serve.app import Endpoint, serving, start
from inoc_ray.serve.spec import ServeSpec

pytestmark = pytest.mark.slow

BASE = "tiny"
MODELS = (BASE, f"{BASE}:aaaa", f"{BASE}:bbbb")
REQUESTS = [
    SampleRequest(
        key=f"{n}",
        model=MODELS[n % 3],
        prompt=f"the cat {n % 7} sat",
        max_tokens=48,
        temperature=1.0,
        top_p=1.0,
        seed=n,
    )
    for n in range(240)
]
LIST_SIZE, CONCURRENCY = 4, 8


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("replicas")
    with connected():
        base = Path(make_base(folder / "base"))
        for seed, name in enumerate(("aaaa", "bbbb")):
            save_adapter(base, folder / "trials" / name, seed)
        spec = ServeSpec(
            model=base,
            model_id=BASE,
            adapters=FolderCatalogue(folder / "trials"),
            max_lora_rank=8,
            dtype="float32",
            replicas=2,
        )
        with serving(spec) as endpoint:
            until(lambda: len(running(endpoint)) == 2)
            yield endpoint


def until(what: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"waited {seconds:.0f} s"
        time.sleep(0.1)


def running(endpoint: Endpoint) -> list[int]:
    """The process ids of the replicas that Serve gives requests to."""
    from ray import serve

    application = serve.context._get_global_client().get_serve_details()["applications"][endpoint.name]
    replicas = application["deployments"]["engine"]["replicas"]
    return [replica["pid"] for replica in replicas if replica["state"] == "RUNNING"]


def engine_of(pid: int) -> psutil.Process:
    """The engine's process of a replica."""
    children = psutil.Process(pid).children(recursive=True)
    return max(children, key=lambda child: child.memory_info().rss)


def draw(endpoint: Endpoint, after: int = 0, then: Callable[[], object] = lambda: None) -> dict[str, SampleResult]:
    """Draw all samples; call `then` when so many are there."""

    async def run() -> dict[str, SampleResult]:
        found: dict[str, SampleResult] = {}
        async for batch in sample(endpoint, REQUESTS, concurrency=CONCURRENCY, list_size=LIST_SIZE):
            if len(found) < after <= len(found) + len(batch):
                then()
            for result in batch:
                assert result.key not in found
                found[result.key] = result
        return found

    return asyncio.run(run())


def test_64_clients_with_adapters_mixed_get_answers_and_no_error(endpoint: Endpoint):
    asked = [(request.model, request.prompt, request.seed) for request in REQUESTS]
    seen = asyncio.run(ask_for(endpoint.base_url, endpoint.api_key, asked, clients=64, seconds=8))
    print(f"{seen.answers} answers")
    assert seen.errors == []
    assert seen.answers >= 64


def test_an_engine_that_waits_for_room_says_so_and_is_gone_when_it_is_given_up(endpoint: Endpoint, tmp_path: Path):
    """A judge beside the sampling gives its place then: nothing else would end it."""
    import ray
    from ray import serve

    class ShortOfRoom(Exception):
        pass

    def short() -> None:
        raise ShortOfRoom

    every = ray.cluster_resources()["CPU"]
    spec = ServeSpec(model=Path(make_base(tmp_path / "base")), model_id="third", cpus=every, name="third")
    with pytest.raises(ShortOfRoom):
        start(spec, short_of_room=short, timeout_s=60)
    assert list(serve.status().applications) == [endpoint.name]
    assert not any(
        "third" in group["name"] for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"
    )


def test_the_answers_are_those_of_one_engine_and_a_death_costs_the_running_requests_alone(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture
):
    """One engine's process is killed, then the other replica's own, so that for a while there is none."""
    first, second = running(endpoint)
    engines = [engine_of(first), engine_of(second)]
    before = [sum(engine.cpu_times()[:2]) for engine in engines]
    whole = draw(endpoint)
    assert len({result.text for result in whole.values()}) > 100
    spent = [sum(engine.cpu_times()[:2]) - already for engine, already in zip(engines, before, strict=True)]
    print(f"seconds of the engines: {spent}")

    def unanswered() -> int:
        """How many requests got another answer than theirs since the last time, by what the client logs."""
        said = [line for line in caplog.messages if line.startswith("HTTP Response: POST ")]
        caplog.clear()
        assert len(said) >= len(REQUESTS) / LIST_SIZE
        return sum(not line.endswith(" 200") for line in said)

    caplog.set_level(logging.DEBUG, "openai")
    began = time.monotonic()
    with_one_killed = draw(endpoint, after=60, then=engines[0].kill)
    lost = unanswered()
    print(f"unanswered: {lost}")
    assert with_one_killed == whole
    assert 1 <= lost <= 2 * CONCURRENCY
    until(lambda: not psutil.pid_exists(first), 10)
    print(f"gone after {time.monotonic() - began:.1f} s")
    until(lambda: running(endpoint) == [second], 10)
    # It is on its own now: the other one's successor needs longer to start.
    alone = draw(endpoint)
    assert running(endpoint) == [second]
    assert unanswered() == 0
    assert alone == whole
    assert min(spent) > 0.2 * sum(spent)

    with_all_killed = draw(endpoint, after=60, then=psutil.Process(second).kill)
    print(f"unanswered: {unanswered()}")
    assert with_all_killed == whole
    until(lambda: not engines[1].is_running(), 10)
