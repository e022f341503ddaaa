"""What judges have answered, by content: nobody is asked twice, whichever study, process or machine asks.

One folder for each judge; in it one file for each process that writes, so that no locks are needed on a shared mount. A line
is `[key, answer]` and its seal, written and flushed as soon as the answer is there: a killed process loses only what is under way.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from inoc_ray.config.identity import as_text
from inoc_ray.store import seal

Answer = Mapping[str, Any]


class JudgeCache:
    """The answers of one judge below `folder`, read when the first one is looked up. Close it, or use it in a `with` block.

    What other processes write meanwhile is not seen: both then ask, and both answers stand under the same key.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, Answer] | None = None
        self._segment: BinaryIO | None = None

    def get(self, key: str) -> Answer | None:
        """The stored answer, or None."""
        if self._known is None:
            self._known = _read(self.folder)
        return self._known.get(key)

    def put(self, key: str, answer: Answer) -> None:
        """Stores an answer; the first one under a key stands. Raises OSError where the folder cannot be written."""
        if self.get(key) is not None:
            return
        assert self._known is not None
        if self._segment is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._segment = (self.folder / f"{uuid.uuid4().hex}.jsonl").open("xb")
        self._segment.write(seal.sealed_line([key, answer]))
        self._segment.flush()
        self._known[key] = answer

    def close(self) -> None:
        """Closes this process's own file; it can go on, with a new one."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read(folder: Path) -> dict[str, Answer]:
    """Every whole line of every file, in the order of the files' names; torn and damaged ones are passed over."""
    found: dict[str, Answer] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            # A process that was killed, or a full disk, leaves half a line; what it held is asked again.
            try:
                key, answer = seal.read_line(line)
            except (ValueError, TypeError, RecursionError):
                continue
            if isinstance(key, str) and isinstance(answer, dict):
                # An earlier version kept half surrogate pairs, which no file of judgments can hold.
                found.setdefault(key, _as_texts(answer) if b"\\ud" in line else answer)
    return found


def _as_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {as_text(key): _as_texts(one) for key, one in value.items()}
    return as_text(value) if isinstance(value, str) else value
