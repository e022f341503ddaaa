"""Where rows come from: a JSONL or parquet file, or a pinned dataset of the Hugging Face hub.

A source is one text: a path that ends in `.parquet` (columns `messages`: list of {role, content}, and optionally `tags`), any
other path (JSONL), or `hf://datasets/OWNER/NAME@COMMIT/FILE` with the full commit, since a branch or a tag of the hub can
come to mean other rows. Without `/FILE` the dataset must have a single JSONL or parquet file. Nothing from the hub is
executed or unpickled: one file is downloaded into the hub's cache and read like a local one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from inoc_ray.config.reading import LFS_POINTER, LFS_POINTER_ADVICE, check_no_address, check_regular
from inoc_ray.data.chat import ChatRow, parse_row
from inoc_ray.data.jsonl import iterate_json
from inoc_ray.data.row_keys import RowNotes, unread
from inoc_ray.errors import InputError, unreadable
from inoc_ray.models.hub import HubErrors, Place, is_hub, parse_place

ROWS_INSTEAD = "download it and give the file, or name a dataset of the hub (hf://datasets/OWNER/NAME@COMMIT/FILE)"
"""What to give in place of another address."""
_READABLE = (".jsonl", ".parquet")
_BATCH = 1024
"""Rows of a parquet file that are in memory at once."""


def read_rows(source: str, notes: list[str] | None = None) -> list[ChatRow]:
    """Return all rows of a source; appends to `notes` which keys are not read and which messages carry no loss.

    Raises InputError as `iterate_rows` does, and for a source without rows.
    """
    row_notes, rows = RowNotes(), []
    for _, value, row in iterate_parsed(source):
        row_notes.add(unread(value), any(not m.trained for m in row.messages), row.is_trained)
        rows.append(row)
    if not rows:
        raise InputError(f"{source}: there are no rows in this file.")
    check_some_loss(source, any(row.is_trained for row in rows))
    if notes is not None:
        notes += row_notes.notes(source)
    return rows


def check_some_loss(source: str, some: bool) -> None:
    """Raise InputError unless `some` row of the source carries loss: otherwise there is nothing to learn."""
    if not some:
        raise InputError(
            f"{source}: no assistant message in any row carries loss (weight: 0 or train: false on each), so there is nothing "
            "to learn."
        )


def local_file(source: str) -> Path:
    """Return the local path of a source, downloading a dataset of the hub. Raises InputError as `fetch` does."""
    if not source.strip():
        raise InputError("the path of a file of rows is empty; write it.")
    if is_hub(source):
        return fetch(source)
    check_no_address(source, ROWS_INSTEAD)
    # Not Path.expanduser, which raises RuntimeError for the home of an unknown user.
    return Path(os.path.expanduser(source))


def iterate_rows(source: str, on_bytes: Callable[[int], None] | None = None) -> Iterator[tuple[int, ChatRow]]:
    """Yield the rows of a source with their numbers (from 1), in bounded memory; see `iterate_parsed`."""
    for number, _, row in iterate_parsed(source, on_bytes):
        yield number, row


def iterate_parsed(source: str, on_bytes: Callable[[int], None] | None = None) -> Iterator[tuple[int, Any, ChatRow]]:
    """Yield for each row of a source its number (from 1), the value in the file, and the parsed row.

    `on_bytes` is called with the bytes of the file read so far, row by row (JSONL) or batch by batch (parquet). Raises
    InputError naming source and row for what cannot be read or is not a chat row, and for a dataset of the hub that is not
    pinned, does not exist, or is neither in the cache nor reachable.
    """
    path = local_file(source)
    _check_not_a_folder(path)
    check_regular(path)
    values = _iterate_parquet(path, on_bytes) if path.suffix == ".parquet" else iterate_json(path, on_bytes)
    for number, value in values:
        yield number, value, parse_row(value, f"{path}, row {number}")


def _check_not_a_folder(path: Path) -> None:
    """Raise InputError for a folder, saying which of its files to name, or how to make one."""
    if not path.is_dir():
        return
    inner = [path, *sorted(p for p in path.iterdir() if p.is_dir())]
    for folder in inner:
        if (folder / "dataset_dict.json").is_file():
            splits = ", ".join(p.name for p in sorted(folder.iterdir()) if p.is_dir())[:200]
            raise _saved(folder, f"with the splits {splits}", "['SPLIT']")
        if (folder / "state.json").is_file() and any(folder.glob("*.arrow")):
            raise _saved(folder, "as Arrow", "")
    files = [p.name for p in sorted(path.iterdir()) if p.suffix in _READABLE]
    some = f"; name one of the files in it: {', '.join(files[:10])}" if files else ""
    raise InputError(f"{path}: a folder, where a file of rows is expected{some}.")


def _saved(folder: Path, how: str, split: str) -> InputError:
    load = f"datasets.load_from_disk('{folder}'){split}.to_json('rows.jsonl')"
    return InputError(
        f"{folder}: a dataset that the library `datasets` saved {how} (save_to_disk); make JSON Lines of it with python -c "
        f'"import datasets; {load}"'
    )


def fetch(source: str) -> Path:
    """Return the local file of a dataset of the hub, downloading it unless it is in the hub's cache.

    Raises InputError as `parse_place` and `HubErrors` do, and for a file that is not a readable one inside the dataset.
    """
    place = parse_place(source, "dataset")
    file = place.file
    if file is not None and not all(part.strip(".") for part in file.split("/")):
        raise InputError(f"{source}: {file} leads out of the dataset; write the file's path inside it.")
    if file is None:
        file = _only_file(source, place)
    if not file.endswith(_READABLE):
        raise InputError(f"{source}: {file} is neither {' nor '.join(_READABLE)}.")
    from huggingface_hub import hf_hub_download

    with HubErrors(source, "dataset"):
        return Path(hf_hub_download(place.repo, file, repo_type="dataset", revision=place.commit))


def _only_file(source: str, place: Place) -> str:
    from huggingface_hub import HfApi

    with HubErrors(source, "dataset"):
        listed = HfApi().list_repo_files(place.repo, repo_type="dataset", revision=place.commit)
    files = [file for file in listed if file.endswith(_READABLE)]
    if len(files) != 1:
        names = ", ".join(files[:10]) or "none"
        raise InputError(
            f"{source}: say which file, as hf://datasets/{place.repo}@{place.commit}/FILE; JSONL and parquet files there: {names}."
        )
    return files[0]


def _iterate_parquet(path: Path, on_bytes: Callable[[int], None] | None = None) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except OSError as error:
        raise unreadable(path, error) from error
    except pa.ArrowException as error:
        if _begins_with(path, LFS_POINTER):
            raise InputError(f"{path}: {LFS_POINTER_ADVICE}.") from error
        raise InputError(
            f"{path}: not a parquet file, or a damaged one; write it again, or name it .jsonl if it is JSON Lines."
        ) from error
    with file:
        names = file.schema_arrow.names
        if "messages" not in names:
            raise InputError(
                f"{path}: there is no column messages (list of {{role, content}}); the columns are {', '.join(names)}."
            )
        number = 0
        # Columns of pictures and sounds are never loaded, only named as unread; see _binary.
        binary = [field.name for field in file.schema_arrow if _binary(field.type)]
        columns = [name for name in names if name not in binary]
        try:
            for batch in file.iter_batches(_BATCH, columns=columns):
                for value in _values(batch, f"{path}, row", number):
                    number += 1
                    yield number, {**_without_nulls(value), **dict.fromkeys(binary, "(bytes)")}
                if on_bytes is not None:
                    on_bytes(path.stat().st_size * number // file.metadata.num_rows)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}, after row {number}: the file is damaged ({error}).") from error


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic


def _binary(kind: Any) -> bool:
    """Return whether a column holds bytes, also in a list or struct (`datasets` stores a picture as bytes and path)."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(_binary(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _binary(kind.value_type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _values(batch: Any, where: str, before: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch. Raises InputError naming the row in which a map has a key twice."""
    try:
        yield from batch.to_pylist(maps_as_pydicts="strict")
        return
    except KeyError:
        pass
    for index in range(batch.num_rows):
        try:
            (value,) = batch.slice(index, 1).to_pylist(maps_as_pydicts="strict")
        except KeyError as error:
            raise InputError(
                f"{where} {before + index + 1}: a map has the same key twice; keep one, or only the last would count."
            ) from error
        yield value


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """Drop null tags: parquet has every tag in every row, null where the row does not have it."""
    if isinstance(row.get("tags"), dict):
        return {**row, "tags": {name: value for name, value in row["tags"].items() if value is not None}}
    return row
