"""The judges of a study assigned to the traits of its evaluations."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from inoc_ray.config.base import nearest
from inoc_ray.config.identity import identity_fields
from inoc_ray.errors import InputError
from inoc_ray.plan.ids import scores_id
from inoc_ray.plan.judge_assignment import (
    Gate,
    Grading,
    JudgeAssignment,
    JudgeModel,
    ModelMeasure,
    Rule,
    TraitJudges,
    counting_condition,
    find_judge,
    shown_condition,
)
from inoc_ray.scoring import profiles
from inoc_ray.scoring import rubrics as library
from inoc_ray.scoring.judgment import RULES, Measure
from inoc_ray.scoring.profiles import Profile
from inoc_ray.scoring.rubrics import Rubric
from inoc_ray.settings import EvaluationSpec, Setting
from inoc_ray.study.evaluation import Thresholds
from inoc_ray.study.study import Study


class Judges:
    """The judges of a study, each found once, and their assignment to evaluations.

    Raise InputError if `evaluation.judged_by` names a judge that the study does not have, or for an unknown profile.
    """

    def __init__(self, study: Study, *, weights: bool = True) -> None:
        self._weights = weights
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
        """The study's thresholds."""

    def assign(self, setting: Setting, spec: EvaluationSpec) -> JudgeAssignment:
        """Return the judges of the evaluation's traits.

        Raise InputError if no judge can score one of them, for an unknown rubric, for a judge that cannot be found, for one
        judge under two names, and for a mean over judges that give no number.
        """
        self._check_rubrics(setting, spec)
        unscored = [t for t in spec.traits if not self._names(setting, spec, t)]
        if unscored:
            raise InputError(
                f"setting {setting.name}: evaluation {spec.name}: no judge can score "
                f"{', '.join(f'`{trait}`' for trait in unscored)}. Add a judging model under `judges:`, such as `judges: {{gpt: "
                "{endpoint: https://HOST/v1, served_model: NAME, api_key_env: VARIABLE}}` or `{own: {path: FOLDER}}`, and name it "
                "in evaluation.judged_by if that is set. A setting of your own (`plugins:`) can bring a rule instead."
            )
        traits = {trait: self._trait(setting, spec, trait) for trait in spec.traits}
        gradings = _gradings(traits.values())
        for one, other in itertools.combinations(gradings.values(), 2):
            _check_differ(one.judge, other.judge)
        return JudgeAssignment(
            traits=traits, gradings=gradings, rules=_rules(setting, spec), scores_id=scores_id(setting, spec)
        )

    def _check_rubrics(self, setting: Setting, spec: EvaluationSpec) -> None:
        """Raise InputError for an unknown rubric, also of a trait that no judge could score anyway."""
        for trait in spec.traits:
            measure = _measure(setting, spec, trait)
            gate = spec.rules_given.get(trait, self._evaluation.rules_given)
            for name in (*(measure.rubrics if measure is not None else ()), *gate):
                library.get_rubric(name, self._rubrics)

    def _names(self, setting: Setting, spec: EvaluationSpec, trait: str) -> tuple[str, ...]:
        """Return the judges that score the trait; empty if none can."""
        by_rule = _rule(setting, spec, trait) is not None
        by_model = _measure(setting, spec, trait) is not None
        named = self._evaluation.judged_by
        if not named:
            return (RULES,) if by_rule else tuple(self._judges) if by_model else ()
        able = tuple(name for name in named if (by_rule if name == RULES else by_model))
        # Rules score what none of the named judges can: they cost nothing.
        return able or ((RULES,) if by_rule else ())

    def _trait(self, setting: Setting, spec: EvaluationSpec, trait: str) -> TraitJudges:
        names = self._names(setting, spec, trait)
        combine = self._evaluation.combine
        if combine == "mean" and RULES in names and len(names) > 1:
            raise InputError(
                f"evaluation.combine: mean: {trait} of evaluation {spec.name} is also scored by rules, which give no score from 0 "
                "to 100; use first."
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
            self._found[name] = find_judge(name, self._judges[name], weights=self._weights)
        return self._found[name]

    def _model_measure(self, measure: Measure) -> ModelMeasure:
        own, *given = (library.get_rubric(name, self._rubrics) for name in measure.rubrics)
        return ModelMeasure(
            shown=shown_condition(own, self.profile), given=tuple(counting_condition(r, self.profile) for r in given)
        )

    def _gate(self, setting: Setting, spec: EvaluationSpec, trait: str) -> Gate | None:
        rubrics = spec.rules_given.get(trait, self._evaluation.rules_given)
        if not rubrics:
            return None
        named = [name for name in self._evaluation.judged_by if name != RULES] or list(self._judges)
        if not named:
            raise InputError(
                f"setting {setting.name}: evaluation {spec.name}: {', '.join(rubrics)} (rules_given, or given of {trait}) needs "
                "a judging model, and the study has none; add one under `judges:`, or remove the rubrics."
            )
        found = (library.get_rubric(name, self._rubrics) for name in rubrics)
        return Gate(
            judge=self._model(named[0]), given=tuple(counting_condition(rubric, self.profile) for rubric in found)
        )


def _rule(setting: Setting, spec: EvaluationSpec, trait: str) -> Rule | None:
    """Return the rule that scores the trait: the evaluation's own, or the setting's."""
    if trait in spec.rules:
        return spec.rules[trait]
    judge = setting.judges.get(trait) if trait not in spec.measures else None
    return None if judge is None else lambda item: judge(item.response)


def _measure(setting: Setting, spec: EvaluationSpec, trait: str) -> Measure | None:
    """Return how a judging model scores the trait: the evaluation's own measure, or the setting's."""
    if trait in spec.measures:
        return spec.measures[trait]
    return setting.model_judged.get(trait) if trait not in spec.rules else None


def _rules(setting: Setting, spec: EvaluationSpec) -> dict[str, Rule]:
    """Return all rules whose scores share a file: the evaluation's, and the setting's unless it has rules of its own."""
    traits = spec.traits if spec.rules else (*spec.traits, *setting.judges)
    return {trait: rule for trait in traits if (rule := _rule(setting, spec, trait)) is not None}


def _gradings(traits: Iterable[TraitJudges]) -> dict[str, Grading]:
    """Return judge → its task: the rubrics of its traits, and of the gates of rules."""
    models: dict[str, JudgeModel] = {}
    rubrics: dict[str, dict[str, Rubric]] = {}
    for trait in traits:
        for name, model in trait.models.items():
            assert trait.measure is not None
            models[name] = model
            conditions = (trait.measure.shown, *trait.measure.given)
            rubrics.setdefault(name, {}).update({c.rubric.name: c.rubric for c in conditions})
        if trait.gate is not None:
            name = trait.gate.judge.name
            models[name] = trait.gate.judge
            rubrics.setdefault(name, {}).update({c.rubric.name: c.rubric for c in trait.gate.given})
    return {
        name: Grading(judge=models[name], rubrics=own, judgments_id=models[name].judgments_id(own))
        for name, own in rubrics.items()
    }


def _check_differ(one: JudgeModel, other: JudgeModel) -> None:
    """Raise InputError if two names mean one judge: both would write the same file of judgments."""
    alike = identity_fields(one.judge) == identity_fields(other.judge) and one.identity == other.identity
    if alike and (one.folder is None) == (other.folder is None):
        address = " (the address of an API does not tell models apart)" if one.folder is None else ""
        raise InputError(
            f"judges: {one.name!r} and {other.name!r} are the same model with the same method{address}; remove one, or name only "
            "one in evaluation.judged_by."
        )


def profile_of(study: Study) -> Profile:
    """Return the study's threshold profile. Raise InputError for an unknown one."""
    wanted = study.evaluation.profile
    if not isinstance(wanted, Thresholds):
        return profiles.get_profile(wanted)
    return Profile(
        wanted.name,
        "study file",
        {name: profiles.parse_bound(text) for name, text in wanted.shown.items()},
        {name: profiles.parse_bound(text) for name, text in wanted.counts.items()},
    )
