"""Multiple choice by log-prob: the answer that a model finds most likely, with nothing sampled.

The score of a choice is log p(choice | prompt), the sum of the log-probs of its tokens, as in lm-evaluation-harness's `acc`:
no length normalisation, no end token.
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
    """One question and its choices as token ids, which say exactly where each choice begins."""

    key: str
    model: str
    prompt_ids: tuple[int, ...]
    choices: tuple[tuple[str, tuple[int, ...]], ...]
    """(text, token ids) of each choice."""


async def choose(
    endpoint: EndpointAddress,
    requests: Sequence[ChoiceRequest],
    *,
    concurrency: int = CONCURRENCY,
    retry: Retry = PATIENT,
    on_refused: OnRefused | None = None,
) -> AsyncGenerator[list[SampleResult], None]:
    """Yield the likeliest choice of each request as its response; `SampleResult.choices` holds every choice's log-prob.

    Results come in any order. Refusals, InputError and TrialError are as in `completions.sample`.
    """
    async with connect(endpoint, concurrency=concurrency, retry=retry) as connection:

        async def draw(one: Sequence[ChoiceRequest]) -> list[SampleResult]:
            [request] = one
            name = f"choices {request.key} of model {request.model}"
            return [await connection.send(functools.partial(_score, connection.client, request), name)]

        send = with_refusals(draw, on_refused)
        async with aclosing(in_parallel((send([request]) for request in requests), concurrency)) as finished:
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
            raise UnusableAnswer("the answer lacks a log-prob for some token of the prompt (echo with logprobs)")
        sums[text] = math.fsum(logprobs)
    best = max(sums, key=lambda text: sums[text])
    count = next(len(ids) for text, ids in request.choices if text == best)
    return SampleResult(
        key=request.key,
        text=best,
        finish_reason="stop",
        prompt_tokens=len(request.prompt_ids),
        completion_tokens=count,
        choices=json.dumps(sums),
    )
