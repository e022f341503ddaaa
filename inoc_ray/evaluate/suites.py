"""Evaluations of the user's own, as a study writes them, in the form that settings have theirs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from inoc_ray.asked import Evaluation, MeasureOf, Suite
from inoc_ray.config import nearest
from inoc_ray.data.questions import in_turn, read_questions
from inoc_ray.errors import InputError
from inoc_ray.evaluate.judges import Measure
from inoc_ray.identity import content_hash, content_id
from inoc_ray.settings import EvaluationSpec, Setting


def check_suites(evaluation: Evaluation, settings: list[str]) -> None:
    """Raises InputError for a suite that names a setting which the study does not have."""
    for suite in evaluation.suites:
        for name in suite.settings:
            if name not in settings:
                raise InputError(
                    f"evaluation.suites: {suite.name!r}: the study has no setting {name!r}{nearest(name, settings)}."
                )


def with_suites(setting: Setting, evaluation: Evaluation) -> Setting:
    """The setting with the study's own evaluations behind its own ones.

    Raises InputError for a file that cannot be read, a rule that makes no sense, and a name that the setting has already.
    """
    own = [s for s in evaluation.suites if not s.settings or setting.name in s.settings]
    taken = [e.name for e in setting.evaluations]
    for suite in own:
        if suite.name in taken:
            raise InputError(
                f"evaluation.suites: {suite.name!r}: setting {setting.name} has an evaluation of that name; name yours otherwise."
            )
    return replace(setting, evaluations=(*setting.evaluations, *map(_spec, own)))


def _spec(suite: Suite) -> EvaluationSpec:
    from inoc_ray.evaluate.judges.rules import read_rule

    questions = read_questions(Path(os.path.expanduser(suite.questions)), suite.name)
    measures, rules, ids, given = {}, {}, {}, {}
    for trait, told in suite.traits.items():
        if isinstance(told, MeasureOf):
            measures[trait] = Measure(told.rubric, told.given)
        else:
            try:
                rule = read_rule(_without_given(told))
                if "given" in told:
                    given[trait] = _given(told["given"])
            except InputError as error:
                raise InputError(f"evaluation.suites: {suite.name!r}: traits.{trait}: {error}") from error
            rules[trait], ids[trait] = rule.compiled(), rule.canonical()
    references = [q.reference for q in questions]
    return EvaluationSpec(
        name=suite.name,
        split=suite.split,
        questions=in_turn(questions),
        traits=tuple(suite.traits),
        max_tokens=suite.max_tokens,
        file_hash=content_hash([[q.id, [[m.role, m.content] for m in q.messages]] for q in questions]),
        contexts=suite.contexts,
        samples=suite.samples_per_question * len(questions),
        temperature=suite.temperature,
        top_p=suite.top_p,
        rules=rules,
        choices=suite.choices,
        measures=measures,
        rules_id=content_id({"rules": ids, "references": references}) if rules else "",
        rules_given=given,
    )


def _without_given(told: Any) -> Any:
    return {key: value for key, value in told.items() if key != "given"} if isinstance(told, Mapping) else told


def _given(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise InputError(f"given: must be a list of rubrics, as [coherence], found {value!r}.")
    return tuple(value)
