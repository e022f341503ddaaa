"""The content ids of a plan: what a trial was trained from, what a cell samples, which rules scored it."""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import Any

from inoc_ray.config.base import Config
from inoc_ray.config.identity import FORMAT, content_id, identity_fields
from inoc_ray.data.inoculate import placement_fields
from inoc_ray.data.questions import InTurn
from inoc_ray.plan.contexts import ResolvedContext
from inoc_ray.settings import ArmSpec, EvaluationSpec, Setting
from inoc_ray.study.evaluation import Evaluation
from inoc_ray.study.recipe import Recipe

_PROBE = 32
"""Questions of a generator whose text enters an evaluation's id: enough to tell two apart, few enough to be quick."""


def arm_identity(arm: ArmSpec) -> dict[str, Any]:
    """Return what an arm does to its rows; the fields of an inoculation count only where there is a prompt."""
    return {"prompt": arm.prompt, **({} if arm.prompt is None else _fields(arm.inoculation))}


@functools.cache
def _fields(config: Config) -> dict[str, Any]:
    """What of a configuration enters an id. Thousands of trials share a recipe."""
    return identity_fields(config)


def trial_id(*, model: str, dataset: str, arm: ArmSpec, recipe: Recipe, seed: int) -> str:
    """Return a trial's id: what it is trained on, from, how, and with which seed; never names, places or widths.

    model: identity of what it starts from. dataset: hash of the rows before inoculation.
    """
    return content_id(
        {
            "format": FORMAT,
            "model": model,
            "dataset": dataset,
            "arm": arm_identity(arm),
            "recipe": _fields(recipe),
            "seed": seed,
        }
    )


def base_id(*, model: str, setting: str) -> str:
    """Return the id of a model before its trials, in a setting."""
    return content_id({"format": FORMAT, "base": model, "setting": setting})


def evaluation_id(spec: EvaluationSpec, resolved_context: ResolvedContext, evaluation: Evaluation, precision: str) -> str:
    """Return a cell's id within a trial: questions, context, sampling and the engine's precision.

    Not how many samples, so that a cell can grow, and not who judges them.
    """
    value = {
        "format": FORMAT,
        "questions": _questions_id(spec),
        "system": resolved_context.text,
        "max_tokens": spec.max_tokens,
        "sampling": identity_fields(sampling_of(spec, evaluation)),
        "precision": precision,
    }
    if spec.file_hash:
        value["file"] = spec.file_hash
    if spec.choices:
        value["choices"] = list(spec.choices)
    if resolved_context.trigger is not None:
        value["trigger"] = asdict(resolved_context.trigger)
    placement = placement_fields(resolved_context.inoculation)
    return content_id(value | {"placement": placement} if placement else value)


def sampling_of(spec: EvaluationSpec, evaluation: Evaluation) -> Evaluation:
    """Return the study's sampling with what the evaluation sets itself."""
    own = {name: v for name in ("temperature", "top_p") if (v := getattr(spec, name)) is not None}
    return evaluation.model_copy(update=own)


@functools.cache
def _questions_id(spec: EvaluationSpec) -> str:
    # All of a list, of which any single question may be edited; of a file the hash stands in the id already.
    listed = spec.questions.questions if isinstance(spec.questions, InTurn) and not spec.file_hash else ()
    count = max(_PROBE, len(listed))
    return content_id([[[m.role, m.content] for m in q.messages] for q in spec.questions(count)])


def scores_id(setting: Setting, spec: EvaluationSpec) -> str:
    """Return which rules score an evaluation: 16 hex digits over setting, traits and rule version, or over its own rules."""
    if spec.rules:
        return content_id({"suite": spec.rules_id})
    return content_id({"setting": setting.name, "traits": sorted(setting.judges), "version": setting.judge_version})
