"""Samples from an OpenAI-compatible endpoint: rendered prompts in lists, bounded concurrency, bounded retries.

A sample is a function of its model, prompt, sampling settings and seed, not of the prompts that travel with it. OpenAI's
``/v1/completions`` has one seed for a whole list, and under one seed every prompt of the list draws the same random numbers:
a hundred questions that each answer in Spanish half of the time would then do so all together or not at all. So each prompt's
own seed is sent beside the list (``vllm_xargs``, understood by `inoc_ray.serve`), and an endpoint that does not confirm it is
refused. Against any other server use ``list_size=1``, which needs nothing beyond the standard.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from inoc_ray.config.identity import as_text
from inoc_ray.endpoint.auth import without
from inoc_ray.endpoint.concurrency import Pace, retry_after_s
from inoc_ray.endpoint.errors import Again, Refused, Unreadable
from inoc_ray.endpoint.seeds import SEEDS, SEEDS_HEADER
from inoc_ray.errors import InputError, TrialError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from inoc_ray.endpoint.refusals import Refusals, Request

T = TypeVar("T")
R = TypeVar("R", bound="Request")
LIST_SIZE = 64
CONCURRENCY = 8
# Ten tries wait about 90 s together: longer than a replica that died takes to come back.
TRIES = 10
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
REQUEST_TIMEOUT_S = 600.0
PATIENCE_S = 900.0
SHOWN = 500
"""Characters of a server's message that a message of ours shows."""
SEED_LIMIT = 1 << 32
"""torch's CPU generator keeps only the low 32 bits of a seed: larger ones would collide silently."""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One sample to draw. ``key`` is the caller's own; ``prompt`` is text as the model reads it, chat template applied."""

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


@dataclass(frozen=True, slots=True)
class SampleResult:
    """One response. Token counts are of this prompt and this response alone."""

    key: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    choices: str = ""
    """Of a multiple-choice question: JSON of each choice's log-prob; the text is then the likeliest."""


