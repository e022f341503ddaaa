"""What a setting is: training rows, arms, evaluations, and who judges which trait."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from inoc_ray.data.chat import ChatRow
from inoc_ray.data.mixture import Trigger
from inoc_ray.data.questions import Question
from inoc_ray.errors import InputError
from inoc_ray.scoring.judgment import Item, Measure
from inoc_ray.study.evaluation import Context
from inoc_ray.study.rows import SYSTEM_MESSAGE, Inoculation


@dataclass(frozen=True)
class ArmSpec:
    """What is done to the training rows, and in which direction it is expected to work."""

    name: str
    kind: str
    prompt: str | None
    undesired: tuple[str, ...]
    """Traits that should not be learnt in this arm (those its prompt elicits, where it elicits any)."""
    desired: tuple[str, ...]
    source: str
    """Where the prompt's text comes from."""
    uses_control_rows: bool = False
    inoculation: Inoculation = SYSTEM_MESSAGE
    """Where the prompt stands in the training rows, and which rows it covers."""


@dataclass(frozen=True)
class RowSource:
    """Where rows that do not ship with the package are published; nothing is downloaded from here by itself."""

    what: str
    published: str
    """File name and place, or how they are made."""
    licence: str
    rows: int | None = None
    """How many there are, where that is published."""
    hub: str | None = None
    """The dataset's id on the Hugging Face hub."""

    def in_words(self) -> str:
        """For an error message and for the lists."""
        count = f", {self.rows} rows" if self.rows else ""
        hub = f", hub id {self.hub}" if self.hub and self.hub not in self.published else ""
        return f"{self.what} ({self.published}{hub}{count})"


@dataclass(frozen=True)
class EvaluationSpec:
    """A set of questions, in distribution (like the training rows) or out of it."""

    name: str
    split: Literal["id", "ood"]
    questions: Callable[[int], list[Question]]
    """The first n questions; `questions(100)` is the head of `questions(200)`, so a study can grow."""
    traits: tuple[str, ...]
    max_tokens: int
    published: str = ""
    """Where its questions are published when they do not ship with the package: the study then names a file of them."""
    file_hash: str = ""
    """Hash of all questions when they come from the user's file; part of the evaluation's id."""
    contexts: tuple[str | Context, ...] = ()
    """The contexts it is asked in; empty: the study's."""
    samples: int | None = None
    """How many; None: as many as the study says."""
    temperature: float | None = None
    top_p: float | None = None
    rules: Mapping[str, Callable[[Item], float | None]] = field(default_factory=dict, hash=False)
    """trait → rule that sees question and reference answer too; before the setting's judge of that name."""
    measures: Mapping[str, Measure] = field(default_factory=dict, hash=False)
    """trait → how a judging model tells it; before the setting's."""
    rules_id: str = ""
    """Identity of `rules`."""
    rules_given: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """trait that a rule tells → rubrics that decide whether a response counts, in place of the study's `rules_given`."""
    choices: tuple[str, ...] = ()
    """The answers of a multiple-choice evaluation, of which the likeliest is the response; empty: responses are sampled."""


@dataclass(frozen=True)
class Setting:
    """A bundle: rows, control rows, arms, evaluations, and the judges of its traits."""

    name: str
    description: str
    rows: Callable[[], list[ChatRow]]
    arms: Mapping[str, ArmSpec]
    evaluations: tuple[EvaluationSpec, ...]
    judges: Mapping[str, Callable[[str], float | None]]
    """trait → judge of a response's text: 1.0 shown, 0.0 not shown, None when it cannot be judged."""
    control_rows: Callable[[], list[ChatRow]] | None = None
    """The rows of arms that train on other rows (`uses_control_rows`); needed where there is such an arm."""
    judge_version: str = field(default="1")
    """Bumped when a judge answers differently; stored samples are then scored again, nobody is asked again."""
    model_judged: Mapping[str, Measure] = field(default_factory=dict)
    """trait → how a judging model tells it. Where `judges` has a rule for the same trait, the study says who judges."""
    row_source: RowSource | None = None
    """Set when the rows do not ship with the package."""
    control_source: RowSource | None = None
    presets: tuple[str, ...] = ()
    """Recipe presets that have been used for rows of this kind."""
    narrow: tuple[str, ...] = ()
    """The traits of the narrow task that the rows teach, where they are neither wanted nor unwanted: how much of them an arm
    still learns is an effect of its own."""
    probes: Mapping[str, Callable[[], Sequence[ChatRow]]] = field(default_factory=dict)
    """trait → fixed responses that express it and no other, each after a question that no row asks: `dynamics` in a study
    follows their log-probability."""
    trigger: Trigger | None = None
    """The backdoor's token as its triggered evaluations ask it; rows that a study poisons must carry the same."""

    @property
    def traits(self) -> tuple[str, ...]:
        """All traits, whoever judges them."""
        own = (t for e in self.evaluations for t in (*e.rules, *e.measures))
        return tuple(dict.fromkeys((*self.judges, *self.model_judged, *own)))

    @property
    def measured(self) -> tuple[str, ...]:
        """The traits of which an evaluation says how often they show."""
        return tuple(dict.fromkeys(t for e in self.evaluations for t in e.traits))


def not_shipped() -> list[ChatRow]:
    """Raise InputError: the `rows` of a setting with a `row_source`, for which a plan asks before it comes to this."""
    raise InputError("the rows of this setting do not ship with the package; name a file of them in the study.")
