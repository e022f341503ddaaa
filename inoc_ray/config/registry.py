"""Registries: what a plugin adds (settings, prompts, rules, builders, models, ...) is found by its name.

A registry knows three kinds of entries:

1. its own room's, from the modules in `built_in`, which register when they are imported;
2. those of the plugins in `PLUGINS`, which ship with the package and may import anything, while nothing imports them;
3. those of a user's plugin file, which registers what it likes when a study names it (see settings/plugins.py).

The modules of 1 and 2 are imported at a registry's first lookup and not before, so that a command pays for what it looks up.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from inoc_ray.errors import InputError, shown

PLUGINS = ("inoc_ray.miniature.plugin",)
"""The plugins that ship. Each is a cheap module that registers what costs nothing and names the modules of the rest with
`provide`."""

T = TypeVar("T")
Added = list[tuple["Registry[object]", str]]
"""What a plugin file has registered: (registry, name)."""

_provided: dict[str, list[str]] = {}
"""Kind → modules that register entries of that kind and are not imported yet."""
_added: Added | None = None
"""Where to write down what is registered, while a user's plugin file runs."""
_version: str | None = None
"""The version of that plugin file."""


def provide(kind: str, module: str) -> None:
    """Say that importing `module` registers entries of a kind; it is imported when that kind is first looked up."""
    _provided.setdefault(kind, []).append(module)


def plugin_version() -> str | None:
    """Return the version (16 hex digits of its text) of the user's plugin file that runs at this moment, or None."""
    return _version


@contextmanager
def recorded(version: str) -> Iterator[Added]:
    """Collect what is registered inside the block; what a block registers that fails is taken out again."""
    global _added, _version
    added: Added = []
    _added, _version = added, version
    try:
        yield added
    except BaseException:
        withdraw(added)
        raise
    finally:
        _added = _version = None


def withdraw(added: Added) -> None:
    """Take entries out of their registries, those that are still there."""
    for registry, name in added:
        if name in registry:
            registry.forget(name)


class Registry(Mapping[str, T]):
    """Values of one kind by name. A name is registered once; an unknown one is an error that names the nearest."""

    def __init__(self, kind: str, entries: Mapping[str, T] | None = None, *, built_in: Sequence[str] = ()) -> None:
        """Make a registry with entries of its own room, or with the modules (`built_in`) that register them when imported.

        `kind` is what messages call an entry.
        """
        self.kind = kind
        self._entries: dict[str, T] = dict(entries or {})
        self._modules = list(built_in)
        self._busy = False

    def register(self, name: str, value: T) -> None:
        """Make a value known under its name. Raises InputError when the name is taken."""
        if _added is not None:
            self.load()  # A user's plugin is told at once that its name is taken.
        if name in self._entries:
            raise InputError(f"{self.kind} {shown(name)} is registered already; give yours another name.")
        self._entries[name] = value
        if _added is not None:
            _added.append((self, name))  # type: ignore[arg-type]

    def replace(self, name: str, value: T) -> None:
        """Put another value in the place of a registered one."""
        if name not in self._entries:
            raise KeyError(name)
        self._entries[name] = value

    def forget(self, name: str) -> None:
        """Take an entry out."""
        del self._entries[name]

    def lookup(self, name: str, where: str = "") -> T:
        """Return the value of that name. Raises InputError, which begins with `where` and names the nearest entry."""
        from inoc_ray.config.base import nearest

        if name not in self:
            place = f"{where}: " if where else ""
            raise InputError(f"{place}there is no {self.kind} {shown(name)}{nearest(name, self.names())}.")
        return self[name]

    def names(self) -> list[str]:
        """Return the names of all entries, sorted."""
        return sorted(self)

    def __getitem__(self, name: str) -> T:
        self.load()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in the order of their registration: those of the registry's own room come first."""
        self.load()
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        self.load()
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        self.load()
        return name in self._entries

    # Two registries are never equal, and a registry can stand in the record of what a plugin added.
    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def load(self) -> None:
        """Import the modules that register entries of this kind and are not imported yet."""
        if self._busy:
            return  # A module that is being imported for this registry looks something up in it.
        self._busy = True
        try:
            with _unrecorded():
                while self._modules:
                    importlib.import_module(self._modules[0])
                    del self._modules[0]  # Only now: a module that fails is tried, and fails, again.
                for plugin in PLUGINS:
                    importlib.import_module(plugin)
                provided = _provided.get(self.kind, [])
                while provided:
                    importlib.import_module(provided[0])
                    del provided[0]
        finally:
            self._busy = False


@contextmanager
def _unrecorded() -> Iterator[None]:
    """Do not record what modules of the package register because a user's plugin, which runs, looks something up."""
    global _added, _version
    before = _added, _version
    _added = _version = None
    try:
        yield
    finally:
        _added, _version = before
