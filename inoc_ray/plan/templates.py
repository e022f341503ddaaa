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
"""Questions of an evaluation that are looked at; their roles are mostly the same."""


def check_roles(plan: Plan) -> None:
    """Raise InputError, naming the row or the evaluation and context, for a conversation that a template does not show, and
    for a model with `enable_thinking` whose template does not look at it.

    Looks at what is still to be trained and asked. Models whose folder has no template in a file are left to the preflight.
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
                    f"models: {model.name!r}: enable_thinking: {str(model.enable_thinking).lower()} changes nothing, as the chat "
                    f"template in {model.path} shows the same with true and false; leave it out."
                )
    for trial in plan.to_train:
        template = templates[trial.model.path, trial.model.enable_thinking]
        rows = (id(template), trial.dataset_hash, content_id(arm_identity(trial.arm)))
        if template is not None and rows not in seen:
            seen.add(rows)
            _check_rows(plan, trial, template)
    for cell in plan.to_sample:
        template = templates[cell.subject.model.path, cell.subject.model.enable_thinking]
        asked = (id(template), cell.subject.setting, cell.evaluation.name, cell.resolved_context)
        if template is not None and asked not in seen:
            seen.add(asked)
            _check_questions(plan, cell, template)


def identical_contexts(cells: Iterable[Cell]) -> list[str]:
    """Return notes on contexts that a model's template shows alike, and on a system message that it writes into `none` itself."""
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
        # Of cells with the context training_prompt each has a text of its own.
        if template is None or cell.context in contexts or cell.context == "training_prompt":
            continue
        if cell.context == "none" and template.default_system_message:
            notes.append(
                f"to model {model.name} the context none shows the chat template's own system message "
                f"{template.default_system_message[:100]!r}"
            )
        contexts[cell.context] = ""
        try:
            shown = "".join(template.prompt(cell.resolved_context.around(q.messages)) for q in cell.evaluation.questions(1))
        except InputError:  # Said by `check_requests`, with the question.
            continue
        if (same := next((name for name, text in contexts.items() if text == shown), None)) is not None:
            notes.append(f"to model {model.name} the contexts {same} and {cell.context} are the same")
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
            cure = (
                " It is the leak audit that asks in this context, and all its prompts are system messages: leave "
                "evaluation.leak_audit out of studies of this model."
                if _from_audit(plan, cell)
                else ""
            )
            raise InputError(f"model {cell.subject.model.name!r}, {where}: {error}{cure}") from error


def _from_audit(plan: Plan, cell: Cell) -> bool:
    """True for a test-time prompt of the library that the study names neither itself nor by its kind."""
    if not plan.study.evaluation.leak_audit or not cell.context.startswith(FROM_LIBRARY):
        return False
    named = cell.evaluation.contexts or plan.study.evaluation.contexts
    return cell.context not in named and prompts.get(cell.context.removeprefix(FROM_LIBRARY)).kind not in named
