"""What a study names and this machine does not have, so that it cannot be planned here: a laptop looks on a cluster's study."""

from __future__ import annotations

import os

from inoc_ray.config.identity import PathKind
from inoc_ray.errors import InputError
from inoc_ray.models.hub import is_hub, parse_place
from inoc_ray.models.package import is_packaged
from inoc_ray.models.resolve import locate
from inoc_ray.run.bundle import replace_paths
from inoc_ray.study.study import Study


def not_here(study: Study, *, rows_of_hub: bool = False) -> list[str]:
    """Return the absolute paths that do not exist here, and the models of the hub and of packages that are not here.

    rows_of_hub: count rows of the hub as missing, which reading them would download. Raises InputError for a model or rows that
    are not pinned.
    """
    found: dict[str, None] = {}

    def look(source: str, kind: PathKind, place: str) -> str:
        if is_hub(source):
            missing = not _cached(source, place) if kind == "model" else _of_hub(source) and rows_of_hub
        elif is_packaged(source):
            missing = not _found(source, place)
        else:
            missing = kind not in ("storage", "plugin") and os.path.isabs(source) and not os.path.exists(source)
        if missing:
            found[source] = None
        return source

    replace_paths(study, look)
    return list(found)


def _of_hub(source: str) -> bool:
    parse_place(source, "dataset")
    return True


def _cached(source: str, place: str) -> bool:
    parse_place(source, "model")
    return _found(source, place)


def _found(source: str, place: str) -> bool:
    try:
        locate(source, place)
    except InputError:
        return False
    return True
