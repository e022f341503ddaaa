"""Samples from an OpenAI-compatible endpoint: rendered prompts in lists, with bounded concurrency and retries.

A sample depends on its model, prompt, sampling settings and seed, not on the prompts that share its request. OpenAI's
`/v1/completions` has one seed for a whole list, and under one seed every prompt of the list draws the same random numbers:
a hundred questions that are each answered in Spanish half of the time would then be so all together or not at all. So each
prompt's own seed is sent beside the list (`vllm_xargs`, understood by `inoc_ray.serve`), and an endpoint that does not
confirm it is rejected. With any other server use `list_size=1`, which needs nothing beyond the standard.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inoc_ray.config.identity import as_text
from inoc_ray.endpoint.connection import EndpointAddress, connect
from inoc_ray.endpoint.errors import UnusableAnswer
from inoc_ray.endpoint.parallel import in_parallel
from inoc_ray.endpoint.refusals import OnRefused, with_refusals
from inoc_ray.endpoint.retry import PATIENT, Retry
from inoc_ray.endpoint.seeds import SEEDS, SEEDS_HEADER
from inoc_ray.errors import InputError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

LIST_SIZE = 64
CONCURRENCY = 8
SEED_LIMIT = 1 << 32
"""torch's CPU generator keeps only the low 32 bits of a seed: larger seeds would collide silently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """One sample to draw. `key` is the caller's own; `prompt` is the text that the model reads, chat template applied."""

    key: str
    model: str
    prompt: str
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < SEED_LIMIT:
            raise InputError(f"sample {self.key}: seed {self.seed} is not in 0 … 2**32 - 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleResult:
    """One response. Token counts concern this prompt and this response alone."""

    key: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    choices: str = ""
    """For a multiple-choice question, JSON of each choice's log-prob; `text` is then the likeliest choice."""


def group_requests(requests: Sequence[SampleRequest], list_size: int) -> list[list[SampleRequest]]:
    """Return lists of at most `list_size` requests that can share one HTTP request, in their order.

    A list shares what the endpoint accepts once per request: model, max_tokens, temperature, top_p and stop.
    """
    groups: dict[tuple[Any, ...], list[SampleRequest]] = {}
    for request in requests:
        shared = (request.model, request.max_tokens, request.temperature, request.top_p, request.stop)
        groups.setdefault(shared, []).append(request)
    return [group[i : i + list_size] for group in groups.values() for i in range(0, len(group), list_size)]


async def sample(
    endpoint: EndpointAddress,
    requests: Sequence[SampleRequest],
    *,
    concurrency: int = CONCURRENCY,
    list_size: int = LIST_SIZE,
    retry: Retry = PATIENT,
    on_refused: OnRefused | None = None,
) -> AsyncGenerator[list[SampleResult], None]:
    """Draw every request; yield each list of samples when it is complete, so that the caller can commit it.

    Lists come in any order; within a list the order is that of the requests. Stopping the iteration cancels what is in
    flight. A request that the endpoint refuses, alone or with all others of its model (see `refusals`), is reported to
    `on_refused` by its key, with the reason; without `on_refused`, InputError is raised. Raises InputError when the caller is
    refused and TrialError, naming the request, when the tries are used up; what was yielded before stays valid.
    """
    async with connect(endpoint, concurrency=concurrency, retry=retry) as connection:

        async def draw(batch: Sequence[SampleRequest]) -> list[SampleResult]:
            return await connection.send(functools.partial(draw_list, connection.client, batch), _name(batch))

        send = with_refusals(draw, on_refused)
        jobs = (send(batch) for batch in group_requests(requests, list_size))
        async with aclosing(in_parallel(jobs, concurrency)) as finished:
            async for samples in finished:
                yield samples


async def draw_list(client: AsyncOpenAI, batch: Sequence[SampleRequest]) -> list[SampleResult]:
    """Send one request for samples that share what `group_requests` says. Raise UnusableAnswer for an unreadable answer."""
    first = batch[0]
    alone = len(batch) == 1
    seeds: dict[str, Any] = {"seed": first.seed} if alone else {}
    # The rendered prompt already has its beginning-of-text token, where the chat template writes one.
    extra: dict[str, Any] = {"return_token_ids": True, "add_special_tokens": False}
    if not alone:
        extra["vllm_xargs"] = {SEEDS: [request.seed for request in batch]}
    raw = await client.completions.with_raw_response.create(
        model=first.model,
        prompt=first.prompt if alone else [request.prompt for request in batch],
        max_tokens=first.max_tokens,
        temperature=first.temperature,
        top_p=first.top_p,
        stop=list(first.stop) or None,
        extra_body=extra,
        **seeds,
    )
    if not alone and raw.headers.get(SEEDS_HEADER) is None:
        raise InputError(
            f"the endpoint at {client.base_url} takes one seed for a whole list of prompts; use list_size=1 with it"
        )
    return _read_answer(raw.parse(), batch)


def _read_answer(answer: Any, batch: Sequence[SampleRequest]) -> list[SampleResult]:
    choices = getattr(answer, "choices", None)
    usage = getattr(answer, "usage", None)
    if not isinstance(choices, list) or sorted(getattr(c, "index", -1) for c in choices) != list(range(len(batch))):
        raise UnusableAnswer(f"the answer does not have one choice for each of {len(batch)} prompts: {answer}")
    samples = []
    for request, choice in zip(batch, sorted(choices, key=lambda c: c.index), strict=True):
        if not isinstance(choice.text, str) or not isinstance(choice.finish_reason, str):
            raise UnusableAnswer(f"the answer for sample {request.key} has no text or finish_reason")
        # `usage` counts the whole list; the counts of one prompt come from its token ids, where the server sends them.
        extra = choice.model_extra or {}
        prompt_ids, token_ids = extra.get("prompt_token_ids"), extra.get("token_ids")
        if prompt_ids is not None and token_ids is not None:
            counts = len(prompt_ids), len(token_ids)
        elif len(batch) == 1 and usage is not None:
            counts = usage.prompt_tokens, usage.completion_tokens
        else:
            raise UnusableAnswer("the answer has no token counts for each prompt")
        samples.append(
            SampleResult(
                key=request.key,
                text=as_text(choice.text),
                finish_reason=choice.finish_reason,
                prompt_tokens=counts[0],
                completion_tokens=counts[1],
            )
        )
    return samples


def _name(batch: Sequence[SampleRequest]) -> str:
    more = f" and {len(batch) - 1} more" if len(batch) > 1 else ""
    return f"sample {batch[0].key}{more} of model {batch[0].model}"
