"""Sending a judge its questions: to a model that the study serves itself, or to an OpenAI-compatible API.

A question is one user message; what comes back is an answer as `judges.model` reads it, or a Failure that concerns this
question alone. What concerns all of them (a wrong key, an unknown model, an endpoint that is down) is raised.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from inoc_ray.config.identity import as_text
from inoc_ray.data.chat import Message
from inoc_ray.data.tokenize import render
from inoc_ray.endpoint.auth import Api, hide_password, is_address, read_key, redact
from inoc_ray.endpoint.completions import SampleRequest, draw_list
from inoc_ray.endpoint.connection import Connection
from inoc_ray.endpoint.dialect import send_adapted
from inoc_ray.endpoint.errors import OF_ONE_REQUEST, NoReadableAnswer, RequestRefused, UnusableAnswer
from inoc_ray.errors import InputError
from inoc_ray.evaluate.model_judge.parse import Answer, Method, leading_space, parse_object, prefixes_to_ask
from inoc_ray.evaluate.model_judge.scale import (
    TOP_LOGPROBS,
    answer_tokens,
    json_probe_messages,
    probe_messages,
    reads_single_number,
    token_text,
)
from inoc_ray.scoring.rubrics import CLASSES
from inoc_ray.study.evaluation import Judge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
OWN_CONCURRENCY = 8
"""Lists under way at once at an own engine: with LIST_SIZE questions each, twice what its batch holds."""
LIST_SIZE = 64
SAMPLE_TOKENS = 16
"""Room for a number with a few words around it."""
PROBE_TOKENS = 4
JSON_PROBE_TOKENS = 48
_LEAST_SECRET = 8
"""A key shorter than this is not taken out of answers: a word of an answer may look the same."""
_USE_SAMPLE = "set method: sample or method: json for this judge, which need none"


@dataclass(frozen=True, slots=True)
class JudgeQuestion:
    """One call: what the judge is asked, and `index`, which draw it is (method `sample`; else 0)."""

    key: str
    """The content of the question, as the cache knows it."""
    prompt: str
    method: Method
    index: int = 0
    max_tokens: int = 1

    @property
    def seed(self) -> int:
        """The seed of a drawn answer: of the question's own content."""
        return int(self.key, 16) >> 33


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Why there is no answer to one question."""

    reason: str
    refused: bool = False
    """Whether the endpoint would not answer, and not merely answered what cannot be read."""


class JudgeClient(Protocol):
    """Somebody who answers questions."""

    concurrency: int
    """Calls of `ask` under way at once."""
    list_size: int
    """Questions in one call."""

    async def ask(self, questions: Sequence[JudgeQuestion]) -> list[Answer | NoAnswer]:
        """The answers, in the order of the questions, which all have the same method."""
        ...


def judge_api(judge: Judge, name: str) -> Api:
    """Where a judge behind an API is asked; its key comes from the environment variable that the study names.

    Raises InputError, naming the judge, where the address is none or the variable is not set. The key stands in no message.
    """
    assert judge.endpoint is not None
    if not is_address(judge.endpoint):
        raise InputError(
            f"judges: {name!r}: endpoint {hide_password(judge.endpoint)!r} is no address; give one as https://HOST/v1."
        )
    return Api(judge.endpoint, read_key(judge.api_key_env, f"judges: {name!r}: api_key_env"))


class _Sender:
    """What both ways of asking share: the connection, and which errors end everything."""

    def __init__(self, connection: Connection, model: str, on_call: Callable[[], None]) -> None:
        self._connection, self._model, self._on_call = connection, model, on_call

    async def _send(self, draw: Callable[[], Awaitable[T]], name: str) -> T | NoAnswer:
        """The answer, or a Failure that is of this request. Raises InputError for the key or the model, else TrialError."""
        refused: RequestRefused | None = None
        try:
            return await self._connection.send(self._counted(draw), f"{name} of judge {self._model}")
        except NoReadableAnswer as error:
            return NoAnswer(str(error))
        except RequestRefused as error:
            if error.status in OF_ONE_REQUEST:
                said = str(error)
                if "logprob" in said:
                    raise InputError(
                        f"judge {self._model}: the endpoint gives no log-probs ({said}); {_USE_SAMPLE}."
                    ) from None
                if "temperature" in said:
                    raise InputError(
                        f"judge {self._model}: {said}; set method: sample for this judge, which draws at temperature 1."
                    ) from None
                return NoAnswer(said, refused=True)
            refused = error
        said = str(refused)
        if refused.status in (401, 403):
            raise InputError(f"judge {self._model}: {said}; look whether api_key_env names the right key.")
        if refused.status == 404:
            raise InputError(f"judge {self._model}: {said}; look whether endpoint and served_model are right.")
        raise InputError(f"judge {self._model}: {said}")

    @property
    def _key(self) -> str | None:
        return self._connection.api_key

    def _counted(self, draw: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
        async def counted() -> T:
            self._on_call()
            return await draw()

        return counted

    async def _post(self, path: str, sent: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer as a JSON object without the key, which the server may quote.

        Raise ValueError for what is not JSON, and UnusableAnswer for what is not an object.

        Neither what is sent nor what comes is put into the client's own types: that is a third of a call's CPU time, and
        they let rubbish pass anyway.
        """
        from openai import HttpxBinaryResponseContent

        text = (await self._connection.client.post(path, cast_to=HttpxBinaryResponseContent, body=sent)).text
        if self._key is not None and len(self._key) >= _LEAST_SECRET:
            text = redact(self._key, text)
        body = json.loads(text)
        if not isinstance(body, dict):
            raise UnusableAnswer(f"the answer is no object: {text}")
        return body


