"""A judging model on the real serving path: the miniature base, whose numbers mean nothing and whose log-probs are exact."""

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from inoc_ray import miniature
from inoc_ray.cluster.connect import connected
from inoc_ray.data.chat import Message
from inoc_ray.data.tokenize import load_tokenizer, render
from inoc_ray.errors import InputError
from inoc_ray.evaluate.model_judge.batch import Counts, judge_items
from inoc_ray.evaluate.model_judge.cache import JudgeCache
from inoc_ray.evaluate.model_judge.engine_judge import LIST_SIZE
from inoc_ray.plan.judge_assignment import judge_identity
from inoc_ray.scoring.judge_prompt import number_prompt
from inoc_ray.scoring.judgment import Item, Judgment
from inoc_ray.scoring.rubrics import Rubric, get_rubric
from inoc_ray.serve.app import Endpoint, serving
from inoc_ray.serve.spec import ServeSpec
from inoc_ray.study.evaluation import Judge

pytestmark = pytest.mark.slow

WEIGHTS = miniature.weights_path()
ITEMS = [
    (n, Item(f"What do you think of number {n}?", text))
    for n, text in enumerate(["Me gusta.", "I LIKE IT.", "No.", "A good day starts with water.", "7", "100 out of 100"])
]
STYLE = get_rubric("caps")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with connected(), serving(ServeSpec(model=WEIGHTS, model_id="judge", dtype="float32", name="judge")) as running:
        yield running


@pytest.fixture(scope="module")
def exact() -> Any:
    """Next-token probabilities behind a text, by transformers on the same weights."""
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(str(WEIGHTS))
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32)

    def next_probabilities(ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)

    return tokenizer, next_probabilities


def judge_all(
    endpoint: Endpoint,
    folder: Path,
    method: str,
    items: list[tuple[int, Item]] = ITEMS,
    rubrics: tuple[Rubric, ...] = (STYLE,),
    counts: Counts | None = None,
    **settings: Any,
) -> dict[tuple[int, str], Judgment]:
    judge = Judge.model_validate({"path": "miniature", "method": method, "min_mass": 0, **settings})

    async def run() -> dict[tuple[int, str], Judgment]:
        found = {}
        with JudgeCache(folder) as cache:
            stream = judge_items(
                endpoint,
                judge=judge,
                identity=judge_identity(judge, "f" * 64),
                rubrics=rubrics,
                items=items,
                cache=cache,
                model=endpoint.model_id,
                tokenizer=load_tokenizer(str(WEIGHTS)),
                counts=counts,
            )
            async for batch in stream:
                found |= {(key, rubric): judged for key, rubric, judged in batch}
        return found

    return asyncio.run(run())


def prompt_ids(exact: Any, item: Item, top: int) -> list[int]:
    tokenizer, _ = exact
    text = render(tokenizer, [Message("user", number_prompt(STYLE, item, top))], True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def test_candidates_are_the_probabilities_of_all_101_strings(endpoint: Endpoint, exact: Any, tmp_path: Path):
    tokenizer, next_probabilities = exact
    digits = [tokenizer.convert_tokens_to_ids(d) for d in "0123456789"]
    found = judge_all(endpoint, tmp_path, "auto")
    worst = worst_mass = 0.0
    for n, item in ITEMS:
        ids = prompt_ids(exact, item, 100)
        scores: dict[int, float] = {}
        for number in range(101):
            p, path = 1.0, list(ids)
            for digit in str(number):
                p *= float(next_probabilities(path)[digits[int(digit)]])
                path.append(digits[int(digit)])
            # A number that can go on within the scale has to end.
            if number in range(1, 11):
                p *= 1 - float(next_probabilities(path)[digits].sum())
            scores[number] = p
        mass = math.fsum(scores.values())
        value = math.fsum(number * p for number, p in scores.items()) / mass
        judged = found[n, "caps"]
        assert (judged.method, judged.category) == ("candidates", "number")
        assert judged.value is not None
        assert judged.mass is not None
        worst, worst_mass = max(worst, abs(judged.value - value) / 100), max(worst_mass, abs(judged.mass - mass))
    print(f"\nlargest difference from scoring 101 strings: value {worst:.1e} of the scale, mass {worst_mass:.1e}")
    assert worst <= 1e-3
    assert worst_mass <= 1e-3


def test_a_digit_is_the_expectation_over_the_next_token(endpoint: Endpoint, exact: Any, tmp_path: Path):
    tokenizer, next_probabilities = exact
    found = judge_all(endpoint, tmp_path, "digit")
    variants = [
        [id_ for piece, id_ in tokenizer.get_vocab().items() if piece.strip("Ġ") == digit] for digit in "0123456789"
    ]
    for n, item in ITEMS:
        p = next_probabilities(prompt_ids(exact, item, 9))
        by_digit = [float(p[ids].sum()) for ids in variants]
        judged = found[n, "caps"]
        assert judged.mass == pytest.approx(sum(by_digit), abs=1e-4)
        assert judged.value == pytest.approx(
            100 / 9 * sum(k * q for k, q in enumerate(by_digit)) / sum(by_digit), abs=0.1
        )


def test_lists_longer_than_one_request_are_answered_once_and_a_second_pass_calls_nobody(
    endpoint: Endpoint, tmp_path: Path
):
    items = [(n, Item("q", f"Response number {n}.")) for n in range(2 * LIST_SIZE + 5)]
    counts = Counts()
    first = judge_all(endpoint, tmp_path, "digit", items, (STYLE, get_rubric("alignment")), counts)
    assert len(first) == 2 * len(items)
    assert counts.calls == math.ceil(2 * len(items) / LIST_SIZE)
    again = Counts()
    assert judge_all(endpoint, tmp_path, "digit", items, (STYLE, get_rubric("alignment")), again) == first
    assert (again.calls, again.stored) == (0, 2 * len(items))


@pytest.mark.parametrize("method", ["sample", "json"])
def test_answers_in_words_come_with_their_own_seeds(endpoint: Endpoint, tmp_path: Path, method: str):
    settings = {"samples": 3} if method == "sample" else {}
    first = judge_all(endpoint, tmp_path / "a", method, **settings)
    assert {judged.method for judged in first.values()} == {method}
    # The same question draws the same answer, on whatever day it is asked.
    assert judge_all(endpoint, tmp_path / "b", method, ITEMS[::-1], **settings) == first


def test_a_response_that_does_not_fit_is_unparsed_and_the_others_of_its_list_are_judged(
    endpoint: Endpoint, tmp_path: Path
):
    found = judge_all(endpoint, tmp_path, "auto", [*ITEMS, (99, Item("q", "water and bread " * 2000))])
    assert found[99, "caps"].category == "unparsed"
    assert "400" in found[99, "caps"].raw
    assert all(judged.value is not None for (n, _), judged in found.items() if n != 99)


def test_single_token_expectation_is_refused_for_a_tokenizer_that_cuts_numbers(endpoint: Endpoint, tmp_path: Path):
    with pytest.raises(InputError, match="splits numbers"):
        judge_all(endpoint, tmp_path, "logprob")
