"""Judging many responses on several rubrics: what is stored first, then everybody else asked once, results as they come."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from inoc_ray.config.identity import content_id
from inoc_ray.endpoint.connection import EndpointAddress, connect
from inoc_ray.endpoint.parallel import in_parallel
from inoc_ray.endpoint.refusals import REFUSALS_IN_A_ROW, REFUSALS_OF_SOME
from inoc_ray.endpoint.retry import PATIENT, Retry
from inoc_ray.errors import InputError
from inoc_ray.evaluate.model_judge.cache import JudgeCache
from inoc_ray.evaluate.model_judge.client import (
    SAMPLE_TOKENS,
    ApiJudge,
    EngineJudge,
    JudgeClient,
    JudgeQuestion,
    NoAnswer,
)
from inoc_ray.evaluate.model_judge.parse import Answer, Method, failed_judgment, judgment, scale_top
from inoc_ray.evaluate.model_judge.scale import digits_are_apart, numbers_are_single
from inoc_ray.scoring.judge_prompt import VERSION, json_prompt, number_prompt
from inoc_ray.scoring.judgment import Item, Judgment
from inoc_ray.scoring.rubrics import Rubric
from inoc_ray.study.evaluation import Judge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

K = TypeVar("K")
CHUNK = 1024
"""Stored judgments that are given out together."""
JSON_TOKENS_BASE, JSON_TOKENS_EACH = 48, 24
"""Room for the object of a JSON answer with its fence, and for each rubric's line in it."""


@dataclass
class Counts:
    """What judging came to: `calls` sent (every try counts), `stored` answers found in the cache, `failed` questions."""

    calls: int = 0
    stored: int = 0
    failed: int = 0


def question_key(identity: Mapping[str, Any], method: Method, prompt: str, index: int) -> str:
    """The id of one call's content. The prompt holds the rubric's words, the scale and the item's texts."""
    return content_id([identity, VERSION, method, prompt, index])


async def judge_items(
    where: EndpointAddress,
    judge: Judge,
    identity: Mapping[str, Any],
    rubrics: Sequence[Rubric],
    items: Sequence[tuple[K, Item]],
    cache: JudgeCache,
    *,
    model: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    retry: Retry = PATIENT,
    counts: Counts | None = None,
) -> AsyncGenerator[list[tuple[K, str, Judgment]], None]:
    """Judges every item on every rubric; yields (the item's key, the rubric's name, the judgment) in any order.

    `where` is a running engine with `model` on it and its `tokenizer`, or an API (`api_judge.judge_api`), which has neither. Each
    answer is in the cache before its judgment is given out. A question that is refused for its content, or to which no
    readable answer comes, is unparsed with the reason in `raw`; it is not stored, so that the next pass asks it again.
    Closing the iteration cancels what is under way.

    Raises InputError where the endpoint refuses the key or the model, or where the method does not suit the judge, and
    TrialError when the endpoint does not answer any more; what was yielded before stands.
    """
    counts = Counts() if counts is None else counts

    def on_call() -> None:
        counts.calls += 1

    @contextlib.asynccontextmanager
    async def connected() -> AsyncIterator[ApiJudge | EngineJudge]:
        async with connect(where, concurrency=judge.concurrency, retry=retry) as connection:
            given = connection, model or judge.served_model, on_call
            if tokenizer is None:
                yield ApiJudge(*given, concurrency=judge.concurrency)
            else:
                yield EngineJudge(*given, tokenizer=tokenizer, concurrency=judge.concurrency)

    if tokenizer is not None:
        method = own_method(judge, tokenizer)
    else:
        if needs_probe(judge) and cache.get(probe_key(identity)) is None:
            async with connected() as probing:
                assert isinstance(probing, ApiJudge)
                cache.put(probe_key(identity), {"single": await probing.single_numbers()})
        method = api_method(judge, cache.get(probe_key(identity)))
    work = _Work(identity, judge, method, rubrics, items, cache, counts)
    for chunk in work.stored():
        yield chunk
    # Making a client takes as long as reading some thousands of stored judgments.
    if not work.questions:
        return
    async with connected() as asking, aclosing(_answers(work, asking)) as answers:
        async for batch in answers:
            yield batch


