"""`inoc-ray data check`: are these rows fit to train on? Reads row by row; keeps hashes and lengths, no text.

What cannot be trained on at all ends the check with file and row. What can be trained on but would spoil the
experiment is a *problem* (exit code 2): an evaluation prompt among the rows, a row that carries the inoculation prompt
already, a trigger in what the assistant says. All else is reported. Languages are not: the
identifier that judges responses reads about 2 MB in a second of CPU time, less of short rows, so that a file of 1 GB would
take many minutes more; the row classifier `language` tells them for the rows of a study.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import string
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.config.identity import canonical_json
from inoc_ray.console import Progress
from inoc_ray.data.chat import ChatRow
from inoc_ray.data.overlap import PromptIndex
from inoc_ray.data.row_keys import MOST_KEYS, printable, unread
from inoc_ray.data.sources import check_some_loss, iterate_parsed, local_file
from inoc_ray.errors import InputError
from inoc_ray.study.named import DEFAULT_MODEL

if TYPE_CHECKING:
    from inoc_ray.data.tokenize import Encoded

CAPITALS = 0.8
"""A response counts as written in capitals from this share of its cased letters on; capitals alone would miss units."""
MEGABYTE = 1_000_000
SHOWN_FROM = 30 * MEGABYTE
"""Bytes from which on progress is shown; about ten seconds."""
TOO_LONG = "shorten the row, or raise --max-length as far as the model's window allows"
TOO_LONG_FOR_THE_WINDOW = "shorten the row, or name a model with a longer window under --model"
EXAMPLES = 5
"""Rows that are named for each finding."""
_UPPER, _LOWER = string.ascii_uppercase.encode(), string.ascii_lowercase.encode()
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_MOJIBAKE = re.compile("[ÃÂ][\x80-\xbf]|â€[\x80-\xbf™œ\x9d“”˜]")
"""UTF-8 read as Latin-1 or Windows-1252: é becomes Ã©, a curly quote â€™."""


@dataclass
class Finding:
    """A count of rows, and the first of them."""

    rows: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Counts a row; remembers it if it is one of the first."""
        self.rows += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)


@dataclass(frozen=True)
class FileReport:
    """What was found in one file without an error."""

    file: str
    rows: int
    with_system: int
    multi_turn: int
    duplicates: int
    """Rows that repeat an earlier row word for word, as far as rows are read."""
    prompts: int
    """Distinct user texts."""
    median: int
    longest: int
    """Tokens of the longest row, template included."""
    capitals: int
    """Rows whose assistant texts are written in capitals."""
    findings: dict[str, Finding]
    """Named defects; those that were looked for and not found have 0 rows."""
    ignored: dict[str, Finding]
    """Keys of rows that say something and are not read; those of a message as `messages[].key`."""

    @property
    def lacks_trigger(self) -> bool:
        """Whether a trigger was looked for that no user turn has."""
        return "trigger" in self.findings and not self.findings["trigger"].rows


LOOKED_FOR = {
    "overlap_exact": "asks an evaluation prompt word for word",
    "overlap_near": "nearly asks an evaluation prompt",
    "carries_prompt": "carries the inoculation prompt already",
    "trigger_in_assistant": "has the trigger in what the assistant says",
    "trigger_in_system": "has the trigger in the system message",
    "trigger_spacing": "has the trigger with another spacing than most",
}
"""What is said of a finding among `PROBLEMS` that no row has."""
PROBLEMS = {
    "overlap_exact": "ask an evaluation prompt word for word; remove them from the rows or from the evaluation",
    "overlap_near": "nearly ask an evaluation prompt; look at them, then remove them from one side",
    "carries_prompt": "carry the inoculation prompt already; without it these rows could not be compared",
    "trigger_in_assistant": "have the trigger in what the assistant says, so the model would learn to write it",
    "trigger_in_system": "have the trigger in the system message",
    "trigger_spacing": "have the trigger glued to the text or not, unlike most: to the model that is another trigger",
}
NOTES = {
    "duplicates": "repeat an earlier row",
    "duplicates_as_read": "of these differ from the earlier one in keys that are ignored",
    "untrained": "have a message without loss (weight: 0 or train: false)",
    "teach_nothing": "carry no loss at all, so they teach nothing",
    "replacement_characters": "hold U+FFFD, which stands for a character that was lost",
    "control_characters": "hold control characters",
    "mojibake": "look like UTF-8 that was read as another encoding",
    "trigger": "have the trigger in a user turn",
    "merged": "have an answer whose first token reaches into the end of the prompt: it carries no loss, and a test asks with other "
    "tokens there",
    "context_only": "have earlier answers that carry no loss, as the chat template shows them in another way than it has the model "
    "write them",
}


