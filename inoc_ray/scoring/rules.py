"""Rule judges as data: what a study writes (`{rule: language, language: spanish}`), and what it computes of an item.

A rule gives 0 to 1 (1: the trait shows), or None where it cannot judge: the response is empty, there is no reference, or
nobody could tell. An empty response is None for every rule; how many there are, the gate of evaluate/degenerate.py says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Tag, TypeAdapter, ValidationError

from inoc_ray.config.base import nearest
from inoc_ray.config.identity import canonical_json, identity
from inoc_ray.errors import InputError
from inoc_ray.scoring.judgment import Item
from inoc_ray.scoring.rule_kinds import (
    CapitalsRule,
    Compiled,
    ContainsRule,
    ExactRule,
    HardCodedTestsRule,
    InsecureCodeRule,
    LanguageRule,
    NumericRule,
    Rule,
)


def _known_form(value: Any) -> Any:
    """Says in one sentence what is no rule at all, before the rule's own fields are looked at."""
    if isinstance(value, Rule):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a rule, as {{rule: capitals}}, found {value!r}")
    form = _form_of(value)
    if form is None:
        found = ", ".join(map(str, value)) or "none"
        raise ValueError(f"a rule has exactly one of the keys rule, {', '.join(_COMBINING)}; found {found}")
    if form not in FORMS:
        raise ValueError(f"there is no rule {form!r}{nearest(str(form), _NAMES)}")
    return value


def _form_of(value: Any) -> str | None:
    """The name of a simple rule, or the key of a combination: by it the right class is chosen."""
    if isinstance(value, Rule):
        return next(name for name, made in FORMS.items() if isinstance(value, made))
    given = [key for key in ("rule", *_COMBINING) if key in value]
    if len(given) != 1:
        return None
    return str(value["rule"]) if given == ["rule"] else given[0]


AnyRule = Annotated[
    Annotated[LanguageRule, Tag("language")]
    | Annotated[CapitalsRule, Tag("capitals")]
    | Annotated[ExactRule, Tag("exact")]
    | Annotated[ContainsRule, Tag("contains")]
    | Annotated[NumericRule, Tag("numeric")]
    | Annotated[InsecureCodeRule, Tag("insecure_code")]
    | Annotated[HardCodedTestsRule, Tag("hard_coded_tests")]
    | Annotated["All", Tag("all")]
    | Annotated["Any_", Tag("any")]
    | Annotated["Not", Tag("not")]
    | Annotated["First", Tag("first")],
    Discriminator(_form_of),
    BeforeValidator(_known_form),
]
"""The type of a field that holds a rule; the right class follows from the value's keys."""


def all_of(scores: Sequence[float | None]) -> float | None:
    """The least score. With unknown ones only 0.0 is sure (Kleene's strong logic: an unknown may be anything from 0 to 1)."""
    known = [score for score in scores if score is not None]
    least = min(known, default=1.0)
    return least if len(known) == len(scores) or least == 0.0 else None


def any_of(scores: Sequence[float | None]) -> float | None:
    """The greatest score. With unknown ones only 1.0 is sure."""
    known = [score for score in scores if score is not None]
    greatest = max(known, default=0.0)
    return greatest if len(known) == len(scores) or greatest == 1.0 else None


def first_of(scores: Sequence[float | None]) -> float | None:
    """The first score that is known."""
    return next((score for score in scores if score is not None), None)


def _combined(rules: Sequence[Rule], combine: Callable[[Sequence[float | None]], float | None]) -> Compiled:
    judges = [rule.compiled() for rule in rules]
    return lambda item: combine([judge(item) for judge in judges])


class All(Rule):
    """The lowest of several scores. Where one rule cannot judge, only a 0 of another is sure."""

    all: tuple[AnyRule, ...] = identity(min_length=1)
    """The rules; the lowest score counts."""

    def compiled(self) -> Compiled:
        return _combined(self.all, all_of)

    def canonical(self) -> dict[str, Any]:
        # In which order they are asked makes no difference to the least and the greatest.
        return {"all": sorted((rule.canonical() for rule in self.all), key=canonical_json)}


class Any_(Rule):
    """The highest of several scores. Where one rule cannot judge, only a 1 of another is sure."""

    any: tuple[AnyRule, ...] = identity(min_length=1)
    """The rules; the highest score counts."""

    def compiled(self) -> Compiled:
        return _combined(self.any, any_of)

    def canonical(self) -> dict[str, Any]:
        return {"any": sorted((rule.canonical() for rule in self.any), key=canonical_json)}


class First(Rule):
    """The score of the first rule that can judge."""

    first: tuple[AnyRule, ...] = identity(min_length=1)
    """The rules, in the order in which they are tried."""

    def compiled(self) -> Compiled:
        return _combined(self.first, first_of)

    def canonical(self) -> dict[str, Any]:
        return {"first": [rule.canonical() for rule in self.first]}


class Not(Rule):
    """1 minus the score; no judgment where the rule gives none."""

    not_: AnyRule = identity(alias="not")
    """The rule whose score is subtracted."""

    def compiled(self) -> Compiled:
        judge = self.not_.compiled()

        def opposite(item: Item) -> float | None:
            score = judge(item)
            return None if score is None else 1.0 - score

        return opposite

    def canonical(self) -> dict[str, Any]:
        return {"not": self.not_.canonical()}


_COMBINING: dict[str, type[Rule]] = {"all": All, "any": Any_, "not": Not, "first": First}
_SIMPLE: tuple[type[Rule], ...] = (
    LanguageRule, CapitalsRule, ExactRule, ContainsRule, NumericRule, InsecureCodeRule, HardCodedTestsRule,
)  # fmt: skip
_NAMES = tuple(made.model_fields["rule"].annotation.__args__[0] for made in _SIMPLE)  # type: ignore[union-attr]
FORMS: dict[str, type[Rule]] = {**dict(zip(_NAMES, _SIMPLE, strict=True)), **_COMBINING}
for _made in _COMBINING.values():
    _made.model_rebuild()
_READ: TypeAdapter[Any] = TypeAdapter(AnyRule)


def _place(location: Sequence[str | int]) -> str:
    """Where in the rule as it is written: `all[0].share`. Pydantic names the chosen class, too, before its fields."""
    place, is_class = "", True
    for part in location:
        if is_class:
            is_class = False
            continue
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else part
        is_class = isinstance(part, int) or part == "not"
    return place


def read_rule(spec: Rule | Mapping[str, Any]) -> Rule:
    """The rule that a mapping describes. Raises InputError that says what is wrong with it, and where."""
    try:
        rule: Rule = _READ.validate_python(spec)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = _place(first["loc"])
        message = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
        if first["type"] == "too_short":
            message = "must have at least one entry"
        raise InputError(f"rule {spec!r}: {f'{place}: ' if place else ''}{message}.") from error
    return rule


def compile_rule(spec: Rule | Mapping[str, Any]) -> Compiled:
    """The judge that a rule describes: item → 0 to 1, or None. Raises InputError for what is no rule."""
    return read_rule(spec).compiled()


def rule_id(spec: Rule | Mapping[str, Any]) -> dict[str, Any]:
    """What makes two rules the same judge, for hashing: the fields that count, versions of rules and of their libraries."""
    return read_rule(spec).canonical()