def own_method(judge: Judge, tokenizer: PreTrainedTokenizerBase) -> Method:
    """How a judge of the study's own is asked. Raises InputError where the method does not suit its tokenizer."""
    if judge.method in ("sample", "json", "digit"):
        return judge.method
    single = numbers_are_single(tokenizer, scale_top("logprob"))
    if judge.method == "logprob" and not single:
        raise InputError(
            f"judge {judge.path}: method logprob needs every number from 0 to 100 as one token, and its tokenizer cuts "
            "numbers; use auto, candidates or digit."
        )
    if single and judge.method != "candidates":
        return "logprob"
    if not digits_are_apart(tokenizer):
        raise InputError(
            f"judge {judge.path}: method candidates needs a tokenizer that cuts numbers between all digits, and this one has "
            "some numbers whole; use digit, or logprob where it has all of them."
        )
    return "candidates"


def prompts_of(method: Method, rubrics: Sequence[Rubric], item: Item) -> list[tuple[Sequence[Rubric], str]]:
    """What a judge is asked about an item: (rubrics that an answer decides, the user message)."""
    top = scale_top(method)
    if method == "json":
        return [(rubrics, json_prompt(rubrics, item, top))]
    return [((rubric,), number_prompt(rubric, item, top)) for rubric in rubrics]


def answer_room(method: Method, rubrics: int) -> int:
    """max_tokens of an answer about so many rubrics."""
    if method == "json":
        return JSON_TOKENS_BASE + JSON_TOKENS_EACH * rubrics
    return SAMPLE_TOKENS if method == "sample" else 1


async def probe_judge(where: EndpointAddress, judge: Judge, retry: Retry = PATIENT) -> None:
    """Asks a judge behind an API once, as its method will, before anything depends on it.

    Raises InputError with the API's own sentence where it refuses, and where its answer cannot be of use; TrialError when it does
    not answer.
    """
    async with connect(where, concurrency=judge.concurrency, retry=retry) as connection:
        await ApiJudge(connection, judge.served_model, lambda: None, concurrency=1).probe(judge.method)


def needs_probe(judge: Judge) -> bool:
    """Whether one call has to tell how a judge behind an API writes numbers, because its method depends on that."""
    return judge.method in ("auto", "logprob")


def probe_key(identity: Mapping[str, Any]) -> str:
    """Where the cache keeps what the probe told."""
    return content_id([identity, VERSION, "probe"])


def api_method(judge: Judge, probed: Answer | None) -> Method:
    """How a judge behind an API is asked, with what its probe told. Raises InputError where the method does not suit it."""
    if judge.method in ("sample", "json", "digit"):
        return judge.method
    assert probed is not None
    if judge.method == "logprob" and not probed["single"]:
        raise InputError(
            f"judge {judge.served_model}: method logprob needs numbers as one token, and the model cuts them between digits; "
            "use auto or digit."
        )
    return "logprob" if probed["single"] else "digit"


@dataclass(slots=True)
class _Wanted(Generic[K]):
    """Rubrics of one item that the same calls decide, and how many of these are not answered yet."""

    key: K
    rubrics: Sequence[Rubric]
    calls: tuple[str, ...]
    missing: int


