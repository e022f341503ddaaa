"""A judge on an engine that the study starts: rendered prompts in lists, and the log-probs of chosen tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inoc_ray.config.identity import as_text
from inoc_ray.data.chat import Message
from inoc_ray.data.tokenize import render
from inoc_ray.endpoint.completions import SampleRequest, draw_list
from inoc_ray.endpoint.connection import Connection
from inoc_ray.endpoint.errors import UnusableAnswer
from inoc_ray.evaluate.model_judge.client import JudgeQuestion, NoAnswer, Sender, add_logprob
from inoc_ray.evaluate.model_judge.number_tokens import TOP_LOGPROBS, answer_tokens, token_text
from inoc_ray.evaluate.model_judge.read_answer import Answer, leading_space, prefixes_to_ask
from inoc_ray.scoring.rubrics import CLASSES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENGINE_CONCURRENCY = 8
"""Lists in flight at once for each engine: with LIST_SIZE questions each, twice what the engine's batch holds."""
LIST_SIZE = 64
_PADDING_LOGPROB = -9999.0
"""vLLM pads a list of alternatives that is shorter than another's in its batch with entries at or below this."""


class EngineJudge(Sender):
    """A judge on an engine of the study, asked in lists of questions."""

    list_size = LIST_SIZE

    def __init__(
        self,
        connection: Connection,
        *,
        model: str,
        on_call: Callable[[], None],
        tokenizer: PreTrainedTokenizerBase,
        concurrency: int = ENGINE_CONCURRENCY,
        replicas: int = 1,
    ) -> None:
        super().__init__(connection, model=model, on_call=on_call)
        self.concurrency = min(concurrency, ENGINE_CONCURRENCY * replicas)
        self._tokenizer = tokenizer
        self._tokens = answer_tokens(tokenizer, tuple(CLASSES))
        self._token_text = functools.cache(functools.partial(token_text, tokenizer))

    async def ask(self, questions: Sequence[JudgeQuestion]) -> list[Answer | NoAnswer]:
        """Return the answers in the order of the questions; see `JudgeClient`."""
        method = questions[0].method
        # The number is read where the answer begins, so a judge that can reason is asked without a think block.
        prompts = [render(self._tokenizer, [Message("user", q.prompt)], True, enable_thinking=False) for q in questions]
        if method == "candidates":
            return await self._digit_trees(questions, prompts)
        if method in ("logprob", "digit"):
            tops = await self._next_tokens(prompts, f"question {questions[0].key}", digits=method == "digit")
            return [top if isinstance(top, NoAnswer) else {"text": top[0], "top": top[1]} for top in tops]
        return await self._texts(questions, prompts)

    async def _digit_trees(self, questions: Sequence[JudgeQuestion], prompts: Sequence[str]) -> list[Answer | NoAnswer]:
        """Ask level by level, with the prefixes of all questions of a level in one list; see `parse.candidates`."""
        trees: list[dict[str, dict[str, float]] | NoAnswer] = [{} for _ in questions]
        spaces = [""] * len(questions)
        texts = [""] * len(questions)
        while True:
            level = [
                (n, prefix)
                for n, tree in enumerate(trees)
                if isinstance(tree, dict)
                for prefix in prefixes_to_ask(tree)
            ]
            if not level:
                break
            extended = [prompts[n] + (spaces[n] + prefix if prefix else "") for n, prefix in level]
            tops = await self._next_tokens(extended, f"question {questions[0].key}", digits=True)
            for (n, prefix), top in zip(level, tops, strict=True):
                tree = trees[n]
                if isinstance(top, NoAnswer):
                    trees[n] = top
                elif isinstance(tree, dict):
                    tree[prefix] = top[1]
                    if not prefix:
                        texts[n], spaces[n] = top[0], leading_space(top[1])
        return [
            tree if isinstance(tree, NoAnswer) else {"text": text, "tree": tree}
            for tree, text in zip(trees, texts, strict=True)
        ]

    async def _next_tokens(
        self, prompts: Sequence[str], name: str, *, digits: bool
    ) -> list[tuple[str, dict[str, float]] | NoAnswer]:
        """Return (likeliest next token, token text → log-prob) for each prompt.

        The log-probs are those of the likeliest tokens, or with `digits` those of the digits and class words. When one
        prompt of a list is refused, each is asked again alone, so that only that one has no answer.
        """
        tops = await self._send(functools.partial(self._draw_next, prompts, digits), name)
        if not isinstance(tops, NoAnswer):
            return list(tops)
        if len(prompts) == 1:
            return [tops]
        return [(await self._next_tokens([prompt], name, digits=digits))[0] for prompt in prompts]

    async def _draw_next(self, prompts: Sequence[str], digits: bool) -> list[tuple[str, dict[str, float]]]:
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": list(prompts),
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": len(self._tokens) if digits else TOP_LOGPROBS,
            "return_tokens_as_token_ids": True,
            # The rendered prompt already has its beginning-of-text token.
            "add_special_tokens": False,
        }
        if digits:
            body["logprob_token_ids"] = self._tokens
        answer = await self._post("/completions", body)
        choices = answer.get("choices")
        listed = [c for c in choices if isinstance(c, dict)] if isinstance(choices, list) else []
        if sorted(c.get("index", -1) for c in listed) != list(range(len(prompts))):
            raise UnusableAnswer(f"the answer does not have one choice for each of {len(prompts)} prompts: {answer}")
        found = []
        for choice in sorted(listed, key=lambda c: int(c["index"])):
            top = ((choice.get("logprobs") or {}).get("top_logprobs") or [None])[0]
            if not isinstance(top, dict):
                raise UnusableAnswer(f"the answer has no log-probs: {answer}")
            found.append((as_text(str(choice.get("text", ""))), self._by_text(top)))
        return found

    def _by_text(self, top: Mapping[str, float]) -> dict[str, float]:
        """Return token text → log-prob, from "token_id:17" → log-prob."""
        found: dict[str, float] = {}
        for token, logprob in top.items():
            if logprob > _PADDING_LOGPROB:
                add_logprob(found, self._token_text(int(token.removeprefix("token_id:"))), logprob)
        return found

    async def _texts(self, questions: Sequence[JudgeQuestion], prompts: Sequence[str]) -> list[Answer | NoAnswer]:
        drawn = questions[0].method == "sample"
        requests = [
            SampleRequest(
                key=question.key,
                model=self._model,
                prompt=prompt,
                max_tokens=question.max_tokens,
                temperature=1.0 if drawn else 0.0,
                top_p=1.0,
                seed=question.seed,
            )
            for question, prompt in zip(questions, prompts, strict=True)
        ]
        draw = functools.partial(draw_list, self._connection.client, requests)
        results = await self._send(draw, f"question {questions[0].key}")
        if not isinstance(results, NoAnswer):
            return [{"text": result.text} for result in results]
        if len(questions) == 1:
            return [results]
        return [(await self._texts([q], [p]))[0] for q, p in zip(questions, prompts, strict=True)]
