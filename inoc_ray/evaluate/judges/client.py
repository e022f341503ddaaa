"""Asking a judging model: what it was asked before comes from its cache, the rest over its endpoint, streamed.

A model that the study serves itself is asked with rendered prompts in lists; an API with one chat each, whose number at once
adapts to what the API bears. A key stands in no error and no answer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inoc_ray.data.chat import Message
from inoc_ray.data.tokenize import load_tokenizer, render
from inoc_ray.errors import InputError, TrialError
from inoc_ray.evaluate.judges import Item, Judgment
from inoc_ray.evaluate.judges import reading as read
from inoc_ray.evaluate.judges.cache import JudgeCache
from inoc_ray.evaluate.judges.identity import answer_key
from inoc_ray.evaluate.judges.rubrics import Rubric
from inoc_ray.evaluate.judges.scale import PROBE, numbers_are_single, probe_says_single
from inoc_ray.evaluate.judges.template import json_prompt, number_prompt
from inoc_ray.evaluate.pace import Pace
from inoc_ray.evaluate.panel import Judging
from inoc_ray.evaluate.sample import (
    Again,
    Refused,
    Retry,
    SampleRequest,
    Where,
    in_parallel,
    sample,
    with_retries,
)
from inoc_ray.remote import without_key

if TYPE_CHECKING:
    from openai import AsyncOpenAI

TOP_LOGPROBS = 20
"""What OpenAI's API gives at most, and vLLM unless told otherwise."""
LIST_SIZE = 64
NUMBER_TOKENS = 8
"""Room for a drawn answer: a number, or a class."""
JSON_TOKENS = 256
PATIENT = Retry()
NO_KEY = "none"
"""Stands for a key where the endpoint wants none: without it the client would take one from the environment."""
_OF_ONE_REQUEST = (400, 413, 422)
"""What an endpoint answers where a request is wrong (too long, against its rules), and others may be right."""

Verdict = tuple[Any, str, Judgment]
"""The item's key, the rubric's name, the judgment."""
Answer = Mapping[str, Any]
"""A judge's raw answer: {"logprobs": …, "text": …}, {"tree": …}, {"texts": […]}, {"json": text} or {"refused": reason}."""


@dataclass(frozen=True)
class Ask:
    """One answer that is wanted: on one rubric, or (json) on all of them."""

    rubrics: tuple[Rubric, ...]
    item: Item
    key: str
    wanted_by: list[Any] = field(default_factory=list)
    """Keys of the items that this answers: equal responses to one question are judged once."""


@dataclass(frozen=True)
class Way:
    """How the judge is asked: the method that `auto` came to, and the top of the scale."""

    method: str
    top: int

    @property
    def label(self) -> str:
        """What a judgment says of it."""
        return f"{self.method} 0-{self.top}"


def way_of(method: str, single: bool, own: bool) -> Way:
    """The way of a method; of `auto`, from whether numbers are single tokens and whether the study serves the model."""
    if method == "auto":
        method = "logprob" if single else "candidates" if own else "digit"
    return Way(method, 9 if method == "digit" else 100)


def judgment_of(answer: Answer, rubric: Rubric, way: Way, min_mass: float) -> Judgment:
    """A raw answer read."""
    if "refused" in answer:
        return Judgment(None, "unparsed", str(answer["refused"]), "", None, way.label)
    if "json" in answer:
        return read.read_json(str(answer["json"]), rubric, way.top, way.label)
    if "texts" in answer:
        return read.read_texts(answer["texts"], rubric, way.top, way.label)
    if "tree" in answer:
        return read.read_tree(answer["tree"], rubric, way.top, min_mass, str(answer["text"]), way.label)
    return read.read_token(answer["logprobs"], rubric, way.top, min_mass, str(answer["text"]), way.label)


async def judge_items(
    where: Where,
    model: str,
    judging: Judging,
    rubrics: Sequence[Rubric],
    items: Sequence[tuple[Any, Item]],
    cache: JudgeCache,
    retry: Retry = PATIENT,
) -> AsyncGenerator[list[Verdict], None]:
    """Every item judged on every rubric; yields judgments as they come, those from the cache first.

    Raises InputError when the endpoint refuses the caller or the model, or gives no log-probs that the method needs;
    TrialError when the tries are used up. What was yielded before stands, and every answer is in the cache.
    """
    asker: _Own | _Api = (
        _Own(where, model, judging, cache, retry) if judging.folder else _Api(where, model, judging, cache, retry)
    )
    async with aclosing(asker.judge(rubrics, items)) as verdicts:
        async for some in verdicts:
            yield some


