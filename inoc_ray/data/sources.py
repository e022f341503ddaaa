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

from inoc_ray.data.chat import ChatRow, iterate_jsonl, parse_row
from inoc_ray.errors import InputError, unreadable
from inoc_ray.models.hub import HubErrors, Place, is_hub, parse_place

_READABLE = (".jsonl", ".parquet")
_BATCH = 1024
"""Rows of a parquet file that are in memory at once."""


def read_rows(source: str) -> list[ChatRow]:
    """All rows of a source. Raises InputError as `iterate_rows` does, and for a source without rows."""
    rows = [row for _, row in iterate_rows(source)]
    if not rows:
        raise InputError(f"{source}: there are no rows in this file.")
    return rows


def local_file(source: str) -> Path:
    """Where the rows of a source lie on this machine. Raises InputError as `fetch` does for a dataset of the hub."""
    # Not Path.expanduser, which raises RuntimeError for the home of somebody who is not there.
    return fetch(source) if is_hub(source) else Path(os.path.expanduser(source))


def iterate_rows(source: str, tell: Callable[[int], None] | None = None) -> Iterator[tuple[int, ChatRow]]:
    """Rows of a source with their numbers (from 1), one at a time, in bounded memory.

    `tell` is called with the bytes of the file that have been read, row by row (JSONL) or batch by batch (parquet).
    Raises InputError naming source and row for what cannot be read or is no chat row, and for a dataset of the hub that
    is not pinned, not there, or not to be had without network.
    """
    path = local_file(source)
    if path.suffix == ".parquet":
        yield from _iterate_parquet(path, tell)
    else:
        yield from iterate_jsonl(path, tell)


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


def _iterate_parquet(path: Path, tell: Callable[[int], None] | None = None) -> Iterator[tuple[int, ChatRow]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except OSError as error:
        raise unreadable(path, error) from error
    except pa.ArrowException as error:
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
        wanted = [name for name in ("messages", "tags") if name in names]
        try:
            for batch in file.iter_batches(_BATCH, columns=wanted):
                for value in _values(batch, f"{path}, row", number):
                    number += 1
                    yield number, parse_row(_without_nulls(value), f"{path}, row {number}")
                if tell is not None:
                    tell(path.stat().st_size * number // file.metadata.num_rows)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}, after row {number}: the file is damaged ({error}).") from error


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
