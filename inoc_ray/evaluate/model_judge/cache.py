"""Judges' answers by content, so that no question is asked twice, whichever study, process or machine asks.

Each judge has a folder, and each process that writes has a journal of its own in it, so that a shared mount needs no locks (see
`store.journal`). A line is `[key, answer]`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from inoc_ray.config.identity import as_text
from inoc_ray.store.journal import Journal
from inoc_ray.store.place import Place, at

Answer = Mapping[str, Any]


class JudgeCache:
    """The answers of one judge below `folder`, read at the first look-up. Close it, or use it in a `with` block.

    What other processes write meanwhile is not seen: both then ask, and both store an answer under the same key.
    """

    def __init__(self, folder: Place | Path) -> None:
        self.folder = at(folder)
        self._known: dict[str, Answer] | None = None
        self._segment: Journal | None = None

    def get(self, key: str) -> Answer | None:
        """Return the stored answer, or None."""
        if self._known is None:
            self._known = _read(self.folder)
        found = self._known.get(key)
        # An earlier version stored half surrogate pairs, which a file of judgments cannot hold.
        return None if found is None else _as_texts(found)

    def put(self, key: str, answer: Answer) -> None:
        """Store an answer; the first one under a key is kept. Raises OSError if the folder cannot be written."""
        if self._known is None:
            self._known = _read(self.folder)
        if key in self._known:
            return
        if self._segment is None:
            self._segment = Journal(self.folder / f"{uuid.uuid4().hex}.jsonl")
        self._segment.add([[key, answer]])
        self._known[key] = answer

    def close(self) -> None:
        """Close this process's own file; a later `put` opens a new one."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read(folder: Place) -> dict[str, Answer]:
    """Return the answers in every file, read in the order of the files' names."""
    found: dict[str, Answer] = {}
    for path in folder.glob("*.jsonl"):
        for value in Journal(path).lines()[0]:
            match value:
                case [str(key), dict(answer)]:
                    found.setdefault(key, answer)
    return found


def _as_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {as_text(key): _as_texts(one) for key, one in value.items()}
    return as_text(value) if isinstance(value, str) else value