class _Asker:
    """What asking a served model and asking an API have in common."""

    def __init__(self, where: Where, model: str, judging: Judging, cache: JudgeCache, retry: Retry) -> None:
        self.where, self.model, self.judging, self.cache, self.retry = where, model, judging, cache, retry
        self.judge_config = judging.judge
        self.way = Way("", 0)

    async def judge(
        self, rubrics: Sequence[Rubric], items: Sequence[tuple[Any, Item]]
    ) -> AsyncGenerator[list[Verdict], None]:
        self.way = await self.find_way()
        open_asks = self._asks(rubrics, items)
        known = [ask for ask in open_asks if self.cache.get(ask.key) is not None]
        self.cache.found += len(known)
        for start in range(0, len(known), LIST_SIZE):
            yield [v for ask in known[start : start + LIST_SIZE] for v in self._verdicts(ask)]
        missing = [ask for ask in open_asks if self.cache.get(ask.key) is None]
        if missing:
            async with aclosing(self.answers(missing)) as answers:
                async for answered in answers:
                    for ask, answer in answered:
                        self.cache.put(ask.key, answer)
                    yield [v for ask, _ in answered for v in self._verdicts(ask)]

    def _asks(self, rubrics: Sequence[Rubric], items: Sequence[tuple[Any, Item]]) -> list[Ask]:
        groups = [tuple(rubrics)] if self.way.method == "json" else [(r,) for r in rubrics]
        found: dict[str, Ask] = {}
        for name, item in items:
            for group in groups:
                key = answer_key(list(group), item, self.way.label)
                found.setdefault(key, Ask(group, item, key)).wanted_by.append(name)
        return list(found.values())

    def _verdicts(self, ask: Ask) -> list[Verdict]:
        answer = self.cache.get(ask.key)
        assert answer is not None
        return [
            (name, rubric.name, judgment_of(answer, rubric, self.way, self.judge_config.min_mass))
            for rubric in ask.rubrics
            for name in ask.wanted_by
        ]

    def prompt(self, ask: Ask) -> str:
        """The user message that asks for it."""
        if self.way.method == "json":
            return json_prompt(ask.rubrics, ask.item, self.way.top)
        return number_prompt(ask.rubrics[0], ask.item, self.way.top)

    async def find_way(self) -> Way:
        raise NotImplementedError

    def answers(self, asks: Sequence[Ask]) -> AsyncGenerator[list[tuple[Ask, Answer]], None]:
        raise NotImplementedError


