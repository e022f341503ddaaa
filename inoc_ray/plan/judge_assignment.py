"""The judge assignment: the rules and judging models that score each trait of an evaluation, in their order.

The plan resolves it once; scoring, grading and descriptions read it from the cell: rules, rubrics, thresholds, and the ids
under which scores and judgments are stored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from inoc_ray.config.identity import content_id, identity_fields
from inoc_ray.models.resolve import resolve_model
from inoc_ray.scoring.judge_prompt import VERSION
from inoc_ray.scoring.judgment import RULES, Item
from inoc_ray.scoring.profiles import Bound, Profile
from inoc_ray.scoring.rubrics import Rubric
from inoc_ray.study.evaluation import Judge

Rule = Callable[[Item], float | None]
Combine = Literal["first", "mean", "all", "any"]


@dataclass(frozen=True, kw_only=True)
class JudgeModel:
    """A judging model of the study: a folder on disk, or a name at an API."""

    name: str
    """Its name in the study."""
    judge: Judge
    folder: Path | None
    """None for a model behind an API."""
    identity: dict[str, Any]
    """Which model it is: the hash of its files, or its name at an API."""

    @property
    def id(self) -> str:
        """16 hex digits of the identity, under which its answers are cached."""
        return content_id(self.identity)

    def judgments_id(self, rubrics: Mapping[str, Rubric]) -> str:
        """Return the id of judgments on these rubrics, over model, method and every word that the judge sees."""
        words = {name: dataclasses.asdict(rubric) for name, rubric in sorted(rubrics.items())}
        method = identity_fields(self.judge)
        return content_id({"judge": self.identity, "asked": method, "template": VERSION, "rubrics": words})

    @property
    def model(self) -> str:
        """Which model it is, and its method: "gpt-4o, digit"."""
        return f"{self.judge.served_model or self.judge.path}, {self.judge.method}"

    def in_words(self) -> str:
        """Return "small (miniature, digit)"."""
        return f"{self.name} ({self.model})"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A threshold on a judging model's score."""

    rubric: Rubric
    bound: Bound


@dataclass(frozen=True, kw_only=True)
class ModelMeasure:
    """How judging models score a trait."""

    shown: Condition
    """The trait's own rubric, and the scores that show the trait."""
    given: tuple[Condition, ...]
    """What a response must meet to count."""

    @property
    def rubrics(self) -> tuple[str, ...]:
        """The names of all its rubrics, the trait's own first."""
        return (self.shown.rubric.name, *(condition.rubric.name for condition in self.given))

    def under(self, profile: Profile) -> ModelMeasure:
        """Return the measure with the thresholds of another profile."""
        return ModelMeasure(
            shown=shown_condition(self.shown.rubric, profile), given=_counting_conditions(self.given, profile)
        )


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A judging model that decides which responses count for a trait that rules score."""

    judge: JudgeModel
    given: tuple[Condition, ...]

    @property
    def rubrics(self) -> tuple[str, ...]:
        """The names of its rubrics."""
        return tuple(condition.rubric.name for condition in self.given)

    def under(self, profile: Profile) -> Gate:
        """Return the gate with the thresholds of another profile."""
        return replace(self, given=_counting_conditions(self.given, profile))


@dataclass(frozen=True, kw_only=True)
class TraitJudges:
    """The judges of one trait of an evaluation."""

    setting: str
    evaluation: str
    trait: str
    judges: tuple[str, ...]
    """Names in order of precedence: `rules`, or judges of the study."""
    models: Mapping[str, JudgeModel]
    """The judging models among them."""
    measure: ModelMeasure | None
    """How these score the trait; None without judging models."""
    gate: Gate | None
    """Who decides which responses count for the rules among them; None if all count."""
    combine: Combine
    """How the scores of several judges combine; see `Evaluation.combine`."""

    def under(self, profile: Profile) -> TraitJudges:
        """Return the judges with the thresholds of another profile."""
        measure = None if self.measure is None else self.measure.under(profile)
        return replace(self, measure=measure, gate=None if self.gate is None else self.gate.under(profile))

    def in_words(self) -> str:
        """Return "rules, then small (miniature, digit) on alignment, coherence; the first that gives an answer"."""
        named = [self._rules() if name == RULES else self.models[name].in_words() for name in self.judges]
        return "; ".join(filter(None, [", ".join(named) + self._on(), self.combined()]))

    def how(self, judge: str) -> str:
        """Describe one of the judges: "rules", or "small (miniature, digit) on alignment, coherence"."""
        return self._rules() if judge == RULES else self.models[judge].in_words() + self._on()

    def combined(self) -> str:
        """Describe how several judges combine; empty for a single one."""
        how = {"first": "the first that gives an answer", "mean": "the mean of their numbers"}
        return how.get(self.combine, f"{self.combine} of them") if len(self.judges) > 1 else ""

    def _on(self) -> str:
        return "" if self.measure is None else f" on {', '.join(self.measure.rubrics)}"

    def _rules(self) -> str:
        if self.gate is None:
            return RULES
        return f"{RULES} (counted by {self.gate.judge.in_words()} on {', '.join(self.gate.rubrics)})"


@dataclass(frozen=True, kw_only=True)
class Grading:
    """A judging model's task on each response of an evaluation."""

    judge: JudgeModel
    rubrics: Mapping[str, Rubric]
    judgments_id: str
    """Id under which its judgments are stored beside the samples."""


@dataclass(frozen=True, kw_only=True)
class JudgeAssignment:
    """The judges of all traits of one evaluation of a setting."""

    traits: Mapping[str, TraitJudges]
    gradings: Mapping[str, Grading]
    """Judging model → its task."""
    rules: Mapping[str, Rule]
    """Trait → rule, for all rules whose scores are stored together: one file serves every evaluation of a setting."""
    scores_id: str
    """Id under which the rules' scores are stored beside the samples."""

    def under(self, profile: Profile) -> JudgeAssignment:
        """Return the assignment with the thresholds of another profile."""
        return replace(self, traits={trait: judges.under(profile) for trait, judges in self.traits.items()})


def shown_condition(rubric: Rubric, profile: Profile) -> Condition:
    """Return the scores on the rubric that show the trait under the profile."""
    return Condition(rubric=rubric, bound=profile.shown_by(rubric))


def counting_condition(rubric: Rubric, profile: Profile) -> Condition:
    """Return the scores on the rubric that let a response count under the profile."""
    return Condition(rubric=rubric, bound=profile.counts_by(rubric))


def _counting_conditions(given: Iterable[Condition], profile: Profile) -> tuple[Condition, ...]:
    return tuple(counting_condition(condition.rubric, profile) for condition in given)


def judge_identity(judge: Judge, model_hash: str | None) -> dict[str, Any]:
    """Return what identifies a judging model: the hash of its files, or its name at an API.

    The API's address is left out: it may change between two runs (a tunnel, another provider of the same model). So are
    method and samples, which belong to the question, and `min_mass`, which is applied when an answer is read.
    """
    return {"served_model": judge.served_model} if model_hash is None else {"model": model_hash}


def find_judge(name: str, judge: Judge, *, weights: bool = True) -> JudgeModel:
    """Return a judge with its model folder and identity. Raise InputError if the folder is missing or holds no model."""
    if judge.path is None:
        return JudgeModel(name=name, judge=judge, folder=None, identity=judge_identity(judge, None))
    folder = resolve_model(judge.path, f"judges: {name!r}", judge=True, weights=weights)
    return JudgeModel(name=name, judge=judge, folder=folder.path, identity=judge_identity(judge, folder.hash))
