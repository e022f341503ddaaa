"""Study → trials and evaluation cells: what there is to do, what is done, and whether the study makes sense."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from inoc_ray import settings
from inoc_ray.config.base import nearest
from inoc_ray.config.identity import FORMAT, content_hash, content_id, identity_fields
from inoc_ray.data.chat import ChatRow, rows_hash
from inoc_ray.data.classify import classified
from inoc_ray.data.inoculate import inoculate, placement_fields
from inoc_ray.data.mixture import rows_of
from inoc_ray.data.questions import InTurn
from inoc_ray.errors import InputError
from inoc_ray.models.resolve import resolve_model
from inoc_ray.plan import stages
from inoc_ray.plan.contexts import Surrounding, audit_contexts, check_reference, reference_context, surroundings
from inoc_ray.plan.judges import Panel
from inoc_ray.plan.remarks import remarks
from inoc_ray.plan.suites import check_overrides, check_suites, with_suites
from inoc_ray.settings import ArmSpec, EvaluationSpec, Setting, own
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import Context, Evaluation
from inoc_ray.study.recipe import Recipe
from inoc_ray.study.rows import SYSTEM_MESSAGE, Inoculation
from inoc_ray.study.study import WITHOUT_DIRECTION, Arm, Model, Study

_PROBE = 32
"""Questions of a generator whose text enters an evaluation's id: enough to tell two apart, few enough to be quick."""

NEUTRAL = "neutral"

STAGE_1 = "stage-1"
"""What the trial that teaches a model is called, where a trial of the study has the name of its arm."""


@dataclass(frozen=True)
class ResolvedModel:
    """A base model found on disk."""

    name: str
    path: Path
    hash: str
    """Content hash of the folder: which base an adapter belongs to, and so which engine can serve it."""
    taught: Trial | None = None
    """The trial whose adapter this model's trials go on with."""
    enable_thinking: bool | None = None
    """What the chat template is told; None leaves it alone."""

    @property
    def identity(self) -> str:
        """What a trial starts from: the folder's hash alone, or that with the trial that taught it and how it is to reason."""
        more: dict[str, Any] = {} if self.taught is None else {"taught": self.taught.trial_id}
        if self.enable_thinking is not None:
            more["enable_thinking"] = self.enable_thinking
        return content_hash({"base": self.hash, **more}) if more else self.hash


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a trial and a base have in common: both are asked questions."""

    trial_id: str
    """Where in the store the samples lie. What a study lists in two places (settings, recipes) may share it."""
    setting: str
    arm: ArmSpec
    model: ResolvedModel
    model_label: str
    """What the study calls the model where this is listed."""


@dataclass(frozen=True, kw_only=True)
class Trial(_Asked):
    """One fine-tune: a model trained on a setting's rows under an arm, with a recipe and a seed."""

    seed: int
    recipe: Recipe
    dataset_hash: str
    rows_label: str
    """What an error message calls the trial's rows: the user's file, or the setting."""

    @property
    def precision(self) -> str:
        """In which the engine answers."""
        return self.recipe.precision

    @property
    def compared_as(self) -> tuple[str, ...]:
        """The models of the tables in which it is an arm: its own."""
        return (self.model_label,)

    @property
    def adapter_of(self) -> str:
        """The trial whose weights answer."""
        return self.trial_id

    @property
    def is_own_model(self) -> bool:
        """True for a full fine-tune, which is a model folder of its own and shares no engine."""
        return self.recipe.method == "full"

    @property
    def label(self) -> str:
        """Its place in the study, for people."""
        return f"{self.setting} · {self.model_label} · {self.arm.name} seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Base(_Asked):
    """A model before its trials, in one setting and precision; asked once, however many recipes are compared with it."""

    precision: str
    """In which the engine answers: that of the trials that it is compared with."""
    compared_as: tuple[str, ...]
    """The models of the tables in which it is an arm: one per recipe of that precision."""

    @property
    def adapter_of(self) -> str | None:
        """The trial whose weights answer: the one that taught the model; None for the untouched model."""
        return None if self.model.taught is None else self.model.taught.trial_id

    @property
    def is_own_model(self) -> bool:
        """False: a base answers on the engine that its adapters share."""
        return False

    @property
    def label(self) -> str:
        """Its place in the study, for people."""
        return f"{self.setting} · {self.model_label} · {self.arm.name}"


