"""The length in tokens of a plan's requests, against the models' context windows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inoc_ray.errors import InputError
from inoc_ray.models.config import context_window
from inoc_ray.models.encoding import check_prompts, encode_texts
from inoc_ray.models.tokenizer import load_tokenizer
from inoc_ray.plan.cells import Cell
from inoc_ray.plan.plan import Plan


@dataclass(frozen=True, slots=True)
class LongestRequest:
    """The longest request of a cell, in tokens."""

    cell: Cell
    question: str
    """Its id."""
    prompt: int
    """Tokens of chat template, context and question."""
    answer: int
    """`max_tokens`, or the tokens of the longest choice of a multiple-choice evaluation."""

    @property
    def tokens(self) -> int:
        """Tokens that the engine's window must hold."""
        return self.prompt + self.answer


def longest_requests(cells: Iterable[Cell]) -> list[LongestRequest]:
    """Return the longest request of every cell; cells with the same prompts for the same model count once.

    Renders and tokenises every prompt. Raise InputError, naming evaluation, context and question, for a prompt that the
    model's chat template refuses or changes.
    """
    found: dict[tuple[Path, bool | None, str, int], LongestRequest] = {}
    tokenizers: dict[Path, Any] = {}
    for cell in cells:
        folder, thinking = cell.subject.model.path, cell.subject.model.enable_thinking
        # The id covers questions, context, placement and max_tokens.
        key = (folder, thinking, cell.evaluation_id, cell.samples)
        if key not in found:
            if folder not in tokenizers:
                tokenizers[folder] = load_tokenizer(str(folder))
            found[key] = _longest(cell, tokenizers[folder])
    return list(found.values())


def _longest(cell: Cell, tokenizer: Any) -> LongestRequest:
    # Questions repeat when there are more samples than questions; the same id is the same text.
    questions = {question.id: question.messages for question in cell.evaluation.questions(cell.samples)}
    choices = cell.evaluation.choices
    lengths = check_prompts(
        tokenizer,
        [
            (cell.resolved_context.around(messages), f"{cell_label(cell)}, question {name}")
            for name, messages in questions.items()
        ],
        enable_thinking=cell.subject.model.enable_thinking,
        for_choices=bool(choices),
    )
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    # One token is sampled after a choice: the endpoint returns a prompt's log-probs only with an answer.
    answer = 1 + max(_lengths(tokenizer, choices)) if choices else cell.evaluation.max_tokens
    return LongestRequest(cell, list(questions)[longest], lengths[longest], answer)


def _lengths(tokenizer: Any, texts: Iterable[str]) -> list[int]:
    return [len(encoding.ids) for encoding in encode_texts(tokenizer, list(texts))]


def cell_label(cell: Cell) -> str:
    """Return the cell's name for a message."""
    return f"setting {cell.subject.setting}: evaluation {cell.evaluation.name} in the context {cell.context}"


def shortening_advice(plan: Plan, cell: Cell, max_tokens: int) -> str:
    """Return how to limit the answers of the cell's evaluation to so many tokens, for a message."""
    name = cell.evaluation.name
    if any(suite.name == name for suite in plan.study.evaluation.suites):
        return f"set `max_tokens: {max_tokens}` in evaluation.suites: {name!r}"
    return f"set `evaluation.overrides: {{{name}: {{max_tokens: {max_tokens}}}}}`"


def check_answers_fit(plan: Plan) -> None:
    """Raise InputError if the answers of an evaluation alone fill the model's window. Reads config.json, no tokenizer."""
    windows = {folder: window_of(folder) for folder in {cell.subject.model.path for cell in plan.to_sample}}
    for cell in plan.to_sample:
        window = windows[cell.subject.model.path]
        if window is not None and not cell.evaluation.choices and cell.evaluation.max_tokens >= window:
            raise InputError(
                f"{cell_label(cell)}: max_tokens is {cell.evaluation.max_tokens}, but model {cell.subject.model.name} has a "
                f"window of {window} tokens for prompt and answer; {shortening_advice(plan, cell, window // 2)}, or less."
            )


def check_windows(plan: Plan, requests: Iterable[LongestRequest]) -> None:
    """Raise InputError if a cell's longest prompt with its answer exceeds the model's window.

    Names the cell with the least room, so that what the message advises is enough for the others.
    """
    over = [
        (window - longest.prompt, longest)
        for longest in requests
        if (window := window_of(longest.cell.subject.model.path)) is not None and longest.tokens > window
    ]
    if not over:
        return
    left, longest = min(over, key=lambda pair: pair[0])
    cell = longest.cell
    advice = (
        f"{shortening_advice(plan, cell, left)}, or less"
        if left > 0 and not cell.evaluation.choices
        else "remove the question, or use a model with a longer window"
    )
    raise InputError(
        f"{cell_label(cell)}: question {longest.question} has {longest.prompt} tokens with its context, and its answer may have "
        f"{longest.answer}: {longest.tokens} in all, but model {cell.subject.model.name} has a window of "
        f"{left + longest.prompt}; {advice}."
    )


def window_of(folder: Path) -> int | None:
    """Return the model's context window in tokens; None if its configuration does not state it."""
    try:
        return context_window(folder)
    except InputError:
        return None
