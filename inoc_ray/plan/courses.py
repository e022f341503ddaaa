"""The cells of what fine-tunes are on the way: of the base, the weights that they keep after some steps, and the final ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

from inoc_ray.errors import InputError
from inoc_ray.plan.cells import Cell
from inoc_ray.plan.contexts import ResolvedContext
from inoc_ray.plan.ids import evaluation_id
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.probes import followed_contexts
from inoc_ray.plan.steps import steps_of
from inoc_ray.plan.trials import Base, KeptWeights, Subject, Trial
from inoc_ray.store.commit import weights_name
from inoc_ray.study.evaluation import PROMPT_OF


def courses_of(plan: Plan) -> Iterator[Cell]:
    """Yield the cells that `dynamics.samples` asks for: those of the bases, then each fine-tune's in the order of its steps.

    Raises InputError if the study keeps no weights on the way, and for a context that there is not.
    """
    dynamics = plan.study.dynamics
    if dynamics is None or dynamics.samples is None:
        return
    kept = {trial.trial_id: _kept(plan, trial) for trial in plan.trials}
    if not any(kept.values()):
        late = any(plan.resources_of(trial).checkpoints for trial in plan.trials)
        why = ", as all steps of resources.checkpoints come after their last one" if late else ""
        raise InputError(
            f"dynamics.samples: asks for samples from the weights that fine-tunes keep on the way, and they keep none{why}; say "
            "when under resources, for example `checkpoints: [0.1, 0.25, 0.5]`, or remove dynamics.samples."
        )
    # Seeds do not matter to them.
    of_arms = {(t.setting, t.arm.name): t.arm for t in plan.trials}
    contexts = {place: followed_contexts(plan, dynamics, place[0], arm) for place, arm in of_arms.items()}
    for base in plan.bases:
        cells = (
            cell
            for (setting, arm), found in contexts.items()
            if setting == base.setting
            for cell in _cells(plan, base, base, [_of_base(context, arm) for context in found], dynamics.samples)
        )
        # The contexts of all arms, each once. Not by what is asked: two arms may have the same prompt, two evaluations the same
        # questions, and each has a curve of its own that begins here.
        yield from {(cell.evaluation.name, cell.context): cell for cell in cells}.values()
    for trial in plan.trials:
        for subject in (*kept[trial.trial_id], trial):
            yield from _cells(plan, subject, trial, contexts[trial.setting, trial.arm.name], dynamics.samples)


def _of_base(context: ResolvedContext, arm: str) -> ResolvedContext:
    """Return an arm's context by the name that it has for the base, which has no prompt of its own."""
    return replace(context, name=f"{PROMPT_OF}{arm}") if context.name == "training_prompt" else context


def step_of(plan: Plan, subject: Subject) -> int:
    """Return the step of a fine-tune after which the subject is what it is; 0 for a base."""
    if isinstance(subject, Base):
        return 0
    return subject.step if isinstance(subject, KeptWeights) else steps_of(plan, subject)


def _kept(plan: Plan, trial: Trial) -> list[KeptWeights]:
    """Return the weights that a fine-tune keeps on the way, in order."""
    own = {f.name: getattr(trial, f.name) for f in fields(trial)}
    return [
        KeptWeights(**own | {"trial_id": weights_name(trial.trial_id, step)}, fine_tune=trial.trial_id, step=step)
        for step in plan.resources_of(trial).checkpoint_steps(steps_of(plan, trial))
    ]


def _cells(
    plan: Plan, subject: Subject, like: Subject, contexts: Sequence[ResolvedContext], samples: int
) -> Iterator[Cell]:
    """Yield the evaluations of a subject in these contexts, as the study asks them of the subject `like`."""
    evaluations = {cell.evaluation.name: cell for cell in plan.cells_of(like)}
    for cell in evaluations.values():
        for context in contexts:
            yield replace(
                cell,
                subject=subject,
                resolved_context=context,
                evaluation_id=evaluation_id(cell.evaluation, context, plan.study.evaluation, subject.precision),
                samples=min(samples, cell.samples),
            )
