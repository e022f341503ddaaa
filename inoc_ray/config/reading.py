"""Files that a user names, read within bounds: no pipes and devices that never end, no YAML that unfolds to gigabytes."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from inoc_ray.errors import InputError, shown, unreadable

MAX_YAML_BYTES = 1 << 20
"""Of a YAML file. PyYAML reads about 200 kB in a second; a study of 1 MiB would be one of 10,000 arms."""
_MAX_NODES = 100_000
_MAX_CHARACTERS = 8 << 20
_MAX_DEPTH = 100
_ENDLESS = (
    (stat.S_ISFIFO, "a pipe"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"), (stat.S_ISSOCK, "a socket"),
)  # fmt: skip
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where PyYAML is built with it: ten times as fast."""
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_ODD_NUMBER = re.compile(r"[+-]?0[0-7_]+|.*[:_].*")
"""Octal, in base 60, or with underscores."""
_MERGE = "tag:yaml.org,2002:merge"


LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""First bytes of what Git leaves in place of a large file that has not been fetched."""
LFS_POINTER_ADVICE = "a pointer of Git LFS, not the file itself; run `git lfs pull` where it was cloned"


def check_regular(path: Path) -> None:
    """Raises InputError for a pipe, a device or a socket; says nothing of what is not there."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    for is_one, what in _ENDLESS:
        if is_one(mode):
            raise InputError(f"{path}: {what}, which may never end; write its content to a file and name that.")


def read_yaml_text(path: Path, what: str) -> str:
    """The text of a YAML file; `what` is what a message calls it ("a study file"). Raises InputError naming the file."""
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
    """The value of a YAML text, read safely. Raises InputError naming `path`, and line and column where there are any.

    Besides what PyYAML refuses: a key that appears twice (the last one would win in silence), and a text whose aliases
    unfold to more than 100,000 values, that nests more than 100 levels deep or that contains itself, and a number in octal or
    base 60 or with underscores (`010`, `1:30`, `1_000`), which is not what it looks like. Merge keys (`<<`) are
    read.
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
        said = error if isinstance(error, _Refused) else _in_python(text) or error
        mark = getattr(said, "problem_mark", None)
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join(str(getattr(said, "problem", None) or said).split())
        what = problem if isinstance(error, _Refused) else f"not YAML ({problem})"
        raise InputError(f"{path}{at}: {what}.") from error
    except RecursionError as error:
        # An alias may stand below what another names, over and over.
        raise InputError(f"{path}: not YAML that can be read (nested too deeply).") from error
    except (ValueError, AttributeError) as error:
        # PyYAML lets these through for values such as 2024-99-99 and `!!int x`.
        raise InputError(f"{path}: holds a value that is no YAML ({error}).") from error


class _Refused(yaml.constructor.ConstructorError):
    """YAML, but more of it than anybody writes, or a number that is another one than it looks like."""


def _in_python(text: str) -> yaml.YAMLError | None:
    """What PyYAML's own reader says is wrong with the text: the same words whether there is a libyaml or not."""
    try:
        for _ in yaml.parse(text, Loader=yaml.SafeLoader):
            pass
    except yaml.YAMLError as error:
        return error
    return None


def _check_depth(text: str) -> None:
    """Raises a YAML error for a text that nests too deeply: libyaml's composer would overflow the stack of the process."""
    depth = 0
    events: Iterable[Any] = yaml.parse(text, Loader=_LOADER)
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                mark: Any = event.start_mark
                raise _Refused(None, None, "nested too deeply", mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Bounds:
    """Walks the nodes of a document before anything is made of them; an alias is the very node that it stands for."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.sizes: dict[int, tuple[int, int]] = {}
        """Node → (values, characters) that it unfolds to."""
        self.open: set[int] = set()

    def check(self, node: yaml.Node) -> tuple[int, int]:
        """(values, characters) of a node. Raises a YAML error with the place of what is out of bounds."""
        if id(node) in self.sizes:
            return self.sizes[id(node)]
        if id(node) in self.open:
            raise _Refused(None, None, "a value that contains itself", node.start_mark)
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
                    raise _Refused(None, None, "its aliases unfold to more than anybody writes", node.start_mark)
            self.open.discard(id(node))
        self.sizes[id(node)] = values, characters
        return values, characters

    def _check_number(self, node: yaml.ScalarNode) -> None:
        """YAML 1.1 has numbers that few know: 010 is 8, 1:30 is 90, 1_000 is 1000."""
        if node.tag in _NUMBERS and _ODD_NUMBER.fullmatch(node.value):
            made = self.loader.construct_object(node)
            problem = (
                f"YAML reads {node.value[:60]} as the number {made}; write {made}, or put it in quotes if it is a text"
            )
            raise _Refused(None, None, problem, node.start_mark)

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
