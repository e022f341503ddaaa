"""The content ids of a plan: of trials, bases, evaluations and rule scores."""

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
"""Questions of a generator that enter an evaluation's id: enough to tell two generators apart, few enough to be quick."""


def arm_identity(arm: ArmSpec) -> dict[str, Any]:
    """Return what an arm does to its rows; an inoculation counts only if there is a prompt."""
    return {"prompt": arm.prompt, **({} if arm.prompt is None else _fields(arm.inoculation))}


@functools.cache
def _fields(config: Config) -> dict[str, Any]:
    """Return the identity fields of a configuration. Cached: thousands of trials share a recipe."""
    return identity_fields(config)


def trial_id(*, model: str, dataset: str, arm: ArmSpec, recipe: Recipe, seed: int) -> str:
    """Return a trial's id: 16 hex digits over what it starts from, its rows, arm, recipe and seed; never names or widths.

    model: identity of the model that it starts from. dataset: hash of the rows before inoculation.
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


def evaluation_id(spec: EvaluationSpec, context: ResolvedContext, evaluation: Evaluation, precision: str) -> str:
    """Return a cell's id within a trial, over questions, context, sampling and the engine's precision.

    The number of samples is left out, so that a cell can grow; so are its judges.
    """
    value = {
        "format": FORMAT,
        "questions": _questions_id(spec),
        "system": context.text,
        "max_tokens": spec.max_tokens,
        "sampling": identity_fields(sampling_of(spec, evaluation)),
        "precision": precision,
    }
    if spec.file_hash:
        value["file"] = spec.file_hash
    if spec.choices:
        value["choices"] = list(spec.choices)
    if context.trigger is not None:
        value["trigger"] = asdict(context.trigger)
    placement = placement_fields(context.inoculation)
    return content_id(value | {"placement": placement} if placement else value)


def sampling_of(spec: EvaluationSpec, evaluation: Evaluation) -> Evaluation:
    """Return the study's sampling parameters with the evaluation's own in their place."""
    own = {name: v for name in ("temperature", "top_p") if (v := getattr(spec, name)) is not None}
    return evaluation.model_copy(update=own)


@functools.cache
def _questions_id(spec: EvaluationSpec) -> str:
    # All questions of a list, since any of them may be edited; a file's hash is in the id already.
    listed = spec.questions.questions if isinstance(spec.questions, InTurn) and not spec.file_hash else ()
    count = max(_PROBE, len(listed))
    return content_id([[[m.role, m.content] for m in q.messages] for q in spec.questions(count)])


def scores_id(setting: Setting, spec: EvaluationSpec) -> str:
    """Return the id of the rules that score an evaluation: 16 hex digits over its own rules, or over the setting's."""
    if spec.rules:
        return content_id({"suite": spec.rules_id})
    return content_id({"setting": setting.name, "traits": sorted(setting.judges), "version": setting.judge_version})
