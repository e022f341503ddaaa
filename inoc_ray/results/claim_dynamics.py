"""Numbers of claims on learning dynamics: how far training moves the log-probability of fixed responses, and when.

They are shares of the way from a fine-tune's first look, where its responses have the mean log-probability L₀, to certainty, 0:
the gain is (L − L₀)/(0 − L₀) at the last look, and the late gain what of it comes after the last look at or before half of the
steps, near 0 where the curve is flat; there is none if that look is in the first quarter, as most of the training comes after it.
They depend on no length of a response, and 1 is the most that there can be; they are negative where responses get less likely.

The unit of replication is the fine-tune, and the responses are these very ones: the interval of an arm's mean is Student's t over
its fine-tunes. Its draws are Σ zᵢ(xᵢ − x̄)/√(k(k − 1)) with the same normal zᵢ for every number of the arm, so that what is
computed from two of them has the correlation that they have over the fine-tunes.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from inoc_ray.results.rows import Source
from inoc_ray.results.stats import DRAWS, Estimate, Larger, combine, mean_of

if TYPE_CHECKING:
    from inoc_ray.results.dynamics import Look
    from inoc_ray.results.effects import Direction

GAIN, LATE_GAIN, LEAD = "log_prob_gain", "log_prob_late_gain", "log_prob_lead"
Curve = Sequence[tuple[int, float]]
"""(step, mean log-probability of the responses in nats) of one fine-tune, in the order of the steps."""


def gain(curve: Curve) -> float:
    """Return the share of the way to certainty that training goes."""
    return 1 - curve[-1][1] / curve[0][1]


def late_gain(curve: Curve) -> float | None:
    """Return the share of the way to certainty that training goes in the second half of its steps.

    From the last look at or before the half; None if there is none between a quarter and the half.
    """
    last = curve[-1][0]
    half = max(at for at, (step, _) in enumerate(curve) if step <= last / 2)
    return (curve[half][1] - curve[-1][1]) / curve[0][1] if curve[half][0] > last / 4 else None


_NUMBERS: Mapping[str, Callable[[Curve], float | None]] = {GAIN: gain, LATE_GAIN: late_gain}


def draw_gains(
    looks: Iterable[Look], draws: int = DRAWS, larger: Larger | None = None
) -> dict[tuple[str, str], Estimate]:
    """Return (arm, `key_of` a number) → the arm's mean over its fine-tunes, for the looks of one setting × model.

    larger: draw as for a study of that size. Deterministic: the same looks give the same draws.
    """
    more = larger or Larger()
    found: dict[tuple[str, str], Estimate] = {}
    seen: dict[str, int] = {}
    for arm, curves in sorted(_curves(looks).items()):
        numbers = {
            (name, *place): found_of
            for place, of_tunes in curves.items()
            for name, number in _NUMBERS.items()
            if (found_of := {seed: x for seed, curve in of_tunes.items() if (x := number(curve)) is not None})
        }
        digest = hashlib.sha256(repr([list(of.values()) for of in numbers.values()]).encode()).digest()
        # Arms with the very same numbers are drawn apart all the same.
        number_of_arm = seen[digest.hex()] = seen.get(digest.hex(), -1) + 1
        seeds = list(dict.fromkeys(seed for of_seed in numbers.values() for seed in of_seed))
        multipliers = np.random.default_rng([*digest, number_of_arm]).standard_normal((draws, len(seeds)))
        for (name, trait, context), of_seed in numbers.items():
            values, count = np.array(list(of_seed.values())), len(of_seed)
            df = max(1, count - 1) * more.seeds
            heavy = np.sqrt(df / np.random.default_rng([*digest, number_of_arm, count]).chisquare(df, draws))
            own = multipliers[:, [seeds.index(seed) for seed in of_seed]]
            apart = own @ (values - values.mean()) / math.sqrt(max(1, count * (count - 1)) * more.seeds)
            mean = float(values.mean())
            source = frozenset([source_of(arm, trait, context)])
            found[arm, key_of(name, trait, context)] = Estimate(mean, mean + apart * heavy, count, source)
    return found


def key_of(measure: str, trait: str, context: str) -> str:
    """Return the name of a number of an arm among its scores."""
    return f"{measure} {trait} {context}"


def source_of(arm: str, trait: str, context: str) -> Source:
    """Return what stands for the looks at an arm's responses among the levels that a number rests on."""
    return arm, "dynamics", trait, context


def _curves(looks: Iterable[Look]) -> dict[str, dict[tuple[str, str], dict[int | None, Curve]]]:
    """Return arm → (trait, context) → seed → its curve, in an order that is not that of the looks.

    Responses that are certain from the beginning have no way to go, and are left out. So are fine-tunes that were not followed from
    the beginning, or not in all sets of a trait and context that others were: a mean over fine-tunes is of the same responses.
    """
    looks = list(looks)
    sets: dict[tuple[str, str], set[str]] = {}
    own: dict[tuple[str, str, str, int | None], set[str]] = {}
    for one in looks:
        sets.setdefault((one.trait, one.context), set()).add(one.probe)
        own.setdefault((one.arm, one.trait, one.context, one.seed), set()).add(one.probe)
    values: dict[str, dict[tuple[str, str], dict[int | None, dict[int, list[float]]]]] = {}
    for one in sorted(looks, key=lambda look: (look.trait, look.context, str(look.seed), look.step)):
        of_arm = values.setdefault(one.arm, {}).setdefault((one.trait, one.context), {})
        of_arm.setdefault(one.seed, {}).setdefault(one.step, []).append(one.logprob)
    return {
        arm: {
            place: {
                seed: curve
                for seed, steps in tunes.items()
                if own[(arm, *place, seed)] == sets[place]
                and (curve := [(step, statistics.fmean(of)) for step, of in steps.items()])[0][1] < 0
                and curve[0][0] == 0
            }
            for place, tunes in places.items()
        }
        for arm, places in values.items()
    }


def measured_gain(
    measure: str, arm: str, direction: Direction, context: str, scores: Mapping[tuple[str, str], Estimate]
) -> Estimate | str:
    """Return one of the numbers of an arm, the mean over its traits; why there is none otherwise."""
    if measure != LEAD:
        return _mean(measure, arm, direction.undesired, context, scores)
    ahead = _mean(GAIN, arm, direction.desired, context, scores)
    behind = _mean(GAIN, arm, direction.undesired, context, scores)
    if isinstance(ahead, str) or isinstance(behind, str):
        return ahead if isinstance(ahead, str) else behind
    return combine(lambda a, b: a - b, ahead, behind)


def _mean(
    measure: str, arm: str, traits: Sequence[str], context: str, scores: Mapping[tuple[str, str], Estimate]
) -> Estimate | str:
    found = []
    for trait in traits:
        one = scores.get((arm, key_of(measure, trait, context)))
        if one is None and (arm, key_of(GAIN, trait, context)) in scores:
            return f"{arm} was not looked at between a quarter and half of its steps; give more dynamics.points"
        if one is None:
            return f"no responses with {trait} were followed in {arm} under the context {context}"
        found.append(one)
    return mean_of(found) or f"{arm} has no such trait; name one as `trait`"
