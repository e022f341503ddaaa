"""The longest requests that a judging model on the study's engine will get, to compare with its window before training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inoc_ray.data.chat import Message
from inoc_ray.data.tokenize import load_tokenizer, render
from inoc_ray.evaluate.model_judge.batch import answer_budget, own_method, prompts_of
from inoc_ray.scoring.judgment import Item
from inoc_ray.scoring.rubrics import Rubric
from inoc_ray.settings import EvaluationSpec
from inoc_ray.study.evaluation import Judge

CANDIDATE_TOKENS = 4
"""A space and the three digits of 100, which the method `candidates` appends to the prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LongestJudgeRequest:
    """The longest request to a judge about an evaluation, in tokens of the judge's tokenizer."""

    evaluation: str
    question: str
    """The question's id."""
    prompt: int
    """Tokens of the rubric and question."""
    response: int
    """The longest response: the evaluation's max_tokens, in the judged model's tokens."""
    answer: int
    """Tokens of the judge's answer."""

    @property
    def tokens(self) -> int:
        """Tokens that the judge's window must hold."""
        return self.prompt + self.response + self.answer


def longest_judge_requests(
    judge: Judge, folder: Path, evaluations: Iterable[tuple[EvaluationSpec, int, Mapping[str, Rubric]]]
) -> list[LongestJudgeRequest]:
    """Return one request for each (evaluation, samples, rubrics).

    Raises InputError if the method does not suit the judge's tokenizer.
    """
    tokenizer = load_tokenizer(str(folder))
    method = own_method(judge, tokenizer)
    found = []
    for spec, samples, rubrics in evaluations:
        answer = answer_budget(method, len(rubrics)) + (CANDIDATE_TOKENS if method == "candidates" else 0)
        response = max(_lengths(tokenizer, list(spec.choices))) if spec.choices else spec.max_tokens
        questions = {q.id: q for q in spec.questions(samples)}
        texts: list[str] = []
        ids: list[str] = []
        for question in questions.values():
            item = Item(question.messages[-1].content, "", question.reference)
            for _, prompt in prompts_of(method, list(rubrics.values()), item):
                texts.append(render(tokenizer, [Message("user", prompt)], True, enable_thinking=False))
                ids.append(question.id)
        lengths = _lengths(tokenizer, texts)
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        found.append(
            LongestJudgeRequest(
                evaluation=spec.name,
                question=ids[longest],
                prompt=lengths[longest],
                response=response,
                answer=answer,
            )
        )
    return found


def _lengths(tokenizer: Any, texts: list[str]) -> list[int]:
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
