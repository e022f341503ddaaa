"""The plan: everything that a study asks for, and how much of it the store holds."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from inoc_ray.config.base import nearest
from inoc_ray.data.chat import ChatRow
from inoc_ray.data.inoculate import inoculate
from inoc_ray.errors import InputError
from inoc_ray.plan.cells import Cell, stored_once
from inoc_ray.plan.judge_assignment import JudgeAssignment, TraitJudges
from inoc_ray.plan.trials import Base, KeptWeights, Subject, Trial
from inoc_ray.scoring.profiles import Profile
from inoc_ray.settings import Setting
from inoc_ray.store.store import Store
from inoc_ray.study.resources import GroupResources
from inoc_ray.study.study import Study


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that the study asks for, and how much of it the store holds.

    A command builds it once (`build_plan`); `refreshed` reads the store again.
    """

    study: Study
    trials: tuple[Trial, ...]
    bases: tuple[Base, ...]
    cells: tuple[Cell, ...]
    courses: tuple[Cell, ...] = ()
    """Cells of what fine-tunes are on the way: of the base, of the weights that they keep, and of the final ones. They are
    sampled and judged as the others are, and stand in no comparison; a key may be that of one of the others."""
    rows: Mapping[str, list[ChatRow]] = field(repr=False)
    """`dataset_hash` → training rows before inoculation."""
    profile: Profile
    """The thresholds under which rates are derived."""
    prior_stages: tuple[Trial, ...] = ()
    """Trials of prior stages that the study does not compare, each once."""
    settings: Mapping[str, Setting] = field(default_factory=dict, repr=False)
    """The settings as the study uses them: with the files and evaluations that it names."""
    notes: tuple[str, ...] = ()
    """Remarks for the user, such as keys of rows that are ignored, or a warm-up that never ends."""
    reference: str = "neutral"
    """The context in which arms are compared."""
    shapes: Mapping[tuple[str, str | None], GroupResources] = field(default_factory=dict)
    """By model and recipe: what fine-tunes run on whose workers the study leaves open, where the GPUs are known."""
    done_trials: frozenset[str] = frozenset()
    """Ids of the trials whose weights the store holds."""
    kept: frozenset[str] = frozenset()
    """Names, TRIAL@STEP, of the weights that fine-tunes have kept on the way."""
    stored: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """`(trial_id, evaluation_id)` → samples in the store."""
    damaged: tuple[str, ...] = ()
    """A sentence for each stored thing that differs from what was committed, and so counts as missing."""

    def refreshed(self, store: Store) -> Plan:
        """Return the plan with the present state of the store. Reads no rows, models or question files."""
        with store.glance(self.stored_under()):
            return self._refreshed(store)

    def stored_under(self) -> list[str]:
        """Return the ids under which the store has what the plan has of trials and bases."""
        ids = (*(trial.trial_id for trial in self.fine_tunes), *(cell.key[0] for cell in (*self.cells, *self.courses)))
        return list(dict.fromkeys(ids))

    def _refreshed(self, store: Store) -> Plan:
        trials = dict.fromkeys(trial.trial_id for trial in self.fine_tunes)
        # A plan of some evaluations (`only`) keeps the count of all.
        places = dict.fromkeys((*self.stored, *(cell.key for cell in (*self.cells, *self.courses))))
        # One listing instead of a look-up for each cell: a new study may have tens of thousands.
        evaluated = store.evaluated()
        stored = dict.fromkeys(places, 0)
        parts = store.parts_of(place for place in places if place[0] in evaluated)
        stored |= {place: found[-1].stop for place, found in parts.items() if found}
        done = frozenset(trial for trial in trials if store.trial_done(trial))
        return replace(
            self,
            done_trials=done,
            kept=frozenset(self.kept_of(store, done)),
            stored=stored,
            damaged=tuple(store.damage(trials, [place for place in places if place[0] in evaluated])),
        )

    def kept_of(self, store: Store, done: Set[str]) -> Iterator[str]:
        """Yield the names of the weights that these finished trials have kept on the way, of those that are asked for."""
        asked: dict[str, list[KeptWeights]] = {}
        for cell in self.courses:
            if isinstance(cell.subject, KeptWeights) and cell.subject.fine_tune in done:
                asked.setdefault(cell.subject.fine_tune, []).append(cell.subject)
        for trial_id, subjects in asked.items():
            there = set(store.kept_steps(trial_id))
            yield from (subject.trial_id for subject in subjects if subject.step in there)

    def under(self, profile: Profile) -> Plan:
        """Return the plan with the thresholds of another profile."""
        known: dict[int, JudgeAssignment] = {}

        def judged(cell: Cell) -> Cell:
            if id(cell.judges) not in known:
                known[id(cell.judges)] = cell.judges.under(profile)
            return replace(cell, judges=known[id(cell.judges)])

        cells, courses = tuple(map(judged, self.cells)), tuple(map(judged, self.courses))
        return replace(self, profile=profile, cells=cells, courses=courses)

    def only(self, names: Sequence[str]) -> Plan:
        """Return the plan with only the cells of the named evaluations or contexts; unchanged for no names.

        Raise InputError for an unknown name.
        """
        known = sorted({n for c in self.cells for n in (c.evaluation.name, c.context)})
        for name in names:
            if name not in known:
                raise InputError(f"--only {name}: the study has no such evaluation or context{nearest(name, known)}.")
        if not names:
            return self
        evaluation = self.study.evaluation.model_copy(update={"capabilities": ()})
        study = self.study.model_copy(update={"evaluation": evaluation})
        cells, courses = (
            tuple(c for c in every if {c.evaluation.name, c.context} & set(names))
            for every in (self.cells, self.courses)
        )
        return replace(self, study=study, cells=cells, courses=courses)

    @functools.cached_property
    def _cells_of(self) -> dict[int, list[Cell]]:
        found: dict[int, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(id(cell.subject), []).append(cell)
        return found

    def cells_of(self, subject: Subject) -> list[Cell]:
        """Return the cells of a trial or base at its place in the study."""
        return self._cells_of.get(id(subject), [])

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """Everything that is compared: the bases, then the trials."""
        return (*self.bases, *self.trials)

    @property
    def fine_tunes(self) -> tuple[Trial, ...]:
        """Everything that is trained: prior stages first, then the study's own trials."""
        return (*self.prior_stages, *self.trials)

    @functools.cached_property
    def to_train(self) -> list[Trial]:
        """Trials without committed weights, each id once."""
        unique = {t.trial_id: t for t in self.fine_tunes if t.trial_id not in self.done_trials}
        return list(unique.values())

    @functools.cached_property
    def _resources(self) -> dict[tuple[str, str | None], GroupResources]:
        pairs = dict.fromkeys((trial.model.name, trial.recipe_name) for trial in self.fine_tunes)
        return {pair: self.shapes.get(pair) or self.study.resources.of_fine_tune(*pair) for pair in pairs}

    def resources_of(self, trial: Trial) -> GroupResources:
        """Return what the trial is trained on: the study's resources, or those of its model and recipe in their place."""
        return self._resources[trial.model.name, trial.recipe_name]

    def can_start(self, trial: Trial) -> bool:
        """Return whether the trial's prior stage, if it has one, is trained."""
        return trial.model.prior_stage is None or trial.model.prior_stage.trial_id in self.done_trials

    def has_weights(self, subject: Subject) -> bool:
        """Return whether the subject has its weights, so that it can be evaluated."""
        of = subject.adapter_of
        return of is None or of in (self.kept if isinstance(subject, KeptWeights) else self.done_trials)

    def missing(self, cell: Cell) -> int:
        """Return how many samples of the cell are not stored."""
        return max(0, cell.samples - self.stored.get(cell.key, 0))

    @functools.cached_property
    def asked(self) -> tuple[Cell, ...]:
        """The cells and the courses that can be sampled: not those of weights that a finished fine-tune has not kept."""
        return (*self.cells, *(cell for cell in self.courses if self._can_be_kept(cell.subject)))

    def _can_be_kept(self, subject: Subject) -> bool:
        return (
            not isinstance(subject, KeptWeights)
            or subject.fine_tune not in self.done_trials
            or subject.trial_id in self.kept
        )

    @functools.cached_property
    def to_sample(self) -> list[Cell]:
        """Cells with missing samples, each key once (the cell with the most samples)."""
        return stored_once(cell for cell in self.asked if self.missing(cell))

    def trait_judges(self) -> Iterator[TraitJudges]:
        """Yield the judges of each trait of each evaluation, each once."""
        seen: set[tuple[str, str]] = set()
        for cell in self.cells:
            place = (cell.subject.setting, cell.evaluation.name)
            if place not in seen:
                seen.add(place)
                yield from cell.judges.traits.values()

    def training_rows(self, trial: Trial, epoch: int = 0) -> list[ChatRow]:
        """Return the rows that the trial is trained on, inoculated; the wording of `epoch` where they change with it."""
        rows = self.rows[trial.dataset_hash]
        return inoculate(rows, trial.arm.prompt, trial.arm.inoculation, epoch, label=trial.rows_label)
