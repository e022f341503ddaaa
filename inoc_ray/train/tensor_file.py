"""Tensors in a safetensors file: written one after another, so that no two need to be in memory together, and hashed meanwhile.

safetensors' own writer takes all tensors at once: of a full fine-tune of 32B that is a rank's share of 390 GB.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import torch

_CHUNK = 64 << 20
_LARGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""
_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "uint8": "U8", "int64": "I64"}
"""torch's names of types → the format's, as far as a snapshot needs them (github.com/huggingface/safetensors#format)."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tensor to write: its name, its form, and how to get it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    get: Callable[[], torch.Tensor]
    """Called once, when it is this tensor's turn."""


def write(path: Path, entries: Sequence[Entry]) -> tuple[int, str]:
    """Write the tensors and sync the file; return its size in bytes and its SHA-256.

    Raises `OSError`, and `ValueError` for a tensor that has not the form that its entry says.
    """
    import math

    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in entries:
        start, end = end, end + math.prod(entry.shape) * entry.dtype.itemsize
        name = str(entry.dtype).removeprefix("torch.")
        header[entry.name] = {"dtype": _NAMES[name], "shape": entry.shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    # The format aligns the tensors to 8 bytes by spaces behind the header.
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as stream:

        def put(data: bytes | memoryview) -> None:
            digest.update(data)
            stream.write(data)

        put(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            data = _bytes_of(entry)
            for at in range(0, len(data), _CHUNK):
                put(data[at : at + _CHUNK])
        stream.flush()
        os.fsync(stream.fileno())
        size = stream.tell()
    return size, digest.hexdigest()


def shapes(stream: BinaryIO) -> dict[str, tuple[int, ...]]:
    """Return name → shape of the tensors in a file, from its first bytes alone.

    Raises `ValueError` if these are no header of the format.
    """
    size = int.from_bytes(stream.read(8), "little")
    if not 0 < size <= _LARGEST_HEADER:
        raise ValueError("it is no safetensors file")
    try:
        header = json.loads(stream.read(size))
        return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("its header is damaged") from error


def _bytes_of(entry: Entry) -> memoryview:
    """Return the bytes of a tensor, in its order of rows; a view if it is on the CPU already."""
    import torch

    tensor = entry.get().detach().to("cpu").contiguous()
    if tuple(tensor.shape) != entry.shape or tensor.dtype != entry.dtype:
        raise ValueError(f"{entry.name} is {tuple(tensor.shape)} of {tensor.dtype}, not {entry.shape} of {entry.dtype}")
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
