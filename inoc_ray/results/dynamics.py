"""Learning dynamics as tidy data: the log-probability of fixed responses over the steps of every fine-tune, and of every arm."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inoc_ray.results.records import TrialRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class _Followed:
    """A probe set after one step of one fine-tune."""

    setting: str
    model: str
    arm: str
    kind: str
    seed: int | None
    probe: str
    trait: str
    context: str
    step: int
    """0 is before the first one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look(_Followed):
    """The log-probability of one fixed response after one step of one fine-tune."""

    response: int
    logprob: float
    """Σ over the response's tokens, in nats."""
    tokens: int


def looks_of(trials: Iterable[TrialRecord]) -> Iterator[Look]:
    """Yield what was followed of each fine-tune, from its curve."""
    for trial in trials:
        for step, probe, values in _by_step(trial.curves):
            about = trial.probes[probe]
            for response, (value, tokens) in enumerate(zip(values, about["tokens"], strict=True)):
                yield Look(
                    setting=trial.setting,
                    model=trial.compared_as or trial.model,
                    arm=trial.arm,
                    kind=trial.kind,
                    seed=trial.seed,
                    probe=probe,
                    trait=about["trait"],
                    context=about["context"],
                    step=step,
                    response=response,
                    logprob=value,
                    tokens=tokens,
                )


def _by_step(curves: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, str, Sequence[float]]]:
    for row in curves:
        for step, found in ((row["step"] - 1, row.get("logprobs_before")), (row["step"], row.get("logprobs"))):
            for probe, values in (found or {}).items():
                yield step, probe, values


@dataclass(frozen=True, slots=True, kw_only=True)
class Course(_Followed):
    """A probe set after one step: the mean log-probability of its responses, of an arm (`seed` None) or of one fine-tune."""

    logprob: float
    """The mean over the responses, in nats a response; of an arm the mean of its fine-tunes."""
    low: float | None = None
    high: float | None = None
    """The 95 % interval of an arm's mean over fine-tunes (Student's t); None for one fine-tune."""
    seeds: int = 1


def courses_of(looks: Iterable[Look]) -> list[Course]:
    """Return the mean of each fine-tune, and of each arm over its fine-tunes, in the order of the looks; arms first."""
    of_tune: dict[tuple[Any, ...], list[float]] = {}
    for one in looks:
        arm = (one.setting, one.model, one.arm, one.kind, one.probe, one.trait, one.context)
        of_tune.setdefault((arm, one.step, one.seed), []).append(one.logprob)
    means = {key: statistics.fmean(values) for key, values in of_tune.items()}
    of_arm: dict[tuple[Any, ...], list[float]] = {}
    for (arm, step, _), mean in means.items():
        of_arm.setdefault((arm, step), []).append(mean)
    return [
        *(
            _course(arm, step, None, statistics.fmean(values), *_limits(values), seeds=len(values))
            for (arm, step), values in of_arm.items()
        ),
        *(_course(arm, step, seed, mean) for (arm, step, seed), mean in means.items()),
    ]


ArmPlace = tuple[str, str, str, str]
"""Setting, model, arm, kind."""
Asked = Mapping[ArmPlace, int]
"""The place of an arm → fine-tunes that the study asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What was followed of a study's fine-tunes while they trained."""

    looks: tuple[Look, ...] = ()
    asked: Asked = field(default_factory=dict)
    """Arms in which the study follows something."""
    to_train: frozenset[ArmPlace] = frozenset()
    """Those of them with a fine-tune that is not trained yet."""


def _course(
    arm: tuple[str, ...],
    step: int,
    seed: int | None,
    mean: float,
    low: float | None = None,
    high: float | None = None,
    *,
    seeds: int = 1,
) -> Course:
    setting, model, name, kind, probe, trait, context = arm
    return Course(
        setting=setting,
        model=model,
        arm=name,
        kind=kind,
        seed=seed,
        probe=probe,
        trait=trait,
        context=context,
        step=step,
        logprob=mean,
        low=low,
        high=high,
        seeds=seeds,
    )


def _limits(values: Sequence[float]) -> tuple[float | None, float | None]:
    if len(values) < 2:
        return None, None
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half
