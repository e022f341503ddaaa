"""Whether what a judging model of the study's own will be shown fits its window, before anything is trained."""

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
"""A space and the three digits of 100, which the method `candidates` puts behind the prompt."""


@dataclass(frozen=True, slots=True)
class LongestJudgeRequest:
    """The longest request to a judge about an evaluation, in tokens of the judge's tokenizer."""

    evaluation: str
    question: str
    """Its id."""
    prompt: int
    """Rubric and question."""
    response: int
    """What a response may have: the evaluation's max_tokens, which are the judged model's tokens."""
    answer: int

    @property
    def tokens(self) -> int:
        """What the judge's window must hold."""
        return self.prompt + self.response + self.answer


def longest_judge_requests(
    judge: Judge, folder: Path, asked: Iterable[tuple[EvaluationSpec, int, Mapping[str, Rubric]]]
) -> list[LongestJudgeRequest]:
    """One for each (evaluation, samples, rubrics). Raises InputError where the method does not suit the judge's tokenizer."""
    tokenizer = load_tokenizer(str(folder))
    method = own_method(judge, tokenizer)
    found = []
    for spec, samples, rubrics in asked:
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
        found.append(LongestJudgeRequest(spec.name, ids[longest], lengths[longest], response, answer))
    return found


def _lengths(tokenizer: Any, texts: list[str]) -> list[int]:
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
