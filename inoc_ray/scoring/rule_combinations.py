"""Rule judges as data: what a study writes (`{rule: language, language: spanish}`), and what it computes of an item.

A rule gives 0 to 1 (1: the trait shows), or None where it cannot judge: the response is empty, there is no reference, or
the text does not decide it. Every rule gives None for an empty response; scoring/degenerate.py counts those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Annotated, Any

from pydantic import PlainValidator, SerializeAsAny, TypeAdapter, ValidationError

from inoc_ray.config.base import first_message, nearest
from inoc_ray.config.identity import canonical_json, identity
from inoc_ray.errors import InputError
from inoc_ray.scoring.judgment import Item
from inoc_ray.scoring.rule_base import RULES, AnyForm, Compiled


def _read(value: Any) -> AnyForm:
    """Make a rule of what a study writes. Its keys select the class, so a message is about that class alone."""
    if isinstance(value, AnyForm):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a rule, as {{rule: capitals}}, found {value!r}")
    given = [key for key in ("rule", *COMBINATIONS) if key in value]
    if len(given) != 1:
        found = ", ".join(map(str, value)) or "none"
        advice = "" if given else "; for a judging model write {rubric: NAME}"
        raise ValueError(f"a rule has exactly one of the keys rule, {', '.join(COMBINATIONS)}; found {found}{advice}")
    if given != ["rule"]:
        return COMBINATIONS[given[0]].model_validate(value)
    name = value["rule"]
    if not isinstance(name, str) or name not in RULES:
        raise ValueError(f"there is no rule {name!r}{nearest(str(name), RULES.names())}")
    return RULES[name].model_validate(value)


AnyRule = Annotated[SerializeAsAny[AnyForm], PlainValidator(_read)]
"""The type of a field that holds a rule; the right class follows from the value's keys."""


def all_of(scores: Sequence[float | None]) -> float | None:
    """Return the least score, or None where unknown scores leave it open.

    With unknown scores only 0.0 is certain (Kleene's strong logic: an unknown one may be anything from 0 to 1).
    """
    known = [score for score in scores if score is not None]
    least = min(known, default=1.0)
    return least if len(known) == len(scores) or least == 0.0 else None


def any_of(scores: Sequence[float | None]) -> float | None:
    """Return the greatest score; with unknown scores only 1.0 is certain, and None stands for the rest."""
    known = [score for score in scores if score is not None]
    greatest = max(known, default=0.0)
    return greatest if len(known) == len(scores) or greatest == 1.0 else None


def first_of(scores: Sequence[float | None]) -> float | None:
    """Return the first score that is known, or None."""
    return next((score for score in scores if score is not None), None)


def _combined(rules: Sequence[AnyForm], combine: Callable[[Sequence[float | None]], float | None]) -> Compiled:
    judges = [rule.compiled() for rule in rules]
    return lambda item: combine([judge(item) for judge in judges])


class All(AnyForm):
    """The lowest of several scores. Where one rule cannot judge, only a 0 of another decides."""

    all: tuple[AnyRule, ...] = identity(min_length=1)
    """The rules; the lowest score counts."""

    def lacks(self, has: Set[str]) -> frozenset[str]:
        """Return what any of the rules lacks."""
        return frozenset().union(*(rule.lacks(has) for rule in self.all))

    def compiled(self) -> Compiled:
        """Return a judge that asks all rules and combines their scores by `all_of`."""
        return _combined(self.all, all_of)

    def canonical(self) -> dict[str, Any]:
        """Return the rules in a fixed order, since their order does not change the least score."""
        return {"all": sorted((rule.canonical() for rule in self.all), key=canonical_json)}


class Any_(AnyForm):
    """The highest of several scores. Where one rule cannot judge, only a 1 of another decides."""

    any: tuple[AnyRule, ...] = identity(min_length=1)
    """The rules; the highest score counts."""

    def lacks(self, has: Set[str]) -> frozenset[str]:
        """Return what any of the rules lacks."""
        return frozenset().union(*(rule.lacks(has) for rule in self.any))

    def compiled(self) -> Compiled:
        """Return a judge that asks all rules and combines their scores by `any_of`."""
        return _combined(self.any, any_of)

    def canonical(self) -> dict[str, Any]:
        """Return the rules in a fixed order, since their order does not change the greatest score."""
        return {"any": sorted((rule.canonical() for rule in self.any), key=canonical_json)}


class First(AnyForm):
    """The score of the first rule that can judge."""

    first: tuple[AnyRule, ...] = identity(min_length=1)
    """The rules, in the order in which they are tried."""

    def lacks(self, has: Set[str]) -> frozenset[str]:
        """Return what the rules lack, nothing if one of them lacks nothing: it judges."""
        lacking = [rule.lacks(has) for rule in self.first]
        return frozenset().union(*lacking) if all(lacking) else frozenset()

    def compiled(self) -> Compiled:
        """Return a judge that asks all rules and takes their first known score."""
        return _combined(self.first, first_of)

    def canonical(self) -> dict[str, Any]:
        """Return the rules in the study's order, which decides the score."""
        return {"first": [rule.canonical() for rule in self.first]}


class Not(AnyForm):
    """1 minus the score; no score where the rule gives none."""

    not_: AnyRule = identity(alias="not")
    """The rule whose score is subtracted."""

    def lacks(self, has: Set[str]) -> frozenset[str]:
        """Return what the negated rule lacks."""
        return self.not_.lacks(has)

    def compiled(self) -> Compiled:
        """Return a judge that gives 1 minus the rule's score."""
        judge = self.not_.compiled()

        def opposite(item: Item) -> float | None:
            score = judge(item)
            return None if score is None else 1.0 - score

        return opposite

    def canonical(self) -> dict[str, Any]:
        """Return the negated rule."""
        return {"not": self.not_.canonical()}


COMBINATIONS: dict[str, type[AnyForm]] = {"all": All, "any": Any_, "not": Not, "first": First}
_READ: TypeAdapter[AnyForm] = TypeAdapter(AnyRule)


def read_rule(spec: AnyForm | Mapping[str, Any]) -> AnyForm:
    """Return the rule that a mapping describes. Raises InputError that says what is wrong with it, and where."""
    try:
        rule = _READ.validate_python(spec)
    except ValidationError as error:
        raise InputError(f"rule {spec!r}: {first_message(error, '')}") from error
    return rule


def compile_rule(spec: AnyForm | Mapping[str, Any]) -> Compiled:
    """Return the judge that a rule describes: item → 0 to 1, or None. Raises InputError for anything that is not a rule."""
    return read_rule(spec).compiled()
