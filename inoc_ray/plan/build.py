"""Builds the plan of a study: resolves settings, models, rows, arms, judges and contexts, each once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from inoc_ray import settings
from inoc_ray.models.resolve import resolve_model
from inoc_ray.plan.arms import check_arms_differ, resolve_arm
from inoc_ray.plan.assign_judges import Judges
from inoc_ray.plan.cells import Cell, PlannedEvaluation, make_cells
from inoc_ray.plan.claims import check_claims
from inoc_ray.plan.contexts import check_reference, reference_context
from inoc_ray.plan.courses import courses_of
from inoc_ray.plan.expand import duplicate_trial_notes, make_bases, make_trials
from inoc_ray.plan.notes import notes_on
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.prior_stage import after_prior_stage
from inoc_ray.plan.probes import check_dynamics, notes_on_dynamics
from inoc_ray.plan.rows import RowLibrary, check_overlap, keep_datasets, read_setting_rows
from inoc_ray.plan.suites import check_overrides, check_suites, with_suites
from inoc_ray.plan.trials import Base, ResolvedModel, Subject, Trial
from inoc_ray.settings import ArmSpec, Setting, used_settings
from inoc_ray.store.store import Store
from inoc_ray.study.study import Model, SettingUse, Study

NEUTRAL = "neutral"


def build_plan(study: Study, store: Store, *, weights: bool = True) -> Plan:
    """Return the plan of the study. Writes nothing; raise InputError if the study cannot run as it is written.

    weights: False for models of which only the configuration is there; ids then are not those of the study.
    """
    builder = _Builder(study, weights=weights)
    named = reference_context(study.evaluation)
    check_suites(study.evaluation, [use.name for use in study.settings])
    parts = [builder.part(use, named or NEUTRAL) for use in study.settings]
    used = {part.setting.name: part.setting for part in parts}
    reference = check_reference(named, used.values(), study.evaluation)
    check_overrides(study.evaluation, used.values())
    trials = tuple(trial for part in parts for trial in part.trials)
    plan = Plan(
        study=study,
        trials=trials,
        bases=tuple(base for part in parts for base in part.bases),
        cells=tuple(cell for part in parts for cell in part.cells),
        rows=builder.library.by_hash,
        profile=builder.judges.profile,
        prior_stages=_prior_stages(builder.models, trials),
        settings=used,
        notes=tuple(dict.fromkeys([*builder.notes, *duplicate_trial_notes(trials)])),
        reference=reference,
    )
    check_dynamics(plan)
    plan = replace(plan, courses=tuple(courses_of(plan)))
    check_claims(plan)
    plan = replace(plan, notes=(*plan.notes, *notes_on(plan))).refreshed(store)
    return replace(plan, notes=(*plan.notes, *notes_on_dynamics(plan, store)))


@dataclass(frozen=True, kw_only=True)
class _SettingPlan:
    """The part of a plan that belongs to one setting."""

    setting: Setting
    trials: list[Trial]
    bases: list[Base]
    cells: list[Cell]


class _Builder:
    """What the settings of a plan share: models, judges, rows by hash, and notes on the files read."""

    def __init__(self, study: Study, *, weights: bool) -> None:
        self.study = study
        self.library = RowLibrary()
        self.notes: list[str] = []
        self.models = [
            after_prior_stage(_find_model(model, weights=weights), model, study, library=self.library, notes=self.notes)
            for model in study.models
        ]
        self.judges = Judges(study, weights=weights)

    def part(self, use: SettingUse, reference: str) -> _SettingPlan:
        """Return the trials, bases and cells of a setting; `reference` is the context in which a leak audit compares."""
        study = self.study
        setting = self._setting(use)
        arms = {arm.name: resolve_arm(arm, setting) for arm in study.arms}
        check_arms_differ(arms.values())
        evaluations = self._evaluations(setting)
        datasets = self._datasets(setting, use, arms)
        trials: list[Trial] = []
        bases: list[Base] = []
        subjects: list[Subject] = []
        for model in self.models:
            before = make_bases(setting, model, study.recipes)
            after = make_trials(study, use, model, arms=arms.values(), datasets=datasets)
            bases += before
            trials += after
            subjects += [*before, *after]
        cells = make_cells(
            setting, subjects, evaluations=evaluations, study=study.evaluation, arms=arms, reference=reference
        )
        return _SettingPlan(setting=setting, trials=trials, bases=bases, cells=list(cells))

    def _setting(self, use: SettingUse) -> Setting:
        """Return the setting as the study uses it: with its files, trigger, suites and roles."""
        study = self.study
        found = used_settings.find(use)
        library = [found.arms[a.name] for a in study.arms if a.prompt is None and a.name in found.arms]
        control = any(arm.uses_control_rows for arm in library)
        found = settings.with_files(found, use, control, self.notes, fold=study.evaluation.fold_duplicates)
        found = used_settings.with_trigger(found, use)
        return used_settings.with_roles(with_suites(found, study.evaluation, self.notes), use)

    def _evaluations(self, setting: Setting) -> list[PlannedEvaluation]:
        judges = [self.judges.assign(setting, spec) for spec in setting.evaluations]
        triggered = [settings.asks_with_trigger(setting, spec) for spec in setting.evaluations]
        return list(map(PlannedEvaluation, setting.evaluations, judges, triggered))

    def _datasets(self, setting: Setting, use: SettingUse, arms: dict[str, ArmSpec]) -> dict[str, str]:
        """Read, check and keep the rows of the arms; return arm → hash of its rows."""
        rows = read_setting_rows(setting, use, arms.values(), self.notes)
        datasets = keep_datasets(setting, arms, rows, self.library)
        evaluation = self.study.evaluation
        self.notes += check_overlap(setting, rows.values(), evaluation)
        for model in self.models:
            if model.prior_stage:
                first = [self.library.by_hash[model.prior_stage.dataset_hash]]
                self.notes += check_overlap(setting, first, evaluation, f"the prior stage of {model.name!r}")
        return datasets


def _find_model(model: Model, *, weights: bool) -> ResolvedModel:
    folder = resolve_model(model.path, f"models: {model.name!r}", weights=weights)
    return ResolvedModel(name=model.name, path=folder.path, hash=folder.hash, enable_thinking=model.enable_thinking)


def _prior_stages(models: Sequence[ResolvedModel], trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Return the prior-stage trials that the study does not compare, each once."""
    compared = {trial.trial_id for trial in trials}
    found = {
        m.prior_stage.trial_id: m.prior_stage
        for m in models
        if m.prior_stage and m.prior_stage.trial_id not in compared
    }
    return tuple(found.values())
