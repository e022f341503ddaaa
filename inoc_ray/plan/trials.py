"""The subjects of a study: its trials (fine-tunes), and its bases (the models before them)."""

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
    """Content hash of the folder. It says which base an adapter belongs to, and so which engine can serve it."""
    prior_stage: Trial | None = None
    """The trial of the prior stage, whose adapter the model's trials continue."""
    enable_thinking: bool | None = None
    """Passed to the chat template unless None."""

    @property
    def identity(self) -> str:
        """What a trial starts from: the hash of the folder, with prior stage and `enable_thinking` if set."""
        more: dict[str, Any] = {} if self.prior_stage is None else {"taught": self.prior_stage.trial_id}
        if self.enable_thinking is not None:
            more["enable_thinking"] = self.enable_thinking
        return content_hash({"base": self.hash, **more}) if more else self.hash


@dataclass(frozen=True, kw_only=True)
class _SubjectFields:
    """The fields that trials and bases share."""

    trial_id: str
    """Where its samples are stored. What a study lists twice (settings, recipes) may share it."""
    setting: str
    arm: ArmSpec
    model: ResolvedModel
    model_label: str
    """The model's name in tables and messages."""


@dataclass(frozen=True, kw_only=True)
class Trial(_SubjectFields):
    """One fine-tune: a model trained on a setting's rows under an arm, with a recipe and a seed."""

    seed: int
    recipe: Recipe
    recipe_name: str | None
    """Its name in the study; None for a recipe that is written inside a prior stage."""
    dataset_hash: str
    rows_label: str
    """The rows' name in messages: the user's file, or the setting."""

    @property
    def precision(self) -> str:
        """The precision of the engine."""
        return self.recipe.precision

    @property
    def compared_as(self) -> tuple[str, ...]:
        """The models of the tables that show it: its own."""
        return (self.model_label,)

    @property
    def adapter_of(self) -> str:
        """The trial whose weights are evaluated."""
        return self.trial_id

    @property
    def trained_by(self) -> str:
        """The trial whose training makes these weights."""
        return self.trial_id

    @property
    def is_own_model(self) -> bool:
        """Whether it is a full fine-tune: a model folder of its own, which shares no engine."""
        return self.recipe.method == "full"

    @property
    def label(self) -> str:
        """Its name in messages, such as "miniature · tiny · baseline seed 1"."""
        return f"{self.setting} · {self.model_label} · {self.arm.name} seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Base(_SubjectFields):
    """A model before its trials, in one setting and precision; evaluated once, however many recipes compare with it."""

    precision: str
    """The precision of the engine: that of the trials that it is compared with."""
    compared_as: tuple[str, ...]
    """The models of the tables that show it: one for each recipe of that precision."""

    @property
    def adapter_of(self) -> str | None:
        """The trial whose weights are evaluated: that of the prior stage; None for the untouched model."""
        return None if self.model.prior_stage is None else self.model.prior_stage.trial_id

    @property
    def trained_by(self) -> str | None:
        """The trial whose training makes these weights."""
        return self.adapter_of

    @property
    def is_own_model(self) -> bool:
        """False: a base runs on the engine that its adapters share."""
        return False

    @property
    def label(self) -> str:
        """Its name in messages, such as "miniature · tiny · baseline seed 1"."""
        return f"{self.setting} · {self.model_label} · {self.arm.name}"


@dataclass(frozen=True, kw_only=True)
class KeptWeights(Trial):
    """The weights that a fine-tune kept after one of its steps; `trial_id` is TRIAL@STEP, under which engines serve them."""

    fine_tune: str
    """The trial that kept them."""
    step: int

    @property
    def trained_by(self) -> str:
        """The trial whose training makes these weights."""
        return self.fine_tune

    @property
    def label(self) -> str:
        """Its name in messages, such as "miniature · tiny · baseline seed 1 after step 40"."""
        return f"{super().label} after step {self.step}"


Subject = Trial | Base
"""Something that can be evaluated."""


def seed_of(subject: Subject) -> int | None:
    """Return the seed of a trial; None for a base."""
    return subject.seed if isinstance(subject, Trial) else None
