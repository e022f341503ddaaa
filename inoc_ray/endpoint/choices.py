"""Multiple choice by log-prob: which of the given answers a model finds most likely, nothing drawn at random.

The score of a choice is the sum of the log-probs of its tokens behind the prompt, log p(choice | prompt), as
lm-evaluation-harness's `acc` has it: no length normalisation, no end token.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inoc_ray.endpoint.completions import CONCURRENCY, SampleResult
from inoc_ray.endpoint.connection import EndpointAddress, connect
from inoc_ray.endpoint.errors import UnusableAnswer
from inoc_ray.endpoint.parallel import in_parallel
from inoc_ray.endpoint.refusals import OnRefused, with_refusals
from inoc_ray.endpoint.retry import PATIENT, Retry

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
    endpoint: EndpointAddress,
    requests: Sequence[ChoiceRequest],
    *,
    concurrency: int = CONCURRENCY,
    retry: Retry = PATIENT,
    on_refused: OnRefused | None = None,
) -> AsyncGenerator[list[SampleResult], None]:
    """Find the likeliest choice of each request and yield it as its response; `SampleResult.choices` holds every choice's log-prob.

    Order is free. What is refused, and InputError and TrialError, are as in `sample`.
    """
    async with connect(endpoint, concurrency=concurrency, retry=retry) as connection:

        async def draw(one: Sequence[ChoiceRequest]) -> list[SampleResult]:
            [request] = one
            name = f"choices {request.key} of model {request.model}"
            return [await connection.send(functools.partial(_score, connection.client, request), name)]

        ask = with_refusals(draw, on_refused)
        async with aclosing(in_parallel((ask([request]) for request in requests), concurrency)) as finished:
            async for result in finished:
                yield result


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
        raise UnusableAnswer(f"the answer has {len(given)} choices for {len(request.choices)} prompts")
    sums = {}
    for (text, ids), scored in zip(request.choices, given, strict=True):
        start = len(request.prompt_ids)
        logprobs = (getattr(scored.logprobs, "token_logprobs", None) or [])[start : start + len(ids)]
        if len(logprobs) != len(ids) or not all(isinstance(p, float | int) and math.isfinite(p) for p in logprobs):
            raise UnusableAnswer("the answer has not a log-prob for each token of the prompt (echo with logprobs)")
        sums[text] = math.fsum(logprobs)
    best = max(sums, key=lambda text: sums[text])
    count = next(len(ids) for text, ids in request.choices if text == best)
    return SampleResult(request.key, best, "stop", len(request.prompt_ids), count, json.dumps(sums))