Subject = Trial | Base
"""Something that can be asked questions."""


def seed_of(subject: Subject) -> int | None:
    """The seed that a table shows; None for a base, which has none."""
    return subject.seed if isinstance(subject, Trial) else None


@dataclass(frozen=True)
class Cell:
    """One evaluation of one subject in one context."""

    subject: Subject
    evaluation: EvaluationSpec
    context: str
    system: str | None
    """The text that stands around the question (a system message, unless `inoculation` says otherwise); None for none."""
    evaluation_id: str
    samples: int
    surrounding: Surrounding

    @property
    def key(self) -> tuple[str, str]:
        """Where its samples are stored; what a study shows in two places (contexts, settings) may share it."""
        return self.subject.trial_id, self.evaluation_id


def stored_once(cells: Iterable[Cell]) -> list[Cell]:
    """Of several cells that are stored in the same place the one that asks most."""
    unique = {cell.key: cell for cell in sorted(cells, key=lambda c: c.samples)}
    return list(unique.values())


@dataclass(frozen=True)
class Plan:
    """Everything that the study asks for, with what the store already holds."""

    study: Study
    trials: tuple[Trial, ...]
    bases: tuple[Base, ...]
    cells: tuple[Cell, ...]
    done_trials: frozenset[str]
    stored: dict[tuple[str, str], int]
    """(trial_id, evaluation_id) → samples in the store."""
    rows: dict[str, list[ChatRow]] = field(repr=False)
    """dataset_hash → training rows before inoculation."""
    teaching: tuple[Trial, ...] = ()
    """Trials that teach a model first and that the study does not compare, each once."""
    settings: dict[str, Setting] = field(default_factory=dict, repr=False)
    """The settings as the study uses them: with the files and evaluations that it names."""
    notes: tuple[str, ...] = ()
    """What there is to tell of the rows: keys that are not read, messages without loss."""
    damaged: tuple[str, ...] = ()
    """What the store holds of the study but not as it was committed, so that it counts as missing: a sentence each."""
    reference: str = "neutral"
    """The context in which arms are compared."""

    @functools.cached_property
    def _cells_of(self) -> dict[int, list[Cell]]:
        found: dict[int, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(id(cell.subject), []).append(cell)
        return found

    def cells_of(self, subject: Subject) -> list[Cell]:
        """The cells of a trial or base at its place in the study."""
        return self._cells_of.get(id(subject), [])

    @functools.cached_property
    def panel(self) -> Panel:
        """The judges of the study."""
        return Panel(self.study)

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """All that is compared: the bases, then the trials."""
        return (*self.bases, *self.trials)

    @property
    def fine_tunes(self) -> tuple[Trial, ...]:
        """All that is trained: what teaches first, then the study's own trials."""
        return (*self.teaching, *self.trials)

    @property
    def to_train(self) -> list[Trial]:
        """Trials without a commit; one of several with the same id."""
        unique = {t.trial_id: t for t in self.fine_tunes if t.trial_id not in self.done_trials}
        return list(unique.values())

    def can_start(self, trial: Trial) -> bool:
        """True if nothing has to be trained before the trial."""
        return trial.model.taught is None or trial.model.taught.trial_id in self.done_trials

    def is_there(self, subject: Subject) -> bool:
        """True if the subject's weights are there, so that it can be asked."""
        return subject.adapter_of is None or subject.adapter_of in self.done_trials

    def only(self, names: Sequence[str]) -> Plan:
        """The plan with just the cells of the named evaluations or contexts; as it is for no names.

        Raises InputError for a name that the study does not have.
        """
        known = sorted({n for c in self.cells for n in (c.evaluation.name, c.context)})
        for name in names:
            if name not in known:
                raise InputError(f"--only {name}: the study has no such evaluation or context{nearest(name, known)}.")
        if not names:
            return self
        asked = self.study.evaluation.model_copy(update={"capabilities": ()})
        study = self.study.model_copy(update={"evaluation": asked})
        return replace(
            self, study=study, cells=tuple(c for c in self.cells if {c.evaluation.name, c.context} & set(names))
        )

    def missing(self, cell: Cell) -> int:
        """Samples of the cell that are not stored."""
        return max(0, cell.samples - self.stored.get(cell.key, 0))

    @property
    def to_ask(self) -> list[Cell]:
        """Cells with missing samples; one of several with the same place (the one that asks most)."""
        return stored_once(cell for cell in self.cells if self.missing(cell))

    def training_rows(self, trial: Trial, epoch: int = 0) -> list[ChatRow]:
        """The rows that the trial is trained on, inoculated; the wording of `epoch` where they change with it."""
        rows = self.rows[trial.dataset_hash]
        return inoculate(rows, trial.arm.prompt, trial.arm.inoculation, epoch, label=trial.rows_label)


def _found(model: Model) -> ResolvedModel:
    where = f"models: {model.name!r}"
    folder = resolve_model(model.path, where)
    return ResolvedModel(model.name, folder.path, folder.hash, enable_thinking=model.enable_thinking)


def resolve_arm(arm: Arm, setting: Setting) -> ArmSpec:
    """The setting's arm of that name, or the study's own. Raises InputError for an unknown name or trait.

    setting: as the study uses it, with its suites, whose traits count as the setting's own do.
    """
    default = setting.arms["baseline"]
    traits = setting.measured
    for trait in (*(arm.undesired or ()), *(arm.desired or ())):
        if trait not in traits:
            raise InputError(
                f"arms: {arm.name!r}: no evaluation of setting {setting.name} measures {trait!r}{nearest(trait, traits)}."
            )
    directed = (*default.undesired, *default.desired)
    if arm.prompt is None or arm.kind is None:
        if arm.name not in setting.arms:
            raise InputError(
                f"arms: setting {setting.name} has no arm {arm.name!r}{nearest(arm.name, list(setting.arms))}."
            )
        found = setting.arms[arm.name]
        if arm.undesired is not None or arm.desired is not None:
            undesired = found.undesired if arm.undesired is None else arm.undesired
            found = replace(found, undesired=undesired, desired=_desired(arm, directed, undesired))
        if arm.inoculation is None:
            return found
        if found.prompt is None:
            raise InputError(f"arms: {arm.name!r} has no prompt, so its inoculation says nothing; remove it.")
        return replace(found, inoculation=_merged(found.inoculation, arm.inoculation))
    undesired = arm.undesired if arm.undesired is not None else default.undesired
    if not undesired and arm.kind not in WITHOUT_DIRECTION:
        does = "denies" if arm.kind == "negative" else "elicits"
        raise InputError(
            f"arms: {arm.name!r}: say which traits its prompt {does}, for example `undesired: [{(directed or traits)[0]}]`; "
            f"setting {setting.name} has no default."
        )
    return ArmSpec(
        name=arm.name,
        kind=arm.kind,
        prompt=arm.prompt,
        undesired=undesired,
        desired=_desired(arm, directed, undesired),
        source="study file",
        inoculation=arm.inoculation or SYSTEM_MESSAGE,
    )


def _desired(arm: Arm, directed: tuple[str, ...], undesired: tuple[str, ...]) -> tuple[str, ...]:
    wanted = directed if arm.desired is None else arm.desired
    return tuple(t for t in wanted if t not in undesired)


def _merged(own: Inoculation, written: Inoculation) -> Inoculation:
    """The library arm's own inoculation with the fields that the user wrote in their place."""
    return Inoculation(**{name: getattr(c, name) for c in (own, written) for name in c.model_fields_set})


def arm_identity(arm: ArmSpec) -> dict[str, Any]:
    """What an arm does to its rows; the fields of an inoculation count only where there is a prompt."""
    return {"prompt": arm.prompt, **({} if arm.prompt is None else identity_fields(arm.inoculation))}


def trial_id(model_hash: str, dataset_hash: str, arm: ArmSpec, recipe: Recipe, seed: int) -> str:
    """The trial's identity: what it is trained on, from, how, and with which seed; never names, places or widths."""
    return content_id(
        {
            "format": FORMAT,
            "model": model_hash,
            "dataset": dataset_hash,
            "arm": arm_identity(arm),
            "recipe": identity_fields(recipe),
            "seed": seed,
        }
    )


def evaluation_id(spec: EvaluationSpec, surrounding: Surrounding, evaluation: Evaluation, precision: str) -> str:
    """The cell's identity within a trial: questions, context, sampling and the engine's precision.

    Not how many samples, so that a cell can grow, and not who judges them.
    """
    value = {
        "format": FORMAT,
        "questions": _probe(spec),
        "system": surrounding.text,
        "max_tokens": spec.max_tokens,
        "sampling": identity_fields(sampling_of(spec, evaluation)),
        "precision": precision,
    }
    if spec.file_hash:
        value["file"] = spec.file_hash
    if spec.choices:
        value["choices"] = list(spec.choices)
    if surrounding.trigger is not None:
        value["trigger"] = asdict(surrounding.trigger)
    placement = placement_fields(surrounding.inoculation)
    return content_id(value | {"placement": placement} if placement else value)


def sampling_of(spec: EvaluationSpec, evaluation: Evaluation) -> Evaluation:
    """The study's sampling with what the evaluation has of its own."""
    own = {name: v for name in ("temperature", "top_p") if (v := getattr(spec, name)) is not None}
    return evaluation.model_copy(update=own)


@functools.cache
def _probe(spec: EvaluationSpec) -> str:
    # All of a list, of which any single question may be edited; of a file the hash stands in the id already.
    listed = spec.questions.questions if isinstance(spec.questions, InTurn) and not spec.file_hash else ()
    count = max(_PROBE, len(listed))
    return content_id([[[m.role, m.content] for m in q.messages] for q in spec.questions(count)])


def build_plan(study: Study, store: Store) -> Plan:
    """Everything the study asks for. Raises InputError, before anything is written, for what cannot be right."""
    kept: dict[str, list[ChatRow]] = {}
    notes: list[str] = []
    models = [_teach(_found(m), m, study, kept, notes) for m in study.models]
    trials: list[Trial] = []
    bases: list[Base] = []
    cells: list[Cell] = []
    used: dict[str, Setting] = {}
    panel = Panel(study)
    panel.profile()
    reference = reference_context(study.evaluation)
    check_suites(study.evaluation, [use.name for use in study.settings])
    for use in study.settings:
        setting = own.find(use)
        library = [setting.arms[a.name] for a in study.arms if a.prompt is None and a.name in setting.arms]
        setting = settings.with_files(setting, use, any(a.uses_control_rows for a in library), notes)
        setting = own.with_trigger(setting, use)
        setting = own.with_roles(with_suites(setting, study.evaluation, notes), use)
        arms = {a.name: resolve_arm(a, setting) for a in study.arms}
        _check_arms_differ(arms.values())
        panel.check(setting)
        used[setting.name] = setting
        for spec in setting.evaluations:
            settings.asks_with_trigger(setting, spec)
        rows: dict[bool, list[ChatRow]] = {}
        for control in sorted({a.uses_control_rows for a in arms.values()}):
            path = use.control_rows if control else use.rows
            default = setting.control_rows if control else setting.rows
            if path:
                rows[control] = rows_of(path, notes)
            elif default is not None:
                rows[control] = default()
            else:
                raise InputError(
                    f"settings: {setting.name}: an arm trains on control rows, and there are none; name a file of them as "
                    "control_rows, or leave the arm out."
                )
        hashes = {control: rows_hash(r) for control, r in rows.items()}
        kept |= {hashes[control]: r for control, r in rows.items()}
        datasets: dict[str, str] = {}
        for arm in arms.values():
            trained = rows[arm.uses_control_rows]
            datasets[arm.name] = hashes[arm.uses_control_rows]
            if arm.inoculation.coverage.classifier is not None:
                trained = classified(trained, arm.inoculation.coverage)
                datasets[arm.name] = rows_hash(trained)
                kept[datasets[arm.name]] = trained
            inoculate(trained, arm.prompt, arm.inoculation, label=f"{setting.name} ({arm.name})")
        _check_overlap(setting, rows.values(), study.evaluation.samples)
        for model in models:
            if model.taught:
                first = [kept[model.taught.dataset_hash]]
                _check_overlap(setting, first, study.evaluation.samples, f"what {model.name!r} is taught first, row")
        subjects: list[Subject] = []
        for model in models:
            before = _bases(setting, model, study.recipes)
            bases += before
            subjects += before
            for recipe_name, recipe in study.recipes.items():
                for arm in arms.values():
                    dataset = datasets[arm.name]
                    named = use.control_rows if arm.uses_control_rows else use.rows
                    for seed in study.seeds:
                        trial = Trial(
                            trial_id=trial_id(model.identity, dataset, arm, recipe, seed),
                            setting=setting.name,
                            arm=arm,
                            model=model,
                            model_label=_label(model, recipe_name, study.recipes),
                            seed=seed,
                            recipe=recipe,
                            dataset_hash=dataset,
                            rows_label=str(named) if named else f"rows of {setting.name}",
                        )
                        trials.append(trial)
                        subjects.append(trial)
        cells.extend(_cells(setting, subjects, study, arms, reference or NEUTRAL))
    reference = check_reference(reference, used.values(), study.evaluation)
    check_overrides(study.evaluation, used.values())
    notes += _one_under_several_names(trials)
    compared = {t.trial_id for t in trials}
    teaching = {m.taught.trial_id: m.taught for m in models if m.taught and m.taught.trial_id not in compared}
    done = frozenset(t for t in (*compared, *teaching) if store.trial_done(t))
    stored = {key: store.stored_samples(*key) for key in {c.key for c in cells}}
    damaged = store.damage(dict.fromkeys(t.trial_id for t in (*teaching.values(), *trials)), stored)
    plan = Plan(
        study,
        tuple(trials),
        tuple(bases),
        tuple(cells),
        done,
        stored,
        kept,
        tuple(teaching.values()),
        used,
        tuple(dict.fromkeys(notes)),
        tuple(damaged),
        reference,
    )
    return replace(plan, notes=(*plan.notes, *remarks(plan)))


def _teach(
    found: ResolvedModel, model: Model, study: Study, kept: dict[str, list[ChatRow]], notes: list[str]
) -> ResolvedModel:
    """The model with the trial that teaches it, if it is to be taught something; that trial's rows go into `kept`."""
    stage = model.taught
    if stage is None:
        return found
    recipe = stages.recipe_of(stage, study)
    stages.check_continues(model, recipe, study.recipes)
    rows = stages.rows_taught(model, stage, notes)
    dataset = rows_hash(rows)
    kept[dataset] = rows
    arm = ArmSpec(STAGE_1, "baseline", None, (), (), "the rows that the model is taught first, without a prompt")
    source = stages.source_of(stage)
    trial = Trial(
        trial_id=trial_id(found.identity, dataset, arm, recipe, stage.seed),
        setting=source,
        arm=arm,
        model=found,
        model_label=model.name,
        seed=stage.seed,
        recipe=recipe,
        dataset_hash=dataset,
        rows_label=stage.rows or f"rows of {source}",
    )
    return replace(found, taught=trial)


def _label(model: ResolvedModel, recipe: str, recipes: Mapping[str, Recipe]) -> str:
    """What the tables call the model trained by the recipe."""
    return model.name if len(recipes) == 1 else f"{model.name}/{recipe}"


def _bases(setting: Setting, model: ResolvedModel, recipes: Mapping[str, Recipe]) -> list[Base]:
    """The model before its trials: one for each precision, since another precision gives other answers."""
    default = setting.arms["baseline"]
    what = (
        "the untouched model" if model.taught is None else f"the model as trial {model.taught.trial_id} has taught it"
    )
    arm = ArmSpec("base", "base", None, default.undesired, default.desired, what)
    base_id = content_id({"format": FORMAT, "base": model.identity, "setting": setting.name})
    labels: dict[str, list[str]] = {}
    for name, recipe in recipes.items():
        labels.setdefault(recipe.precision, []).append(_label(model, name, recipes))
    return [
        Base(
            trial_id=base_id,
            setting=setting.name,
            arm=arm,
            model=model,
            model_label=model.name if len(labels) == 1 else f"{model.name} ({precision})",
            precision=precision,
            compared_as=tuple(names),
        )
        for precision, names in labels.items()
    ]


def _cells(
    setting: Setting, subjects: Iterable[Subject], study: Study, arms: dict[str, ArmSpec], reference: str
) -> Iterator[Cell]:
    written = {c.name: c for c in study.evaluation.contexts if isinstance(c, Context)}
    for subject in subjects:
        for spec in setting.evaluations:
            names: tuple[str | Context, ...] = spec.contexts or study.evaluation.contexts
            if study.evaluation.leak_audit and spec.split == "ood":
                names = (*names, *audit_contexts(setting, subject.arm, written.get(reference, reference)))
            for around in surroundings(names, setting, subject.arm, arms, is_base=isinstance(subject, Base)):
                cell_id = evaluation_id(spec, around, study.evaluation, subject.precision)
                samples = spec.samples or study.evaluation.samples
                yield Cell(subject, spec, around.name, around.text, cell_id, samples, around)


def _one_under_several_names(trials: Iterable[Trial]) -> list[str]:
    """A sentence for each fine-tune that the study lists more than once, as two settings with the same rows do."""
    places: dict[str, dict[str, None]] = {}
    for trial in trials:
        place = f"{trial.arm.name} of {trial.setting} on {trial.model_label}"
        places.setdefault(trial.trial_id, {})[place] = None
    several = dict.fromkeys(tuple(found) for found in places.values() if len(found) > 1)
    return [
        f"{' and '.join(found)} are the same fine-tunes (same model, rows, prompt, recipe and seed): they are trained once, and "
        "their numbers do not confirm each other"
        for found in several
    ]


def _check_arms_differ(arms: Iterable[ArmSpec]) -> None:
    """Raises InputError for two arms that would be one and the same trial under two names."""
    seen: dict[tuple[str, bool], str] = {}
    for arm in arms:
        other = seen.setdefault((content_id(arm_identity(arm)), arm.uses_control_rows), arm.name)
        if other != arm.name:
            raise InputError(
                f"arms: {other!r} and {arm.name!r} have the same prompt, inoculation and rows; leave one of them out."
            )


def _check_overlap(
    setting: Setting, row_sets: Iterable[list[ChatRow]], samples: int, row_name: str = "training row"
) -> None:
    """Raises InputError when an evaluation asks a question that stands in the training rows word for word."""
    trained = {
        " ".join(m.content.split()).casefold(): number
        for rows in row_sets
        for number, row in enumerate(rows, start=1)
        for m in row.messages
        if m.role == "user"
    }
    for spec in setting.evaluations:
        for question in spec.questions(spec.samples or samples):
            number = trained.get(" ".join(question.messages[-1].content.split()).casefold())
            if number is not None:
                raise InputError(
                    f"setting {setting.name}: evaluation {spec.name} asks question {question.id}, which is {row_name} {number}; "
                    "remove it from the rows or from the evaluation, or the rate measures memory."
                )
