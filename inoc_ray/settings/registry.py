"""The registry of settings."""

from __future__ import annotations

from inoc_ray.config.registry import Registry
from inoc_ray.errors import InputError
from inoc_ray.settings.spec import Setting

SETTINGS: Registry[Setting] = Registry("setting", built_in=("inoc_ray.settings.paper",))


def register(setting: Setting) -> None:
    """Make a setting known under its name.

    Raises InputError when the name is taken or there is no arm `baseline`, with which the others are compared.
    """
    if "baseline" not in setting.arms:
        raise InputError(
            f"setting {setting.name!r} has no arm 'baseline', with which the others are compared; add one without a prompt."
        )
    SETTINGS.register(setting.name, setting)


def forget(name: str) -> None:
    """Take a setting out of the registry."""
    SETTINGS.forget(name)


def names() -> list[str]:
    """Return the names of all registered settings."""
    return SETTINGS.names()


def get(name: str) -> Setting:
    """Return the setting of that name. Raises InputError that names the nearest one."""
    return SETTINGS.lookup(name, "settings")
