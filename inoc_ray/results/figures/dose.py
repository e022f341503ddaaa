"""Which number of a study's recipes is a dose, and which fine-tunes make a curve over it: those that differ in nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

DOSES = ("steps", "epochs", "learning_rate", "lora.rank")
"""The numbers of a recipe that count as a dose, in the order in which one is chosen for the axis."""
Recipes = Mapping[str, Mapping[str, Any]]
"""Model as the tables call it (`MODEL/RECIPE`, or `MODEL` alone) → the recipe of its fine-tunes, flat (`lora.rank`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dose:
    """A number in which recipes differ, and the curves over it."""

    name: str
    """What stands on the axis: the number, and what else changes with it."""
    at: Mapping[str, float]
    """Model as the tables call it → its dose; those that are on no curve are left out."""
    curve: Mapping[str, str]
    """Model as the tables call it → what tells its curve from others of the same arm: base model and other numbers; empty if
    there is one curve."""


def dose_of(recipes: Recipes) -> Dose | None:
    """Return the dose of a study; None if its recipes differ in none of DOSES.

    The first number over which fine-tunes of a model differ in nothing else. If there is none, the first one that no two recipes
    of a model share, which then is not the only change: its name says what else is.
    """
    for number in DOSES:
        groups = _curves(recipes, number, alone=True)
        if groups:
            apart = {label: _told_apart(group, number, groups, recipes) for group in groups for label in group}
            return Dose(name=number, at=_at(groups, number, recipes), curve=apart)
    for number in DOSES:
        groups = _curves(recipes, number, alone=False)
        if groups and all(len(_doses(group, number, recipes)) == len(group) for group in groups):
            others = sorted({key for group in groups for key in _varied(group, recipes)} - {number})
            apart = {label: _told_apart(group, number, groups, {}) for group in groups for label in group}
            return Dose(name=f"{number} (with {', '.join(others)})", at=_at(groups, number, recipes), curve=apart)
    return None


def _base(label: str) -> str:
    return label.partition("/")[0]


def _curves(recipes: Recipes, number: str, *, alone: bool) -> list[list[str]]:
    """Return the groups of a base model that have several doses; alone: each agrees in all other numbers of the recipe."""
    groups: dict[object, list[str]] = {}
    for label, recipe in recipes.items():
        if recipe.get(number) is not None:
            rest = {key: repr(value) for key, value in recipe.items() if key != number} if alone else {}
            groups.setdefault((_base(label), *sorted(rest.items())), []).append(label)
    return [group for group in groups.values() if len(_doses(group, number, recipes)) > 1]


def _doses(group: Iterable[str], number: str, recipes: Recipes) -> set[float]:
    return {float(recipes[label][number]) for label in group}


def _at(groups: Iterable[Iterable[str]], number: str, recipes: Recipes) -> dict[str, float]:
    return {label: float(recipes[label][number]) for group in groups for label in group}


def _varied(group: Iterable[str], recipes: Recipes) -> list[str]:
    """Return the keys in which the recipes of a group differ."""
    own = [recipes[label] for label in group]
    return [
        key for key in dict.fromkeys(key for one in own for key in one) if len({repr(one.get(key)) for one in own}) > 1
    ]


def _told_apart(group: list[str], number: str, groups: list[list[str]], recipes: Recipes) -> str:
    """Return what tells a group from the others: its base model, and the numbers in which the groups differ."""
    bases = {_base(other[0]) for other in groups}
    first = [other[0] for other in groups if _base(other[0]) == _base(group[0])]
    numbers = [key for key in _varied(first, recipes) if key != number] if recipes else []
    words = [f"{key} {recipes[group[0]].get(key)}" for key in numbers]
    return ", ".join([*([_base(group[0])] if len(bases) > 1 else []), *words])
