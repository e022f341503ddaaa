"""What `inoc-ray data check` found: counts of rows by finding, as text and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from inoc_ray.data.row_keys import printable

EXAMPLES = 5
"""Rows that are named for each finding."""

ABSENT = {
    "overlap_exact": "asks an evaluation prompt word for word",
    "overlap_near": "nearly asks an evaluation prompt",
    "carries_prompt": "carries the inoculation prompt already",
    "trigger_in_assistant": "has the trigger in what the assistant says",
    "trigger_in_system": "has the trigger in the system message",
    "trigger_spacing": "has the trigger with another spacing than most",
}
"""Names of `PROBLEMS` and what the report says where no row has them."""
PROBLEMS = {
    "overlap_exact": "ask an evaluation prompt word for word; remove them from the rows or from the evaluation",
    "overlap_near": "nearly ask an evaluation prompt; look at them, then remove them from one side",
    "carries_prompt": "carry the inoculation prompt already; without it these rows could not be compared",
    "trigger_in_assistant": "have the trigger in what the assistant says, so the model would learn to write it",
    "trigger_in_system": "have the trigger in the system message",
    "trigger_spacing": "have the trigger glued to the text or not, unlike most: to the model that is another trigger",
}
"""Findings that must be put right, and what rows that have them do."""
NOTES = {
    "duplicates": "repeat an earlier row",
    "duplicates_as_read": "of these differ from the earlier one in keys that are ignored",
    "untrained": "have a message without loss (weight: 0 or train: false)",
    "teach_nothing": "carry no loss at all, so they teach nothing",
    "replacement_characters": "contain U+FFFD, which stands for a character that was lost",
    "control_characters": "contain control characters",
    "mojibake": "look like UTF-8 that was read as another encoding",
    "trigger": "have the trigger in a user turn",
    "merged": "have an answer whose first token reaches into the end of the prompt: it carries no loss, and a test asks with other "
    "tokens there",
    "context_only": "have earlier answers that carry no loss, as the chat template shows them in another way than it has the model "
    "write them",
}
"""Findings that are only reported, and what rows that have them do."""


@dataclass
class Finding:
    """A count of rows, and the first of them."""

    rows: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Count a row, and remember it if it is one of the first."""
        self.rows += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """The findings in one file in which every row can be read."""

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
    """By name; those that were looked for and not found have 0 rows."""
    ignored: dict[str, Finding]
    """Keys of rows that say something and are not read; those of a message as `messages[].key`."""

    @property
    def lacks_trigger(self) -> bool:
        """Return whether a trigger was looked for that no user turn has."""
        return "trigger" in self.findings and not self.findings["trigger"].rows

    def lines(self, max_length: int) -> list[str]:
        """Return a line about the file, and one per finding that is not a problem."""
        lines = [
            f"{self.file}: {self.rows} rows, {self.prompts} different prompts, {self.duplicates} duplicates, "
            f"{self.with_system} with a system message, {self.multi_turn} of several turns, {self.capitals} in capitals; "
            f"median {self.median}, longest {self.longest} of {max_length} tokens"
        ]
        for name, found in self.findings.items():
            if name in NOTES and found.rows:
                lines.append(f"  note: {found.rows} rows {NOTES[name]} ({'; '.join(found.examples)})")
            elif name in ABSENT and not found.rows and not (name == "trigger_spacing" and self.lacks_trigger):
                lines.append(f"  good: no row {ABSENT[name]}")
        if self.lacks_trigger:
            lines.append("  note: no row has the trigger in a user turn; is it spelt as in the rows?")
        if self.ignored:
            keys = [
                f"{printable(key)} ({found.rows} row{'s' * (found.rows != 1)})"
                for key, found in sorted(self.ignored.items())
            ]
            more = f" and {len(keys) - 20} more" if len(keys) > 20 else ""
            lines.append(f"  note: ignored keys: {', '.join(keys[:20])}{more}")
        return lines


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """All files, and the limit that their rows were compared with."""

    files: tuple[FileReport, ...]
    max_length: int
    """Tokens that a row may have."""
    model: str
    """The model whose tokenizer counted the tokens, as it was named; the default model of a study otherwise."""
    model_named: bool

    @property
    def problems(self) -> list[str]:
        """Return a sentence for each thing that must be put right."""
        return [
            f"{f.file}: {found.rows} of {f.rows} rows {PROBLEMS[name]} ({'; '.join(found.examples)})"
            for f in self.files
            for name, found in f.findings.items()
            if name in PROBLEMS and found.rows
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the report for `--json`."""
        files = [
            vars(f)
            | {part: {name: vars(found) for name, found in vars(f)[part].items()} for part in ("findings", "ignored")}
            for f in self.files
        ]
        tokenizer = {"model": self.model, "named": self.model_named}
        return {"max_length": self.max_length, "tokenizer": tokenizer, "problems": self.problems, "files": files}

    def to_text(self) -> str:
        """Return the report for a terminal: a line per file, and one per finding."""
        lines = [line for f in self.files for line in f.lines(self.max_length)]
        lines += [f"  problem: {problem}" for problem in self.problems]
        named = "" if self.model_named else ", the default; --model names the one that you train"
        return "\n".join([*lines, f"Tokens are those of {self.model}{named}."])
