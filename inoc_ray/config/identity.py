"""What makes two trials the same trial: canonical JSON, content hashes, and which fields count.

An id is the first 16 hex digits of the SHA-256 over canonical JSON (sorted keys, no white space, UTF-8, no NaN). 64 bits:
among a million trials the chance of a collision is below 1e-7 (birthday bound n²/2^65).

Every field of every configuration class is declared with `identity(...)` or `runtime(...)`. An identity field at its default
is left out of the hash, so a field that is added later does not change the ids of old trials. The price is accepted: a
default, once published, must never change (increase FORMAT instead).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, Field

FORMAT = 1
"""Version of the rules in this module; part of every id, so a change of the rules changes every id."""

_WHOLE_FILE_LIMIT = 64 << 20
_SAMPLE_BLOCKS = 64
_BLOCK = 64 << 10


PathKind = Literal["rows", "questions", "task", "model", "plugin", "storage"]
"""Kinds of files and folders that a path in a study names; see `runtime`."""


def identity(default: Any = ..., **kwargs: Any) -> Any:
    """Declare a field that changes what is computed: part of the id unless it has its default value."""
    return Field(default, json_schema_extra={"role": "identity"}, **kwargs)


def runtime(default: Any = ..., *, path: PathKind | None = None, **kwargs: Any) -> Any:
    """Declare a field that changes only where, when or how fast something is computed: never part of an id.

    `path` says what its texts name, if they name a file or folder: `inoc-ray submit` packs the files that a study names.
    """
    extra: dict[str, Any] = {"role": "runtime"} if path is None else {"role": "runtime", "path": path}
    return Field(default, json_schema_extra=extra, **kwargs)


def role_of(model: type[BaseModel], field: str) -> str | None:
    """Return "identity", "runtime", or None when the field is declared with neither."""
    extra = model.model_fields[field].json_schema_extra
    role = extra.get("role") if isinstance(extra, dict) else None
    return role if isinstance(role, str) else None


def path_kind_of(model: type[BaseModel], field: str) -> PathKind | None:
    """Return the kind of file that the texts of a field name, or None when they do not name files."""
    extra = model.model_fields[field].json_schema_extra
    return cast("PathKind | None", extra.get("path")) if isinstance(extra, dict) else None


def identity_fields(config: BaseModel) -> dict[str, Any]:
    """Return the identity fields of a configuration that differ from their defaults, nested ones likewise."""
    out: dict[str, Any] = {}
    for name, info in type(config).model_fields.items():
        if role_of(type(config), name) != "identity":
            continue
        value = getattr(config, name)
        if not info.is_required() and value == info.get_default(call_default_factory=True):
            continue
        out[name] = identity_fields(value) if isinstance(value, BaseModel) else value
    return out


_HALF = re.compile("[\ud800-\udfff]")


def is_text(value: str) -> bool:
    """Return whether the text can be written as UTF-8: it has no half surrogate pair."""
    return _HALF.search(value) is None


def as_text(value: str) -> str:
    """Return the value with U+FFFD for each half surrogate pair, which JSON can bring (`"\\ud83d"`) and UTF-8 cannot hold."""
    return _HALF.sub("\ufffd", value)


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value. Raises ValueError for NaN and infinities, TypeError for foreign types."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_hash(value: Any) -> str:
    """Return 64 hex digits: the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def content_id(value: Any) -> str:
    """Return 16 hex digits: an id, as the head of this module defines it."""
    return content_hash(value)[:16]


def file_hash(path: Path, before: bytes = b"") -> str:
    """Return 64 hex digits: the SHA-256 of `before` and the file's bytes."""
    digest = hashlib.sha256(before)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _weights_hash(path: Path) -> str:
    """Hash the whole file up to 64 MiB; of a larger one its size, its head and evenly spaced blocks.

    An accepted trade-off: hashing 64 GB of weights would take minutes at each `inoc-ray plan`. A fine-tune moves nearly every
    tensor, so 64 blocks of 64 KiB distinguish two models; a deliberate change of single bytes between the blocks would pass.
    """
    size = path.stat().st_size
    if size <= _WHOLE_FILE_LIMIT:
        return file_hash(path)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for index in range(_SAMPLE_BLOCKS):
            stream.seek(index * (size - _BLOCK) // (_SAMPLE_BLOCKS - 1))
            digest.update(stream.read(_BLOCK))
    return digest.hexdigest()


def model_folder_hash(folder: Path, ignored: Sequence[str] = ()) -> str:
    """Return 64 hex digits over the files of a model folder that decide its output, wherever the folder is.

    Weights (*.safetensors), configuration (*.json, *.jinja) and tokenizer files count; other files (README, manifests) do
    not, nor do files whose name matches one of the patterns `ignored`.
    """
    counted: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name == "manifest.json" or any(fnmatch(path.name, one) for one in ignored):
            continue
        if path.suffix in {".safetensors", ".json", ".jinja", ".model"} or path.name in {"merges.txt", "vocab.txt"}:
            counted[path.name] = _weights_hash(path)
    return content_hash(counted)


def fsync_folder(folder: Path) -> None:
    """Make renames inside the folder survive a crash of the machine."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
