"""Who answers the requests of a build, and how they are asked: chats over an OpenAI-compatible endpoint, whoever runs it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.builders.journal import REFUSED, Answer
from inoc_ray.builders.spec import Request
from inoc_ray.console import say
from inoc_ray.endpoint.auth import Api, check_reachable, is_address, read_key
from inoc_ray.endpoint.connection import Connection, EndpointAddress, connect
from inoc_ray.endpoint.dialect import send_adapted
from inoc_ray.endpoint.errors import OF_ONE_REQUEST, RequestRefused, UnusableAnswer
from inoc_ray.endpoint.parallel import in_parallel
from inoc_ray.endpoint.retry import PATIENT, Retry
from inoc_ray.errors import InputError, hide_password

if TYPE_CHECKING:
    from openai import AsyncOpenAI

CONCURRENCY = 32
"""Requests under way at once: fills an engine's batch, and stays within what a public API allows."""


@dataclass(frozen=True)
class Remote:
    """An OpenAI-compatible API at an address."""

    base_url: str
    served_name: str
    api_key: str | None = field(default=None, repr=False)

    @property
    def identity(self) -> dict[str, str]:
        """The model's name there: where it is served may change while a build is interrupted."""
        return {"served_model": self.served_name}

    @contextlib.contextmanager
    def answering(self, name: str) -> Iterator[tuple[EndpointAddress, str]]:
        """Return the endpoint and the model's name on it. Raises InputError if nothing answers there, or the key is refused."""
        self.check()
        yield self, self.served_name

    def check(self) -> None:
        """Raise InputError if nothing answers at the address, or the key is refused: no request would get an answer."""
        check_reachable(Api(self.base_url, self.api_key), "--endpoint")


@dataclass(frozen=True)
class Own:
    """A model folder that this command serves itself, in the way evaluations are served."""

    folder: Path
    model_hash: str

    @property
    def identity(self) -> dict[str, str]:
        """The content of the model's files."""
        return {"model": self.model_hash}

    @contextlib.contextmanager
    def answering(self, name: str) -> Iterator[tuple[EndpointAddress, str]]:
        """Return the endpoint, for the length of a `with` block; `name` tells it from other engines of a shared cluster."""
        from inoc_ray.cluster.connect import connected
        from inoc_ray.serve.app import serving
        from inoc_ray.serve.spec import ServeSpec

        say("starting Ray ...")
        with connected() as capacity:
            spec = ServeSpec(
                model=self.folder, model_id="teacher", gpus=int(min(1.0, capacity.gpus)), name=f"build-{name}"
            )
            with serving(spec) as endpoint:
                yield endpoint, "teacher"


def teacher(
    model: str | None, endpoint: str | None, served_name: str | None, api_key_env: str | None
) -> Own | Remote | None:
    """Who answers, from the options of the command; None where neither a model nor an endpoint is named.

    Raises InputError for options that do not go together, for a folder that is no model and for a variable that is not set.
    """
    if model is not None and endpoint is not None:
        raise InputError("data build: --model and --endpoint are both given; leave one out.")
    if endpoint is None:
        if served_name is not None or api_key_env is not None:
            raise InputError(
                "data build: --served-model and --api-key-env belong to an --endpoint; give its address too."
            )
        return None if model is None else _own(model)
    if not is_address(endpoint):
        raise InputError(f"--endpoint {hide_password(endpoint)}: not an address; give one as https://HOST/v1.")
    if served_name is None:
        raise InputError("data build: --endpoint needs --served-model, the model's name there.")
    return Remote(endpoint, served_name, read_key(api_key_env, "--api-key-env"))


def _own(model: str) -> Own:
    from inoc_ray.models.resolve import fetch, resolve_model

    fetch(model, "data build --model")
    found = resolve_model(model, "data build --model")
    return Own(found.path, found.hash)


async def converse(
    endpoint: EndpointAddress, model: str, asked: Iterable[tuple[int, Request, int]], retry: Retry = PATIENT
) -> AsyncGenerator[tuple[int, Answer], None]:
    """Send (number, request, seed) in order, several at once; yield each answer with its number as it arrives.

    Closing the iteration cancels requests under way. A request that is refused for its content yields an answer with `finish`
    REFUSED. Raises InputError when the endpoint refuses the caller or the model, TrialError when the tries are used up; no
    message holds the key.
    """
    async with connect(endpoint, concurrency=CONCURRENCY, retry=retry) as connection:
        adaptations: set[str] = set()
        jobs = (_answer(connection, model, numbered, adaptations) for numbered in asked)
        async with aclosing(in_parallel(jobs, CONCURRENCY)) as answers:
            async for answer in answers:
                yield answer


async def _answer(
    connection: Connection, model: str, numbered: tuple[int, Request, int], adaptations: set[str]
) -> tuple[int, Answer]:
    number, request, seed = numbered
    draw = functools.partial(_draw, connection.client, model=model, request=request, seed=seed, adaptations=adaptations)
    try:
        return number, await connection.send(draw, f"request {number + 1} of model {model}")
    except RequestRefused as refused:
        if refused.status not in OF_ONE_REQUEST:
            raise
        return number, Answer(str(refused), REFUSED)


async def _draw(client: AsyncOpenAI, *, model: str, request: Request, seed: int, adaptations: set[str]) -> Answer:
    body = {
        "model": model,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "seed": seed,
    }

    async def send(adapted: dict[str, Any]) -> Any:
        return await client.chat.completions.create(**adapted)

    answer = await send_adapted(body, adaptations, send)
    # The client parses any body: a page of HTML comes as a text, a missing field as None.
    choice: Any = next(iter(getattr(answer, "choices", None) or ()), None)
    message = getattr(choice, "message", None)
    text = getattr(message, "content", None)
    if message is None or not (text is None or isinstance(text, str)):
        raise UnusableAnswer(f"the answer has no message: {answer}")
    return Answer(text or "", str(choice.finish_reason or "stop"))
