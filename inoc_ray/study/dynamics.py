"""Learning dynamics: what is followed while a fine-tune trains, fixed responses and the rates of sampled ones, and when."""

from __future__ import annotations

from collections import Counter

from pydantic import field_validator

from inoc_ray.config.base import Config, check_name
from inoc_ray.config.identity import runtime
from inoc_ray.errors import InputError

FEWEST, MOST = 3, 16
"""Looks at a fine-tune where a study gives no number."""


class Response(Config):
    """A question and an answer to it that nobody is trained on."""

    question: str = runtime(min_length=1)
    """The user's message."""
    response: str = runtime(min_length=1)
    """The assistant's answer, as the model would have to write it."""

    @field_validator("question", "response")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be blank")
        return value


class ProbeSet(Config):
    """Fixed responses that express exactly one trait."""

    name: str = runtime()
    """The name that curves bear, such as the trait's."""
    trait: str | None = runtime(None)
    """The trait that the responses express. Default: the name."""
    responses: tuple[Response, ...] = runtime(min_length=1)
    """About ten; the log-probability of a response is the sum over its tokens, with the end of its turn."""

    _name = field_validator("name")(check_name)


class Dynamics(Config):
    """What is followed while fine-tunes train. It changes no weights, and fine-tunes that are done are not trained again for it."""

    probes: tuple[ProbeSet, ...] = runtime(())
    """Probe sets of your own, beside those of the setting; one of a setting's names replaces its set."""
    contexts: tuple[str, ...] = runtime(("neutral",), min_length=1)
    """The contexts in which the questions are asked, by the names that `evaluation.contexts` knows."""
    points: int | None = runtime(None, ge=2, le=10_000)
    """How often each fine-tune is looked at: before the first step, after the last one, and between at log-spaced steps.
    Default: as often as takes less than 5 % of the training's time, at least 3 and at most 16 times."""
    samples: int | None = runtime(None, ge=1)
    """Samples of each evaluation, in `contexts`, from the weights that fine-tunes keep on the way (`resources.checkpoints`),
    beside as many of the base and of the final weights: the rates over the steps. An evaluation with fewer samples gives those.
    Default: none."""

    @field_validator("probes")
    @classmethod
    def _no_name_twice(cls, value: tuple[ProbeSet, ...]) -> tuple[ProbeSet, ...]:
        twice = [name for name, count in Counter(one.name for one in value).items() if count > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} appears twice; give each set its own name")
        return value


def looks_at(steps: int, points: int) -> tuple[int, ...]:
    """Return the steps after which a fine-tune of `steps` steps is looked at: 0, the last one, and log-spaced ones between.

    Fewer than `points` where the first of them would coincide. Raises InputError for less than two points.
    """
    if points < 2:
        raise InputError(f"dynamics.points: {points} does not hold the beginning and the end; give 2 or more.")
    return tuple(sorted({0, *(round(steps ** (n / (points - 1))) for n in range(1, points))}))
