"""Where rows come from: a JSONL or parquet file, or a pinned dataset of the Hugging Face hub.

A source is written as one text: a path that ends in `.parquet` (columns `messages`: list of {role, content}, and if
wished `tags`), any other path (JSONL), or `hf://datasets/OWNER/NAME@COMMIT/FILE` with the full commit, since a branch or
a tag of the hub can come to mean other rows. Without `/FILE` the dataset must have a single JSONL or parquet file.
Nothing from the hub is executed or unpickled: one file is downloaded into the hub's cache and read like a local one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from inoc_ray.config.reading import LFS_POINTER, LFS_POINTER_ADVICE, check_regular
from inoc_ray.data.chat import ChatRow, iterate_json, parse_row
from inoc_ray.data.row_keys import Told, unread
from inoc_ray.errors import InputError, unreadable
from inoc_ray.models.hub import HubErrors, Place, is_hub, parse_place

_READABLE = (".jsonl", ".parquet")
_BATCH = 1024
"""Rows of a parquet file that are in memory at once."""


def read_rows(source: str, notes: list[str] | None = None) -> list[ChatRow]:
    """All rows of a source; what there is to tell of them (keys that are not read, messages without loss) goes to `notes`.

    Raises InputError as `iterate_rows` does, and for a source without rows.
    """
    told, rows = Told(), []
    for _, value, row in iterate_parsed(source):
        told.add(unread(value), any(not m.trained for m in row.messages), row.is_trained)
        rows.append(row)
    if not rows:
        raise InputError(f"{source}: there are no rows in this file.")
    check_some_loss(source, any(row.is_trained for row in rows))
    if notes is not None:
        notes += told.notes(source)
    return rows


def check_some_loss(source: str, some: bool) -> None:
    """Raises InputError for a source of which no row carries loss, so that there is nothing to learn."""
    if not some:
        raise InputError(
            f"{source}: no assistant message in any row carries loss (weight: 0 or train: false on each), so there is nothing "
            "to learn."
        )


def local_file(source: str) -> Path:
    """Where the rows of a source lie on this machine. Raises InputError as `fetch` does for a dataset of the hub."""
    if not source.strip():
        raise InputError("the name of a file of rows is empty; write its path.")
    # Not Path.expanduser, which raises RuntimeError for the home of somebody who is not there.
    return fetch(source) if is_hub(source) else Path(os.path.expanduser(source))


def iterate_rows(source: str, tell: Callable[[int], None] | None = None) -> Iterator[tuple[int, ChatRow]]:
    """Rows of a source with their numbers (from 1), one at a time, in bounded memory; see `iterate_parsed`."""
    for number, _, row in iterate_parsed(source, tell):
        yield number, row


def iterate_parsed(source: str, tell: Callable[[int], None] | None = None) -> Iterator[tuple[int, Any, ChatRow]]:
    """Each row of a source: its number (from 1), the value as it stands in the file, and the row that it is read as.

    `tell` is called with the bytes of the file that have been read, row by row (JSONL) or batch by batch (parquet).
    Raises InputError naming source and row for what cannot be read or is no chat row, and for a dataset of the hub that
    is not pinned, not there, or not to be had without network.
    """
    path = local_file(source)
    _check_no_folder(path)
    check_regular(path)
    values = _iterate_parquet(path, tell) if path.suffix == ".parquet" else iterate_json(path, tell)
    for number, value in values:
        yield number, value, parse_row(value, f"{path}, row {number}")


def _check_no_folder(path: Path) -> None:
    """Raises InputError that says what a folder is and which file of it to name, or how to make one."""
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
    """The local file of a dataset of the hub, downloaded unless it is in the hub's cache."""
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
        shown = ", ".join(files[:10]) or "none"
        raise InputError(
            f"{source}: say which file, as hf://datasets/{place.repo}@{place.commit}/FILE; JSONL and parquet files there: {shown}."
        )
    return files[0]


def _iterate_parquet(path: Path, tell: Callable[[int], None] | None = None) -> Iterator[tuple[int, Any]]:
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
        # Pictures and sounds are not read to see that they are not read; see _binary.
        binary = [field.name for field in file.schema_arrow if _binary(field.type)]
        wanted = [name for name in names if name not in binary]
        try:
            for batch in file.iter_batches(_BATCH, columns=wanted):
                for value in _values(batch, f"{path}, row", number):
                    number += 1
                    yield number, {**_without_nulls(value), **dict.fromkeys(binary, "(bytes)")}
                if tell is not None:
                    tell(path.stat().st_size * number // file.metadata.num_rows)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}, after row {number}: the file is damaged ({error}).") from error


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic


def _binary(kind: Any) -> bool:
    """True for a column of bytes, alone, in a list or beside other fields (`datasets` keeps a picture as bytes and path)."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(_binary(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _binary(kind.value_type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _values(batch: Any, where: str, before: int) -> Iterator[dict[str, Any]]:
    """The rows of a batch. Raises InputError naming the row in which a map has a key twice."""
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
    """Parquet has every tag in every row; a tag that the row does not have is null there."""
    if isinstance(row.get("tags"), dict):
        return {**row, "tags": {name: value for name, value in row["tags"].items() if value is not None}}
    return row
