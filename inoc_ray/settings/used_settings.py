"""Settings as a study uses them: found in the registry or written in the study, with the roles that it gives to traits."""

from __future__ import annotations

from dataclasses import replace

from inoc_ray.config.base import check_name, nearest
from inoc_ray.data.mixture import Trigger
from inoc_ray.errors import InputError
from inoc_ray.settings.prompt_texts import SHARED
from inoc_ray.settings.registry import SETTINGS
from inoc_ray.settings.spec import ArmSpec, Setting, not_shipped
from inoc_ray.settings.triggers import check_trigger
from inoc_ray.study.rows import Backdoor
from inoc_ray.study.study import SettingUse


def find(use: SettingUse) -> Setting:
    """Return the setting of the registry, or for a name that it does not have the study's own one.

    The study's own has the arms `baseline`, `irrelevant` and, with `control_rows`, `control`; its models are asked what
    `evaluation.suites` says, and nothing else. Raises InputError for an unknown name without rows or roles.
    """
    if (registered := SETTINGS.get(use.name)) is not None:
        return registered
    if use.rows is None or (use.undesired is None and use.desired is None):
        raise InputError(
            f"settings: there is no setting {use.name!r}{nearest(use.name, SETTINGS.names())}. For a setting of your own "
            f"write its rows and what should not be learnt: `{{name: {use.name}, rows: ROWS.jsonl, undesired: [TRAIT]}}`, "
            "and an evaluation that measures TRAIT under evaluation.suites."
        )
    try:
        check_name(use.name)
    except ValueError as error:
        raise InputError(f"settings: {error}.") from error
    irrelevant = next(text for text in SHARED if text.kind == "irrelevant")
    arms = [
        ArmSpec(name="baseline", kind="baseline", prompt=None, undesired=(), desired=(), source="no prompt"),
        ArmSpec(
            name=irrelevant.name,
            kind=irrelevant.kind,
            prompt=irrelevant.texts[0],
            undesired=(),
            desired=(),
            source="ours",
        ),
    ]
    if use.control_rows is not None:
        arms.append(
            ArmSpec(
                name="control",
                kind="control",
                prompt=None,
                undesired=(),
                desired=(),
                source="control rows of the study",
                uses_control_rows=True,
            )
        )
    return Setting(
        name=use.name,
        description="A setting of the study's own.",
        rows=not_shipped,
        arms={arm.name: arm for arm in arms},
        evaluations=(),
        judges={},
    )


def with_trigger(setting: Setting, use: SettingUse) -> Setting:
    """Return the setting with the trigger of the study's poisoned rows, where it has none of its own: what is trained can be asked.

    Raises InputError when the study poisons rows with another trigger than the setting's evaluations ask with.
    """
    if setting.trigger is None:
        poisoned = [rows for rows in (use.rows, use.control_rows) if isinstance(rows, Backdoor)]
        trained = Trigger(poisoned[0].token, poisoned[0].place, poisoned[0].spacing) if poisoned else None
        setting = replace(setting, trigger=trained)
    check_trigger(setting, use)
    return setting


def with_roles(setting: Setting, use: SettingUse) -> Setting:
    """Return the setting with the traits that the study calls undesired, desired and narrow; as it is where it says nothing.

    An arm keeps as undesired what its own prompt elicits, but for the traits of the narrow task: that an arm still learns its
    task is what is asked of them, also where its prompt names the task. Raises InputError for a trait that no evaluation of the
    setting measures, and for a setting whose models are asked nothing.
    """
    if not setting.evaluations:
        raise InputError(
            f"settings: nothing is asked of the models of {setting.name!r}; add an evaluation of your own under "
            "evaluation.suites (docs/evaluation.md)."
        )
    for role in ("undesired", "desired", "narrow"):
        for trait in getattr(use, role) or ():
            if trait not in setting.measured:
                raise InputError(
                    f"settings: {setting.name}.{role}: no evaluation measures {trait!r}{nearest(trait, setting.measured)}."
                )
    if use.narrow is not None:
        setting = replace(setting, narrow=use.narrow)
    default = setting.arms["baseline"]
    undesired = default.undesired if use.undesired is None else use.undesired
    desired = default.desired if use.desired is None else use.desired

    def assigned(arm: ArmSpec) -> ArmSpec:
        if arm.uses_control_rows:
            return arm
        elicited = [t for t in arm.undesired if t not in (*default.undesired, *undesired)]
        beyond_the_task = [t for t in elicited if t not in setting.narrow]
        against = (*undesired, *(beyond_the_task if undesired or beyond_the_task else elicited))
        return replace(arm, undesired=against, desired=tuple(t for t in desired if t not in against))

    return replace(setting, arms={name: assigned(arm) for name, arm in setting.arms.items()})
