"""Judge many responses on several rubrics: stored answers first, then each missing one asked once, results as they come."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from inoc_ray.config.identity import content_id
from inoc_ray.endpoint.connection import Connection, EndpointAddress, connect
from inoc_ray.endpoint.parallel import in_parallel
from inoc_ray.endpoint.refusals import REFUSALS_IN_A_ROW, REFUSALS_OF_SOME
from inoc_ray.endpoint.retry import PATIENT, Retry
from inoc_ray.errors import InputError
from inoc_ray.evaluate.model_judge.api_judge import ApiJudge
from inoc_ray.evaluate.model_judge.cache import JudgeCache
from inoc_ray.evaluate.model_judge.client import SAMPLE_TOKENS, JudgeClient, JudgeQuestion, NoAnswer
from inoc_ray.evaluate.model_judge.engine_judge import EngineJudge
from inoc_ray.evaluate.model_judge.number_tokens import digits_are_apart, numbers_are_single
from inoc_ray.evaluate.model_judge.read_answer import Answer, failed_judgment, judgment, scale_top
from inoc_ray.scoring.judge_prompt import VERSION, json_prompt, number_prompt
from inoc_ray.scoring.judgment import Item, Judgment
from inoc_ray.scoring.rubrics import Rubric
from inoc_ray.study.evaluation import Judge, Method

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

K = TypeVar("K")
CHUNK = 1024
"""Stored judgments that are yielded together."""
JSON_TOKENS_BASE, JSON_TOKENS_EACH = 48, 24
"""Room for the object of a JSON answer with its fence, and for each rubric's line in it."""


@dataclass
class Counts:
    """Counts of one pass: `calls` sent (each try counts), `stored` answers found in the cache, `failed` questions."""

    calls: int = 0
    stored: int = 0
    failed: int = 0


def question_key(identity: Mapping[str, Any], method: Method, prompt: str, index: int) -> str:
    """Return the id of one call's content. The prompt holds the rubric's words, the scale and the item's texts."""
    return content_id([identity, VERSION, method, prompt, index])


async def judge_items(
    endpoint: EndpointAddress,
    *,
    judge: Judge,
    identity: Mapping[str, Any],
    rubrics: Sequence[Rubric],
    items: Sequence[tuple[K, Item]],
    cache: JudgeCache,
    model: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    replicas: int = 1,
    retry: Retry = PATIENT,
    counts: Counts | None = None,
) -> AsyncGenerator[list[tuple[K, str, Judgment]], None]:
    """Judge every item on every rubric; yield (the item's key, the rubric's name, the judgment) in any order.

    `endpoint` is `replicas` running engines with `model` on them and its `tokenizer`, or an API (`api_judge.judge_api`), which has
    neither. Each answer is in the cache before its judgment is yielded. A question that is refused for its content, or that
    gets no readable answer, is unparsed with the reason in `raw`; it is not stored, so the next pass asks it again. Closing
    the iteration cancels what is in flight.

    Raises InputError when the endpoint refuses the key or the model, or when the method does not suit the judge, and
    TrialError when the endpoint stops answering; what was yielded before stays valid.
    """
    counts = Counts() if counts is None else counts

    def on_call() -> None:
        counts.calls += 1

    @contextlib.asynccontextmanager
    async def connected() -> AsyncIterator[ApiJudge | EngineJudge]:
        async with connect(endpoint, concurrency=judge.concurrency, retry=retry) as connection:
            yield _client(connection, judge, model=model, tokenizer=tokenizer, replicas=replicas, on_call=on_call)

    if tokenizer is not None:
        method = own_method(judge, tokenizer)
    else:
        if needs_probe(judge) and cache.get(probe_key(identity)) is None:
            async with connected() as client:
                assert isinstance(client, ApiJudge)
                cache.put(probe_key(identity), {"single": await client.writes_single_numbers()})
        method = api_method(judge, cache.get(probe_key(identity)))
    work = _Pass(
        identity=identity, judge=judge, method=method, rubrics=rubrics, items=items, cache=cache, counts=counts
    )
    for chunk in work.stored():
        yield chunk
    # Opening a client takes as long as reading some thousands of stored judgments.
    if not work.questions:
        return
    async with connected() as client, aclosing(_answers(work, client)) as answers:
        async for batch in answers:
            yield batch


