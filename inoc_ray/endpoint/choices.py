"""Multiple choice by log-prob: which of the given answers a model finds most likely, nothing drawn at random.

The score of a choice is the sum of the log-probs of its tokens behind the prompt, log p(choice | prompt), as
lm-evaluation-harness's `acc` has it: no length normalisation, no end token.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inoc_ray.endpoint.completions import CONCURRENCY, Retry, SampleResult, Where, ask_list, in_parallel, with_retries
from inoc_ray.endpoint.concurrency import Pace
from inoc_ray.endpoint.errors import Again

PATIENT = Retry()

if TYPE_CHECKING:
    from openai import AsyncOpenAI


@dataclass(frozen=True, slots=True)
class ChoiceRequest:
    """One question with its choices, as token ids: where a choice begins is then beyond doubt."""

    key: str
    model: str
    prompt_ids: tuple[int, ...]
    choices: tuple[tuple[str, tuple[int, ...]], ...]
    """(text, token ids) of each."""


async def choose(
    endpoint: Where,
    requests: Sequence[ChoiceRequest],
    *,
    concurrency: int = CONCURRENCY,
    retry: Retry = PATIENT,
    on_retry: Callable[[], None] = lambda: None,
    on_refused: Callable[[str, str], None] | None = None,
) -> AsyncGenerator[list[SampleResult], None]:
    """The likeliest choice of each request, as its response; `SampleResult.choices` holds every choice's log-prob.

    Order is free. What is refused, and InputError and TrialError, are as in `sample`.
    """
    from openai import AsyncOpenAI

    from inoc_ray.endpoint.refusals import Refusals

    client = AsyncOpenAI(
        base_url=endpoint.base_url, api_key=endpoint.api_key or "none", max_retries=0, timeout=retry.timeout_s
    )
    pace = Pace(concurrency)

    async def draw(one: Sequence[ChoiceRequest]) -> list[SampleResult]:
        name = f"choices {one[0].key} of model {one[0].model}"
        return [
            await with_retries(functools.partial(_score, client, one[0]), name, retry, on_retry, pace, endpoint.api_key)
        ]

    refusals = None if on_refused is None else Refusals(on_refused)
    jobs = (ask_list([r], draw, refusals) for r in requests)
    try:
        async with aclosing(in_parallel(jobs, concurrency)) as finished:
            async for result in finished:
                yield result
    finally:
        await client.close()


async def _score(client: AsyncOpenAI, request: ChoiceRequest) -> SampleResult:
    answer: Any = await client.completions.create(
        model=request.model,
        prompt=[[*request.prompt_ids, *ids] for _, ids in request.choices],
        max_tokens=1,
        temperature=0.0,
        echo=True,
        logprobs=0,
    )
    given = sorted(getattr(answer, "choices", None) or (), key=lambda c: c.index)
    if len(given) != len(request.choices):
        raise Again(f"the answer has {len(given)} choices for {len(request.choices)} prompts")
    sums = {}
    for (text, ids), scored in zip(request.choices, given, strict=True):
        start = len(request.prompt_ids)
        logprobs = (getattr(scored.logprobs, "token_logprobs", None) or [])[start : start + len(ids)]
        if len(logprobs) != len(ids) or not all(isinstance(p, float | int) and math.isfinite(p) for p in logprobs):
            raise Again("the answer has not a log-prob for each token of the prompt (echo with logprobs)")
        sums[text] = math.fsum(logprobs)
    best = max(sums, key=lambda text: sums[text])
    count = next(len(ids) for text, ids in request.choices if text == best)
    return SampleResult(request.key, best, "stop", len(request.prompt_ids), count, json.dumps(sums))