class _Own(_Asker):
    """A model that the study serves: rendered prompts, in lists."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tokenizer = load_tokenizer(str(self.judging.folder))

    async def find_way(self) -> Way:
        return way_of(self.judge_config.method, numbers_are_single(self.tokenizer), own=True)

    def rendered(self, ask: Ask) -> str:
        return render(self.tokenizer, (Message("user", self.prompt(ask)),), True)

    async def answers(self, asks: Sequence[Ask]) -> AsyncGenerator[list[tuple[Ask, Answer]], None]:
        drawn = self.way.method in ("sample", "json")
        async with aclosing(self._drawn(asks) if drawn else self._distributions(asks)) as found:
            async for some in found:
                yield some

    async def _drawn(self, asks: Sequence[Ask]) -> AsyncGenerator[list[tuple[Ask, Answer]], None]:
        as_json = self.way.method == "json"
        count = 1 if as_json else self.judge_config.samples
        requests = [
            SampleRequest(
                f"{number}:{draw}", self.model, self.rendered(ask), JSON_TOKENS if as_json else NUMBER_TOKENS,
                0.0 if as_json else 1.0, 1.0, int(ask.key[:8], 16) ^ draw,
            )
            for number, ask in enumerate(asks)
            for draw in range(count)
        ]  # fmt: skip
        texts: dict[int, dict[int, str]] = {}
        # One that lists its prompts may have one prompt alone in the last list.
        async with aclosing(
            sample(self.where, requests, concurrency=self.judge_config.concurrency, retry=self.retry)
        ) as finished:
            async for batch in finished:
                done = []
                self.cache.asked += len(batch)
                for result in batch:
                    number, draw = map(int, result.key.split(":"))
                    own = texts.setdefault(number, {})
                    own[draw] = result.text
                    if len(own) == count:
                        said = [own[i] for i in range(count)]
                        answer: Answer = {"json": said[0]} if as_json else {"texts": said}
                        done.append((asks[number], answer))
                if done:
                    yield done

    async def _distributions(self, asks: Sequence[Ask]) -> AsyncGenerator[list[tuple[Ask, Answer]], None]:
        from openai import AsyncOpenAI

        client = AsyncOpenAI(
            base_url=self.where.base_url,
            api_key=self.where.api_key or NO_KEY,
            max_retries=0,
            timeout=self.retry.timeout_s,
        )
        lists = [asks[i : i + LIST_SIZE] for i in range(0, len(asks), LIST_SIZE)]
        jobs: list[Coroutine[Any, Any, list[tuple[Ask, Answer]]]] = [self._one_list(client, some) for some in lists]
        try:
            async with aclosing(in_parallel(jobs, self.judge_config.concurrency)) as finished:
                async for answered in finished:
                    yield answered
        finally:
            for job in jobs:
                job.close()
            await client.close()

    async def _one_list(self, client: AsyncOpenAI, asks: Sequence[Ask]) -> list[tuple[Ask, Answer]]:
        prompts = [self.rendered(ask) for ask in asks]
        first = await self._next_tokens(client, prompts)
        if self.way.method != "candidates":
            return [(ask, {"logprobs": p, "text": text}) for ask, (p, text) in zip(asks, first, strict=True)]
        trees: list[dict[str, dict[str, float]]] = [{"": p} for p, _ in first]
        while wanted := [(n, prefix) for n, tree in enumerate(trees) for prefix in read.to_follow(tree, self.way.top)]:
            for start in range(0, len(wanted), LIST_SIZE):
                some = wanted[start : start + LIST_SIZE]
                behind = await self._next_tokens(client, [prompts[n] + prefix for n, prefix in some])
                for (n, prefix), (p, _) in zip(some, behind, strict=True):
                    trees[n][prefix] = p
        return [(ask, {"tree": tree, "text": text}) for ask, tree, (_, text) in zip(asks, trees, first, strict=True)]

    async def _next_tokens(self, client: AsyncOpenAI, prompts: list[str]) -> list[tuple[dict[str, float], str]]:
        """(token → log-prob of the likeliest 20, the likeliest token) behind each prompt."""

        async def draw() -> list[tuple[dict[str, float], str]]:
            answer: Any = await client.completions.create(
                model=self.model,
                prompt=prompts,
                max_tokens=1,
                temperature=0.0,
                logprobs=TOP_LOGPROBS,
                # Text alone would make one of two tokens that read the same.
                extra_body={"return_tokens_as_token_ids": True},
            )
            choices = sorted(getattr(answer, "choices", None) or (), key=lambda c: c.index)
            if len(choices) != len(prompts):
                raise Again(f"the answer has {len(choices)} choices for {len(prompts)} prompts")
            return [self._readable(choice) for choice in choices]

        found = await with_retries(draw, f"{len(prompts)} prompts to judge {self.judging.name}", self.retry, _ignore)
        self.cache.asked += len(prompts)
        return found

    def _readable(self, choice: Any) -> tuple[dict[str, float], str]:
        top = getattr(choice.logprobs, "top_logprobs", None)
        if not top:
            raise Again("the answer has no log-probs")
        found: dict[str, float] = {}
        for name, logprob in top[0].items():
            token = self.tokenizer.decode([int(name.removeprefix("token_id:"))])
            found[token] = _either(logprob, found.get(token))
        return found, str(choice.text)


class _Api(_Asker):
    """A model behind an API: one chat for each answer, as many at once as it bears."""

    async def find_way(self) -> Way:
        if self.judge_config.method != "auto":
            return way_of(self.judge_config.method, single=True, own=False)
        answer = self.cache.get("probe")
        if answer is None:
            async with aclosing(self._sent([("probe", PROBE, self._token_of)])) as sent:
                async for _, found in sent:
                    answer = found
            self.cache.put("probe", answer)
        said = probe_says_single(str((answer or {}).get("text", "")))
        if said is None:
            raise InputError(
                f"judges: {self.judging.name!r}: cannot tell whether {self.model} writes numbers as single tokens (asked to repeat "
                "one, it did not); say method: logprob, digit, sample or json."
            )
        return way_of("auto", said, own=False)

    async def answers(self, asks: Sequence[Ask]) -> AsyncGenerator[list[tuple[Ask, Answer]], None]:
        read_one = {"json": self._json_of, "sample": self._texts_of}.get(self.way.method, self._token_of)
        wanted = [(ask, self.prompt(ask), functools.partial(read_one)) for ask in asks]
        async with aclosing(self._sent(wanted)) as sent:
            async for ask, answer in sent:
                yield [(ask, answer)]

    async def _sent(
        self, wanted: Sequence[tuple[Any, str, Callable[..., Coroutine[Any, Any, Answer]]]]
    ) -> AsyncGenerator[tuple[Any, Answer], None]:
        from openai import AsyncOpenAI

        client = AsyncOpenAI(
            base_url=self.where.base_url,
            api_key=self.where.api_key or NO_KEY,
            max_retries=0,
            timeout=self.retry.timeout_s,
        )
        pace = Pace(self.judge_config.concurrency)
        jobs = (self._answered(client, pace, name, prompt, ask_one) for name, prompt, ask_one in wanted)
        try:
            async with aclosing(in_parallel(jobs, self.judge_config.concurrency)) as finished:
                async for answered in finished:
                    yield answered
        finally:
            await client.close()

    async def _answered(
        self,
        client: AsyncOpenAI,
        pace: Pace,
        name: Any,
        prompt: str,
        ask_one: Callable[..., Coroutine[Any, Any, Answer]],
    ) -> tuple[Any, Answer]:
        try:
            return name, await ask_one(client, pace, prompt)
        except Refused as refused:
            said = without_key(self.where.api_key, str(refused))
            if refused.status not in _OF_ONE_REQUEST or name == "probe":
                raise Refused(said, refused.status) from None
            return name, {"refused": said}
        except TrialError as error:
            raise TrialError(without_key(self.where.api_key, str(error))) from None

    async def _chat(self, client: AsyncOpenAI, pace: Pace, prompt: str, **settings: Any) -> Any:
        async def draw() -> Any:
            answer: Any = await client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": prompt}], **settings
            )
            choice: Any = next(iter(getattr(answer, "choices", None) or ()), None)
            # Rubbish is parsed without complaint: a page of HTML comes as a text, a missing field as None.
            if not isinstance(getattr(getattr(choice, "message", None), "content", None), str):
                raise Again(f"the answer has no message: {str(answer)[:200]}")
            return choice

        choice = await with_retries(
            draw, f"a request to judge {self.judging.name}", self.retry, _ignore, pace, self.where.api_key
        )
        self.cache.asked += 1
        return choice

    async def _token_of(self, client: AsyncOpenAI, pace: Pace, prompt: str) -> Answer:
        choice = await self._chat(
            client, pace, prompt, max_tokens=1, temperature=0.0, logprobs=True, top_logprobs=TOP_LOGPROBS
        )
        content = getattr(choice.logprobs, "content", None)
        if not content:
            raise InputError(
                f"judges: {self.judging.name!r}: {self.model} gives no log-probs; say method: sample (or json), which need none."
            )
        found: dict[str, float] = {}
        for token in content[0].top_logprobs or [content[0]]:
            found[token.token] = _either(float(token.logprob), found.get(token.token))
        return {"logprobs": found, "text": choice.message.content}

    async def _texts_of(self, client: AsyncOpenAI, pace: Pace, prompt: str) -> Answer:
        texts = []
        for draw in range(self.judge_config.samples):
            choice = await self._chat(client, pace, prompt, max_tokens=NUMBER_TOKENS, temperature=1.0, seed=draw)
            texts.append(choice.message.content)
        return {"texts": texts}

    async def _json_of(self, client: AsyncOpenAI, pace: Pace, prompt: str) -> Answer:
        choice = await self._chat(client, pace, prompt, max_tokens=JSON_TOKENS, temperature=0.0)
        return {"json": choice.message.content}


def _either(logprob: float, other: float | None) -> float:
    """The log-prob of one token or another that reads the same: log(p + q)."""
    return logprob if other is None else math.log(math.exp(logprob) + math.exp(other))


def _ignore() -> None:
    """Retries of a judge are not counted."""
