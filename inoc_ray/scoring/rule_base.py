"""What a rule judge is, and the decorator that makes one known under a name."""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Callable, Set
from typing import Any, ClassVar, TypeVar

from pydantic import field_validator

from inoc_ray.config.base import Config
from inoc_ray.config.identity import identity, identity_fields
from inoc_ray.config.registry import Registry, plugin_version
from inoc_ray.errors import InputError
from inoc_ray.scoring.judgment import Item

Compiled = Callable[[Item], float | None]
"""A judge: item → 0 to 1 (1: the trait shows), or None where it cannot judge."""

ANSWER, CHOICE = "answer", "matching_choice"
"""Fields of a question's entry that a rule may need."""


class AnyForm(Config, ABC):
    """A rule as a study writes it: a named one, or a combination of several."""

    VERSION: ClassVar[int] = 1
    """Part of a judgment's identity: raise it when the rule judges otherwise than before."""
    LIBRARY: ClassVar[str | None] = None
    """The distribution that the judgment rests on; its installed version is part of the identity, too."""
    PLUGIN: ClassVar[str | None] = None
    """The version of the plugin file that registered the rule, part of the identity; None for a rule of the package."""

    @abstractmethod
    def compiled(self) -> Compiled:
        """Return the judge itself; cheap, as libraries are only loaded when the first item is judged."""

    def lacks(self, has: Set[str]) -> frozenset[str]:
        """Return the fields that the rule lacks to judge a question whose entry `has` these (of ANSWER and CHOICE)."""
        return frozenset()

    def canonical(self) -> dict[str, Any]:
        """Return everything that decides what the rule says, ready for canonical JSON."""
        out = {**identity_fields(self), "version": self.VERSION}
        if self.LIBRARY is not None:
            out["library"] = f"{self.LIBRARY} {importlib.metadata.version(self.LIBRARY)}"
        if self.PLUGIN is not None:
            out["plugin"] = self.PLUGIN
        return out


class Rule(AnyForm):
    """A rule with a name. Subclass it for a rule with options, which are its fields, declared with `identity(...)`."""

    NAME: ClassVar[str] = ""
    """Given by the decorator `rule`."""
    rule: str = identity()
    """Selects this rule."""

    @field_validator("rule")
    @classmethod
    def _own_name(cls, value: str) -> str:
        if value != cls.NAME:
            raise ValueError(f"must be {cls.NAME!r}, found {value!r}")
        return value


RULES: Registry[type[Rule]] = Registry("rule", built_in=("inoc_ray.scoring.rules",))
Made = TypeVar("Made", type[Rule], Compiled)


def rule(name: str) -> Callable[[Made], Made]:
    """Make a rule known under a name, so that a study can write `{rule: NAME}`.

    Decorate a function of an `Item` that returns 0 to 1 (1: the trait shows) or None where it cannot judge; an empty response
    is None without asking it. For a rule with options decorate a subclass of `Rule`: a study writes its fields beside `rule`.

    In a user's plugin file the hash of the file is part of the rule's identity: a rule that is edited scores stored samples
    again. Elsewhere raise `VERSION` by hand. Raises InputError when the name is taken.
    """

    def register(made: Made) -> Made:
        if isinstance(made, type):
            if not issubclass(made, Rule):
                raise InputError(f"rule {name!r}: {made.__name__} must be a subclass of inoc_ray.scoring.Rule.")
            kind: type[Rule] = made
        else:
            kind = type("FunctionRule", (Rule,), {"compiled": _compiled_from(made), "__doc__": made.__doc__})
        kind.NAME, kind.PLUGIN = name, plugin_version()
        RULES.register(name, kind)
        return made

    return register


def _compiled_from(judge: Compiled) -> Callable[[Rule], Compiled]:
    def compiled(self: Rule) -> Compiled:
        return lambda item: judge(item) if item.response.strip() else None

    return compiled
