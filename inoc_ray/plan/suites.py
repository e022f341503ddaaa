"""The evaluations of a study: its own suites, and its overrides of the settings' evaluations."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from inoc_ray.config.base import nearest
from inoc_ray.config.identity import content_hash, content_id
from inoc_ray.config.reading import check_no_address
from inoc_ray.data.questions import InTurn, Question, in_turn, read_questions
from inoc_ray.errors import InputError, said_of
from inoc_ray.scoring.judgment import Measure
from inoc_ray.scoring.rule_base import ANSWER, CHOICE, AnyForm
from inoc_ray.settings import EvaluationSpec, Setting
from inoc_ray.study.evaluation import Evaluation, MeasureOf, Override, Suite

SUITE_MAX_TOKENS = 600
"""Default `max_tokens` of a suite."""


def check_suites(evaluation: Evaluation, settings: list[str]) -> None:
    """Raise InputError if a suite names a setting that the study does not have."""
    for suite in evaluation.suites:
        for name in suite.settings:
            if name not in settings:
                raise InputError(
                    f"evaluation.suites: {suite.name!r}: the study has no setting {name!r}{nearest(name, settings)}."
                )


def with_suites(setting: Setting, evaluation: Evaluation, notes: list[str] | None = None) -> Setting:
    """Return the setting with its evaluations overridden as the study says, followed by the study's suites.

    Appends remarks on question files to `notes`; see `read_questions`. Raise InputError for a file that cannot be read, an
    invalid rule, a name that the setting already has, and an override that does not fit its evaluation.
    """
    own = [s for s in evaluation.suites if not s.settings or setting.name in s.settings]
    taken = [e.name for e in setting.evaluations]
    for suite in own:
        if suite.name in taken:
            raise InputError(
                f"evaluation.suites: {suite.name!r}: setting {setting.name} already has an evaluation of that name; "
                "rename the suite."
            )
    builtin = (_overridden(spec, evaluation) for spec in setting.evaluations)
    suites = (_spec(suite, evaluation, notes) for suite in own)
    return replace(setting, evaluations=(*builtin, *suites))


def check_overrides(evaluation: Evaluation, settings: Iterable[Setting]) -> None:
    """Raise InputError if an override names an evaluation that no setting of the study has."""
    suites = [suite.name for suite in evaluation.suites]
    own = sorted({spec.name for setting in settings for spec in setting.evaluations} - set(suites))
    for name in evaluation.may_repeat_training:
        if name not in [*own, *suites]:
            raise InputError(
                f"evaluation.may_repeat_training: there is no evaluation {name!r}{nearest(name, [*own, *suites])}."
            )
    for name in evaluation.overrides:
        if name in suites:
            raise InputError(
                f"evaluation.overrides: {name!r} is a suite of the study; set these values in the suite itself."
            )
        if name not in own:
            raise InputError(f"evaluation.overrides: no setting has an evaluation {name!r}{nearest(name, own)}.")


def _overridden(spec: EvaluationSpec, evaluation: Evaluation) -> EvaluationSpec:
    """Return a setting's evaluation with the study's overrides."""
    given = evaluation.overrides.get(spec.name, Override())
    changes: dict[str, Any] = {
        name: value for name in ("samples", "temperature", "top_p") if (value := getattr(given, name)) is not None
    }
    if (limit := given.max_tokens or evaluation.max_tokens) is not None:
        changes["max_tokens"] = limit
    if given.samples_per_question is not None:
        if not isinstance(spec.questions, InTurn):
            raise InputError(
                f"evaluation.overrides: {spec.name!r}: its questions are generated, as many as needed; set samples instead of "
                "samples_per_question."
            )
        changes["samples"] = given.samples_per_question * len(spec.questions.questions)
    return replace(spec, **changes) if changes else spec


def _spec(suite: Suite, evaluation: Evaluation, notes: list[str] | None) -> EvaluationSpec:
    from inoc_ray.scoring.rule_combinations import read_rule

    with said_of(f"evaluation.suites: {suite.name!r}: questions"):
        check_no_address(suite.questions, "download it and give the file")
        questions = read_questions(
            Path(os.path.expanduser(suite.questions)),
            suite.name,
            notes,
            templates=suite.templates,
            fold=evaluation.fold_duplicates,
        )
    measures, rules, ids, given = {}, {}, {}, {}
    for trait, source in suite.traits.items():
        if isinstance(source, MeasureOf):
            measures[trait] = Measure(source.rubric, source.given)
        else:
            try:
                rule = read_rule(_without_given(source))
                if "given" in source:
                    given[trait] = _given(source["given"])
            except InputError as error:
                raise InputError(f"evaluation.suites: {suite.name!r}: traits.{trait}: {error}") from error
            rules[trait], ids[trait] = rule.compiled(), rule.canonical()
            _check_needs(suite, trait, rule, questions, notes)
    references: list[Any] = [q.reference if q.other is None else [q.reference, q.other] for q in questions]
    return EvaluationSpec(
        name=suite.name,
        split=suite.split,
        questions=in_turn(questions),
        traits=tuple(suite.traits),
        max_tokens=suite.max_tokens or evaluation.max_tokens or SUITE_MAX_TOKENS,
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


def _check_needs(
    suite: Suite, trait: str, rule: AnyForm, questions: Sequence[Question], notes: list[str] | None
) -> None:
    """Raise InputError if no question has what a rule needs of it; note how many lack it, as they are not judged."""
    found = [rule.lacks(_fields_of(question)) for question in questions]
    lacking = [fields for fields in found if fields]
    if not lacking:
        return
    where = f"evaluation.suites: {suite.name!r}: traits.{trait}"
    what = " and ".join(sorted({field for fields in lacking for field in fields}))
    if len(lacking) == len(questions):
        raise InputError(
            f"{where}: the rule needs the {what} of a question, and none in {suite.questions} has one; add it to the entries, "
            "or take another rule."
        )
    if notes is not None:
        notes.append(
            f"{where}: {len(lacking)} of {len(questions)} questions have no {what}, which the rule needs to judge a response"
        )


def _fields_of(question: Question) -> frozenset[str]:
    given = {ANSWER: question.reference, CHOICE: question.other}
    return frozenset(name for name, value in given.items() if value is not None)


def _without_given(source: Any) -> Any:
    return {key: value for key, value in source.items() if key != "given"} if isinstance(source, Mapping) else source


def _given(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise InputError(f"given: must be a list of rubrics such as [coherence], found {value!r}.")
    return tuple(value)
