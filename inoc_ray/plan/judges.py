"""The judge assignment: for each trait of an evaluation the rules and judging models that score it, in their order.

A plan resolves it once, and everything that scores, grades, counts or describes reads it from the cell: rules, rubrics,
thresholds, and the ids under which scores and judgments are stored.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from inoc_ray.config.base import nearest
from inoc_ray.config.identity import content_id, identity_fields
from inoc_ray.errors import InputError
from inoc_ray.models.resolve import resolve_model
from inoc_ray.plan.ids import scores_id
from inoc_ray.scoring import profiles
from inoc_ray.scoring import rubrics as library
from inoc_ray.scoring.judge_prompt import VERSION
from inoc_ray.scoring.judgment import RULES, Item, Measure
from inoc_ray.scoring.profiles import Bound, Profile
from inoc_ray.scoring.rubrics import Rubric
from inoc_ray.settings import EvaluationSpec, Setting
from inoc_ray.study.evaluation import Judge, Thresholds
from inoc_ray.study.study import Study

Rule = Callable[[Item], float | None]
Combine = Literal["first", "mean", "all", "any"]


@dataclass(frozen=True, kw_only=True)
class JudgeModel:
    """A judging model of the study, found on disk or named at an API."""

    name: str
    """What the study calls it."""
    judge: Judge
    folder: Path | None
    """None for a model behind an API."""
    identity: dict[str, Any]
    """Which model it is: the hash of its files, or its name at an API."""

    @property
    def id(self) -> str:
        """16 hex digits of the identity: where its answers are kept."""
        return content_id(self.identity)

    def judgments_id(self, rubrics: Mapping[str, Rubric]) -> str:
        """Return the id of judgments on these rubrics: over model, method and every word that the judge is shown."""
        words = {name: dataclasses.asdict(rubric) for name, rubric in sorted(rubrics.items())}
        asked = identity_fields(self.judge)
        return content_id({"judge": self.identity, "asked": asked, "template": VERSION, "rubrics": words})

    @property
    def model(self) -> str:
        """Which model it is, and its method: "gpt-4o, digit"."""
        return f"{self.judge.served_model or self.judge.path}, {self.judge.method}"

    def in_words(self) -> str:
        """Return "small (miniature, digit)"."""
        return f"{self.name} ({self.model})"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A threshold on a judging model's number."""

    rubric: Rubric
    bound: Bound


@dataclass(frozen=True, kw_only=True)
class ModelMeasure:
    """How judging models score a trait."""

    shown: Condition
    """The number of the trait's own rubric, and where it shows the trait."""
    given: tuple[Condition, ...]
    """When a response counts at all."""

    @property
    def rubrics(self) -> tuple[str, ...]:
        """The names of all its rubrics, the trait's own first."""
        return (self.shown.rubric.name, *(condition.rubric.name for condition in self.given))

    def under(self, profile: Profile) -> ModelMeasure:
        """Return the measure with the thresholds of another profile."""
        return ModelMeasure(shown=_shown(self.shown.rubric, profile), given=_given(self.given, profile))


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
        return replace(self, given=_given(self.given, profile))


@dataclass(frozen=True, kw_only=True)
class TraitJudges:
    """Who scores one trait of an evaluation."""

    setting: str
    evaluation: str
    trait: str
    judges: tuple[str, ...]
    """Names in the order in which they count: `rules`, judges of the study."""
    models: Mapping[str, JudgeModel]
    """The judging models among them."""
    measure: ModelMeasure | None
    """How these score the trait; None where there is none."""
    gate: Gate | None
    """Who decides what counts for the rules among them; None where every response counts."""
    combine: Combine
    """What several judges come to; see `Evaluation.combine`."""

    def under(self, profile: Profile) -> TraitJudges:
        """Return the judges with the thresholds of another profile."""
        measure = None if self.measure is None else self.measure.under(profile)
        return replace(self, measure=measure, gate=None if self.gate is None else self.gate.under(profile))

    def in_words(self) -> str:
        """Return "rules, then small (miniature, digit) on alignment, coherence; the first that gives an answer"."""
        named = [self._rules() if name == RULES else self.models[name].in_words() for name in self.judges]
        return "; ".join(filter(None, [", ".join(named) + self._on(), self.combined()]))

    def how(self, judge: str) -> str:
        """Return one of the judges in words: "rules", or "small (miniature, digit) on alignment, coherence"."""
        return self._rules() if judge == RULES else self.models[judge].in_words() + self._on()

    def combined(self) -> str:
        """Return which of several judges counts; empty where there is one."""
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
    """What a judging model is asked about each response of an evaluation."""

    judge: JudgeModel
    rubrics: Mapping[str, Rubric]
    judgments_id: str
    """Under which its judgments are stored beside the samples."""