def stored_judgments(
    *,
    judge: Judge,
    identity: Mapping[str, Any],
    rubrics: Sequence[Rubric],
    items: Sequence[tuple[K, Item]],
    cache: JudgeCache,
    tokenizer: PreTrainedTokenizerBase,
) -> list[tuple[K, str, Judgment]] | None:
    """Return what `judge_items` would yield of a judge on the study's own engine, if every answer is stored; None otherwise.

    Stops at the first answer that is not. Raises InputError when the judge's tokenizer does not suit the method.
    """
    work = _Pass(
        identity=identity,
        judge=judge,
        method=own_method(judge, tokenizer),
        rubrics=rubrics,
        items=items,
        cache=cache,
        counts=Counts(),
    )
    found: list[tuple[K, str, Judgment]] = []
    for judgments in work.entered():
        if judgments is None:
            return None
        found += judgments
    return found


def _client(
    connection: Connection,
    judge: Judge,
    *,
    model: str | None,
    tokenizer: PreTrainedTokenizerBase | None,
    replicas: int,
    on_call: Callable[[], None],
) -> ApiJudge | EngineJudge:
    name = model or judge.served_model
    assert name is not None
    if tokenizer is None:
        return ApiJudge(connection, model=name, on_call=on_call, concurrency=judge.concurrency)
    return EngineJudge(
        connection,
        model=name,
        on_call=on_call,
        tokenizer=tokenizer,
        concurrency=judge.concurrency,
        replicas=replicas,
    )


def own_method(judge: Judge, tokenizer: PreTrainedTokenizerBase) -> Method:
    """Return how a judge on the study's own engine is asked. Raises InputError when its tokenizer does not suit the method."""
    if judge.method in ("sample", "json", "digit"):
        return judge.method
    single = numbers_are_single(tokenizer, scale_top("logprob"))
    if judge.method == "logprob" and not single:
        raise InputError(
            f"judge {judge.path}: method logprob needs every number from 0 to 100 as one token, and its tokenizer splits "
            "numbers; use auto, candidates or digit."
        )
    if single and judge.method != "candidates":
        return "logprob"
    if not digits_are_apart(tokenizer):
        raise InputError(
            f"judge {judge.path}: method candidates needs a tokenizer that splits numbers between all digits, and this one "
            "keeps some numbers whole; use digit, or logprob if it keeps all of them whole."
        )
    return "candidates"


def prompts_of(method: Method, rubrics: Sequence[Rubric], item: Item) -> list[tuple[Sequence[Rubric], str]]:
    """Return the questions about an item: (rubrics that the answer decides, the user message) of each."""
    top = scale_top(method)
    if method == "json":
        return [(rubrics, json_prompt(rubrics, item, top))]
    return [((rubric,), number_prompt(rubric, item, top)) for rubric in rubrics]


def answer_budget(method: Method, rubrics: int) -> int:
    """Return max_tokens of an answer about so many rubrics."""
    if method == "json":
        return JSON_TOKENS_BASE + JSON_TOKENS_EACH * rubrics
    return SAMPLE_TOKENS if method == "sample" else 1


async def probe_judge(api: EndpointAddress, judge: Judge, retry: Retry = PATIENT) -> None:
    """Ask a judge behind an API once, with its own method, before anything depends on it.

    Raises InputError with the API's own message when it refuses, and when its answer is of no use; TrialError when it does
    not answer.
    """
    assert judge.served_model is not None
    async with connect(api, concurrency=judge.concurrency, retry=retry) as connection:
        client = ApiJudge(connection, model=judge.served_model, on_call=lambda: None, concurrency=1)
        await client.probe(judge.method)


def needs_probe(judge: Judge) -> bool:
    """Return whether the method depends on how the model writes numbers, which one call to its API has to show."""
    return judge.method in ("auto", "logprob")


def probe_key(identity: Mapping[str, Any]) -> str:
    """Return the key under which the cache keeps the probe's result."""
    return content_id([identity, VERSION, "probe"])


def api_method(judge: Judge, probe_result: Answer | None) -> Method:
    """Return how a judge behind an API is asked, given its probe's result. Raises InputError when the method does not suit it."""
    if judge.method in ("sample", "json", "digit"):
        return judge.method
    assert probe_result is not None
    if judge.method == "logprob" and not probe_result["single"]:
        raise InputError(
            f"judge {judge.served_model}: method logprob needs numbers as one token, and the model cuts them between digits; "
            "use auto or digit."
        )
    return "logprob" if probe_result["single"] else "digit"


@dataclass(slots=True, kw_only=True)
class _Pending(Generic[K]):
    """Rubrics of one item that the same calls decide, and how many of the calls are unanswered."""

    key: K
    rubrics: Sequence[Rubric]
    calls: tuple[str, ...]
    missing: int = 0


