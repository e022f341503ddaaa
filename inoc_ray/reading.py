"""Files that a user names, read within bounds: no pipes and devices that never end, no YAML that unfolds to gigabytes."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import yaml

from inoc_ray.errors import InputError, shown

MAX_YAML_BYTES = 1 << 20
"""Of a YAML file. PyYAML reads about 200 kB in a second; a study of 1 MiB would be one of 10,000 arms."""
_MAX_NODES = 100_000
_MAX_CHARACTERS = 8 << 20
_MAX_DEPTH = 100
_ENDLESS = (
    (stat.S_ISFIFO, "a pipe"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"), (stat.S_ISSOCK, "a socket"),
)  # fmt: skip
_MERGE = "tag:yaml.org,2002:merge"


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
        raise InputError(f"{path}: cannot be read as {what} ({error.strerror}).") from error
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
    unfold to more than 100,000 values, that nests more than 100 levels deep or that contains itself. Merge keys (`<<`) are
    read.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _Bounds(loader).check(node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{path}{at}: not YAML ({getattr(error, 'problem', None) or error}).") from error
    except RecursionError as error:
        raise InputError(f"{path}: not YAML that can be read (nested too deeply).") from error
    except (ValueError, AttributeError) as error:
        # PyYAML lets these through for values such as 2024-99-99 and `!!int x`.
        raise InputError(f"{path}: holds a value that is no YAML ({error}).") from error


class _Bounds:
    """Walks the nodes of a document before anything is made of them; an alias is the very node that it stands for."""

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self.loader = loader
        self.sizes: dict[int, tuple[int, int]] = {}
        """Node → (values, characters) that it unfolds to."""
        self.open: set[int] = set()

    def check(self, node: yaml.Node, depth: int = 0) -> tuple[int, int]:
        """(values, characters) of a node. Raises a YAML error with the place of what is out of bounds."""
        if id(node) in self.sizes:
            return self.sizes[id(node)]
        if id(node) in self.open:
            raise _error("a value that contains itself", node)
        if depth > _MAX_DEPTH:
            raise _error("nested too deeply", node)
        values, characters = 1, 0
        if isinstance(node, yaml.ScalarNode):
            characters = len(node.value)
        else:
            self.open.add(id(node))
            if isinstance(node, yaml.MappingNode):
                self._check_keys(node)
            for child in _children(node):
                more = self.check(child, depth + 1)
                values, characters = values + more[0], characters + more[1]
                if values > _MAX_NODES or characters > _MAX_CHARACTERS:
                    raise _error("aliases that unfold to more than anybody wrote", node)
            self.open.discard(id(node))
        self.sizes[id(node)] = values, characters
        return values, characters

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.tag == _MERGE or not isinstance(key, yaml.ScalarNode):
                continue
            made = self.loader.construct_object(key)
            if made in seen:
                raise _error(f"the key {shown(made)} appears twice", key)
            seen.add(made)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value)


def _error(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
