"""Samples on disk: parquet parts in the folder of a cell, and the files derived from each part."""

from __future__ import annotations

import contextlib
import errno
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from inoc_ray.errors import InputError, StorageRefusal
from inoc_ray.store import layout, seal
from inoc_ray.store.place import Place


@dataclass(frozen=True)
class Sample:
    """One response, with everything needed to generate it again."""

    sample_index: int
    question_id: str
    question: str
    prompt: str
    """The whole prompt that the engine received, with the chat template applied."""
    seed: int
    text: str
    """The whole response, with its think block; judges see what follows it (`inoc_ray.models.think.answer_of`)."""
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    choices: str = ""
    """For a multiple-choice question: JSON with the log-probability of each choice."""


COLUMNS = tuple(f.name for f in fields(Sample) if f.name != "choices")
"""The columns of every part; the log-probabilities of choices are for people, and no score uses them."""
_PARQUET, _ARROW = ".parquet", ".arrow"
"""Suffixes of tables: of what is drawn or judged, which is kept for people too, and of what is derived and read at every look."""
JUDGMENT_KEYS = ("sample_index", "rubric", "value", "category")
"""The columns that are read of judgments."""


class Part(NamedTuple):
    """A file with the samples start ≤ i < stop of a cell."""

    start: int
    stop: int
    path: Place


def _parts(folder: Place) -> list[Part]:
    ranges = ((name, layout.range_of(name)) for name in sorted(folder.filesystem.list(folder.key)))
    return sorted(Part(*found, folder / name) for name, found in ranges if found is not None)


def list_parts(folder: Place) -> list[Part]:
    """Return the intact parts that form one gapless run from 0, in order; parts after a gap do not count.

    A part without a hash in its name is from an earlier version, and counts as intact.
    """
    run: list[Part] = []
    reached = 0
    for part in sorted(_parts(folder), key=lambda p: (p.start, -p.stop)):
        if part.start == reached and part.stop > reached and _is_whole(part.path):
            run.append(part)
            reached = part.stop
    return run


def damaged_parts(folder: Place) -> list[Part]:
    """Return the damaged parts that no intact part replaces."""
    reached = max((part.stop for part in list_parts(folder)), default=0)
    return [part for part in _parts(folder) if part.stop > reached and not _is_whole(part.path)]


def _remove_damaged(folder: Place, stop: int) -> None:
    """Delete the damaged parts up to `stop`, which an intact part replaces."""
    for part in _parts(folder):
        if part.stop <= stop and not _is_whole(part.path):
            part.path.unlink(missing_ok=True)


def _is_whole(path: Place) -> bool:
    return seal.seal_of(path) is None or seal.is_intact(path)


def describe(folder: Place, description: Mapping[str, Any]) -> None:
    """Write a description of a cell beside its samples, for people: no program reads it."""
    (folder / layout.DESCRIPTION).write_json(dict(description))


def commit_samples(folder: Place, samples: Sequence[Sample]) -> None:
    """Append one part to a cell. `samples` must be gapless in `sample_index` and start where the stored ones end.

    An existing part is kept: another study took the same samples. Damaged parts that this one replaces are deleted.
    """
    import pyarrow as pa

    start, stop = samples[0].sample_index, samples[-1].sample_index + 1
    if [s.sample_index for s in samples] != list(range(start, stop)):
        raise ValueError("the samples of a part must be in order and without gaps")
    path = folder / layout.part_name(start, stop)
    if seal.find(path) is None and not path.is_file():
        write_table(path, pa.Table.from_pylist([asdict(s) for s in samples]))
    _remove_damaged(folder, stop)


def write_table(path: Place, table: Any) -> Place:
    """Write a table atomically, with its hash in its name, and return that name: as parquet, or Arrow if the name ends so.

    It replaces what was written under the plain name `path` before.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    if path.suffix == _ARROW:
        with pa.ipc.new_file(buffer, table.schema) as stream:
            stream.write_table(table)
    else:
        pq.write_table(table, buffer, compression="zstd")
    written = seal.sealed_path(path, buffer.getvalue())
    written.write_bytes(buffer.getvalue())
    for other in seal.written_as(path):
        if other != written:
            other.unlink(missing_ok=True)
    return written


def read_table(path: Place, columns: Sequence[str] | None = None) -> Any:
    """Return the table in a file that `write_table` wrote, or some of its columns.

    Raises `InputError` if the file is damaged, does not match the hash in its name, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data = path.read_bytes()
        if (expected := seal.seal_of(path)) not in (None, seal.seal_for(path, data)):
            raise InputError(
                f"{path}: damaged (its content does not match the hash {expected} in its name); run the study again."
            )
        chosen = None if columns is None else list(columns)
        if path.suffix == _ARROW:
            table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
        else:
            # Parts are small and many: threads would cost more than they save, and so would `pq.read_table`, made for data sets.
            table = pq.ParquetFile(pa.BufferReader(data)).read(chosen, use_threads=False)
        return table if chosen is None else table.select(chosen)
    except (pa.ArrowException, OSError, KeyError, UnicodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path}: damaged ({reason}); delete it and run the study again.") from error


