"""Samples on disk: parquet parts in a cell's folder, and everything needed to ask for each again."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from inoc_ray.errors import InputError
from inoc_ray.store import part_name, write_atomically


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
    """The whole response, with its think block; what follows that is judged (`inoc_ray.models.template.answer_of`)."""
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    choices: str = ""
    """Of a multiple-choice question: JSON of each choice's log-prob."""


COLUMNS = tuple(f.name for f in fields(Sample) if f.name != "choices")
"""What every part has; the log-probs of choices are there for people and for nobody's score."""


def commit_samples(folder: Path, samples: Sequence[Sample]) -> None:
    """Appends one part to a cell. `samples` must be gapless in sample_index and start where the stored ones end.

    A part that is there already is kept: another study asked the same, and scores may have been made of it.
    """
    import pyarrow as pa

    start, stop = samples[0].sample_index, samples[-1].sample_index + 1
    if [s.sample_index for s in samples] != list(range(start, stop)):
        raise ValueError("a part must be gapless and in order")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / part_name(start, stop)
    if not path.exists():
        write_table(path, pa.Table.from_pylist([asdict(s) for s in samples]))


def write_table(path: Path, table: Any) -> None:
    """A parquet file, whole or not at all."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


def read_table(path: Path, columns: Sequence[str]) -> Any:
    """The table in a parquet file. Raises InputError when it is damaged or has other columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=list(columns)).select(list(columns))
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{path}: damaged ({reason}); delete it and run the study again.") from error


def read_part(path: Path) -> Any:
    """The samples of one part as a table."""
    return read_table(path, COLUMNS)
