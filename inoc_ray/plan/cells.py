"""Cells: each evaluation of each trial or base in each context, with all that sampling and scoring need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from inoc_ray.plan.contexts import ResolvedContext, audit_contexts, resolve_contexts
from inoc_ray.plan.ids import evaluation_id
from inoc_ray.plan.judge_assignment import JudgeAssignment, JudgeModel
from inoc_ray.plan.trials import Base, Subject
from inoc_ray.settings import ArmSpec, EvaluationSpec, Setting
from inoc_ray.study.evaluation import Context, Evaluation


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One evaluation of one subject in one context."""

    subject: Subject
    evaluation: EvaluationSpec
    resolved_context: ResolvedContext
    evaluation_id: str
    samples: int
    setting: Setting = field(compare=False, repr=False)
    """The setting as the study uses it: with the files and evaluations that it names."""
    judges: JudgeAssignment = field(compare=False, repr=False)
    """Who scores its traits."""
    triggered: bool = False
    """Whether its questions carry the setting's trigger."""

    @property
    def context(self) -> str:
        """The name of the context."""
        return self.resolved_context.name

    @property
    def system(self) -> str | None:
        """The context's text (a system message, unless its inoculation places it elsewhere); None for none."""
        return self.resolved_context.text

    @property
    def key(self) -> tuple[str, str]:
        """Where its samples are stored. Two cells of a study (contexts, settings) may share a key."""
        return self.subject.trial_id, self.evaluation_id

    def role(self, trait: str) -> str:
        """Return the trait's role for the arm.

        "undesired" or "desired" as the arm says, "narrow" for a trait of the setting's narrow task, else "other".
        """
        arm = self.subject.arm
        if trait in arm.undesired or trait in arm.desired:
            return "undesired" if trait in arm.undesired else "desired"
        return "narrow" if trait in self.setting.narrow else "other"


def stored_once(cells: Iterable[Cell]) -> list[Cell]:
    """Return one cell for each key: the one with the most samples."""
    unique = {cell.key: cell for cell in sorted(cells, key=lambda c: c.samples)}
    return list(unique.values())


def judges_of(cells: Iterable[Cell]) -> list[JudgeModel]:
    """Return the judging models that score the cells, each once."""
    return list({name: grading.judge for cell in cells for name, grading in cell.judges.gradings.items()}.values())


class PlannedEvaluation(NamedTuple):
    """An evaluation of a setting, with what all its cells share."""

    spec: EvaluationSpec
    judges: JudgeAssignment
    triggered: bool


def make_cells(
    setting: Setting,
    subjects: Iterable[Subject],
    *,
    evaluations: Sequence[PlannedEvaluation],
    study: Evaluation,
    arms: Mapping[str, ArmSpec],
    reference: str,
) -> Iterator[Cell]:
    """Yield the cells of a setting's subjects, in the subjects' order.

    arms: by name. reference: the context in which a leak audit compares.
    Raise InputError for a context that the setting does not have.
    """
    written = {c.name: c for c in study.contexts if isinstance(c, Context)}
    # Contexts and evaluation ids do not depend on a trial's seed, so each arm is resolved once.
    known: dict[tuple[str, bool, str, int], list[tuple[ResolvedContext, str]]] = {}
    for subject in subjects:
        is_base = isinstance(subject, Base)
        for number, (spec, judges, triggered) in enumerate(evaluations):
            key = (subject.arm.name, is_base, subject.precision, number)
            if key not in known:
                names: tuple[str | Context, ...] = spec.contexts or study.contexts
                if study.leak_audit and spec.split == "ood":
                    names = (*names, *audit_contexts(setting, subject.arm, written.get(reference, reference)))
                known[key] = [
                    (context, evaluation_id(spec, context, study, subject.precision))
                    for context in resolve_contexts(names, setting, subject.arm, arms, is_base=is_base)
                ]
            for context, cell_id in known[key]:
                yield Cell(
                    subject=subject,
                    evaluation=spec,
                    resolved_context=context,
                    evaluation_id=cell_id,
                    samples=spec.samples or study.samples,
                    setting=setting,
                    judges=judges,
                    triggered=triggered,
                )
