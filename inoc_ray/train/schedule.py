"""The learning rate of each optimizer step."""

from __future__ import annotations

import math

from inoc_ray.study.recipe import Recipe


def learning_rate_at(recipe: Recipe, step: int, steps: int) -> float:
    """Return the rate of optimizer step `step` (from 1) of `steps`.

    The warm-up is linear from rate / warmup_steps to the full rate, which step `warmup_steps` + 1 has at the latest. Then
    the rate stays, or falls along a line or half a cosine to zero, which the step after the last would have.
    """
    if step <= recipe.warmup_steps:
        return recipe.learning_rate * step / recipe.warmup_steps
    if recipe.schedule == "constant":
        return recipe.learning_rate
    done = (step - 1 - recipe.warmup_steps) / max(1, steps - recipe.warmup_steps)
    factor = 1.0 - done if recipe.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return recipe.learning_rate * factor
