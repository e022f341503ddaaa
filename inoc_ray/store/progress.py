"""How far the run of a study is, written beside its results: for whoever looks on, from a machine without the study's models.

Two files. The outline says what the run is about: its trials, bases and their cells; it is written once a run. The progress says
what is being done now; it is small, and rewritten at most every few seconds, whatever the number of trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inoc_ray.store import layout, seal
from inoc_ray.store.place import Place
from inoc_ray.store.store import Store


def keep_outline(store: Store, study: str, value: Mapping[str, Any]) -> None:
    """Write the outline of a study, unless it is there already."""
    if read_outline(store, study) != value:
        _outline(store, study).write_json(seal.sealed_json(value))


def read_outline(store: Store, study: str) -> dict[str, Any] | None:
    """Return what `keep_outline` wrote; None if it is missing or damaged, since the next run writes it again."""
    return _read(_outline(store, study))


def keep_progress(store: Store, study: str, value: Mapping[str, Any]) -> None:
    """Write how far the run of a study is."""
    _progress(store, study).write_json(seal.sealed_json(value))


def read_progress(store: Store, study: str) -> dict[str, Any] | None:
    """Return what `keep_progress` wrote; None if it is missing or damaged.

    With two times by the storage's own clock, since those of machines differ: `written` (epoch seconds), and `age`, the seconds
    since then.
    """
    place = _progress(store, study)
    stat, value = place.filesystem.stat(place.key), _read(place)
    if stat is None or value is None:
        return None
    return {**value, "written": stat.modified, "age": max(0.0, place.filesystem.now() - stat.modified)}


def _outline(store: Store, study: str) -> Place:
    return store.study(study) / layout.OUTLINE


def _progress(store: Store, study: str) -> Place:
    return store.study(study) / layout.PROGRESS


def _read(place: Place) -> dict[str, Any] | None:
    try:
        value = place.read_json()
        return {name: inner for name, inner in value.items() if name != "seal"} if seal.agrees(value) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None