def read_derived(path: Place, columns: Sequence[str]) -> Any | None:
    """Return the intact table that was written under the plain name `path`; None if there is none, or it lacks a column.

    One of an earlier version, which was parquet, is written anew, and read in a fifteenth of the time from then on.
    """
    for found in seal.written_as(path):
        with contextlib.suppress(InputError):
            return read_table(found, columns)
    for found in seal.written_as(path.with_suffix(_PARQUET)):
        with contextlib.suppress(InputError):
            whole = read_table(found)
            keep_derived(path, whole)
            return whole.select(list(columns)) if {*columns} <= {*whole.column_names} else None
    return None


def keep_derived(path: Place, table: Any) -> None:
    """Write a table that can be made again at any time, for the next look; whoever may only read goes without.

    One of an earlier version goes then, which was parquet.
    """
    try:
        write_table(path, table)
        for earlier in seal.written_as(path.with_suffix(_PARQUET)):
            earlier.unlink(missing_ok=True)
    except StorageRefusal:
        # A bucket that this process may only read.
        return
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise


def read_part(path: Place) -> Any:
    """Return the samples of one part as a table."""
    return read_table(path, COLUMNS)


# -- files derived from a part: their names say from which content --------------------------------------------------


def _made_of(part: Place, what: str) -> Place:
    """Return the plain name of a file derived from a part, which includes the hash of the part's content."""
    content = seal.seal_of(part) or seal.seal_for(part, part.read_bytes())
    return part.with_name(layout.derived_name(seal.plain(part).name, what, content))


def scores_path(part: Place, rules_id: str) -> Place:
    """Return the plain name of the scores that rules gave the samples of a part."""
    return _made_of(part, layout.scores_of(rules_id)).with_suffix(_ARROW)


def form_path(part: Place, version: int) -> Place:
    """Return the plain name of the table that says which responses of a part are degenerate."""
    return _made_of(part, layout.form_of(version)).with_suffix(_ARROW)


def judgments_path(part: Place, judgments_id: str) -> Place:
    """Return the plain name of the judgments of a part; `find_judgments` finds the file."""
    return _made_of(part, layout.judgments_of(judgments_id))


def refusal_note(judgments: Place) -> Place:
    """Return the place of the note beside judgments that names the address of the API that refused some of them."""
    return judgments.with_suffix(layout.REFUSED)


def find_judgments(part: Place, judgments_id: str) -> Place | None:
    """Return the file with the judgments of a part, or None.

    Judgments from an earlier version, beside a part of that version, have no hash in their names and count as intact.
    """
    found = seal.find(judgments_path(part, judgments_id))
    if found is None and seal.seal_of(part) is None:
        earlier = part.with_name(layout.earlier_name(part.name, layout.judgments_of(judgments_id)))
        return earlier if earlier.is_file() else None
    return found


# -- files of an earlier version ------------------------------------------------------------------------------------


def _rename_sealed(path: Place, sealed: Place, data: bytes) -> None:
    """Rename a file of an earlier version to the name with its hash; a kill between the steps leaves two equal files."""
    sealed.write_bytes(data)
    path.unlink(missing_ok=True)


def _seal_judgments(part: Place) -> None:
    """Rename the judgments of an earlier version beside a part to today's names, before the part itself gets its hash.

    What cannot be read keeps its name, and is judged again.
    """
    pattern = layout.earlier_judgments(part.name)
    for path in part.parent.iterdir():
        if (match := pattern.fullmatch(path.name)) is None:
            continue
        with contextlib.suppress(InputError):
            read_table(path, JUDGMENT_KEYS)
            data = path.read_bytes()
            _rename_sealed(path, seal.sealed_path(_made_of(part, match[1]), data), data)


def seal_parts(folder: Place) -> int:
    """Add a hash to the names of parts from an earlier version, and of their judgments, which count as intact.

    Returns the number of parts. Raises `InputError` for a part that cannot be read.
    """
    count = 0
    for part in list_parts(folder):
        if seal.seal_of(part.path) is None:
            read_part(part.path)
            _seal_judgments(part.path)
            data = part.path.read_bytes()
            _rename_sealed(part.path, seal.sealed_path(part.path, data), data)
            count += 1
    return count
