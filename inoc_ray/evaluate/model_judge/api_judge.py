"""A judge behind an OpenAI-compatible API: one chat a question."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from inoc_ray.config.identity import as_text
from inoc_ray.endpoint.auth import Api, is_address, read_key
from inoc_ray.endpoint.connection import Connection
from inoc_ray.endpoint.dialect import send_adapted
from inoc_ray.endpoint.errors import UnusableAnswer
from inoc_ray.errors import InputError, hide_password
from inoc_ray.evaluate.model_judge.client import SAMPLE_TOKENS, USE_SAMPLE, JudgeQuestion, NoAnswer, Sender, add_logprob
from inoc_ray.evaluate.model_judge.number_tokens import (
    TOP_LOGPROBS,
    json_probe_messages,
    probe_messages,
    reads_single_number,
)
from inoc_ray.evaluate.model_judge.read_answer import Answer, parse_object
from inoc_ray.study.evaluation import Judge

PROBE_TOKENS = 4
JSON_PROBE_TOKENS = 48


def judge_api(judge: Judge, name: str) -> Api:
    """Return the address of a judge behind an API, with the key from the environment variable that the study names.

    Raises InputError, naming the judge, when the address is not valid or the variable is not set. No message shows the key.
    """
    assert judge.endpoint is not None
    if not is_address(judge.endpoint):
        raise InputError(
            f"judges: {name!r}: endpoint {hide_password(judge.endpoint)!r} is not an address; write it as https://HOST/v1."
        )
    return Api(judge.endpoint, read_key(judge.api_key_env, f"judges: {name!r}: api_key_env"))


class ApiJudge(Sender):
    """A judge that only offers chats: one question a request."""

    list_size = 1

    def __init__(self, connection: Connection, *, model: str, on_call: Callable[[], None], concurrency: int) -> None:
        super().__init__(connection, model=model, on_call=on_call)
        self.concurrency = concurrency
        self._adaptations: set[str] = set()

    async def probe(self, method: str) -> None:
        """Make one call as the judge's method does, with a question about nothing.

        Raises InputError with the API's own message when it refuses, and when its answer is of no use.
        """
        if method in ("auto", "logprob"):
            await self.writes_single_numbers()
            return
        draw = {"digit": self._probe_digit, "sample": self._probe_text, "json": self._probe_json}[method]
        answer = await self._send(draw, "the probe")
        if isinstance(answer, NoAnswer):
            raise InputError(f"judge {self._model}: {answer.reason}")

    async def _probe_digit(self) -> None:
        choice = await self._chat(probe_messages(), max_tokens=1, temperature=0.0, logprobs=True)
        if not _token_entries(choice):
            raise InputError(f"judge {self._model}: the endpoint gives no log-probs; {USE_SAMPLE}.")

    async def _probe_text(self) -> None:
        self._check_text(await self._chat(probe_messages(), max_tokens=SAMPLE_TOKENS, temperature=1.0, seed=0))

    async def _probe_json(self) -> None:
        choice = await self._chat(json_probe_messages(), max_tokens=JSON_PROBE_TOKENS, temperature=0.0)
        text = self._check_text(choice)
        if parse_object(text) is None:
            raise InputError(
                f"judge {self._model}: answered {text[:80]!r} to a request for a JSON object; set method: sample for this judge."
            )

    def _check_text(self, choice: Mapping[str, Any]) -> str:
        text = _content(choice)
        if not text.strip():
            raise InputError(
                f"judge {self._model}: wrote nothing (finish_reason {choice.get('finish_reason')!r}) in the few tokens that an "
                "answer may have, as models do that reason first; use a model that answers at once."
            )
        return text

    async def ask(self, questions: Sequence[JudgeQuestion]) -> list[Answer | NoAnswer]:
        """Return the answers in the order of the questions; see `JudgeClient`."""
        return [
            await self._send(functools.partial(self._draw, question), f"question {question.key}")
            for question in questions
        ]

    async def writes_single_numbers(self) -> bool:
        """Return whether the judge writes a number of two digits as one token, by asking it to repeat one.

        Raises InputError when the API gives no log-probs, or when the answer does not show it.
        """
        single = await self._send(self._probe_numbers, "the probe")
        if isinstance(single, NoAnswer):
            raise InputError(
                f"judge {self._model}: how it writes numbers cannot be found out ({single.reason}); {USE_SAMPLE}."
            )
        return single

    async def _probe_numbers(self) -> bool:
        choice = await self._chat(probe_messages(), max_tokens=PROBE_TOKENS, temperature=0.0, logprobs=True)
        tokens = [entry.get("token") for entry in _token_entries(choice)]
        if not tokens:
            raise InputError(f"judge {self._model}: the endpoint gives no log-probs; {USE_SAMPLE}.")
        single = reads_single_number(tokens)
        if single is None:
            raise InputError(
                f"judge {self._model}: answered {_content(choice)[:80]!r} when asked to repeat a number, so how it writes "
                f"numbers is not known; {USE_SAMPLE}."
            )
        return single

    async def _draw(self, question: JudgeQuestion) -> Answer:
        with_logprobs = question.method in ("logprob", "digit")
        drawn = question.method == "sample"
        choice = await self._chat(
            [{"role": "user", "content": question.prompt}],
            max_tokens=question.max_tokens,
            temperature=1.0 if drawn else 0.0,
            logprobs=with_logprobs,
            seed=question.seed if drawn else None,
        )
        answer: dict[str, Any] = {"text": _content(choice)}
        if with_logprobs and (entries := _token_entries(choice)):
            answer["top"] = _alternatives(entries[0])
        return answer

    async def _chat(
        self,
        messages: list[dict[str, str]],
        *,
        max_tokens: int,
        temperature: float,
        logprobs: bool = False,
        seed: int | None = None,
    ) -> Mapping[str, Any]:
        """Send one chat and return the answer's choice."""
        body: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        if logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        if seed is not None:
            body["seed"] = seed
        return _choice(await send_adapted(body, self._adaptations, functools.partial(self._post, "/chat/completions")))


def _choice(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the answer's first choice. Raise UnusableAnswer when it has none with a message."""
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        raise UnusableAnswer(f"the answer has no message: {body}")
    if not isinstance(choice["message"].get("content"), str | None):
        raise UnusableAnswer(f"the answer's content is not text: {body}")
    return choice


def _content(choice: Mapping[str, Any]) -> str:
    return as_text(str(choice["message"].get("content") or ""))


def _token_entries(choice: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the answer's tokens with their log-probs; none when it has none, or something else in their place."""
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []


def _alternatives(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return token text → log-prob; malformed entries are skipped."""
    found: dict[str, float] = {}
    listed = entry.get("top_logprobs")
    for one in listed if isinstance(listed, list) else []:
        token, logprob = (one.get("token"), one.get("logprob")) if isinstance(one, dict) else (None, None)
        if isinstance(token, str) and isinstance(logprob, int | float) and logprob <= 0:
            add_logprob(found, as_text(token), logprob)
    return found
