"""Judging keeps an endpoint busy: against a stub of fixed latency it takes little more than calls × latency ÷ concurrency.

`python -m pytest -s -m bench tests/benchmarks/test_bench_judge_concurrency.py`
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from inoc_ray.endpoint import concurrency
from inoc_ray.endpoint.auth import Api
from inoc_ray.evaluate.model_judge.batch import Counts, judge_items
from inoc_ray.evaluate.model_judge.cache import JudgeCache
from inoc_ray.plan.judge_assignment import judge_identity
from inoc_ray.scoring.judgment import Item
from inoc_ray.scoring.rubrics import get_rubric
from inoc_ray.study.evaluation import Judge

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

STUB = Path(__file__).parents[1] / "helpers" / "judge_stub.py"
CALLS, CONCURRENCY = 640, 32
LATENCY_S = 0.5
"""About what a chat API takes for one token. A call costs the client some 2 ms of CPU: at 50 ms and 32 at once, one busy core
would be measured instead of the concurrency limit."""


@contextmanager
def stub(latency_s: float) -> Iterator[str]:
    """A stub in a process of its own, which takes no time from the one that is measured."""
    process = subprocess.Popen([sys.executable, str(STUB), str(latency_s)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["base_url"]
    finally:
        process.kill()
        process.wait()


def judge_all(base_url: str, folder: Path, items: list[tuple[int, Item]]) -> tuple[float, Counts, int]:
    judge = Judge(endpoint=base_url, served_model="stub", concurrency=CONCURRENCY)
    counts = Counts()

    async def run() -> int:
        done = 0
        with JudgeCache(folder) as cache:
            stream = judge_items(
                Api(base_url),
                judge=judge,
                identity=judge_identity(judge, None),
                rubrics=[get_rubric("caps")],
                items=items,
                cache=cache,
                counts=counts,
            )
            async for batch in stream:
                done += len(batch)
        return done

    began = time.perf_counter()
    done = asyncio.run(run())
    return time.perf_counter() - began, counts, done


@pytest.mark.parametrize("start", [CONCURRENCY, concurrency.START])
def test_judging_takes_at_most_1_15_of_the_ideal_time_and_a_second_pass_calls_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: int
):
    monkeypatch.setattr(
        concurrency.ConcurrencyLimit.__init__, "__kwdefaults__", {"start": start, "clock": time.monotonic}
    )
    ideal = CALLS * LATENCY_S / CONCURRENCY
    ratios, speedups = [], []
    with stub(LATENCY_S) as base_url:
        judge_all(base_url, tmp_path / "warm", [(0, Item("", "warm up"))])
        for round_ in range(3):
            items = [(n, Item("", f"response {n} of round {round_}")) for n in range(CALLS)]
            folder = tmp_path / str(round_)
            # The probe's one call is made beforehand: it tells how the judge writes numbers, once for each judge.
            judge_all(base_url, folder, [])
            first, counts, done = judge_all(base_url, folder, items)
            assert (counts.calls, done) == (CALLS, CALLS)
            second, counts, done = judge_all(base_url, folder, items)
            assert (counts.calls, counts.stored, done) == (0, CALLS, CALLS)
            ratios.append(first / ideal)
            speedups.append(first / second)
        with urllib.request.urlopen(base_url.removesuffix("/v1") + "/counts") as answer:
            assert json.load(answer)["most_active"] == CONCURRENCY
    print(
        f"\n{CALLS} calls of {LATENCY_S * 1000:.0f} ms, {CONCURRENCY} at once, {start} at first: "
        f"{statistics.median(ratios):.3f} of the ideal time (of {', '.join(f'{r:.3f}' for r in ratios)}); "
        f"second pass {statistics.median(speedups):.0f} times faster"
    )
    assert statistics.median(ratios) <= 1.15
    assert statistics.median(speedups) >= 50
