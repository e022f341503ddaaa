"""Notes in the cluster's own table (Ray's GCS), which outlive the command that wrote them: what it is about to start there."""

from __future__ import annotations

_NAMESPACE = b"inoc_ray"


def put(key: str, text: str = "") -> None:
    """Write a note, over one of the same key."""
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(key, text, namespace=_NAMESPACE)


def remove(key: str) -> None:
    """Remove a note, if it is there."""
    from ray.experimental.internal_kv import _internal_kv_del

    _internal_kv_del(key, namespace=_NAMESPACE)


def read(prefix: str) -> dict[str, str]:
    """Return the texts of the notes whose keys begin so, by the rest of the key."""
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list

    keys = [key.decode() for key in _internal_kv_list(prefix, namespace=_NAMESPACE)]
    found = {key: _internal_kv_get(key, namespace=_NAMESPACE) for key in keys}
    # One may have been removed since.
    return {key.removeprefix(prefix): text.decode() for key, text in found.items() if text is not None}
