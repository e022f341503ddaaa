"""What every judge client shares: a question, its answer or the reason there is none, and the errors that end all questions.

A question is one user message. What comes back is an answer as `parse` reads it, or a NoAnswer that concerns this question
alone. What concerns every question (a wrong key, an unknown model, an endpoint that is down) is raised.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from inoc_ray.endpoint.auth import redact
from inoc_ray.endpoint.connection import Connection
from inoc_ray.endpoint.errors import OF_ONE_REQUEST, NoReadableAnswer, RequestRefused, UnusableAnswer
from inoc_ray.errors import InputError
from inoc_ray.evaluate.model_judge.read_answer import Answer
from inoc_ray.study.evaluation import Method

T = TypeVar("T")
SAMPLE_TOKENS = 16
"""Room for a number with a few words around it."""
USE_SAMPLE = "set method: sample or method: json for this judge, which need no log-probs"
_SHORTEST_SECRET = 8
"""A shorter key is not removed from answers: an answer may contain the same letters by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeQuestion:
    """One call to a judge."""

    key: str
    """The id of the question's content, under which the cache stores the answer."""
    prompt: str
    method: Method
    index: int = 0
    """Which draw it is (method `sample`; else 0)."""
    max_tokens: int = 1

    @property
    def seed(self) -> int:
        """The sampling seed, which follows from the question's content."""
        return int(self.key, 16) >> 33


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Why one question has no answer."""

    reason: str
    refused: bool = False
    """Whether the endpoint refused the question, rather than sending an answer that cannot be read."""


class JudgeClient(Protocol):
    """A judging model that answers questions."""

    concurrency: int
    """Calls of `ask` in flight at once."""
    list_size: int
    """Questions in one call."""

    async def ask(self, questions: Sequence[JudgeQuestion]) -> list[Answer | NoAnswer]:
        """Return the answers in the order of the questions, which all use the same method."""
        ...


class Sender:
    """Sends the requests of one judge; `on_call` is called before each."""

    def __init__(self, connection: Connection, *, model: str, on_call: Callable[[], None]) -> None:
        self._connection, self._model, self._on_call = connection, model, on_call

    async def _send(self, draw: Callable[[], Awaitable[T]], name: str) -> T | NoAnswer:
        """Return the answer, or a NoAnswer that concerns this request alone.

        Raise InputError for a wrong key or model, and TrialError when the endpoint stops answering.
        """
        refused: RequestRefused | None = None
        try:
            return await self._connection.send(self._counted(draw), f"{name} of judge {self._model}")
        except NoReadableAnswer as error:
            return NoAnswer(str(error))
        except RequestRefused as error:
            refused = error
        # Raised out here: the client's error, which would be the cause, holds the request with its key.
        if refused.status not in OF_ONE_REQUEST:
            raise InputError(f"judge {self._model}: {refused}{_HINTS.get(refused.status, '')}")
        reason = str(refused)
        if "logprob" in reason:
            raise InputError(f"judge {self._model}: the endpoint gives no log-probs ({reason}); {USE_SAMPLE}.")
        if "temperature" in reason:
            raise InputError(
                f"judge {self._model}: {reason}; set method: sample for this judge, which samples at temperature 1."
            )
        return NoAnswer(reason, refused=True)

    @property
    def _key(self) -> str | None:
        return self._connection.api_key

    def _counted(self, draw: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
        async def counted() -> T:
            self._on_call()
            return await draw()

        return counted

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer as a JSON object without the key, which the server may quote.

        Raise ValueError for what is not JSON, and UnusableAnswer for what is not an object. The client's own types are
        not used: they take a third of a call's CPU time, and let malformed answers pass anyway.
        """
        from openai import HttpxBinaryResponseContent

        text = (await self._connection.client.post(path, cast_to=HttpxBinaryResponseContent, body=body)).text
        if self._key is not None and len(self._key) >= _SHORTEST_SECRET:
            text = redact(self._key, text)
        answer = json.loads(text)
        if not isinstance(answer, dict):
            raise UnusableAnswer(f"the answer is not an object: {text}")
        return answer


_HINTS = {
    401: "; check that api_key_env names the right key.",
    403: "; check that api_key_env names the right key.",
    404: "; check endpoint and served_model.",
}
"""HTTP status → what to change."""


def add_logprob(logprobs: dict[str, float], token: str, logprob: float) -> None:
    """Enter a token's log-prob; the probabilities of two tokens with the same text are added."""
    known = logprobs.get(token)
    logprobs[token] = logprob if known is None else _log_add(known, logprob)


def _log_add(a: float, b: float) -> float:
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))