@dataclass(frozen=True, kw_only=True)
class JudgeAssignment:
    """Who scores the traits of one evaluation of a setting."""

    traits: Mapping[str, TraitJudges]
    gradings: Mapping[str, Grading]
    """Judging model → what it is asked."""
    rules: Mapping[str, Rule]
    """trait → rule, for all whose numbers are stored together: one file serves every evaluation of a setting."""
    scores_id: str
    """Under which the rules' numbers are stored beside the samples."""

    def under(self, profile: Profile) -> JudgeAssignment:
        """Return the assignment with the thresholds of another profile."""
        return replace(self, traits={trait: judges.under(profile) for trait, judges in self.traits.items()})


def _shown(rubric: Rubric, profile: Profile) -> Condition:
    return Condition(rubric=rubric, bound=profile.shown_by(rubric))


def _counts(rubric: Rubric, profile: Profile) -> Condition:
    return Condition(rubric=rubric, bound=profile.counts_by(rubric))


def _given(given: Iterable[Condition], profile: Profile) -> tuple[Condition, ...]:
    return tuple(_counts(condition.rubric, profile) for condition in given)


class Judges:
    """The judges of a study: finds each once, and assigns them to evaluations.

    Raise InputError for a judge in `evaluation.judged_by` that the study does not have, and for an unknown profile.
    """

    def __init__(self, study: Study) -> None:
        self._judges, self._evaluation = study.judges, study.evaluation
        self._rubrics = {
            name: Rubric(
                name=name,
                question=r.question,
                low=r.low,
                high=r.high,
                shows=r.shows,
                sees_question=r.sees_question,
                source="study file",
            )
            for name, r in study.evaluation.rubrics.items()
        }
        self._found: dict[str, JudgeModel] = {}
        for name in study.evaluation.judged_by:
            if name != RULES and name not in study.judges:
                raise InputError(
                    f"evaluation.judged_by: there is no judge {name!r}{nearest(name, [RULES, *study.judges])}."
                )
        self.profile = profile_of(study)
        """The thresholds that the study names."""

    def assign(self, setting: Setting, spec: EvaluationSpec) -> JudgeAssignment:
        """Return who scores the evaluation's traits.

        Raise InputError when no judge of the study can score one of them, for an unknown rubric, for a judge that is not there,
        for one judge under two names, and for a mean of judges that give no number.
        """
        unscored = [t for t in spec.traits if not self._names(setting, spec, t)]
        if unscored:
            raise InputError(
                f"setting {setting.name}: evaluation {spec.name} cannot be judged: the study has no judge for "
                f"{', '.join(unscored)}. Give the study a judging model under `judges:`, as `judges: {{gpt: {{endpoint: "
                "https://HOST/v1, served_model: NAME, api_key_env: VARIABLE}}` or `{own: {path: FOLDER}}`, and name it in "
                "evaluation.judged_by if that is set. A setting in a file of your own (`plugins:`) can bring a rule."
            )
        traits = {trait: self._trait(setting, spec, trait) for trait in spec.traits}
        gradings = _gradings(traits.values())
        for one, other in itertools.combinations(gradings.values(), 2):
            _check_differ(one.judge, other.judge)
        return JudgeAssignment(
            traits=traits, gradings=gradings, rules=_rules(setting, spec), scores_id=scores_id(setting, spec)
        )

    def _names(self, setting: Setting, spec: EvaluationSpec, trait: str) -> tuple[str, ...]:
        """The judges that score the trait; empty where none can."""
        by_rule = _rule(setting, spec, trait) is not None
        by_model = _measure(setting, spec, trait) is not None
        named = self._evaluation.judged_by
        if not named:
            return (RULES,) if by_rule else tuple(self._judges) if by_model else ()
        able = tuple(name for name in named if (by_rule if name == RULES else by_model))
        # What none of the named can score, rules still score: they cost nothing.
        return able or ((RULES,) if by_rule else ())

    def _trait(self, setting: Setting, spec: EvaluationSpec, trait: str) -> TraitJudges:
        names = self._names(setting, spec, trait)
        combine = self._evaluation.combine
        if combine == "mean" and RULES in names and len(names) > 1:
            raise InputError(
                f"evaluation.combine: mean: {trait} of evaluation {spec.name} is scored by rules too, which give no number of 0 to "
                "100; use first."
            )
        models = {name: self._model(name) for name in names if name != RULES}
        measure = _measure(setting, spec, trait)
        return TraitJudges(
            setting=setting.name,
            evaluation=spec.name,
            trait=trait,
            judges=names,
            models=models,
            measure=self._model_measure(measure) if models and measure is not None else None,
            gate=self._gate(setting, spec, trait) if RULES in names else None,
            combine=combine,
        )

    def _model(self, name: str) -> JudgeModel:
        if name not in self._found:
            self._found[name] = find_judge(name, self._judges[name])
        return self._found[name]

    def _model_measure(self, measure: Measure) -> ModelMeasure:
        own, *given = (library.get_rubric(name, self._rubrics) for name in measure.rubrics)
        return ModelMeasure(shown=_shown(own, self.profile), given=tuple(_counts(r, self.profile) for r in given))

    def _gate(self, setting: Setting, spec: EvaluationSpec, trait: str) -> Gate | None:
        rubrics = spec.rules_given.get(trait, self._evaluation.rules_given)
        if not rubrics:
            return None
        named = [name for name in self._evaluation.judged_by if name != RULES] or list(self._judges)
        if not named:
            raise InputError(
                f"setting {setting.name}: evaluation {spec.name}: {', '.join(rubrics)} (rules_given, or given of {trait}) is asked "
                "of a judging model, and the study has none; give it one under `judges:`, or take the rubrics out."
            )
        found = (library.get_rubric(name, self._rubrics) for name in rubrics)
        return Gate(judge=self._model(named[0]), given=tuple(_counts(rubric, self.profile) for rubric in found))


