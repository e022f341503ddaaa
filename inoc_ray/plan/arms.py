"""The arms of a study, resolved against its settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from inoc_ray.config.base import nearest
from inoc_ray.config.identity import content_id
from inoc_ray.errors import InputError
from inoc_ray.plan.ids import arm_identity
from inoc_ray.settings import ArmSpec, Setting
from inoc_ray.study.rows import SYSTEM_MESSAGE, Inoculation
from inoc_ray.study.study import WITHOUT_DIRECTION, Arm


def resolve_arm(arm: Arm, setting: Setting) -> ArmSpec:
    """Return the setting's arm of that name, or the study's own. Raise InputError for an unknown name or trait.

    setting: as the study uses it; the traits of its suites count like the setting's own.
    """
    traits = setting.measured
    for trait in (*(arm.undesired or ()), *(arm.desired or ())):
        if trait not in traits:
            raise InputError(
                f"arms: {arm.name!r}: no evaluation of setting {setting.name} measures {trait!r}{nearest(trait, traits)}."
            )
    if arm.prompt is None or arm.kind is None:
        return _of_library(arm, setting)
    default = setting.arms["baseline"]
    undesired = arm.undesired if arm.undesired is not None else default.undesired
    if not undesired and arm.kind not in WITHOUT_DIRECTION:
        verb = "denies" if arm.kind == "negative" else "elicits"
        raise InputError(
            f"arms: {arm.name!r}: name the traits that its prompt {verb}: add `undesired: […]` to the arm, or to setting "
            f"{setting.name} for all its arms; the setting's evaluations measure {', '.join(traits)}."
        )
    return ArmSpec(
        name=arm.name,
        kind=arm.kind,
        prompt=arm.prompt,
        undesired=undesired,
        desired=_desired(arm, default, undesired),
        source="study file",
        inoculation=arm.inoculation or SYSTEM_MESSAGE,
    )


def _of_library(arm: Arm, setting: Setting) -> ArmSpec:
    """Return the setting's arm of that name, with the roles and inoculation fields that the study overrides."""
    if arm.name not in setting.arms:
        why = nearest(arm.name, list(setting.arms))
        if arm.name == "control":
            why = "; it trains on clean rows, so name a file of them as control_rows of the setting, or remove the arm"
        raise InputError(f"arms: setting {setting.name} has no arm {arm.name!r}{why}.")
    found = setting.arms[arm.name]
    if arm.undesired is not None or arm.desired is not None:
        undesired = found.undesired if arm.undesired is None else arm.undesired
        desired = _desired(arm, setting.arms["baseline"], undesired)
        found = replace(found, undesired=undesired, desired=desired)
    if arm.inoculation is None:
        return found
    if found.prompt is None:
        raise InputError(f"arms: {arm.name!r} has no prompt, so its inoculation has no effect; remove it.")
    return replace(found, inoculation=_merged(found.inoculation, arm.inoculation))


def _desired(arm: Arm, default: ArmSpec, undesired: tuple[str, ...]) -> tuple[str, ...]:
    wanted = (*default.undesired, *default.desired) if arm.desired is None else arm.desired
    return tuple(t for t in wanted if t not in undesired)


def _merged(own: Inoculation, overrides: Inoculation) -> Inoculation:
    """Return the library arm's inoculation with the fields that the study overrides."""
    return Inoculation(**{name: getattr(c, name) for c in (own, overrides) for name in c.model_fields_set})


def check_arms_differ(arms: Iterable[ArmSpec]) -> None:
    """Raise InputError if two arms would be the same trial under two names."""
    seen: dict[tuple[str, bool], str] = {}
    for arm in arms:
        other = seen.setdefault((content_id(arm_identity(arm)), arm.uses_control_rows), arm.name)
        if other != arm.name:
            raise InputError(
                f"arms: {other!r} and {arm.name!r} have the same prompt, inoculation and rows; remove one of them."
            )
