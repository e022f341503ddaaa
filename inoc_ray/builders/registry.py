"""The registry of builders, each under the name of the setting that its rows are for."""

from __future__ import annotations

from inoc_ray.builders.spec import Builder
from inoc_ray.config.registry import Registry
from inoc_ray.errors import InputError
from inoc_ray.settings.registry import SETTINGS

BUILDERS: Registry[Builder] = Registry(
    "builder",
    built_in=("inoc_ray.builders.educational", "inoc_ray.builders.languages", "inoc_ray.builders.subliminal"),
)


def register_builder(name: str, builder: Builder) -> None:
    """Make a builder known under the name of the setting that its rows are for. Raises InputError when it is taken."""
    BUILDERS.register(name, builder)


def builder_names() -> list[str]:
    """Return the names of all registered builders."""
    return BUILDERS.names()


def get_builder(name: str, control: bool = False) -> Builder:
    """Return the builder of a setting's rows, or of its control rows. Raises InputError when there is no such builder."""
    if name not in BUILDERS and name in SETTINGS:
        raise InputError(
            f"data build: there is no builder for {name!r} (valid: {', '.join(builder_names())}); `inoc-ray settings` says where "
            "its rows come from."
        )
    builder = BUILDERS.lookup(name, "data build")
    if not control:
        return builder
    if builder.control is None:
        raise InputError(
            f"data build: the control rows of {name} are published, not made; `inoc-ray settings` says where they are."
        )
    return builder.control
