"""Seals: the hash of a file in its name, of a JSON value in the value, or of a line at its end.

A seal is the first 16 hex digits of a SHA-256. It protects against accidents (a flipped bit, a torn copy, a file of another cell,
a hand edit), not against somebody who forges a file with its seal. In a name it covers the bytes, the plain name and the two
folders around it, so that a file cannot pass for another; the storage as a whole may be moved.

A file that is used is read once, and those very bytes are hashed. For a file that is only inspected (plan, status), the hash is
cached in memory while its size, time of change and inode stay the same: this assumes that a change of the content changes the time.
Damage below the file system is noticed when the file is used.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from inoc_ray.config.identity import content_id
from inoc_ray.store.filesystem import Stat
from inoc_ray.store.place import Place

_SEALED = re.compile(r"(?P<stem>.+)\.(?P<seal>[0-9a-f]{16})(?P<suffix>\.[A-Za-z0-9]+)")
_RACY_SECONDS = 2.0
"""A file that changed this recently may change again within the same tick of its time stamp."""
_cached: dict[tuple[Place, bytes], tuple[Stat, str]] = {}


def sealed_path(path: Place, data: bytes) -> Place:
    """Return `a/b.0123456789abcdef.parquet` for `a/b.parquet`."""
    return path.with_name(f"{path.stem}.{seal_for(path, data)}{path.suffix}")


def plain(path: Place) -> Place:
    """Return the place without the seal in its name."""
    match = _SEALED.fullmatch(path.name)
    return path.with_name(match["stem"] + match["suffix"]) if match else path


def seal_for(path: Place, data: bytes) -> str:
    """Return the seal of `data` under the plain name of `path`: 16 hex digits."""
    return hashlib.sha256(_place(path) + data).hexdigest()[:16]


def _place(path: Place) -> bytes:
    *_, above, around, _ = ["", "", *path.key.split("/")]
    return f"{above}/{around}/{plain(path).name}/".encode("utf-8", "surrogateescape")


def seal_of(path: Place) -> str | None:
    """Return the seal in a file's name; None for a name without one."""
    match = _SEALED.fullmatch(path.name)
    return match["seal"] if match else None


def file_hash(path: Place, before: bytes = b"") -> str:
    """Return the SHA-256 of `before` and the bytes of a file: 64 hex digits. Raises `OSError`."""
    digest = hashlib.sha256(before)
    with path.open() as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def cached_hash(path: Place, before: bytes = b"") -> str:
    """Return `file_hash`, from memory if the file has not changed: see the module's docstring. Raises `OSError`."""
    stat = path.stat()
    known = _cached.get((path, before))
    if known is not None and known[0] == stat:
        return known[1]
    found = file_hash(path, before)
    if time.time() - stat.modified > _RACY_SECONDS:
        _cached[path, before] = (stat, found)
    return found


def is_intact(path: Place) -> bool:
    """Return True if a sealed file, which a listing has shown, matches the seal in its name, by `cached_hash`; False if it is gone.

    In a storage that checks its own bytes a file with a seal is what was written under it; whoever reads it hashes it.
    """
    if path.filesystem.is_bucket:
        return seal_of(path) is not None
    try:
        return cached_hash(path, _place(path))[:16] == seal_of(path)
    except OSError:
        return False


def written_as(path: Place) -> Iterator[Place]:
    """Yield the sealed files, intact or not, that were written under the plain name `path`."""
    folder, begins = path.parent, f"{path.stem}."
    for name in sorted(path.filesystem.list(folder.key)):
        match = _SEALED.fullmatch(name) if name.startswith(begins) else None
        if match is not None and match["stem"] + match["suffix"] == path.name:
            yield folder / name


def find(path: Place) -> Place | None:
    """Return the intact sealed file that was written under the plain name `path`, or None."""
    return next((found for found in written_as(path) if is_intact(found)), None)


def sealed_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value with its seal as the key `seal`."""
    return {**value, "seal": content_id(dict(value))}


def agrees(value: Mapping[str, Any]) -> bool:
    """Return True if the value matches its seal, or has none because it is from an earlier version."""
    rest = {key: v for key, v in value.items() if key != "seal"}
    return "seal" not in value or content_id(rest) == value["seal"]


def sealed_line(value: Any) -> bytes:
    """Return a line of ASCII: the value as JSON, a tab, its seal."""
    # ASCII, since a text may contain half of a surrogate pair, which UTF-8 cannot encode.
    text = json.dumps(value, ensure_ascii=True, allow_nan=False).encode()
    return text + b"\t" + _line_seal(text) + b"\n"


def read_line(line: bytes) -> Any:
    """Return the value in a line; a line without a seal is from an earlier version.

    Raises `ValueError` if it is torn or damaged.
    """
    text, tab, found = line.rstrip(b"\n").partition(b"\t")
    if tab and found != _line_seal(text):
        raise ValueError("the line does not match its seal")
    return json.loads(text)


def _line_seal(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:16].encode()
