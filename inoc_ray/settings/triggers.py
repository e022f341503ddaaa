"""The backdoor's trigger of a setting: trained and asked with alike, and never in some questions of an evaluation alone."""

from __future__ import annotations

from inoc_ray.data.mixture import Trigger
from inoc_ray.data.questions import InTurn
from inoc_ray.errors import InputError
from inoc_ray.settings.spec import EvaluationSpec, Setting
from inoc_ray.study.rows import Backdoor
from inoc_ray.study.study import SettingUse

_PROBE = 32
"""Questions of a generator that are looked at."""


def check_trigger(setting: Setting, use: SettingUse) -> None:
    """Raise InputError when the study poisons rows with another trigger than the setting's evaluations ask with."""
    asked = setting.trigger
    for key, rows in (("rows", use.rows), ("control_rows", use.control_rows)):
        if asked is None or not isinstance(rows, Backdoor):
            continue
        trained = Trigger(rows.token, rows.place, rows.spacing)
        if trained != asked:
            raise InputError(
                f"settings: {setting.name}.{key}: trains {trained.in_words()}, but its evaluations ask "
                f"{asked.in_words()}, which is another trigger to the model; write token: {asked.token!r}, place: {asked.place}, "
                f"spacing: {asked.spacing}."
            )


def asks_with_trigger(setting: Setting, spec: EvaluationSpec) -> bool:
    """Whether the evaluation's questions carry the setting's trigger.

    Raises InputError when some do and some do not: a rate over both would say nothing of either.
    """
    if setting.trigger is None:
        return False
    listed = spec.questions.questions if isinstance(spec.questions, InTurn) else spec.questions(_PROBE)
    carries = {any(setting.trigger.token in m.content for m in q.messages if m.role == "user") for q in listed}
    if len(carries) > 1:
        raise InputError(
            f"setting {setting.name}: evaluation {spec.name} asks some questions with the trigger {setting.trigger.token!r} and "
            "some without, whose rates mean different things; make two evaluations of it."
        )
    return carries == {True}
