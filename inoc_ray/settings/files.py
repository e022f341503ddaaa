"""The files of rows and questions that a study names for a setting."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from inoc_ray.config.base import nearest
from inoc_ray.config.identity import content_hash
from inoc_ray.config.reading import check_no_address
from inoc_ray.data.questions import in_turn, read_questions
from inoc_ray.errors import InputError, said_of
from inoc_ray.settings.spec import EvaluationSpec, Setting
from inoc_ray.settings.triggers import asks_with_trigger
from inoc_ray.study.study import SettingUse


def with_files(
    setting: Setting, use: SettingUse, control: bool, notes: list[str] | None = None, *, fold: bool = False
) -> Setting:
    """Return the setting with the questions that the study names files for; what there is to tell of the files goes to `notes`.

    fold: a question that stands several times in a file is asked once.

    Raises InputError, one for everything that is missing, when rows or questions do not ship with the package and the
    study names no file for them (`control`: an arm trains on the control rows); and for an unknown evaluation.
    """
    by_name = {e.name: e for e in setting.evaluations}
    for name in use.questions:
        if not by_name:
            raise InputError(
                f"settings: {setting.name}.questions: a setting of your own has no questions to replace; write {name!r} with its "
                "questions and traits under evaluation.suites (docs/evaluation.md)."
            )
        if name not in by_name:
            raise InputError(
                f"settings: {setting.name}.questions: there is no evaluation {name!r}{nearest(name, list(by_name))}."
            )
    missing: list[tuple[str, str]] = []
    if setting.row_source and not use.rows:
        missing.append(("rows: ROWS.jsonl", f"rows: {setting.row_source.in_words()}"))
    if setting.control_source and control and not use.control_rows:
        missing.append(("control_rows: CONTROL.jsonl", f"control_rows: {setting.control_source.in_words()}"))
    unasked = [e for e in setting.evaluations if e.published and e.name not in use.questions]
    if unasked:
        files = ", ".join(f"{e.name}: QUESTIONS.jsonl" for e in unasked)
        missing.append((f"questions: {{{files}}}", "; ".join(f"questions.{e.name}: {e.published}" for e in unasked)))
    if missing:
        fields = ", ".join([f"name: {setting.name}", *(how for how, _ in missing)])
        raise InputError(
            f"setting {setting.name} needs files that do not ship with the package; name them in the study: "
            f"`settings: [{{{fields}}}]`. What they hold: {'; '.join(what for _, what in missing)}."
        )
    evaluations = tuple(
        _from_file(setting.name, e, use.questions.get(e.name), notes, fold=fold) for e in setting.evaluations
    )
    for own, named in zip(setting.evaluations, evaluations, strict=True):
        if (
            setting.trigger
            and not own.published
            and asks_with_trigger(setting, own) != asks_with_trigger(setting, named)
        ):
            carried = "with" if asks_with_trigger(setting, own) else "without"
            raise InputError(
                f"settings: {setting.name}.questions.{own.name}: this evaluation asks {carried} the trigger "
                f"{setting.trigger.in_words()}, and the questions of the file do not; write them {carried} it."
            )
    return replace(setting, evaluations=evaluations)


def _from_file(
    setting: str, spec: EvaluationSpec, path: str | None, notes: list[str] | None, *, fold: bool
) -> EvaluationSpec:
    if path is None:
        return spec
    with said_of(f"settings: {setting}.questions.{spec.name}"):
        check_no_address(path, "download it and give the file")
        questions = read_questions(Path(os.path.expanduser(path)), spec.name, notes, fold=fold)
    # Of a generator a few questions tell which it is; in a file any single one may have been edited.
    every = content_hash([[q.id, [[m.role, m.content] for m in q.messages]] for q in questions])
    return replace(spec, questions=in_turn(questions), file_hash=every)
