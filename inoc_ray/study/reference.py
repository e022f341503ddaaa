"""The reference of a study file, docs/reference.md, written from the fields of the configuration classes.

`make reference` writes it; a test fails when the page is stale or a field has no description. A field's description is the
string literal below it in the source.
"""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import json
import re
import textwrap
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from inoc_ray.config.base import Config
from inoc_ray.config.identity import path_kind_of, role_of
from inoc_ray.scoring.rule_base import RULES, AnyForm, Rule
from inoc_ray.scoring.rule_combinations import COMBINATIONS
from inoc_ray.study.registered import DEFAULT_MODEL
from inoc_ray.study.resources import EngineResources, GroupResources, Resources
from inoc_ray.study.study import Study

HEAD = """\
# Study reference

Every field of a study file. `make reference` writes this page from the code; edit the descriptions there.

- **Headings** name the place of the fields in the file: `[]` is an entry of a list, `NAME` a name that you choose.
- **default** is what holds when you leave a field out. *required* fields have none; – means that nothing is set.
- **id** says what a change costs. *identity*: the value is part of the id of a fine-tune, an evaluation or a judgment, so
  another value trains, samples or judges anew. *runtime*: the value itself is in no id. Most such fields (names, resources,
  limits) change no result; where one stands for content (a file, a prompt, a seed), its meaning says what counts instead.

A key that is not on this page is an error. `inoc-ray plan STUDY` checks a file and shows what it would run.
"""

TOP = "The study"
"""The heading of the outermost level."""
_SCALARS: Mapping[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    Any: "anything",
    object: "anything",
}
_PATHS: Mapping[str, str] = {
    "rows": "path of a JSONL or parquet file, `hf://datasets/OWNER/NAME@COMMIT/FILE`",
    "questions": "path of a file of questions",
    "task": "name of a task, or path of a task file",
    "model": f"path of a folder, `hf://OWNER/NAME@COMMIT`, `package://NAME`, or a registered name such as `{DEFAULT_MODEL}`",
    "plugin": "path of a Python file",
    "storage": "path of a folder, or `s3://BUCKET/PREFIX`",
}


def descriptions(cls: type[BaseModel]) -> dict[str, str]:
    """Return the string literal below each field in the source of `cls` or of the class that it inherits the field from."""
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if not issubclass(owner, Config):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                text = ast.literal_eval(below.value) if isinstance(below.value, ast.Constant) else None
                if isinstance(text, str):
                    found[field.target.id] = inspect.cleandoc(text)
    return found


def rule_classes() -> list[type[AnyForm]]:
    """Return every rule of the package that a study can write: the named ones, then those that combine rules."""
    named = [RULES[name] for name in RULES]
    return [*(one for one in named if one.__module__.startswith("inoc_ray.scoring.")), *COMBINATIONS.values()]


@functools.cache
def sections() -> dict[type[Config], list[str]]:
    """Return every class that a study file can hold, in the order of the file, with its places."""
    places: dict[type[Config], list[str]] = {Study: [TOP]}
    waiting: list[type[Config]] = [Study]
    while waiting:
        cls = waiting.pop(0)
        for name, info in cls.model_fields.items():
            for inner, place in _classes(
                info.annotation, f"{places[cls][0]}.{info.alias or name}".removeprefix(f"{TOP}.")
            ):
                if issubclass(inner, AnyForm):
                    place = "evaluation.suites[].traits.NAME"
                if inner not in places:
                    waiting.append(inner)
                if place not in places.setdefault(inner, []):
                    places[inner].append(place)
    return places


def places_of_key(key: str) -> list[str]:
    """Return where in a study file a field of that name belongs, such as `arms[].inoculation`."""
    names = {cls: [info.alias or name for name, info in cls.model_fields.items()] for cls in sections()}
    found = (
        "the top level" if place == TOP else f"{place}.{key}"
        for cls, places in sections().items()
        if key in names[cls]
        for place in places
    )
    return list(dict.fromkeys(found))


def _classes(annotation: Any, place: str) -> Iterator[tuple[type[Config], str]]:
    """Return the configuration classes in a field's type, each with its place in the file."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield from (((rule, place) for rule in rule_classes()) if annotation is AnyForm else ((annotation, place),))
    elif get_origin(annotation) is dict and get_args(annotation)[1] is Any:
        # A mapping of anything stands for a rule, whose form is told by its keys.
        yield from ((rule, place) for rule in rule_classes())
    elif get_origin(annotation) is not Literal:
        step = {tuple: "[]", dict: ".NAME"}.get(get_origin(annotation), "")
        for inner in get_args(annotation):
            yield from _classes(inner, place + step)


def in_words(annotation: Any) -> str:
    """Return a field's type as a user of YAML would say it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return ""
    if origin is Annotated:
        return in_words(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{_yaml(value)}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(text for text in map(in_words, arguments) if text))
    if origin is tuple:
        return f"list: {in_words(arguments[0])}"
    if origin is dict and arguments[1] is Any:
        return "[rule](#rules)"
    if origin is dict:
        return f"mapping: name → {in_words(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, AnyForm):
        return "[rule](#rules)"
    if isinstance(annotation, type) and issubclass(annotation, Config):
        text = annotation.__name__.lower() if "(" in heading(annotation) else "fields"
        return f"[{text}](#{_anchor(heading(annotation))})"
    return _SCALARS[annotation]


