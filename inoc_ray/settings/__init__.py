"""Settings: what is trained on, what is asked, and which traits count; a registry by name.

Two families stand in the registry. Those under `miniature/` ship with rows, questions and rule judges. The others are the
paper's own at its scale: their rows come from files that the user names, and most of their traits need a judging model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from inoc_ray.config.base import nearest
from inoc_ray.config.identity import content_hash
from inoc_ray.data.chat import ChatRow, Message
from inoc_ray.data.mixture import Trigger
from inoc_ray.data.questions import InTurn, Question, in_turn, read_questions
from inoc_ray.errors import InputError
from inoc_ray.scoring.judgment import Item, Measure
from inoc_ray.study.evaluation import Context
from inoc_ray.study.rows import SYSTEM_MESSAGE, Backdoor, Inoculation
from inoc_ray.study.study import SettingUse

__all__ = [
    "ArmSpec",
    "EvaluationSpec",
    "Message",
    "Question",
    "RowSource",
    "Setting",
    "Trigger",
    "get",
    "names",
    "register",
]


_PROBE = 32
"""Questions of a generator that are looked at."""


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
        return f"{self.what} ({self.published}{f', hub id {self.hub}' if self.hub else ''}{count})"


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
    """The `rows` of a setting with a `row_source`. Always raises InputError; a plan asks for the files before."""
    raise InputError("the rows of this setting do not ship with the package; name a file of them in the study.")


def check_trigger(setting: Setting, use: SettingUse) -> None:
    """Raises InputError when the study poisons rows with another trigger than the setting's evaluations ask with."""
    asked = setting.trigger
    for key, rows in (("rows", use.rows), ("control_rows", use.control_rows)):
        if asked is None or not isinstance(rows, Backdoor):
            continue
        trained = Trigger(rows.token, rows.place, rows.spacing)
        if trained != asked:
            raise InputError(
                f"settings: {setting.name}.{key}: trains {trained.in_words()}, but its evaluations ask "
                f"{asked.in_words()}, which is another trigger to the model; write token: {asked.token!r}, place: {asked.place}, "
                f"spacing: {asked.spacing}."
            )


def asks_with_trigger(setting: Setting, spec: EvaluationSpec) -> bool:
    """Whether the evaluation's questions carry the setting's trigger.

    Raises InputError when some do and some do not: a rate over both would say nothing of either.
    """
    if setting.trigger is None:
        return False
    listed = spec.questions.questions if isinstance(spec.questions, InTurn) else spec.questions(_PROBE)
    carries = {any(setting.trigger.token in m.content for m in q.messages if m.role == "user") for q in listed}
    if len(carries) > 1:
        raise InputError(
            f"setting {setting.name}: evaluation {spec.name} asks some questions with the trigger {setting.trigger.token!r} and "
            "some without, whose rates mean different things; make two evaluations of it."
        )
    return carries == {True}


def with_files(setting: Setting, use: SettingUse, control: bool, notes: list[str] | None = None) -> Setting:
    """The setting with the questions that the study names files for; what there is to tell of the files goes to `notes`.

    Raises InputError, one for everything that is missing, when rows or questions do not ship with the package and the
    study names no file for them (`control`: an arm trains on the control rows); and for an unknown evaluation.
    """
    by_name = {e.name: e for e in setting.evaluations}
    for name in use.questions:
        if not by_name:
            raise InputError(
                f"settings: {setting.name}.questions: a setting of your own has no questions to replace; write {name!r} with its "
                "questions and traits under evaluation.suites (docs/evaluation.md)."
            )
        if name not in by_name:
            raise InputError(
                f"settings: {setting.name}.questions: there is no evaluation {name!r}{nearest(name, list(by_name))}."
            )
    missing: list[tuple[str, str]] = []
    if setting.row_source and not use.rows:
        missing.append(("rows: ROWS.jsonl", f"rows: {setting.row_source.in_words()}"))
    if setting.control_source and control and not use.control_rows:
        missing.append(("control_rows: CONTROL.jsonl", f"control_rows: {setting.control_source.in_words()}"))
    unasked = [e for e in setting.evaluations if e.published and e.name not in use.questions]
    if unasked:
        files = ", ".join(f"{e.name}: QUESTIONS.jsonl" for e in unasked)
        missing.append((f"questions: {{{files}}}", "; ".join(f"questions.{e.name}: {e.published}" for e in unasked)))
    if missing:
        fields = ", ".join([f"name: {setting.name}", *(how for how, _ in missing)])
        raise InputError(
            f"setting {setting.name} needs files that do not ship with the package; name them in the study: "
            f"`settings: [{{{fields}}}]`. What they hold: {'; '.join(what for _, what in missing)}."
        )
    evaluations = tuple(_from_file(e, use.questions.get(e.name), notes) for e in setting.evaluations)
    for own, named in zip(setting.evaluations, evaluations, strict=True):
        if (
            setting.trigger
            and not own.published
            and asks_with_trigger(setting, own) != asks_with_trigger(setting, named)
        ):
            carried = "with" if asks_with_trigger(setting, own) else "without"
            raise InputError(
                f"settings: {setting.name}.questions.{own.name}: this evaluation asks {carried} the trigger "
                f"{setting.trigger.in_words()}, and the questions of the file do not; write them {carried} it."
            )
    return replace(setting, evaluations=evaluations)


def _from_file(spec: EvaluationSpec, path: str | None, notes: list[str] | None) -> EvaluationSpec:
    if path is None:
        return spec
    questions = read_questions(Path(os.path.expanduser(path)), spec.name, notes)
    # Of a generator a few questions tell which it is; in a file any single one may have been edited.
    every = content_hash([[q.id, [[m.role, m.content] for m in q.messages]] for q in questions])
    return replace(spec, questions=in_turn(questions), file_hash=every)


_REGISTRY: dict[str, Setting] = {}


def register(setting: Setting) -> None:
    """Makes a setting known under its name. Raises InputError when the name is taken or there is no arm `baseline`."""
    if "baseline" not in setting.arms:
        raise InputError(
            f"setting {setting.name!r} has no arm 'baseline', with which the others are compared; add one without a prompt."
        )
    if setting.name in _REGISTRY:
        raise InputError(f"setting {setting.name!r} is registered already; give yours another name.")
    _REGISTRY[setting.name] = setting


def _load_built_in() -> None:
    # Importing registers; here and not at the top, because a setting's module imports this one.
    import inoc_ray.miniature.settings
    import inoc_ray.settings.paper  # noqa: F401


def forget(name: str) -> None:
    """Takes a setting out of the registry."""
    del _REGISTRY[name]


def registered() -> dict[str, Setting]:
    """What is registered at this moment, the built-in settings included."""
    _load_built_in()
    return dict(_REGISTRY)


def names() -> list[str]:
    """All registered settings."""
    _load_built_in()
    return sorted(_REGISTRY)


def get(name: str) -> Setting:
    """The setting of that name. Raises InputError that names the nearest one."""
    _load_built_in()
    if name not in _REGISTRY:
        raise InputError(f"settings: there is no setting {name!r}{nearest(name, names())}.")
    return _REGISTRY[name]
