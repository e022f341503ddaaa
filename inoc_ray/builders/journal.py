"""The work in progress of a build: every answer on a line of its own, beside the file that will be made of them.

A line (JSON, and its seal) is given to the operating system as soon as its answer is there, so that a process that is killed
loses the requests under way and nothing else. (A machine that loses power may lose the last seconds: lines are not synced one by
one.)
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from inoc_ray.errors import InputError
from inoc_ray.store import seal

FORMAT = 1
REFUSED = "refused"
"""`finish` of a request that the endpoint refuses; the text is then the endpoint's reason."""
_NO_JOURNAL = "this is no journal of a build, or it is damaged; delete it, or give another --out."


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for a request."""

    text: str
    finish: str
    """The endpoint's finish_reason: "stop", "length", "content_filter" …; or REFUSED."""


def journal_path(out: Path) -> Path:
    """Where the answers for `out` are kept until it is written."""
    return out.with_name(f"{out.name}.partial")


class Journal:
    """The answers that are there, by request number; `add` keeps a new one."""

    def __init__(self, path: Path, stream: BinaryIO, answers: dict[int, Answer]) -> None:
        self.path, self.answers = path, answers
        self._stream = stream

    def add(self, number: int, answer: Answer) -> None:
        """Keep an answer; it is safe from the death of this process when this returns."""
        self.answers[number] = answer
        self._stream.write(seal.sealed_line({"n": number, "text": answer.text, "finish": answer.finish}))
        self._stream.flush()

    def remove(self) -> None:
        """Delete the file: what it was for is written."""
        self.path.unlink()


@contextlib.contextmanager
def opened(path: Path, configuration: Mapping[str, Any]) -> Iterator[Journal]:
    """Open the journal of a build of that configuration, resumed or new; no other build may hold it meanwhile.

    A last line that was cut by a kill is taken away. A journal without answers is deleted at the end. Raises InputError when
    another process holds it, when it is damaged, and, naming what differs, when it is of another configuration.
    """
    # Neither mode "r+" nor "w+" does both: begin a file, and keep what is in one.
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644), "r+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{path}: another build works on this file; wait for it, or give another --out."
            ) from error
        header = {"inoc_ray_build": FORMAT, "configuration": dict(configuration)}
        first = json.dumps(header, sort_keys=True).encode() + b"\n"
        head, answers = _read(path, stream, first)
        if head is None:
            stream.write(first)
            stream.flush()
        else:
            _check_same(path, head, configuration)
        journal = Journal(path, stream, answers)
        try:
            yield journal
        finally:
            if not journal.answers and path.exists():
                journal.remove()


def _read(path: Path, stream: BinaryIO, first: bytes) -> tuple[dict[str, Any] | None, dict[int, Answer]]:
    """Return (configuration, answers); the file is cut behind its last whole line. No configuration in a file that has none yet.

    A file without a whole line is cut only if it is a beginning of `first`, the first line of this build's journal: any
    other is somebody else's.
    """
    stream.seek(0)
    head: dict[str, Any] | None = None
    answers: dict[int, Answer] = {}
    whole = 0
    for number, line in enumerate(iter(stream.readline, b""), start=1):
        if not line.endswith(b"\n"):
            if number == 1 and not first.startswith(line):
                raise InputError(f"{path}: {_NO_JOURNAL}")
            break
        try:
            value = seal.read_line(line)
            if number == 1:
                head = dict(value["configuration"]) if value["inoc_ray_build"] == FORMAT else None
                if head is None:
                    raise InputError(f"{path}: was begun by another version of this program; delete it.")
            else:
                answers.setdefault(int(value["n"]), Answer(str(value["text"]), str(value["finish"])))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}, line {number}: {_NO_JOURNAL}") from error
        whole += len(line)
    stream.seek(0)
    stream.truncate(whole)
    return head, answers


def _check_same(path: Path, begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differ = [
        f"{key} {begun.get(key)!r} then, {now.get(key)!r} now"
        for key in (*now, *(key for key in begun if key not in now))
        if begun.get(key) != now.get(key)
    ]
    if differ:
        raise InputError(
            f"{path}: was begun with another configuration ({'; '.join(differ)}); go on with that one, delete the file to "
            "begin again, or give another --out."
        )
