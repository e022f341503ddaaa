"""What an OpenAI-compatible API wants otherwise than most: found out by what it refuses, and never by asking something else."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

T = TypeVar("T")

MAX_COMPLETION_TOKENS = "max_completion_tokens"
DEFAULT_TEMPERATURE = "the default temperature"
NO_SEED = "no seed"


def adaptation(body: dict[str, Any], refusal: str) -> str | None:
    """Return what is to be changed in a request that was refused with this sentence; None where nothing asks the same.

    OpenAI's reasoning models and those that copy them take `max_completion_tokens` alone; some take no temperature but the
    default, which is 1, or no seed.
    """
    if "max_tokens" in body and MAX_COMPLETION_TOKENS in refusal:
        return MAX_COMPLETION_TOKENS
    if body.get("temperature") == 1.0 and "temperature" in refusal:
        return DEFAULT_TEMPERATURE
    if "seed" in body and re.search(r"\bseed\b", refusal):
        return NO_SEED
    return None


def adapt(body: dict[str, Any], adaptations: Collection[str]) -> dict[str, Any]:
    """Return the request as the API wants it."""
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
    """Return what `send` gives for the request as the API wants it; what it turns out to want is added to `adaptations`."""
    from openai import BadRequestError, UnprocessableEntityError

    while True:
        sent = adapt(body, adaptations)
        try:
            return await send(sent)
        except (BadRequestError, UnprocessableEntityError) as error:
            wanted = adaptation(sent, error.message)
            if wanted is None:
                raise
            adaptations.add(wanted)
