"""The work in progress of a build: every answer on a line of its own, beside the file that will be made of them.

The first line says which build it is of; the others are of `store.journal`'s kind, and follow its rule of repair.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inoc_ray.errors import InputError
from inoc_ray.store import journal, lock, seal
from inoc_ray.store.place import at

FORMAT = 1
REFUSED = "refused"
"""`finish` of a request that the endpoint refuses; the text is then the endpoint's reason."""
_NOT_A_JOURNAL = "this is not the journal of a build, or it is damaged; delete it, or give another --out."


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for a request."""

    text: str
    finish: str
    """The endpoint's finish_reason: "stop", "length", "content_filter" …; or REFUSED."""


def journal_path(out: Path) -> Path:
    """Return where the answers for `out` are kept until it is written."""
    return out.with_name(f"{out.name}.partial")


class Journal:
    """The answers that are there, by request number; `add` keeps a new one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[int, Answer] = {}
        self._journal = journal.Journal(at(path))

    def begin_or_resume(self, configuration: Mapping[str, Any]) -> None:
        """Write the first line, or read the answers of a build of the same configuration.

        Raises `InputError` for a file that does not begin with the first line of a journal (it is somebody else's), and, naming
        what differs, for one of another configuration.
        """
        header = _header(configuration)
        data = self.path.read_bytes()
        if b"\n" not in data and seal.sealed_line(header).startswith(data):
            # Empty, or only the beginning of the header: a kill cut it off.
            # In place: the lock is on this very file.
            os.truncate(self.path, 0)
            self._journal.add([header])
            return
        _check_same(self.path, _configuration_of(self.path, data), configuration)
        for value in self._journal.lines()[0][1:]:
            # What is of another kind is passed over like what is damaged: it is asked again.
            with contextlib.suppress(ValueError, KeyError, TypeError):
                self.answers.setdefault(int(value["n"]), Answer(str(value["text"]), str(value["finish"])))

    def add(self, number: int, answer: Answer) -> None:
        """Keep an answer; it is safe from the death of this process when this returns."""
        self.answers[number] = answer
        self._journal.add([{"n": number, "text": answer.text, "finish": answer.finish}])

    def remove(self) -> None:
        """Delete the file: what it was for is written."""
        self._journal.remove()

    def close(self) -> None:
        """End writing."""
        self._journal.close()


@contextlib.contextmanager
def opened(path: Path, configuration: Mapping[str, Any]) -> Iterator[Journal]:
    """Give the journal of a build of that configuration, resumed or new; nobody else may hold it meanwhile.

    A journal without answers is deleted at the end. Raises `InputError` when another process holds it, and as
    `Journal.begin_or_resume` does.
    """
    with contextlib.ExitStack() as held:
        try:
            # The journal's own file is locked: there is no other that would be left behind.
            held.enter_context(lock.exclusive(path, timeout=0))
        except TimeoutError as error:
            raise InputError(
                f"{path}: another build works on this file; wait for it, or give another --out."
            ) from error
        answers = Journal(path)
        answers.begin_or_resume(configuration)
        try:
            yield answers
        finally:
            answers.close()
            if not answers.answers:
                answers.remove()


def _header(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first line; its keys are sorted at every depth, as they always were."""
    text = json.dumps({"inoc_ray_build": FORMAT, "configuration": dict(configuration)}, sort_keys=True)
    return {**json.loads(text)}


def _configuration_of(path: Path, data: bytes) -> dict[str, Any]:
    """Return the configuration in the first line of a journal."""
    try:
        value = seal.read_line(data.split(b"\n", 1)[0])
        configuration = dict(value["configuration"])
        version = value["inoc_ray_build"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}, line 1: {_NOT_A_JOURNAL}") from error
    if version != FORMAT:
        raise InputError(f"{path}: was begun by another version of this program; delete it.")
    return configuration


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
