"""The capability scores of a model on disk: the harness's samples, then the scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inoc_ray.store import layout, seal
from inoc_ray.store.place import Place


def commit_capability(folder: Place, value: Mapping[str, Any], samples: bytes) -> None:
    """Write the samples (JSONL, gzipped), then the scores, whose file marks the whole as complete."""
    (folder / layout.CAPABILITY_SAMPLES).write_bytes(samples)
    (folder / layout.CAPABILITY_SCORES).write_json(seal.sealed_json(value))


def read_capability(folder: Place) -> dict[str, Any] | None:
    """Return the committed scores; None if they are missing or damaged."""
    try:
        value = (folder / layout.CAPABILITY_SCORES).read_json()
        return {**value} if seal.agrees(value) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def read_capability_samples(folder: Place) -> bytes | None:
    """Return the harness's samples, gzipped; None if they are missing."""
    try:
        return (folder / layout.CAPABILITY_SAMPLES).read_bytes()
    except OSError:
        return None