def _rule(setting: Setting, spec: EvaluationSpec, trait: str) -> Rule | None:
    """The rule that scores the trait: the evaluation's own, or the setting's."""
    if trait in spec.rules:
        return spec.rules[trait]
    judge = setting.judges.get(trait) if trait not in spec.measures else None
    return None if judge is None else lambda item: judge(item.response)


def _measure(setting: Setting, spec: EvaluationSpec, trait: str) -> Measure | None:
    """How a judging model scores the trait: the evaluation's own way, or the setting's."""
    if trait in spec.measures:
        return spec.measures[trait]
    return setting.model_judged.get(trait) if trait not in spec.rules else None


def _rules(setting: Setting, spec: EvaluationSpec) -> dict[str, Rule]:
    """All rules whose numbers stand in one file: the evaluation's traits, and those of the setting where it has no own rules."""
    traits = spec.traits if spec.rules else (*spec.traits, *setting.judges)
    return {trait: rule for trait in traits if (rule := _rule(setting, spec, trait)) is not None}


def _gradings(traits: Iterable[TraitJudges]) -> dict[str, Grading]:
    """Judge → all that it is asked: measures of its traits, gates of the rules'."""
    models: dict[str, JudgeModel] = {}
    rubrics: dict[str, dict[str, Rubric]] = {}
    for trait in traits:
        for name, model in trait.models.items():
            assert trait.measure is not None
            models[name] = model
            asked = (trait.measure.shown, *trait.measure.given)
            rubrics.setdefault(name, {}).update({c.rubric.name: c.rubric for c in asked})
        if trait.gate is not None:
            name = trait.gate.judge.name
            models[name] = trait.gate.judge
            rubrics.setdefault(name, {}).update({c.rubric.name: c.rubric for c in trait.gate.given})
    return {
        name: Grading(judge=models[name], rubrics=asked, judgments_id=models[name].judgments_id(asked))
        for name, asked in rubrics.items()
    }


def _check_differ(one: JudgeModel, other: JudgeModel) -> None:
    """Raise InputError for two names of one judge: they would have one file of judgments between them."""
    alike = identity_fields(one.judge) == identity_fields(other.judge) and one.identity == other.identity
    if alike and (one.folder is None) == (other.folder is None):
        address = " (an API's address does not tell models apart)" if one.folder is None else ""
        raise InputError(
            f"judges: {one.name!r} and {other.name!r} are the same model asked in the same way{address}; remove one, or name only "
            "one in evaluation.judged_by."
        )


def profile_of(study: Study) -> Profile:
    """Return the study's threshold profile. Raise InputError for one that is not known."""
    wanted = study.evaluation.profile
    if not isinstance(wanted, Thresholds):
        return profiles.get_profile(wanted)
    return Profile(
        wanted.name,
        "study file",
        {name: profiles.parse_bound(text) for name, text in wanted.shown.items()},
        {name: profiles.parse_bound(text) for name, text in wanted.counts.items()},
    )


def judge_identity(judge: Judge, model_hash: str | None) -> dict[str, Any]:
    """Return what makes two judges the same one: the content of the model's files, or its name at an API.

    The API's address is no part of it: it may change while an evaluation is interrupted (a tunnel, another provider of the
    same model). Method and samples are of the question, not of the judge; min_mass is applied when an answer is read.
    """
    return {"served_model": judge.served_model} if model_hash is None else {"model": model_hash}


def find_judge(name: str, judge: Judge) -> JudgeModel:
    """Return a judge with its model folder and identity. Raise InputError when there is no such folder or it holds no model."""
    if judge.path is None:
        return JudgeModel(name=name, judge=judge, folder=None, identity=judge_identity(judge, None))
    folder = resolve_model(judge.path, f"judges: {name!r}", judge=True)
    return JudgeModel(name=name, judge=judge, folder=folder.path, identity=judge_identity(judge, folder.hash))