def bounds(info: FieldInfo) -> str:
    """Return the allowed range in words, such as "from 0 to 1" or "at least 1"; empty where there is none."""
    limits = {
        name: getattr(one, name) for one in info.metadata for name in ("ge", "gt", "le", "lt") if hasattr(one, name)
    }
    low = f"at least {limits['ge']:,}" if "ge" in limits else f"above {limits['gt']:,}" if "gt" in limits else ""
    high = f"at most {limits['le']:,}" if "le" in limits else f"below {limits['lt']:,}" if "lt" in limits else ""
    if "ge" in limits and "le" in limits:
        return f"{limits['ge']:,} to {limits['le']:,}"
    return ", ".join(text for text in (low, high) if text)


def heading(cls: type[Config]) -> str:
    """Return the place of a class in the file, with its name where one of several can be there."""
    place = sections()[cls][0]
    others = [one for one, places in sections().items() if places[0] == place and not issubclass(one, AnyForm)]
    return f"{place} ({cls.__name__.lower()})" if len(others) > 1 else place


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9_ -]", "", text.lower()).replace(" ", "-")


def _yaml(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, BaseModel):
        return _yaml(value.model_dump(exclude_defaults=True))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, str):
        return value if re.fullmatch(r"[A-Za-z][A-Za-z0-9_/-]*", value) else json.dumps(value)
    return json.dumps(value)


def _replaces(cls: type[Config], name: str) -> bool:
    """Return whether the field stands for a model, recipe or judge in place of that of `resources`, which says what it means."""
    overrides = issubclass(cls, GroupResources | EngineResources) and cls is not Resources
    return overrides and name in (EngineResources.model_fields | GroupResources.model_fields)


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "*required*"
    value = info.get_default(call_default_factory=True)
    if isinstance(value, Config):
        return "its defaults"
    return "–" if value is None else f"`{_yaml(value)}`"


def _row(cls: type[Config], name: str, info: FieldInfo, described: Mapping[str, str]) -> str:
    kind = path_kind_of(cls, name)
    told = f"`{cls.NAME}`" if issubclass(cls, Rule) and name == "rule" else in_words(info.annotation)
    if kind is not None:
        told = told.replace("text", _PATHS[kind])
    allowed = bounds(info)
    cells = (
        f"`{info.alias or name}`",
        f"{told}, {allowed}" if allowed else told,
        _default(info),
        role_of(cls, name) or "",
        " ".join(described.get(name, "").split()),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def rule_name(cls: type[AnyForm]) -> str:
    """Return what a study writes to get the rule: the value of `rule`, or the key of a combination."""
    return cls.NAME if issubclass(cls, Rule) else next(info.alias or name for name, info in cls.model_fields.items())


def _section(cls: type[Config], places: list[str]) -> str:
    described = descriptions(cls)
    if issubclass(cls, AnyForm):
        head = f"### {rule_name(cls)}"
    else:
        head = f"## {heading(cls)}"
    also = f"Also in {', '.join(f'`{place}`' for place in places[1:])}.\n\n" if places[1:] else ""
    again = ", ".join(f"`{name}`" for name in cls.model_fields if _replaces(cls, name))
    rows = [_row(cls, n, info, described) for n, info in cls.model_fields.items() if not _replaces(cls, n)]
    table = ["| field | type | default | id | meaning |", "|---|---|---|---|---|", *rows]
    fields = [*([f"Fields of [resources](#resources): {again}.\n"] if again else []), *(table if rows else [])]
    return f"{head}\n\n{inspect.getdoc(cls)}\n\n{also}" + "\n".join(fields).rstrip("\n") + "\n"


def page() -> str:
    """Return the whole reference as Markdown."""
    found = sections()
    out = [HEAD]
    out += [_section(cls, places) for cls, places in found.items() if not issubclass(cls, AnyForm)]
    out.append(
        "## Rules\n\nIn `evaluation.suites[].traits.NAME`, in place of a rubric. A rule gives each response a score "
        "from 0 to 1; above .5 the trait shows. Beside its own fields a rule there may have `given`, a list of rubrics that "
        "decide whether a response counts: see `evaluation.rules_given`.\n"
    )
    out += [_section(cls, []) for cls in found if issubclass(cls, AnyForm)]
    return "\n".join(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="where to write the page (default: print it)")
    options = parser.parse_args()
    if options.out is None:
        print(page(), end="")
    else:
        options.out.write_text(page(), encoding="utf-8")