class _Work(Generic[K]):
    """All questions of a run: those that the cache answers, those to ask, and who waits for which."""

    def __init__(
        self,
        identity: Mapping[str, Any],
        judge: Judge,
        method: Method,
        rubrics: Sequence[Rubric],
        items: Sequence[tuple[K, Item]],
        cache: JudgeCache,
        counts: Counts,
    ) -> None:
        self._identity, self._judge, self._method = identity, judge, method
        self._rubrics, self._items, self._cache, self._counts = rubrics, items, cache, counts
        self.questions: dict[str, JudgeQuestion] = {}
        self._waiting: dict[str, list[_Wanted[K]]] = {}
        # Of this run alone: answers that several draws of one question wait for, and failures, which are not stored.
        self._failures: dict[str, NoAnswer] = {}
        self._answers = self._in_a_row = 0
        # Judgments that rest on a refusal: not given out before an answer shows that not everything is refused.
        self._held: list[tuple[K, str, Judgment]] = []

    def stored(self) -> Iterator[list[tuple[K, str, Judgment]]]:
        """Judgments that need no call, in chunks; fills `questions` with the rest, each once whoever asks it."""
        chunk: list[tuple[K, str, Judgment]] = []
        for key, item in self._items:
            for rubrics, prompt in prompts_of(self._method, self._rubrics, item):
                wanted = self._want(key, rubrics, prompt)
                if wanted.missing == 0:
                    chunk += self._judged(wanted)
                    if len(chunk) >= CHUNK:
                        yield chunk
                        chunk = []
        if chunk:
            yield chunk

    def answered(self, question: JudgeQuestion, answer: Answer | NoAnswer) -> list[tuple[K, str, Judgment]]:
        """Stores an answer; the judgments that waited for it alone.

        Raises InputError where the endpoint refuses everything, or has begun to.
        """
        refused = isinstance(answer, NoAnswer) and answer.refused
        if isinstance(answer, NoAnswer):
            self._failures[question.key] = answer
            self._counts.failed += 1
        else:
            self._cache.put(question.key, answer)
            self._answers += 1
        self._in_a_row = self._in_a_row + 1 if refused else 0
        if self._in_a_row >= (REFUSALS_OF_SOME if self._answers else REFUSALS_IN_A_ROW):
            self._give_up()
        ready = self._ready(question)
        if refused:
            self._held += ready
            return []
        ready, self._held = [*self._held, *ready], []
        return ready

    def left(self) -> list[tuple[K, str, Judgment]]:
        """What was held back, when all is asked: a few refusals, where the endpoint has answered anything of this, now or before.

        Raises InputError where it has refused everything, or everything of late.
        """
        if self._held and (self._in_a_row >= REFUSALS_IN_A_ROW or not (self._answers or self._counts.stored)):
            self._give_up()
        return self._held

    def _give_up(self) -> None:
        reason = [failure.reason for failure in self._failures.values() if failure.refused][-1]
        judge = self._judge.served_model or self._judge.path
        raise InputError(
            f"judge {judge} refuses everything, {self._in_a_row} questions one after another, the last one with: {reason}; "
            f"{'what it answered before' if self._answers else 'nothing'} is stored."
        )

    def _ready(self, question: JudgeQuestion) -> list[tuple[K, str, Judgment]]:
        ready = []
        for wanted in self._waiting.pop(question.key):
            wanted.missing -= 1
            if wanted.missing == 0:
                ready += self._judged(wanted)
        return ready

    def _want(self, key: K, rubrics: Sequence[Rubric], prompt: str) -> _Wanted[K]:
        draws = self._judge.samples if self._method == "sample" else 1
        calls = tuple(question_key(self._identity, self._method, prompt, index) for index in range(draws))
        wanted = _Wanted(key, rubrics, calls, 0)
        for index, call in enumerate(calls):
            if self._cache.get(call) is not None:
                self._counts.stored += 1
                continue
            wanted.missing += 1
            self._waiting.setdefault(call, []).append(wanted)
            if call not in self.questions:
                longest = answer_room(self._method, len(self._rubrics))
                self.questions[call] = JudgeQuestion(call, prompt, self._method, index, longest)
        return wanted

    def _judged(self, wanted: _Wanted[K]) -> list[tuple[K, str, Judgment]]:
        answers = [answer for call in wanted.calls if (answer := self._cache.get(call)) is not None]
        missed = next((self._failures[call] for call in wanted.calls if call in self._failures), NoAnswer(""))
        # A draw that failed is an answer that cannot be read: the mean of the others alone would hide it.
        answers += [{"text": ""}] * (len(wanted.calls) - len(answers)) if answers else []
        return [
            (
                wanted.key,
                rubric.name,
                judgment(self._method, rubric, answers, self._judge.min_mass)
                if answers
                else failed_judgment(self._method, missed.reason, missed.refused),
            )
            for rubric in wanted.rubrics
        ]


async def _answers(work: _Work[K], asking: JudgeClient) -> AsyncGenerator[list[tuple[K, str, Judgment]], None]:
    questions = list(work.questions.values())
    lists = [questions[i : i + asking.list_size] for i in range(0, len(questions), asking.list_size)]

    async def ask(asked: list[JudgeQuestion]) -> list[tuple[JudgeQuestion, Answer | NoAnswer]]:
        return list(zip(asked, await asking.ask(asked), strict=True))

    jobs: Iterator[Coroutine[Any, Any, list[tuple[JudgeQuestion, Answer | NoAnswer]]]] = (ask(asked) for asked in lists)
    async with aclosing(in_parallel(jobs, asking.concurrency)) as finished:
        async for pairs in finished:
            ready = [judged for question, answer in pairs for judged in work.answered(question, answer)]
            if ready:
                yield ready
    if left := work.left():
        yield left