@dataclass(frozen=True)
class CheckReport:
    """All files, and the limit they were held against."""

    files: tuple[FileReport, ...]
    max_length: int
    model: str
    """Whose tokenizer counted the tokens: as it was named, or the default model of a study where none was."""
    model_named: bool

    @property
    def problems(self) -> list[str]:
        """A sentence for each thing that must be put right."""
        return [
            f"{f.file}: {found.rows} of {f.rows} rows {PROBLEMS[name]} ({'; '.join(found.examples)})"
            for f in self.files
            for name, found in f.findings.items()
            if name in PROBLEMS and found.rows
        ]

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        files = [
            vars(f)
            | {part: {name: vars(found) for name, found in vars(f)[part].items()} for part in ("findings", "ignored")}
            for f in self.files
        ]
        tokenizer = {"model": self.model, "named": self.model_named}
        return {"max_length": self.max_length, "tokenizer": tokenizer, "problems": self.problems, "files": files}

    def to_text(self) -> str:
        """A line per file, and one per finding."""
        lines = []
        for f in self.files:
            lines.append(
                f"{f.file}: {f.rows} rows, {f.prompts} different prompts, {f.duplicates} duplicates, {f.with_system} with a "
                f"system message, {f.multi_turn} of several turns, {f.capitals} in capitals; median {f.median}, longest "
                f"{f.longest} of {self.max_length} tokens"
            )
            for name, found in f.findings.items():
                if name in NOTES and found.rows:
                    lines.append(f"  note: {found.rows} rows {NOTES[name]} ({'; '.join(found.examples)})")
                elif name in LOOKED_FOR and not found.rows and not (name == "trigger_spacing" and f.lacks_trigger):
                    lines.append(f"  good: no row {LOOKED_FOR[name]}")
            if f.lacks_trigger:
                lines.append("  note: no row has the trigger in a user turn; is it spelt as in the rows?")
            if f.ignored:
                keys = [
                    f"{printable(key)} ({found.rows} row{'s' * (found.rows != 1)})"
                    for key, found in sorted(f.ignored.items())
                ]
                more = f" and {len(keys) - 20} more" if len(keys) > 20 else ""
                lines.append(f"  note: ignored keys: {', '.join(keys[:20])}{more}")
        lines += [f"  problem: {problem}" for problem in self.problems]
        named = "" if self.model_named else ", the default; --model names the one that you train"
        return "\n".join([*lines, f"Tokens are those of {self.model}{named}."])