class _Pass(Generic[K]):
    """One pass over the items: what the cache answers, what is to be asked, and which items wait for which answer."""

    def __init__(
        self,
        *,
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
        self._waiting: dict[str, list[_Pending[K]]] = {}
        # Failures are not stored; they count in this pass alone.
        self._failures: dict[str, NoAnswer] = {}
        self._answers = self._in_a_row = 0
        # Judgments that rest on a refusal, held back until an answer shows that not everything is refused.
        self._held: list[tuple[K, str, Judgment]] = []

    def stored(self) -> Iterator[list[tuple[K, str, Judgment]]]:
        """Yield the judgments that need no call, in chunks; enter the rest in `questions`, each question once."""
        chunk: list[tuple[K, str, Judgment]] = []
        for judgments in self.entered():
            chunk += judgments or []
            if len(chunk) >= CHUNK:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def entered(self) -> Iterator[list[tuple[K, str, Judgment]] | None]:
        """Enter the questions about every item; yield for each the judgments that it completes, None if an answer is missing."""
        for key, item in self._items:
            for rubrics, prompt in prompts_of(self._method, self._rubrics, item):
                pending = self._enter(key, rubrics, prompt)
                yield None if pending.missing else self._judgments(pending)

    def answered(self, question: JudgeQuestion, answer: Answer | NoAnswer) -> list[tuple[K, str, Judgment]]:
        """Store an answer; return the judgments that it completes.

        Raises InputError when the endpoint refuses everything, from the start or from some point on.
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

    def held_back(self) -> list[tuple[K, str, Judgment]]:
        """Return, after the last answer, the judgments still held back: a few refusals of an endpoint that does answer.

        Raises InputError when the endpoint has refused everything, or everything of late.
        """
        if self._held and (self._in_a_row >= REFUSALS_IN_A_ROW or not (self._answers or self._counts.stored)):
            self._give_up()
        return self._held

    def _give_up(self) -> None:
        reason = [failure.reason for failure in self._failures.values() if failure.refused][-1]
        judge = self._judge.served_model or self._judge.path
        kept = "the answers before these are stored" if self._answers else "nothing is stored"
        raise InputError(
            f"judge {judge} refuses everything, {self._in_a_row} questions in a row, the last one with: {reason}; {kept}."
        )

    def _ready(self, question: JudgeQuestion) -> list[tuple[K, str, Judgment]]:
        ready = []
        for pending in self._waiting.pop(question.key):
            pending.missing -= 1
            if pending.missing == 0:
                ready += self._judgments(pending)
        return ready

    def _enter(self, key: K, rubrics: Sequence[Rubric], prompt: str) -> _Pending[K]:
        draws = self._judge.samples if self._method == "sample" else 1
        calls = tuple(question_key(self._identity, self._method, prompt, index) for index in range(draws))
        pending = _Pending(key=key, rubrics=rubrics, calls=calls)
        for index, call in enumerate(calls):
            if self._cache.get(call) is not None:
                self._counts.stored += 1
                continue
            pending.missing += 1
            self._waiting.setdefault(call, []).append(pending)
            if call not in self.questions:
                self.questions[call] = JudgeQuestion(
                    key=call,
                    prompt=prompt,
                    method=self._method,
                    index=index,
                    max_tokens=answer_budget(self._method, len(self._rubrics)),
                )
        return pending

    def _judgments(self, pending: _Pending[K]) -> list[tuple[K, str, Judgment]]:
        answers = [answer for call in pending.calls if (answer := self._cache.get(call)) is not None]
        if not answers:
            failure = next((self._failures[call] for call in pending.calls if call in self._failures), NoAnswer(""))
            none = failed_judgment(self._method, failure.reason, failure.refused)
            return [(pending.key, rubric.name, none) for rubric in pending.rubrics]
        # A draw that failed counts as an unreadable answer: the mean of the others alone would hide it.
        answers += [{"text": ""}] * (len(pending.calls) - len(answers))
        return [
            (pending.key, rubric.name, judgment(self._method, rubric, answers, self._judge.min_mass))
            for rubric in pending.rubrics
        ]


async def _answers(work: _Pass[K], client: JudgeClient) -> AsyncGenerator[list[tuple[K, str, Judgment]], None]:
    questions = list(work.questions.values())
    lists = [questions[i : i + client.list_size] for i in range(0, len(questions), client.list_size)]

    async def ask(one: list[JudgeQuestion]) -> list[tuple[JudgeQuestion, Answer | NoAnswer]]:
        return list(zip(one, await client.ask(one), strict=True))

    jobs: Iterator[Coroutine[Any, Any, list[tuple[JudgeQuestion, Answer | NoAnswer]]]] = (ask(one) for one in lists)
    async with aclosing(in_parallel(jobs, client.concurrency)) as finished:
        async for pairs in finished:
            ready = [found for question, answer in pairs for found in work.answered(question, answer)]
            if ready:
                yield ready
    if held := work.held_back():
        yield held
