"""Files that a user names, read within bounds: no pipes or devices that never end, no YAML that unfolds to gigabytes."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

from inoc_ray.errors import InputError, shown, unreadable

MAX_YAML_BYTES = 1 << 20
"""Most bytes of a YAML file. PyYAML reads about 200 kB in a second; a study of 1 MiB would have 10,000 arms."""
_MAX_NODES = 100_000
_MAX_CHARACTERS = 8 << 20
_MAX_DEPTH = 100
_ENDLESS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml, where PyYAML is built with it, is ten times as fast."""
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_ODD_NUMBER = re.compile(r"[+-]?0[0-7_]+|.*[:_].*")
"""Octal, in base 60, or with underscores."""
_MERGE = "tag:yaml.org,2002:merge"


LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""First bytes of the file that Git LFS leaves in place of a large file that has not been fetched."""
LFS_POINTER_ADVICE = "a pointer of Git LFS, not the file itself; run `git lfs pull` where it was cloned"


def check_regular(path: Path) -> None:
    """Raise InputError for a pipe, a device or a socket; accept a missing file."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    for is_one, what in _ENDLESS:
        if is_one(mode):
            raise InputError(f"{path}: {what}, which may never end; write its content to a file and name that.")


def check_no_address(source: str, instead: str) -> None:
    """Raise InputError for the address of something on a network, where a path is needed; `instead` says what to give."""
    if source.startswith("file://"):
        # As browsers and file managers copy it.
        instead = f"write {unquote(source.removeprefix('file://').removeprefix('localhost'))}"
    if "://" in source:
        raise InputError(f"{source}: an address, where a path is needed; {instead}.")


def read_yaml_text(path: Path, what: str) -> str:
    """Return the text of a YAML file; a message calls it `what` ("a study file"). Raises InputError naming the file."""
    check_regular(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_YAML_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error, "" if isinstance(error, FileNotFoundError) else what) from error
    if len(data) > MAX_YAML_BYTES:
        raise InputError(f"{path}: larger than {MAX_YAML_BYTES >> 20} MiB, which cannot be {what}.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: cannot be read as {what} (not UTF-8 at byte {error.start}); it is YAML, saved as UTF-8."
        ) from error


def load_yaml(text: str, path: Path) -> Any:
    """Return the value of a YAML text, read safely; merge keys (`<<`) are supported.

    Raises InputError naming `path`, and line and column where they are known, for everything that PyYAML refuses, and also
    for a key that appears twice (the last one would win silently), for a text whose aliases unfold to more than 100,000
    values, that nests more than 100 levels deep or that contains itself, and for a number in octal, in base 60 or with
    underscores (`010`, `1:30`, `1_000`), which is not what it looks like.
    """
    try:
        loader = _LOADER(text)
        _check_depth(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _Bounds(loader).check(node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        reported = error if isinstance(error, _OutOfBounds) else _python_reader_error(text) or error
        mark = getattr(reported, "problem_mark", None)
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join(str(getattr(reported, "problem", None) or reported).split())
        if problem.startswith("but "):
            # Of a second document: the first half stands in the context.
            problem = f"{getattr(reported, 'context', None) or ''}, {problem}".lstrip(", ")
        what = problem if isinstance(error, _OutOfBounds) else f"not YAML ({problem})"
        raise InputError(f"{path}{at}: {what}.") from error
    except RecursionError as error:
        # Aliases may nest below each other, over and over.
        raise InputError(f"{path}: not YAML that can be read (nested too deeply).") from error
    except (ValueError, AttributeError) as error:
        # PyYAML lets these through for values such as 2024-99-99 and `!!int x`.
        raise InputError(f"{path}: contains a value that is not YAML ({error}).") from error


class _OutOfBounds(yaml.constructor.ConstructorError):
    """YAML, but more of it than anybody writes, or a number that is not what it looks like."""


def _python_reader_error(text: str) -> yaml.YAMLError | None:
    """Return the error of PyYAML's own reader, whose words do not depend on whether there is a libyaml."""
    try:
        for _ in yaml.parse(text, Loader=yaml.SafeLoader):
            pass
    except yaml.YAMLError as error:
        return error
    return None


def _check_depth(text: str) -> None:
    """Raise a YAML error for a text that nests too deeply, on which libyaml's composer would overflow the stack."""
    depth = 0
    events: Iterable[Any] = yaml.parse(text, Loader=_LOADER)
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                mark: Any = event.start_mark
                raise _OutOfBounds(None, None, "nested too deeply", mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Bounds:
    """Walks the nodes of a document before any object is made; an alias is the very node that it stands for."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.sizes: dict[int, tuple[int, int]] = {}
        """Node → (values, characters) that it unfolds to."""
        self.open: set[int] = set()

    def check(self, node: yaml.Node) -> tuple[int, int]:
        """Return (values, characters) of a node. Raises a YAML error with the place of what is out of bounds."""
        if id(node) in self.sizes:
            return self.sizes[id(node)]
        if id(node) in self.open:
            raise _OutOfBounds(None, None, "a value that contains itself", node.start_mark)
        values, characters = 1, 0
        if isinstance(node, yaml.ScalarNode):
            characters = len(node.value)
            self._check_number(node)
        else:
            self.open.add(id(node))
            if isinstance(node, yaml.MappingNode):
                self._check_keys(node)
            for child in _children(node):
                more = self.check(child)
                values, characters = values + more[0], characters + more[1]
                if values > _MAX_NODES or characters > _MAX_CHARACTERS:
                    raise _OutOfBounds(None, None, "its aliases unfold to more than anybody writes", node.start_mark)
            self.open.discard(id(node))
        self.sizes[id(node)] = values, characters
        return values, characters

    def _check_number(self, node: yaml.ScalarNode) -> None:
        """Refuse the numbers of YAML 1.1 that few know: 010 is 8, 1:30 is 90, 1_000 is 1000."""
        if node.tag in _NUMBERS and _ODD_NUMBER.fullmatch(node.value):
            made = self.loader.construct_object(node)
            problem = (
                f"YAML reads {node.value[:60]} as the number {made}; write {made}, or put it in quotes if it is a text"
            )
            raise _OutOfBounds(None, None, problem, node.start_mark)

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.tag == _MERGE or not isinstance(key, yaml.ScalarNode):
                continue
            made = self.loader.construct_object(key)
            if made in seen:
                problem = f"the key {shown(made)} appears twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(made)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value)
