"""Every raw answer of a judge, kept by what was asked, so that nothing is asked twice.

Each process appends to a segment of its own, so that no lock is needed on a shared mount; all segments are read at the start.
A line is given to the operating system as soon as the answer is there. A last line that a kill has cut is not read; what it
held is asked again.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any, BinaryIO


class JudgeCache:
    """key → raw answer (JSON). `asked` and `found` count what was sent and what was here already."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked = 0
        self.found = 0
        self._answers: dict[str, Any] = {}
        self._stream: BinaryIO | None = None
        for segment in sorted(folder.glob("*.jsonl")) if folder.is_dir() else ():
            for line in segment.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                try:
                    value = json.loads(line)
                    self._answers.setdefault(str(value["key"]), value["answer"])
                except (ValueError, KeyError, TypeError):
                    # Half a line in the middle, as a full disk leaves it: an answer that is asked for again.
                    continue

    def get(self, key: str) -> Any | None:
        """The answer, or None."""
        return self._answers.get(key)

    def put(self, key: str, answer: Any) -> None:
        """Keeps an answer; it is safe from the death of this process when this returns."""
        self._answers[key] = answer
        if self._stream is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._stream = (self.folder / f"{uuid.uuid4().hex}.jsonl").open("ab")
        # ASCII: an answer may hold half of a surrogate pair, which UTF-8 cannot.
        self._stream.write(json.dumps({"key": key, "answer": answer}).encode() + b"\n")
        self._stream.flush()

    def close(self) -> None:
        """Ends writing."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