class ApiJudge(_Sender):
    """A judge that has chats alone, one question a request."""

    list_size = 1

    def __init__(self, *args: Any, concurrency: int) -> None:
        super().__init__(*args)
        self.concurrency = concurrency
        self._adaptations: set[str] = set()

    async def probe(self, method: str) -> None:
        """One call as the judge's method makes them, about nothing.

        Raises InputError with the API's own sentence where it is refused, and where the answer cannot be of use.
        """
        if method in ("auto", "logprob"):
            await self.single_numbers()
            return
        ask = {"digit": self._probe_digit, "sample": self._probe_text, "json": self._probe_json}[method]
        told = await self._send(ask, "the probe")
        if isinstance(told, NoAnswer):
            raise InputError(f"judge {self._model}: {told.reason}")

    async def _probe_digit(self) -> None:
        if not _token_entries(_choice(await self._chat(probe_messages(), 1, 0.0, logprobs=True))):
            raise InputError(f"judge {self._model}: the endpoint gives no log-probs; {_USE_SAMPLE}.")

    async def _probe_text(self) -> None:
        self._check_text(_choice(await self._chat(probe_messages(), SAMPLE_TOKENS, 1.0, logprobs=False, seed=0)))

    async def _probe_json(self) -> None:
        text = self._check_text(
            _choice(await self._chat(json_probe_messages(), JSON_PROBE_TOKENS, 0.0, logprobs=False))
        )
        if parse_object(text) is None:
            raise InputError(
                f"judge {self._model}: asked for a JSON object it said {text[:80]!r}; set method: sample for this judge."
            )

    def _check_text(self, choice: Mapping[str, Any]) -> str:
        text = _content(choice)
        if not text.strip():
            raise InputError(
                f"judge {self._model}: it wrote nothing (finish_reason {choice.get('finish_reason')!r}) in the few tokens that an "
                "answer may have, as models do that reason before they answer; take one that answers at once."
            )
        return text

    async def ask(self, questions: Sequence[JudgeQuestion]) -> list[Answer | NoAnswer]:
        """See Judging."""
        return [
            await self._send(functools.partial(self._draw, question), f"question {question.key}")
            for question in questions
        ]

    async def single_numbers(self) -> bool:
        """Whether the judge has numbers of two digits as one token: asks it to repeat one, with log-probs.

        Raises InputError where there are no log-probs, or where the answer does not tell.
        """
        told = await self._send(self._probe, "the probe")
        if isinstance(told, NoAnswer):
            raise InputError(
                f"judge {self._model}: it cannot be seen how it writes numbers ({told.reason}); {_USE_SAMPLE}."
            )
        return told

    async def _probe(self) -> bool:
        choice = _choice(await self._chat(probe_messages(), PROBE_TOKENS, 0.0, logprobs=True))
        tokens = [entry.get("token") for entry in _token_entries(choice)]
        if not tokens:
            raise InputError(f"judge {self._model}: the endpoint gives no log-probs; {_USE_SAMPLE}.")
        single = reads_single_number(tokens)
        if single is None:
            raise InputError(
                f"judge {self._model}: asked to repeat a number it said {_content(choice)[:80]!r}, so how it writes numbers "
                f"is not known; {_USE_SAMPLE}."
            )
        return single

    async def _draw(self, question: JudgeQuestion) -> Answer:
        with_logprobs = question.method in ("logprob", "digit")
        drawn = question.method == "sample"
        message = [{"role": "user", "content": question.prompt}]
        choice = _choice(
            await self._chat(
                message,
                question.max_tokens,
                1.0 if drawn else 0.0,
                logprobs=with_logprobs,
                seed=question.seed if drawn else None,
            )
        )
        answer: dict[str, Any] = {"text": _content(choice)}
        if with_logprobs and (entries := _token_entries(choice)):
            answer["top"] = _alternatives(entries[0])
        return answer

    async def _chat(
        self,
        messages: list[dict[str, str]],
        max_tokens: int,
        temperature: float,
        *,
        logprobs: bool,
        seed: int | None = None,
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model, "messages": messages, "max_tokens": max_tokens, "temperature": temperature,
        }  # fmt: skip
        if logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        if seed is not None:
            body["seed"] = seed
        return await send_adapted(body, self._adaptations, functools.partial(self._post, "/chat/completions"))


