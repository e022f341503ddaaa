"""Samples on disk: parquet parts in a cell's folder, and everything needed to ask for each again."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from inoc_ray.errors import InputError
from inoc_ray.store import seal
from inoc_ray.store.store import list_parts, part_name, remove_damaged, write_atomically


@dataclass(frozen=True)
class Sample:
    """One response, with everything needed to ask for it again."""

    sample_index: int
    question_id: str
    question: str
    prompt: str
    """The whole prompt as the engine saw it: the chat template is rendered in."""
    seed: int
    text: str
    """The whole response, with its think block; what follows that is judged (`inoc_ray.models.think.answer_of`)."""
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    choices: str = ""
    """Of a multiple-choice question: JSON of each choice's log-prob."""


COLUMNS = tuple(f.name for f in fields(Sample) if f.name != "choices")
"""What every part has; the log-probs of choices are there for people and for nobody's score."""
JUDGMENT_KEYS = ("sample_index", "rubric", "value", "category")
"""What is read of judgments."""


def commit_samples(folder: Path, samples: Sequence[Sample]) -> None:
    """Appends one part to a cell. `samples` must be gapless in sample_index and start where the stored ones end.

    A part that is there already is kept: another study asked the same. Damaged ones that this replaces are deleted.
    """
    import pyarrow as pa

    start, stop = samples[0].sample_index, samples[-1].sample_index + 1
    if [s.sample_index for s in samples] != list(range(start, stop)):
        raise ValueError("a part must be gapless and in order")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / part_name(start, stop)
    if seal.find(path) is None and not path.exists():
        write_table(path, pa.Table.from_pylist([asdict(s) for s in samples]))
    remove_damaged(folder, stop)


def write_table(path: Path, table: Any) -> Path:
    """A parquet file, whole or not at all, with its hash in its name; returns that name. It replaces what was written as `path`."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    written = seal.sealed_path(path, buffer.getvalue())
    write_atomically(written, buffer.getvalue())
    for other in seal.written_as(path):
        if other != written:
            other.unlink(missing_ok=True)
    return written


def read_table(path: Path, columns: Sequence[str]) -> Any:
    """The table in a parquet file. Raises InputError when it is damaged, not what its name says, or has other columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data = path.read_bytes()
        if (expected := seal.seal_of(path)) not in (None, seal.seal_for(path, data)):
            raise InputError(
                f"{path}: damaged (its content is not {expected}); run the study again and it is made again."
            )
        # Parts are small and many: threads cost more than they save.
        return pq.read_table(pa.BufferReader(data), columns=list(columns), use_threads=False).select(list(columns))
    except (pa.ArrowException, OSError, KeyError, UnicodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path}: damaged ({reason}); delete it and run the study again.") from error


def made_of(part: Path, what: str) -> Path:
    """The plain name of what is made of a part: it says of which content."""
    content = seal.seal_of(part) or seal.seal_for(part, part.read_bytes())
    return seal.plain(part).with_name(seal.plain(part).name.replace("samples-", f"{what}-{content}-"))


def find_judgments(part: Path, judgments_id: str) -> Path | None:
    """The file with the judgments of a part, or None. Beside a part of an earlier version those of that version, which name
    neither hash, are taken as they are."""
    what = f"judgments-{judgments_id}"
    found = seal.find(made_of(part, what))
    if found is None and seal.seal_of(part) is None:
        earlier = part.with_name(part.name.replace("samples-", f"{what}-"))
        return earlier if earlier.exists() else None
    return found


def _seal_judgments(part: Path) -> None:
    """Gives the judgments of an earlier version beside a part the names that they have now, while the part still says that they
    are its own. What cannot be read stays where it is, and is judged again."""
    pattern = re.compile(re.escape(part.name).replace("samples\\-", r"(judgments-[0-9a-f]{16})-"))
    for path in sorted(part.parent.iterdir()):
        if (match := pattern.fullmatch(path.name)) is None:
            continue
        with contextlib.suppress(InputError):
            read_table(path, JUDGMENT_KEYS)
            os.rename(path, seal.sealed_path(made_of(part, match[1]), path.read_bytes()))


def seal_parts(folder: Path) -> int:
    """Gives the parts of an earlier version, which have no hash, theirs: they and their judgments are taken as they are.

    Returns how many parts. Raises InputError for one that cannot be read.
    """
    count = 0
    for part in list_parts(folder):
        if seal.seal_of(part.path) is None:
            read_part(part.path)
            _seal_judgments(part.path)
            os.rename(part.path, seal.sealed_path(part.path, part.path.read_bytes()))
            count += 1
    return count


def read_part(path: Path) -> Any:
    """The samples of one part as a table."""
    return read_table(path, COLUMNS)
