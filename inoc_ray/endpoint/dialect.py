"""Adapt requests to an API's dialect of OpenAI's, learned from what it refuses, without changing what is asked."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

T = TypeVar("T")

MAX_COMPLETION_TOKENS = "max_completion_tokens"
DEFAULT_TEMPERATURE = "the default temperature"
NO_SEED = "no seed"


def adaptation(body: dict[str, Any], refusal: str) -> str | None:
    """Return the change to a request that was refused with this message; None when no change would ask the same.

    OpenAI's reasoning models, and others like them, accept `max_completion_tokens` alone; some accept only the default
    temperature, which is 1, or no seed.
    """
    if "max_tokens" in body and MAX_COMPLETION_TOKENS in refusal:
        return MAX_COMPLETION_TOKENS
    if body.get("temperature") == 1.0 and "temperature" in refusal:
        return DEFAULT_TEMPERATURE
    if "seed" in body and re.search(r"\bseed\b", refusal):
        return NO_SEED
    return None


def adapt(body: dict[str, Any], adaptations: Collection[str]) -> dict[str, Any]:
    """Return the request with the adaptations applied."""
    changed = dict(body)
    if MAX_COMPLETION_TOKENS in adaptations:
        changed[MAX_COMPLETION_TOKENS] = changed.pop("max_tokens")
    if DEFAULT_TEMPERATURE in adaptations and changed["temperature"] == 1.0:
        del changed["temperature"]
    if NO_SEED in adaptations:
        changed.pop("seed", None)
    return changed


async def send_adapted(
    body: dict[str, Any], adaptations: set[str], send: Callable[[dict[str, Any]], Awaitable[T]]
) -> T:
    """Send the request in the API's dialect and return the result of `send`; add what a refusal teaches to `adaptations`.

    Raises openai's BadRequestError or UnprocessableEntityError when no adaptation helps.
    """
    from openai import BadRequestError, UnprocessableEntityError

    while True:
        sent = adapt(body, adaptations)
        try:
            return await send(sent)
        except (BadRequestError, UnprocessableEntityError) as error:
            learned = adaptation(sent, error.message)
            if learned is None:
                raise
            adaptations.add(learned)