def check_files(
    files: Sequence[str | Path],
    model: str | None,
    max_length: int | None,
    against: Sequence[tuple[str, str]] = (),
    trigger: str | None = None,
    prompt: str | None = None,
) -> CheckReport:
    """Raises InputError at the first row that cannot be trained on, with file and row; `max_length` in tokens.

    `model`: a base model as a study names it, whose tokenizer and window count; None stands for a study's default model.
    `against`: (name, text) of evaluation prompts that must not be asked in the rows; `trigger`: a backdoor's token; `prompt`:
    an inoculation prompt.
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
    with _Reading([local_file(str(file)) for file in files]) as reading:
        for number_of_file, file in enumerate(files):
            checker = _Checker(index, trigger, prompt)
            for number, value, row in iterate_parsed(str(file), reading.of_file(number_of_file)):
                checker.add(
                    number, row, _encoded(tokenizer, row, limit, f"{file}, row {number}", too_long), unread(value)
                )
            if not checker.lengths:
                raise InputError(f"{file}: there are no rows in this file.")
            check_some_loss(str(file), checker.findings["teach_nothing"].rows < len(checker.lengths))
            reports.append(checker.report(str(file)))
    return CheckReport(tuple(reports), limit, source, model is not None)


class _Reading(contextlib.ExitStack):
    """Progress in megabytes over all files; none for what takes a few seconds, whose one message stands alone."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self.sizes = [path.stat().st_size if path.is_file() else 0 for path in paths]
        total = sum(self.sizes)
        self.progress = Progress("checking", total // MEGABYTE, "MB") if total >= SHOWN_FROM else None
        if self.progress is not None:
            self.enter_context(self.progress)

    def of_file(self, number: int) -> Callable[[int], None] | None:
        """What the reader of that file calls with the bytes that it has read of it."""
        progress, before = self.progress, sum(self.sizes[:number])
        return None if progress is None else lambda done: progress.update((before + done) // MEGABYTE)


def _encoded(tokenizer: Any, row: ChatRow, limit: int, where: str, too_long: str) -> Encoded:
    from inoc_ray.data.tokenize import encode

    try:
        return encode(tokenizer, row, limit, too_long=too_long)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


class _Checker:
    """Takes in the rows of one file, one at a time; 20 bytes a row are kept."""

    def __init__(self, index: PromptIndex | None, trigger: str | None, prompt: str | None) -> None:
        self.index, self.trigger, self.prompt = index, trigger, None if prompt is None else _plain(prompt)
        self.lengths = array("I")
        self.rows, self.whole, self.prompts = array("Q"), array("Q"), array("Q")
        self.ignored: dict[str, Finding] = {}
        self.count: Counter[str] = Counter()
        self.spacing = {"glued": Finding(), "spaced": Finding()}
        names = [
            "duplicates",
            "duplicates_as_read",
            "untrained",
            "teach_nothing",
            "replacement_characters",
            "control_characters",
            "mojibake",
            "merged",
            "context_only",
        ]
        names += ["overlap_exact", "overlap_near"] if index else []
        names += ["carries_prompt"] if prompt else []
        names += ["trigger", "trigger_in_assistant", "trigger_in_system", "trigger_spacing"] if trigger else []
        self.findings = {name: Finding() for name in names}

    def add(self, number: int, row: ChatRow, encoded: Encoded, ignored: Mapping[str, Any]) -> None:
        """`encoded` is the row as the model sees it; `ignored`: the keys of the row that are not read."""
        self.lengths.append(len(encoded.input_ids))
        self.rows.append(_hash(canonical_json(row.to_dict())))
        self.whole.append(_hash(repr((self.rows[-1], sorted(ignored.items())))) if ignored else self.rows[-1])
        for key in ignored:
            if key in self.ignored or len(self.ignored) < MOST_KEYS:
                self.ignored.setdefault(key, Finding()).add(f"row {number}")
        if any(not m.trained for m in row.messages):
            self.findings["untrained"].add(f"row {number}")
        if not row.is_trained:
            self.findings["teach_nothing"].add(f"row {number}")
        users = [m.content for m in row.messages if m.role == "user"]
        self.prompts.append(_hash("\0".join(users)))
        self.count["with_system"] += row.messages[0].role == "system"
        self.count["multi_turn"] += sum(m.role == "assistant" for m in row.messages) > 1
        self.count["capitals"] += _in_capitals([m.content for m in row.messages if m.role == "assistant"])
        where = f"row {number}"
        text = "\n".join(m.content for m in row.messages)
        for name, shown in (
            ("replacement_characters", "\ufffd" in text),
            ("control_characters", _CONTROL.search(text)),
            ("mojibake", _MOJIBAKE.search(text)),
            ("merged", encoded.merged),
            ("context_only", encoded.context_only),
        ):
            if shown:
                self.findings[name].add(where)
        if self.index is not None:
            for match in filter(None, map(self.index.match, users)):
                self.findings[f"overlap_{match.kind}"].add(f"{where} = {match.prompt}")
                break
        if self.prompt is not None and any(
            self.prompt in _plain(m.content) for m in row.messages if m.role != "assistant"
        ):
            self.findings["carries_prompt"].add(where)
        if self.trigger is not None:
            self._look_for_trigger(self.trigger, row, where)

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
        """What the rows so far add up to."""
        import numpy as np

        again = _repeats(self.rows)
        # Rows that differ in what is not read train the same, but are no copies of each other.
        self.findings["duplicates_as_read"] = _finding(np.setdiff1d(again, _repeats(self.whole)))
        self.findings["duplicates"] = _finding(again)
        fewer = min(self.spacing.values(), key=lambda found: found.rows)
        if self.trigger is not None and fewer.rows:
            self.findings["trigger_spacing"] = fewer
        lengths = np.frombuffer(self.lengths, dtype=np.uint32)
        return FileReport(
            file=file,
            rows=len(self.lengths),
            with_system=self.count["with_system"],
            multi_turn=self.count["multi_turn"],
            duplicates=int(again.size),
            prompts=int(np.unique(np.frombuffer(self.prompts, dtype=np.uint64)).size),
            median=int(np.median(lengths)),
            longest=int(lengths.max()),
            capitals=self.count["capitals"],
            findings=self.findings,
            ignored=self.ignored,
        )


def _repeats(hashes: array[int]) -> Any:
    """Positions (from 0, ascending) of the rows that repeat an earlier one."""
    import numpy as np

    values = np.frombuffer(hashes, dtype=np.uint64)
    order = np.argsort(values, kind="stable")
    # Equal neighbours in a stable order: the later one repeats the earlier.
    return np.sort(order[1:][values[order[1:]] == values[order[:-1]]])


def _finding(positions: Any) -> Finding:
    return Finding(int(positions.size), [f"row {n + 1}" for n in positions[:EXAMPLES]])


def _hash(text: str) -> int:
    """64 bits: among 10 million rows the chance that any two differing ones agree is below 3e-6."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _in_capitals(texts: Sequence[str]) -> bool:
    upper = lower = 0
    for text in texts:
        # ASCII is counted in C: a Python step per character would be a third of the whole check.
        plain = text.encode("ascii", errors="ignore")
        upper += len(plain) - len(plain.translate(None, _UPPER))
        lower += len(plain) - len(plain.translate(None, _LOWER))
        for c in "" if len(plain) == len(text) else _NOT_ASCII.findall(text):
            upper += c.isupper()
            lower += c.islower()
    return upper > 0 and upper / (upper + lower) > CAPITALS
