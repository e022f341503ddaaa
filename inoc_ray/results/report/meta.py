"""What the page shows besides numbers: arms, contexts, judges, fine-tunes, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmText:
    """What is done to the training rows in one arm."""

    setting: str
    arm: str
    kind: str
    prompt: str | None
    """The prompt in front of the rows; None for none."""
    source: str
    wordings: tuple[str, ...] = ()
    """Further wordings, which rows have in turn with the prompt."""

    def in_short(self) -> str:
        """Return the prompt in quotes, and how many further wordings there are; empty without one."""
        if self.prompt is None:
            return ""
        more = len(self.wordings)
        return f"“{self.prompt}”" + (f" and {more} other wording{'s' * (more != 1)}" if more else "")

    def in_full(self) -> str:
        """Return every wording, each on a line."""
        return "(none)" if self.prompt is None else "\n".join((self.prompt, *self.wordings))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialLine:
    """Where the numbers of one fine-tune come from."""

    trial_id: str
    setting: str
    model: str
    arm: str
    seed: int
    status: str
    dataset_hash: str


@dataclass(frozen=True, slots=True, order=True)
class Training:
    """How much of its rows a fine-tune sees."""

    steps: int
    """Optimizer steps."""
    batch: int
    """Rows of a step."""

    def in_words(self, rows: int) -> str:
        """Return "20 steps of 16 rows (of 720)"; of all rows or more, "90 steps of 16 rows (of 720, 2 passes)"."""
        passes = self.steps * self.batch / rows if rows else 0.0
        more = f", {passes:.3g} passes" if passes > 1 else ""
        plural = "s" * (self.steps != 1), "s" * (self.batch != 1)
        return f"{self.steps:,} step{plural[0]} of {self.batch:,} row{plural[1]} (of {rows:,}{more})"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCard:
    """The training rows of one arm."""

    setting: str
    arm: str
    rows: int
    prompted: int
    """How many of them carry the arm's prompt."""
    dataset_hash: str
    """Of the rows before the prompt."""
    source: str = ""
    before: str = ""
    """A row as it is, as text; empty where the prompt changes none."""
    after: str = ""
    """The same row as the arm is trained on it."""
    trained: tuple[Training, ...] = ()
    """How long its fine-tunes train: one entry for all that train alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeLine:
    """A judge of a trait in an evaluation, as the study assigns it."""

    setting: str
    evaluation: str
    trait: str
    judge: str
    how: str
    """A description of the judge."""
    combined: str = ""
    """Which score counts if there are several judges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportMeta:
    """What the page shows besides numbers. Everything is plain text; the page escapes it."""

    title: str
    description: str = ""
    arms: Sequence[ArmText] = ()
    contexts: Mapping[str, str] = field(default_factory=dict)
    """Context → what precedes the question."""
    judges: Sequence[JudgeLine] = ()
    """The assigned judges; one that has judged nothing is not shown."""
    trials: Sequence[TrialLine] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Label → value: model identity, versions, chat template, store."""
    data: Sequence[DataCard] = ()
    cost: Mapping[str, str] = field(default_factory=dict)
    """Label → value: hours, tokens, judgments."""
    study_file: str = ""
    """The study as YAML."""
    samples_at: str = ""
    """Where all samples are, for people."""
