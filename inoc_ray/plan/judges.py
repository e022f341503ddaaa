"""Who judges what: for each trait of an evaluation the rules and judging models that the study names, in their order."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inoc_ray.config.base import nearest
from inoc_ray.config.identity import content_id, identity_fields
from inoc_ray.errors import InputError
from inoc_ray.models.resolve import resolve_model
from inoc_ray.scoring import profiles
from inoc_ray.scoring import rubrics as library
from inoc_ray.scoring.judge_prompt import VERSION
from inoc_ray.scoring.judgment import RULES, Item, Measure
from inoc_ray.scoring.profiles import Profile
from inoc_ray.scoring.rubrics import Rubric
from inoc_ray.settings import EvaluationSpec, Setting
from inoc_ray.study.evaluation import Judge, Thresholds
from inoc_ray.study.study import Study

Rule = Callable[[Item], float | None]


@dataclass(frozen=True)
class Judging:
    """A judging model of the study, found: its folder and what identifies its judgments."""

    name: str
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
        """Identity of judgments on these rubrics: model, method and every word that the judge is told."""
        words = {name: dataclasses.asdict(rubric) for name, rubric in sorted(rubrics.items())}
        asked = identity_fields(self.judge)
        return content_id({"judge": self.identity, "asked": asked, "template": VERSION, "rubrics": words})


def rule_of(setting: Setting, spec: EvaluationSpec, trait: str) -> Rule | None:
    """The rule that tells the trait: the evaluation's own, or the setting's."""
    if trait in spec.rules:
        return spec.rules[trait]
    judge = setting.judges.get(trait) if trait not in spec.measures else None
    return None if judge is None else lambda item: judge(item.response)


def measure_of(setting: Setting, spec: EvaluationSpec, trait: str) -> Measure | None:
    """How a judging model tells the trait: the evaluation's own way, or the setting's."""
    if trait in spec.measures:
        return spec.measures[trait]
    return setting.model_judged.get(trait) if trait not in spec.rules else None


class Panel:
    """The judges of a study."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._rubrics = {
            name: Rubric(name, r.question, r.low, r.high, r.shows, (), r.sees_question, "study file")
            for name, r in study.evaluation.rubrics.items()
        }
        self._found: dict[str, Judging] = {}
        for name in study.evaluation.judged_by:
            if name != RULES and name not in study.judges:
                raise InputError(
                    f"evaluation.judged_by: there is no judge {name!r}{nearest(name, [RULES, *study.judges])}."
                )

    def judging(self, name: str) -> Judging:
        """The judging model of that name. Raises InputError when its folder is no model."""
        if name not in self._found:
            self._found[name] = find(name, self.study.judges[name])
        return self._found[name]

    def rubric(self, name: str) -> Rubric:
        """Raises InputError for a rubric that is neither in the library nor in the study."""
        return library.get_rubric(name, self._rubrics)

    def told_by(self, setting: Setting, spec: EvaluationSpec, trait: str) -> list[str]:
        """The names of those who tell the trait: `rules`, judges of the study. Empty where nobody can."""
        by_rule = rule_of(setting, spec, trait) is not None
        by_model = measure_of(setting, spec, trait) is not None
        named = self.study.evaluation.judged_by
        if not named:
            return [RULES] if by_rule else list(self.study.judges) if by_model else []
        able = [name for name in named if (by_rule if name == RULES else by_model)]
        # What none of the named can tell, rules still tell: they cost nothing and ask nobody.
        return able or ([RULES] if by_rule else [])

    def gate_of(self, setting: Setting, spec: EvaluationSpec, trait: str) -> tuple[str, tuple[str, ...]] | None:
        """(judge, rubrics): by whom and by what it is decided whether a response counts for a trait that rules tell.

        None where every response counts. Raises InputError when there are rubrics and the study has no judging model.
        """
        rubrics = spec.rules_given.get(trait, self.study.evaluation.rules_given)
        if not rubrics or RULES not in self.told_by(setting, spec, trait):
            return None
        named = [name for name in self.study.evaluation.judged_by if name != RULES] or list(self.study.judges)
        if not named:
            raise InputError(
                f"setting {setting.name}: evaluation {spec.name}: {', '.join(rubrics)} (rules_given, or given of {trait}) is asked "
                "of a judging model, and the study has none; give it one under `judges:`, or take the rubrics out."
            )
        return named[0], rubrics

    def asked(self, setting: Setting, spec: EvaluationSpec) -> dict[str, dict[str, Rubric]]:
        """Judge → the rubrics that it is asked for each response of the evaluation."""
        out: dict[str, dict[str, Rubric]] = {}
        for trait in spec.traits:
            measure = measure_of(setting, spec, trait)
            for name in self.told_by(setting, spec, trait):
                if name != RULES and measure is not None:
                    out.setdefault(name, {}).update({r: self.rubric(r) for r in measure.rubrics})
            if gate := self.gate_of(setting, spec, trait):
                name, rubrics = gate
                out.setdefault(name, {}).update({r: self.rubric(r) for r in rubrics})
        return out

    def check(self, setting: Setting) -> None:
        """Raises InputError when nobody in the study can tell a trait of an evaluation, a rubric is not known, or one judge is
        asked under two names."""
        for spec in setting.evaluations:
            untold = [t for t in spec.traits if not self.told_by(setting, spec, t)]
            if untold:
                raise InputError(
                    f"setting {setting.name}: evaluation {spec.name} cannot be judged: the study has no judge for "
                    f"{', '.join(untold)}. Give the study a judging model under `judges:`, as `judges: {{gpt: {{endpoint: "
                    "https://HOST/v1, served_model: NAME, api_key_env: VARIABLE}}` or `{own: {path: FOLDER}}`, and name it in "
                    "evaluation.judged_by if that is set. A setting in a file of your own (`plugins:`) can bring a rule."
                )
            for one, other in itertools.combinations(self.asked(setting, spec), 2):
                self._check_differ(one, other)

    def _check_differ(self, one: str, other: str) -> None:
        """Raises InputError for two names of one judge: they would have one file of judgments between them."""
        judges = [self.study.judges[name] for name in (one, other)]
        if identity_fields(judges[0]) != identity_fields(judges[1]) or len({j.path is None for j in judges}) > 1:
            return
        if self.judging(one).identity == self.judging(other).identity:
            address = "" if judges[0].path else " (an API's address does not tell models apart)"
            raise InputError(
                f"judges: {one!r} and {other!r} are the same model asked in the same way{address}; remove one, or name only one "
                "in evaluation.judged_by."
            )

    def profile(self) -> Profile:
        """The threshold profile of the study. Raises InputError for one that is not known."""
        wanted = self.study.evaluation.profile
        return own_profile(wanted) if isinstance(wanted, Thresholds) else profiles.get_profile(wanted)


def own_profile(written: Thresholds) -> Profile:
    """A profile as the study writes it."""
    return Profile(
        written.name,
        "study file",
        {name: profiles.parse_bound(text) for name, text in written.shown.items()},
        {name: profiles.parse_bound(text) for name, text in written.counts.items()},
    )


def judge_identity(judge: Judge, model_hash: str | None) -> dict[str, Any]:
    """What makes two judges the same one: the content of the model's files, or its name at an API.

    The API's address is no part of it: it may change while an evaluation is interrupted (a tunnel, another provider of the
    same model). Method and samples are of the question, not of the judge; min_mass is applied when an answer is read.
    """
    return {"served_model": judge.served_model} if model_hash is None else {"model": model_hash}


def find(name: str, judge: Judge) -> Judging:
    """A judge's model folder and identity. Raises InputError when there is no such folder or it holds no model."""
    if judge.path is None:
        return Judging(name, judge, None, judge_identity(judge, None))
    folder = resolve_model(judge.path, f"judges: {name!r}", judge=True)
    return Judging(name, judge, folder.path, judge_identity(judge, folder.hash))