@dataclass(frozen=True, slots=True)
class Progress:
    """``done`` of ``total`` samples, and how many requests had to be sent again so far."""

    done: int
    total: int
    retries: int


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how patiently a request is sent again: ``tries`` in all, waits doubling from ``first_s`` to ``max_s``.

    "Too many requests" (429) is no failure of the request and takes up no try, unless no request at all has been answered
    for ``patience_s``.
    """

    tries: int = TRIES
    first_s: float = BACKOFF_FIRST_S
    max_s: float = BACKOFF_MAX_S
    timeout_s: float = REQUEST_TIMEOUT_S
    patience_s: float = PATIENCE_S

    def wait_s(self, failures: int) -> float:
        """The wait after so many failures (1 or more): exponential, with jitter so that clients do not return together."""
        return min(self.max_s, self.first_s * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)


class Where(Protocol):
    """The part of `inoc_ray.serve.app.Endpoint` that sampling needs: ``base_url`` ends in /v1."""

    @property
    def base_url(self) -> str: ...
    @property
    def api_key(self) -> str | None: ...


def in_lists(requests: Sequence[SampleRequest], list_size: int) -> list[list[SampleRequest]]:
    """Requests that can share one HTTP request, in their order, at most ``list_size`` together.

    What a list shares is all that the endpoint takes once a request: model, max_tokens, temperature, top_p and stop.
    """
    groups: dict[tuple[Any, ...], list[SampleRequest]] = {}
    for request in requests:
        shared = (request.model, request.max_tokens, request.temperature, request.top_p, request.stop)
        groups.setdefault(shared, []).append(request)
    return [group[i : i + list_size] for group in groups.values() for i in range(0, len(group), list_size)]


async def sample(
    endpoint: Where,
    requests: Sequence[SampleRequest],
    *,
    concurrency: int = CONCURRENCY,
    list_size: int = LIST_SIZE,
    retry: Retry = Retry(),
    on_progress: Callable[[Progress], None] | None = None,
    on_refused: Callable[[str, str], None] | None = None,
) -> AsyncGenerator[list[SampleResult], None]:
    """Draw every request; yield each list of samples as it is finished, so that the caller can commit it.

    Lists finish in any order; within one the order is that of the requests. Stopping the iteration cancels what is under
    way. A request that the endpoint refuses, alone or with all others of its model (see `refusals`), is handed to
    `on_refused` with the reason, by its key; without `on_refused`, InputError is raised. Raises InputError when the caller is
    refused and TrialError, naming the request, when the tries are used up; either way what was yielded before stands.
    """
    from openai import AsyncOpenAI

    from inoc_ray.endpoint.refusals import Refusals

    lists = in_lists(requests, list_size)
    done = retries = 0

    def count_retry() -> None:
        nonlocal retries
        retries += 1

    # The client's own retries are off: they would multiply with these.
    client = AsyncOpenAI(
        base_url=endpoint.base_url, api_key=endpoint.api_key or "none", max_retries=0, timeout=retry.timeout_s
    )
    pace = Pace(concurrency)

    def draw(batch: Sequence[SampleRequest]) -> Awaitable[list[SampleResult]]:
        once = functools.partial(draw_list, client, list(batch))
        return with_retries(once, _name(batch), retry, count_retry, pace, endpoint.api_key)

    refusals = None if on_refused is None else Refusals(on_refused)
    drawn = (ask_list(batch, draw, refusals) for batch in lists)
    try:
        async with aclosing(in_parallel(drawn, concurrency)) as finished:
            async for samples in finished:
                done += len(samples)
                if on_progress is not None:
                    on_progress(Progress(done, len(requests), retries))
                yield samples
    finally:
        await client.close()


async def ask_list(
    batch: Sequence[R], draw: Callable[[Sequence[R]], Awaitable[list[T]]], refusals: Refusals | None
) -> list[T]:
    """What `draw` gives; where there are `refusals`, these take what is refused."""
    return await draw(batch) if refusals is None else await refusals.ask(batch, draw)


async def in_parallel(jobs: Iterable[Coroutine[Any, Any, T]], concurrency: int) -> AsyncGenerator[T, None]:
    """Run the jobs, at most ``concurrency`` at once and begun in their order; yield each result when it is there.

    A job that fails ends the iteration with its error, behind the results that were there at the same moment. Closing the
    iteration cancels what is under way.
    """
    waiting = iter(jobs)
    running: set[asyncio.Task[T]] = set()
    # Not asyncio.wait, which looks at every task whenever one is done.
    ended: asyncio.Queue[asyncio.Task[T]] = asyncio.Queue()
    try:
        while True:
            while len(running) < concurrency and (job := next(waiting, None)) is not None:
                task = asyncio.create_task(job)
                task.add_done_callback(ended.put_nowait)
                running.add(task)
            if not running:
                break
            finished = [await ended.get()]
            with contextlib.suppress(asyncio.QueueEmpty):
                while True:
                    finished.append(ended.get_nowait())
            running.difference_update(finished)
            # Every error is looked at, before anything is yielded: asyncio prints those that nobody has looked at.
            failed = [task for task in finished if task.cancelled() or task.exception() is not None]
            for task in finished:
                if task not in failed:
                    yield task.result()
            if failed:
                failed[0].result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def with_retries(
    draw: Callable[[], Awaitable[T]],
    name: str,
    retry: Retry,
    count_retry: Callable[[], None],
    pace: Pace,
    secret: str | None,
) -> T:
    """What ``draw`` gives, which sends one request, tried again while another try may help, each time through ``pace``.

    Raises Refused when the endpoint says that the request itself is wrong (or that nothing is left to pay it with),
    Unreadable when the tries are used up and the last answer was no answer, and TrialError when they are used up otherwise;
    all name the request, and none holds the ``secret``, nor do the errors that they come from: these are not kept.
    """
    failures = crowds = 0
    while True:
        outcome = await _try(draw, pace, secret)
        if not isinstance(outcome, _Failure):
            return outcome.result
        # Raised out here and not where it was caught: the client's errors hold the request with its key.
        if outcome.refused is not None:
            raise Refused(f"the endpoint refused {name}: {outcome.problem}", outcome.refused)
        if outcome.crowded:
            crowds += 1
            if pace.silent_s > retry.patience_s:
                raise TrialError(
                    f"{name} failed: the endpoint has turned everything away for {pace.silent_s:.0f} s, "
                    f"at last with: {outcome.problem}"
                )
        else:
            failures += 1
            if failures == retry.tries:
                kind = Unreadable if outcome.unreadable else TrialError
                raise kind(f"{name} failed {failures} times, the last time with: {outcome.problem}")
        count_retry()
        # Where the endpoint said for how long, the pace keeps everybody back.
        if not outcome.told_wait:
            await asyncio.sleep(retry.wait_s(max(1, failures, crowds)))


@dataclass(frozen=True, slots=True)
class _Success(Generic[T]):
    result: T


@dataclass(frozen=True, slots=True)
class _Failure:
    problem: str
    refused: int | None = None
    crowded: bool = False
    unreadable: bool = False
    told_wait: bool = False


async def _try(draw: Callable[[], Awaitable[T]], pace: Pace, secret: str | None) -> _Success[T] | _Failure:
    """One request, and what became of it; tells the pace."""
    from openai import APIConnectionError, APIResponseValidationError, APIStatusError, APITimeoutError

    async with pace.slot() as sent_at:
        try:
            result = await draw()
        except APIStatusError as error:
            status = error.status_code
            problem = f"{status} {excerpt(_server_message(error), secret)}"
            # Of an empty account OpenAI says 429, too, but waiting fills none.
            refused = (status not in (408, 409, 429) and status < 500) or error.code == "insufficient_quota"
            if refused:
                return _Failure(problem, refused=status)
            wait_s = retry_after_s(error.response.headers.get("retry-after")) if status in (429, 503) else None
            if status in (408, 429, 503):
                pace.pushed_back(sent_at, wait_s)
            return _Failure(problem, crowded=status == 429, told_wait=wait_s is not None)
        except APITimeoutError:
            pace.pushed_back(sent_at)
            return _Failure("no answer in time")
        except (APIConnectionError, APIResponseValidationError, Again, ValueError) as error:
            # ValueError: a body that is not the JSON its headers promise.
            problem = excerpt(f"{type(error).__name__}: {error}", secret)
            return _Failure(problem, unreadable=not isinstance(error, APIConnectionError))
        pace.answered(sent_at)
        return _Success(result)


def excerpt(text: str, secret: str | None, shown: int = SHOWN) -> str:
    """The beginning of a text for a message, without the secret: taken out before the cut, which could leave a half of it."""
    return as_text(without(secret, text)[:shown])


async def draw_list(client: AsyncOpenAI, batch: list[SampleRequest]) -> list[SampleResult]:
    """One request: the samples of requests that share what `in_lists` says. Raises Again for an answer that is none."""
    first = batch[0]
    alone = len(batch) == 1
    seeds: dict[str, Any] = {"seed": first.seed} if alone else {}
    # The rendered prompt has its beginning-of-text token already, where the chat template writes one.
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
            f"the endpoint at {client.base_url} takes one seed for a whole list of prompts: use list_size=1 with it"
        )
    return _read_answer(raw.parse(), batch)


def _read_answer(answer: Any, batch: list[SampleRequest]) -> list[SampleResult]:
    choices = getattr(answer, "choices", None)
    usage = getattr(answer, "usage", None)
    if not isinstance(choices, list) or sorted(getattr(c, "index", -1) for c in choices) != list(range(len(batch))):
        raise Again(f"the answer has not one choice for each of {len(batch)} prompts: {answer}")
    samples = []
    for request, choice in zip(batch, sorted(choices, key=lambda c: c.index), strict=True):
        if not isinstance(choice.text, str) or not isinstance(choice.finish_reason, str):
            raise Again(f"the answer for sample {request.key} has no text or finish_reason")
        # Usage is of the whole list; the counts of one prompt come from its token ids, where the server sends them.
        extra = choice.model_extra or {}
        prompt_ids, token_ids = extra.get("prompt_token_ids"), extra.get("token_ids")
        if prompt_ids is not None and token_ids is not None:
            counts = len(prompt_ids), len(token_ids)
        elif len(batch) == 1 and usage is not None:
            counts = usage.prompt_tokens, usage.completion_tokens
        else:
            raise Again("the answer has no token counts for each prompt")
        samples.append(SampleResult(request.key, as_text(choice.text), choice.finish_reason, *counts))
    return samples


def _name(batch: Sequence[SampleRequest]) -> str:
    more = f" and {len(batch) - 1} more" if len(batch) > 1 else ""
    return f"sample {batch[0].key}{more} of model {batch[0].model}"


def _server_message(error: Any) -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or error.message)
