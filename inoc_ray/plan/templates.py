"""Chat templates against the study's conversations, checked by roles alone.

This is quick enough for `inoc-ray plan`; `inoc_ray.run.preflight` renders texts and counts tokens before training. Roles already
reveal a template without a place for a system message, or for rows that open with the assistant.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from inoc_ray.config.identity import content_id
from inoc_ray.errors import InputError
from inoc_ray.models.template import ChatTemplate
from inoc_ray.models.template_files import template_in
from inoc_ray.plan.cells import Cell
from inoc_ray.plan.ids import arm_identity
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import Trial
from inoc_ray.settings import prompts
from inoc_ray.study.evaluation import FROM_LIBRARY

_QUESTIONS = 32
"""Questions of an evaluation that are checked; nearly all have the same roles."""


def check_roles(plan: Plan) -> None:
    """Check that each model's template shows the roles of its rows and prompts.

    Raise InputError, naming the row or the evaluation and context, for a conversation that a template does not show, and for
    a model with `enable_thinking` whose template ignores it. Checks what is still to be trained and sampled; models without
    a template file are left to the preflight.
    """
    templates: dict[tuple[Path, bool | None], ChatTemplate | None] = {}
    seen: set[tuple[object, ...]] = set()
    for subject in (*plan.to_train, *(cell.subject for cell in plan.to_sample)):
        model = subject.model
        key = (model.path, model.enable_thinking)
        if key not in templates:
            templates[key] = template = template_in(model.path, model.enable_thinking)
            if template is not None and model.enable_thinking is not None and template.ignores_thinking():
                raise InputError(
                    f"models: {model.name!r}: enable_thinking: {str(model.enable_thinking).lower()} has no effect: the chat "
                    f"template in {model.path} renders the same with true and false; remove it."
                )
    for trial in plan.to_train:
        template = templates[trial.model.path, trial.model.enable_thinking]
        rows_key = (id(template), trial.dataset_hash, content_id(arm_identity(trial.arm)))
        if template is not None and rows_key not in seen:
            seen.add(rows_key)
            _check_rows(plan, trial, template)
    for cell in plan.to_sample:
        template = templates[cell.subject.model.path, cell.subject.model.enable_thinking]
        question_key = (id(template), cell.subject.setting, cell.evaluation.name, cell.resolved_context)
        if template is not None and question_key not in seen:
            seen.add(question_key)
            _check_questions(plan, cell, template)


def identical_contexts(cells: Iterable[Cell]) -> list[str]:
    """Return notes on contexts that a template renders identically, and on a system message that it adds to `none`."""
    templates: dict[tuple[Path, bool | None], ChatTemplate | None] = {}
    prompts: dict[tuple[object, ...], dict[str, str]] = {}
    notes: list[str] = []
    for cell in cells:
        model = cell.subject.model
        key = (model.path, model.enable_thinking)
        if key not in templates:
            templates[key] = template_in(model.path, model.enable_thinking)
        template = templates[key]
        contexts = prompts.setdefault((model.name, cell.subject.setting, cell.evaluation.name), {})
        # Each arm has its own text in the context training_prompt.
        if template is None or cell.context in contexts or cell.context == "training_prompt":
            continue
        if cell.context == "none" and template.default_system_message:
            notes.append(
                f"model {model.name}: the chat template adds its own system message to the context none: "
                f"{template.default_system_message[:100]!r}"
            )
        contexts[cell.context] = ""
        try:
            shown = "".join(
                template.prompt(cell.resolved_context.around(q.messages)) for q in cell.evaluation.questions(1)
            )
        except InputError:  # `check_requests` reports it, with the question.
            continue
        if (same := next((name for name, text in contexts.items() if text == shown), None)) is not None:
            notes.append(
                f"model {model.name}: the chat template renders the contexts {same} and {cell.context} identically"
            )
        contexts[cell.context] = shown
    return list(dict.fromkeys(notes))


def _check_rows(plan: Plan, trial: Trial, template: ChatTemplate) -> None:
    for number, row in enumerate(plan.training_rows(trial), start=1):
        try:
            template.check_row(row.messages)
        except InputError as error:
            where = f"model {trial.model.name!r}, {trial.rows_label} (arm {trial.arm.name}), row {number}"
            raise InputError(f"{where}: {error}") from error


def _check_questions(plan: Plan, cell: Cell, template: ChatTemplate) -> None:
    for question in cell.evaluation.questions(min(cell.samples, _QUESTIONS)):
        try:
            template.check_question(cell.resolved_context.around(question.messages))
        except InputError as error:
            where = f"evaluation {cell.evaluation.name} in the context {cell.context!r}, question {question.id}"
            advice = (
                " The leak audit adds this context, and all its prompts are system messages: remove evaluation.leak_audit from "
                "studies of this model."
                if _from_audit(plan, cell)
                else ""
            )
            raise InputError(f"model {cell.subject.model.name!r}, {where}: {error}{advice}") from error


def _from_audit(plan: Plan, cell: Cell) -> bool:
    """Return whether the context comes from the leak audit: the study names neither the prompt nor its kind."""
    if not plan.study.evaluation.leak_audit or not cell.context.startswith(FROM_LIBRARY):
        return False
    named = cell.evaluation.contexts or plan.study.evaluation.contexts
    return cell.context not in named and prompts.get(cell.context.removeprefix(FROM_LIBRARY)).kind not in named
