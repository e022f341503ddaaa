"""What a study compares: its fine-tunes, and the models before them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inoc_ray.config.identity import content_hash
from inoc_ray.settings import ArmSpec
from inoc_ray.study.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A base model found on disk."""

    name: str
    path: Path
    hash: str
    """Content hash of the folder: which base an adapter belongs to, and so which engine can serve it."""
    prior_trial: Trial | None = None
    """The trial of the prior stage, whose adapter this model's trials continue."""
    enable_thinking: bool | None = None
    """Handed to the chat template; None leaves it alone."""

    @property
    def identity(self) -> str:
        """What a trial starts from: the folder's hash alone, or that with the prior stage and how the model is to reason."""
        more: dict[str, Any] = {} if self.prior_trial is None else {"taught": self.prior_trial.trial_id}
        if self.enable_thinking is not None:
            more["enable_thinking"] = self.enable_thinking
        return content_hash({"base": self.hash, **more}) if more else self.hash


@dataclass(frozen=True, kw_only=True)
class _Evaluated:
    """What a trial and a base have in common: both are evaluated."""

    trial_id: str
    """Where in the store the samples lie. What a study lists in two places (settings, recipes) may share it."""
    setting: str
    arm: ArmSpec
    model: ResolvedModel
    model_label: str
    """What the study calls the model where this is listed."""


@dataclass(frozen=True, kw_only=True)
class Trial(_Evaluated):
    """One fine-tune: a model trained on a setting's rows under an arm, with a recipe and a seed."""

    seed: int
    recipe: Recipe
    dataset_hash: str
    rows_label: str
    """What an error message calls the trial's rows: the user's file, or the setting."""

    @property
    def precision(self) -> str:
        """The precision in which the engine answers."""
        return self.recipe.precision

    @property
    def compared_as(self) -> tuple[str, ...]:
        """The models of the tables in which it is an arm: its own."""
        return (self.model_label,)

    @property
    def adapter_of(self) -> str:
        """The trial whose weights answer."""
        return self.trial_id

    @property
    def is_own_model(self) -> bool:
        """True for a full fine-tune, which is a model folder of its own and shares no engine."""
        return self.recipe.method == "full"

    @property
    def label(self) -> str:
        """Its place in the study, for people."""
        return f"{self.setting} · {self.model_label} · {self.arm.name} seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Base(_Evaluated):
    """A model before its trials, in one setting and precision; evaluated once, however many recipes are compared with it."""

    precision: str
    """The precision in which the engine answers: that of the trials that it is compared with."""
    compared_as: tuple[str, ...]
    """The models of the tables in which it is an arm: one per recipe of that precision."""

    @property
    def adapter_of(self) -> str | None:
        """The trial whose weights answer: that of the prior stage; None for the untouched model."""
        return None if self.model.prior_trial is None else self.model.prior_trial.trial_id

    @property
    def is_own_model(self) -> bool:
        """False: a base answers on the engine that its adapters share."""
        return False

    @property
    def label(self) -> str:
        """Its place in the study, for people."""
        return f"{self.setting} · {self.model_label} · {self.arm.name}"


Subject = Trial | Base
"""Something that can be evaluated."""


def seed_of(subject: Subject) -> int | None:
    """Return the seed that a table shows; None for a base, which has none."""
    return subject.seed if isinstance(subject, Trial) else None
