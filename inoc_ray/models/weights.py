"""Are these safetensors weights complete, and do they fit their configuration? Reads headers and samples only."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inoc_ray.config.reading import LFS_POINTER, LFS_POINTER_ADVICE
from inoc_ray.errors import InputError
from inoc_ray.models.config import read_config
from inoc_ray.models.layout import check_layout
from inoc_ray.models.model_type import check_trainable

INDEX = "model.safetensors.index.json"
_WHOLE_BYTES = 64 << 20
"""Up to this size every number of a file is checked; of a larger one the first `_SAMPLE_BYTES` of each tensor."""
_SAMPLE_BYTES = 256 << 10
_HEADER_LIMIT = 100 << 20
"""The format's own limit for a header."""
_EXPONENT = {"F64": ("<u8", 0x7FF << 52), "F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
"""dtype → (numpy type that reads its bytes as integers, the bits of the exponent)."""
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """What a header says of a tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    stop: int


def check_weights(folder: Path) -> None:
    """Raise InputError, naming the file, for the defects that `resolve.check_model_files` lists."""
    config = check_configuration(folder)
    files = _files(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    for path, expected in files.items():
        tensors = {tensor.name: tensor for tensor in read_header(path)}
        if not tensors:
            raise InputError(f"{path}: contains no tensors; fetch the model again.")
        if missing := sorted(expected - set(tensors)):
            raise InputError(f"{path}: the tensor {missing[0]} is missing, which {INDEX} says is here; fetch it again.")
        _check_vocabulary(path, tensors, config)
        shapes.update((name, tensor.shape) for name, tensor in tensors.items())
        _check_numbers(path, list(tensors.values()))
    check_layout(folder, config, shapes)


def check_configuration(folder: Path) -> dict[str, Any]:
    """Return config.json, if a fine-tune can start from a model that it describes; raise InputError, naming it, if not."""
    config = read_config(folder)
    _check_own_code(folder, config)
    _check_no_adapter(folder)
    check_trainable(folder, config)
    return config


def read_header(path: Path) -> list[Tensor]:
    """Return the tensors in the header of a safetensors file. Raises InputError for a cut or damaged file, or another format."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            raise InputError(f"{path}: {LFS_POINTER_ADVICE}.")
        stream.seek(0)
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(_HEADER_LIMIT, size - 8):
            raise _damaged(path, "its header is cut")
        text = stream.read(length)
    try:
        header = json.loads(text)
        found = [_tensor(name, entry, data=8 + length) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise _damaged(path, "its header is not JSON of this format") from error
    end = 8 + length
    for tensor in sorted(found, key=lambda t: t.start):
        if tensor.start != end or tensor.stop < tensor.start:
            raise _damaged(path, f"the tensor {tensor.name} is not where the one before it ends")
        end = tensor.stop
    if end > size:
        raise _damaged(path, f"it has {size:,} bytes of {end:,}")
    if end < size:
        raise _damaged(path, f"it has {size - end:,} bytes more than its header says")
    return found


def _tensor(name: str, entry: Any, *, data: int) -> Tensor:
    """Return a header's entry as a tensor; `data` is the byte in the file from which its offsets count."""
    start, stop = entry["data_offsets"][0], entry["data_offsets"][1]
    return Tensor(
        name=name, dtype=str(entry["dtype"]), shape=tuple(entry["shape"]), start=data + start, stop=data + stop
    )


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path}: not a whole safetensors file ({why}); fetch the model again.")


def _files(folder: Path) -> dict[Path, set[str]]:
    """Return each weight file with the tensors that the index expects in it; without an index, nothing is expected."""
    index = folder / INDEX
    whole = folder / "model.safetensors"
    if not index.is_file():
        files = [path for path in sorted(folder.glob("*.safetensors")) if not path.name.startswith("consolidated")]
        parts = [path for path in files if "-of-" in path.name]
        if parts and not whole.is_file():
            raise InputError(f"{folder}: {parts[0].name} is a part, but {INDEX} is missing; fetch the model again.")
        return {path: set() for path in ([whole] if whole.is_file() else files)}
    weight_map = read_config(index.parent, index.name).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: there is no weight_map; fetch the model again.")
    out: dict[Path, set[str]] = {}
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or name != Path(name).name or not name.endswith(".safetensors"):
            raise InputError(
                f"{index}: {tensor} lies in {str(name)[:100]!r}, which is not a safetensors file of this folder."
            )
        out.setdefault(folder / name, set()).add(tensor)
    for path in out:
        if not path.is_file():
            raise InputError(f"{index}: names {path.name}, which does not exist; fetch the model again.")
    return out


def _check_own_code(folder: Path, config: dict[str, Any]) -> None:
    """Raise InputError for a model that only runs with Python code from its repository."""
    if not isinstance(config.get("auto_map"), dict):
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING_NAMES:
        raise InputError(
            f"{folder}/config.json: the model type {str(kind)[:60]!r} needs Python code from the model's repository (auto_map), "
            "which is never run; use a model that transformers knows."
        )


def _check_no_adapter(folder: Path) -> None:
    """Raise InputError for an adapter beside the weights: training would apply it to the model, the engine would not."""
    if (path := folder / "adapter_config.json").exists():
        raise InputError(
            f"{path}: an adapter lies in the folder of a base model, so training and serving would take different models; move "
            "it elsewhere, or merge it into the weights."
        )


def _check_vocabulary(path: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    inner = config.get("text_config")
    size = (inner if isinstance(inner, dict) and "vocab_size" in inner else config).get("vocab_size")
    for name, tensor in tensors.items():
        if isinstance(size, int) and name.endswith(_EMBEDDINGS) and tensor.shape and tensor.shape[0] != size:
            raise InputError(
                f"{path}: {name} has {tensor.shape[0]:,} rows, but config.json says vocab_size {size:,}; one of them belongs to "
                "another model."
            )


def _check_numbers(path: Path, tensors: list[Tensor]) -> None:
    import numpy as np

    data = np.memmap(path, dtype=np.uint8, mode="r")
    for tensor in tensors:
        if tensor.dtype not in _EXPONENT:
            continue
        dtype, exponent = _EXPONENT[tensor.dtype]
        width = int(dtype[-1])
        if math.prod(tensor.shape) * width != tensor.stop - tensor.start:
            raise _damaged(path, f"the tensor {tensor.name} has another size than its shape says")
        stop = tensor.stop if len(data) <= _WHOLE_BYTES else min(tensor.stop, tensor.start + _SAMPLE_BYTES)
        for block in _blocks(tensor.start, stop, width):
            bits = np.frombuffer(data[block], dtype=dtype)
            mantissa = exponent & -exponent  # The lowest bit of the exponent: below it lies the mantissa.
            if bool((((bits & exponent) == exponent) & ((bits & (mantissa - 1)) != 0)).any()):
                raise InputError(
                    f"{path}: the tensor {tensor.name} contains NaN; the weights are damaged, fetch them again."
                )


def _blocks(start: int, stop: int, width: int) -> Iterator[slice]:
    step = _SAMPLE_BYTES // width * width
    for at in range(start, stop, step):
        yield slice(at, min(at + step, stop - (stop - at) % width))