class EngineJudge(_Sender):
    """A judge on an engine of the study: rendered prompts in lists, and log-probs of tokens by their ids."""

    concurrency = OWN_CONCURRENCY
    list_size = LIST_SIZE

    def __init__(self, *args: Any, tokenizer: PreTrainedTokenizerBase, concurrency: int = OWN_CONCURRENCY) -> None:
        super().__init__(*args)
        self.concurrency = min(concurrency, OWN_CONCURRENCY)
        self._tokenizer = tokenizer
        self._tokens = answer_tokens(tokenizer, tuple(CLASSES))
        self._surface = functools.cache(functools.partial(token_text, tokenizer))

    async def ask(self, questions: Sequence[JudgeQuestion]) -> list[Answer | NoAnswer]:
        """See Judging."""
        method = questions[0].method
        # The number is read where the answer begins, so a judge that reasons is asked without a think block.
        prompts = [render(self._tokenizer, [Message("user", q.prompt)], True, enable_thinking=False) for q in questions]
        if method == "candidates":
            return await self._trees(questions, prompts)
        if method in ("logprob", "digit"):
            tops = await self._next_tokens(prompts, f"question {questions[0].key}", digits=method == "digit")
            return [top if isinstance(top, NoAnswer) else {"text": top[0], "top": top[1]} for top in tops]
        return await self._texts(questions, prompts)

    async def _trees(self, questions: Sequence[JudgeQuestion], prompts: Sequence[str]) -> list[Answer | NoAnswer]:
        """Level after level, with the prefixes of all questions of a level in one list."""
        trees: list[dict[str, dict[str, float]] | NoAnswer] = [{} for _ in questions]
        spaces = [""] * len(questions)
        texts = [""] * len(questions)
        while True:
            wanted = [
                (n, prefix)
                for n, tree in enumerate(trees)
                if isinstance(tree, dict)
                for prefix in prefixes_to_ask(tree)
            ]
            if not wanted:
                break
            asked = [prompts[n] + (spaces[n] + prefix if prefix else "") for n, prefix in wanted]
            tops = await self._next_tokens(asked, f"question {questions[0].key}", digits=True)
            for (n, prefix), top in zip(wanted, tops, strict=True):
                tree = trees[n]
                if isinstance(top, NoAnswer):
                    trees[n] = top
                elif isinstance(tree, dict):
                    tree[prefix] = top[1]
                    if not prefix:
                        texts[n], spaces[n] = top[0], leading_space(top[1])
        return [
            tree if isinstance(tree, NoAnswer) else {"text": text, "tree": tree}
            for tree, text in zip(trees, texts, strict=True)
        ]

    async def _next_tokens(
        self, prompts: Sequence[str], name: str, *, digits: bool
    ) -> list[tuple[str, dict[str, float]] | NoAnswer]:
        """Likeliest next token and log-probs behind each prompt: of the likeliest ones, or of digits and class words.

        A list of which one prompt is refused is asked again one by one, so that only that one goes without.
        """
        got = await self._send(functools.partial(self._draw_next, prompts, digits), name)
        if not isinstance(got, NoAnswer):
            return list(got)
        if len(prompts) == 1:
            return [got]
        return [(await self._next_tokens([prompt], name, digits=digits))[0] for prompt in prompts]

    async def _draw_next(self, prompts: Sequence[str], digits: bool) -> list[tuple[str, dict[str, float]]]:
        # The rendered prompt has its beginning-of-text token already.
        more: dict[str, Any] = {"return_tokens_as_token_ids": True, "add_special_tokens": False}
        if digits:
            more["logprob_token_ids"] = self._tokens
        sent = {
            "model": self._model, "prompt": list(prompts), "max_tokens": 1, "temperature": 0,
            "logprobs": len(self._tokens) if digits else TOP_LOGPROBS, **more,
        }  # fmt: skip
        body = await self._post("/completions", sent)
        choices = body.get("choices")
        listed = [c for c in choices if isinstance(c, dict)] if isinstance(choices, list) else []
        if sorted(c.get("index", -1) for c in listed) != list(range(len(prompts))):
            raise UnusableAnswer(f"the answer has not one choice for each of {len(prompts)} prompts: {body}")
        found = []
        for choice in sorted(listed, key=lambda c: int(c["index"])):
            top = ((choice.get("logprobs") or {}).get("top_logprobs") or [None])[0]
            if not isinstance(top, dict):
                raise UnusableAnswer(f"the answer has no log-probs: {body}")
            found.append((as_text(str(choice.get("text", ""))), self._by_text(top)))
        return found

    def _by_text(self, top: Mapping[str, float]) -> dict[str, float]:
        """ "token_id:17" → the token's text; two tokens of one text are added up."""
        found: dict[str, float] = {}
        for token, logprob in top.items():
            # What fills a list up that is shorter than another's in the engine's batch.
            if logprob <= -9999.0:
                continue
            text = self._surface(int(token.removeprefix("token_id:")))
            found[text] = logprob if text not in found else _log_add(found[text], logprob)
        return found

    async def _texts(self, questions: Sequence[JudgeQuestion], prompts: Sequence[str]) -> list[Answer | NoAnswer]:
        drawn = questions[0].method == "sample"
        requests = [
            SampleRequest(
                key=question.key,
                model=self._model,
                prompt=prompt,
                max_tokens=question.max_tokens,
                temperature=1.0 if drawn else 0.0,
                top_p=1.0,
                seed=question.seed,
            )
            for question, prompt in zip(questions, prompts, strict=True)
        ]
        got = await self._send(
            functools.partial(draw_list, self._connection.client, requests), f"question {questions[0].key}"
        )
        if not isinstance(got, NoAnswer):
            return [{"text": result.text} for result in got]
        if len(questions) == 1:
            return [got]
        return [(await self._texts([q], [p]))[0] for q, p in zip(questions, prompts, strict=True)]


def _log_add(a: float, b: float) -> float:
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


def _choice(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The answer's one choice. Raises UnusableAnswer where there is none with a message."""
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        raise UnusableAnswer(f"the answer has no message: {body}")
    if not isinstance(choice["message"].get("content"), str | None):
        raise UnusableAnswer(f"the answer's content is no text: {body}")
    return choice


def _content(choice: Mapping[str, Any]) -> str:
    return as_text(str(choice["message"].get("content") or ""))


def _token_entries(choice: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tokens of an answer with their log-probs; none where there are none, or something else stands there."""
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []


def _alternatives(entry: Mapping[str, Any]) -> dict[str, float]:
    """Log-prob by token text; two tokens of one text are added up."""
    found: dict[str, float] = {}
    listed = entry.get("top_logprobs")
    for one in listed if isinstance(listed, list) else []:
        token, logprob = (one.get("token"), one.get("logprob")) if isinstance(one, dict) else (None, None)
        if isinstance(token, str) and isinstance(logprob, int | float) and logprob <= 0:
            token = as_text(token)
            found[token] = logprob if token not in found else _log_add(found[token], logprob)
    return found
