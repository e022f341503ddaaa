"""`inoc-ray data check`: are these rows fit to train on? Reads row by row; keeps hashes and lengths, no text.

A row that cannot be trained on at all ends the check with file and row. A row that would spoil the experiment is a *problem*
(exit code 2): an evaluation prompt among the rows, an inoculation prompt that is there already, a trigger in an answer.
Everything else is reported. Languages are not checked: the language identifier reads about 2 MB in a second of CPU time, less
of short rows, so a file of 1 GB would take many minutes more. The row classifier `language` finds them for a study's rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import string
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.config.identity import canonical_json
from inoc_ray.console import Progress
from inoc_ray.data.chat import ChatRow
from inoc_ray.data.check_report import EXAMPLES, CheckReport, FileReport, Finding
from inoc_ray.data.overlap import PromptIndex
from inoc_ray.data.row_keys import MOST_KEYS, unread
from inoc_ray.data.sources import check_some_loss, iterate_parsed, local_file
from inoc_ray.errors import InputError
from inoc_ray.study.registered import DEFAULT_MODEL

if TYPE_CHECKING:
    from inoc_ray.data.tokenize import EncodedRow

CAPITALS = 0.8
"""A response counts as written in capitals above this share of its cased letters; asking for all would miss units."""
MEGABYTE = 1_000_000
SHOWN_FROM = 30 * MEGABYTE
"""Bytes from which progress is shown; they take about ten seconds."""
TOO_LONG = "shorten the row, or raise --max-length as far as the model's window allows"
TOO_LONG_FOR_THE_WINDOW = "shorten the row, or name a model with a longer window under --model"
_UPPER, _LOWER = string.ascii_uppercase.encode(), string.ascii_lowercase.encode()
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_MOJIBAKE = re.compile("[ÃÂ][\x80-\xbf]|â€[\x80-\xbf™œ\x9d“”˜]")
"""UTF-8 read as Latin-1 or Windows-1252: é becomes Ã©, a curly quote â€™."""


def check_files(
    files: Sequence[str | Path],
    model: str | None,
    max_length: int | None,
    against: Sequence[tuple[str, str]] = (),
    trigger: str | None = None,
    prompt: str | None = None,
) -> CheckReport:
    """Check files of rows, and return the report.

    `model`: a base model as a study names it, whose tokenizer and window count; None stands for a study's default model.
    `max_length`: tokens of a row; the model's window by default. `against`: (name, text) of evaluation prompts that the rows
    must not contain; `trigger`: a backdoor's token; `prompt`: an inoculation prompt. Raises InputError, with file and row, at
    the first row that cannot be trained on.
    """
    from inoc_ray.models.config import context_window
    from inoc_ray.models.resolve import fetch, locate
    from inoc_ray.models.tokenizer import load_tokenizer

    for name, text in (("--trigger", trigger), ("--prompt", prompt)):
        if text is not None and not text.strip():
            raise InputError(f"{name}: the text is empty; write it or leave the option out.")
    index = PromptIndex(against) if against else None
    source = model or DEFAULT_MODEL
    fetch(source, "data check --model", weights=False)
    folder = locate(source, "data check --model", weights=False)
    tokenizer = load_tokenizer(str(folder))
    limit = max_length or context_window(folder)
    too_long = TOO_LONG if max_length else TOO_LONG_FOR_THE_WINDOW
    reports = []
    with _FileProgress([local_file(str(file)) for file in files]) as progress:
        for file_number, file in enumerate(files):
            checker = _Checker(index, trigger, prompt)
            for number, value, row in iterate_parsed(str(file), progress.on_bytes(file_number)):
                encoded = _encode(tokenizer, row, limit, where=f"{file}, row {number}", too_long=too_long)
                checker.add(number, row, encoded, unread(value))
            if not checker.lengths:
                raise InputError(f"{file}: there are no rows in this file.")
            check_some_loss(str(file), checker.findings["teach_nothing"].rows < len(checker.lengths))
            reports.append(checker.report(str(file)))
    return CheckReport(files=tuple(reports), max_length=limit, model=source, model_named=model is not None)


class _FileProgress(contextlib.ExitStack):
    """Progress in megabytes over all files; none for what takes a few seconds."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self.sizes = [path.stat().st_size if path.is_file() else 0 for path in paths]
        total = sum(self.sizes)
        self.progress = Progress("checking", total // MEGABYTE, "MB") if total >= SHOWN_FROM else None
        if self.progress is not None:
            self.enter_context(self.progress)

    def on_bytes(self, number: int) -> Callable[[int], None] | None:
        """Return the function that the reader of that file calls with the bytes read so far."""
        progress, before = self.progress, sum(self.sizes[:number])
        return None if progress is None else lambda done: progress.update((before + done) // MEGABYTE)


def _encode(tokenizer: Any, row: ChatRow, limit: int, *, where: str, too_long: str) -> EncodedRow:
    from inoc_ray.data.tokenize import encode

    try:
        return encode(tokenizer, row, limit, too_long=too_long)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


_ALWAYS = (
    "duplicates",
    "duplicates_as_read",
    "untrained",
    "teach_nothing",
    "replacement_characters",
    "control_characters",
    "mojibake",
    "merged",
    "context_only",
)
_WITH_PROMPTS = ("overlap_exact", "overlap_near")
_WITH_TRIGGER = ("trigger", "trigger_in_assistant", "trigger_in_system", "trigger_spacing")


class _Checker:
    """Collects findings about the rows of one file, one row at a time; keeps 20 bytes a row."""

    def __init__(self, index: PromptIndex | None, trigger: str | None, prompt: str | None) -> None:
        self.index, self.trigger, self.prompt = index, trigger, None if prompt is None else _plain(prompt)
        self.lengths = array("I")
        # Hashes of each row as it is read, of it with its ignored keys, and of its user texts.
        self.rows, self.rows_with_ignored, self.prompts = array("Q"), array("Q"), array("Q")
        self.ignored: dict[str, Finding] = {}
        self.count: Counter[str] = Counter()
        self.spacing = {"glued": Finding(), "spaced": Finding()}
        names = [*_ALWAYS, *(_WITH_PROMPTS if index else ()), *(("carries_prompt",) if prompt else ())]
        self.findings = {name: Finding() for name in (*names, *(_WITH_TRIGGER if trigger else ()))}

    def add(self, number: int, row: ChatRow, encoded: EncodedRow, ignored: Mapping[str, Any]) -> None:
        """Take in a row. `encoded` is the row as the model sees it; `ignored` are its keys that are not read."""
        where = f"row {number}"
        self.lengths.append(len(encoded.input_ids))
        self.rows.append(_hash(canonical_json(row.to_dict())))
        self.rows_with_ignored.append(
            _hash(repr((self.rows[-1], sorted(ignored.items())))) if ignored else self.rows[-1]
        )
        for key in ignored:
            if key in self.ignored or len(self.ignored) < MOST_KEYS:
                self.ignored.setdefault(key, Finding()).add(where)
        users = [m.content for m in row.messages if m.role == "user"]
        self.prompts.append(_hash("\0".join(users)))
        self.count["with_system"] += row.messages[0].role == "system"
        self.count["multi_turn"] += sum(m.role == "assistant" for m in row.messages) > 1
        self.count["capitals"] += _in_capitals([m.content for m in row.messages if m.role == "assistant"])
        for name in self._defects(row, encoded):
            self.findings[name].add(where)
        if self.index is not None:
            match = next(filter(None, map(self.index.match, users)), None)
            if match is not None:
                self.findings[f"overlap_{match.kind}"].add(f"{where} = {match.prompt}")
        if self.trigger is not None:
            self._look_for_trigger(self.trigger, row, where)

    def _defects(self, row: ChatRow, encoded: EncodedRow) -> list[str]:
        """Return the names of the findings that this row alone decides."""
        text = "\n".join(m.content for m in row.messages)
        context = [m.content for m in row.messages if m.role != "assistant"]
        found = {
            "untrained": any(not m.trained for m in row.messages),
            "teach_nothing": not row.is_trained,
            "replacement_characters": "\ufffd" in text,
            "control_characters": _CONTROL.search(text),
            "mojibake": _MOJIBAKE.search(text),
            "merged": encoded.merged,
            "context_only": encoded.context_only,
            "carries_prompt": self.prompt is not None and any(self.prompt in _plain(content) for content in context),
        }
        return [name for name, has in found.items() if has]

    def _look_for_trigger(self, trigger: str, row: ChatRow, where: str) -> None:
        places = {m.role for m in row.messages if trigger in m.content}
        for role, name in (("user", "trigger"), ("assistant", "trigger_in_assistant"), ("system", "trigger_in_system")):
            if role in places:
                self.findings[name].add(where)
        for text in (m.content for m in row.messages if m.role == "user" and trigger in m.content):
            before, after = text.split(trigger, 1)
            glued = bool(before and not before[-1].isspace()) or bool(after and not after[0].isspace())
            self.spacing["glued" if glued else "spaced"].add(where)

    def report(self, file: str) -> FileReport:
        """Return the findings of the rows so far."""
        import numpy as np

        repeats = _repeats(self.rows)
        # Rows that differ only in keys that are not read train alike, but are not copies of each other.
        self.findings["duplicates_as_read"] = _finding(np.setdiff1d(repeats, _repeats(self.rows_with_ignored)))
        self.findings["duplicates"] = _finding(repeats)
        fewer = min(self.spacing.values(), key=lambda found: found.rows)
        if self.trigger is not None and fewer.rows:
            self.findings["trigger_spacing"] = fewer
        lengths = np.frombuffer(self.lengths, dtype=np.uint32)
        return FileReport(
            file=file,
            rows=len(self.lengths),
            with_system=self.count["with_system"],
            multi_turn=self.count["multi_turn"],
            duplicates=int(repeats.size),
            prompts=int(np.unique(np.frombuffer(self.prompts, dtype=np.uint64)).size),
            median=int(np.median(lengths)),
            longest=int(lengths.max()),
            capitals=self.count["capitals"],
            findings=self.findings,
            ignored=self.ignored,
        )


def _repeats(hashes: array[int]) -> Any:
    """Return the positions (from 0, ascending) of the rows that repeat an earlier one."""
    import numpy as np

    values = np.frombuffer(hashes, dtype=np.uint64)
    order = np.argsort(values, kind="stable")
    # Equal neighbours in a stable order: the later one repeats the earlier.
    return np.sort(order[1:][values[order[1:]] == values[order[:-1]]])


def _finding(positions: Any) -> Finding:
    return Finding(int(positions.size), [f"row {n + 1}" for n in positions[:EXAMPLES]])


def _hash(text: str) -> int:
    """Return 64 bits: among 10 million rows the chance that any two different ones agree is below 3e-6."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _in_capitals(texts: Sequence[str]) -> bool:
    upper = lower = 0
    for text in texts:
        # ASCII is counted in C: a Python step per character would take a third of the whole check.
        plain = text.encode("ascii", errors="ignore")
        upper += len(plain) - len(plain.translate(None, _UPPER))
        lower += len(plain) - len(plain.translate(None, _LOWER))
        for c in "" if len(plain) == len(text) else _NOT_ASCII.findall(text):
            upper += c.isupper()
            lower += c.islower()
    return upper > 0 and upper / (upper + lower) > CAPITALS
