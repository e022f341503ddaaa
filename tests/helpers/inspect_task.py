"""A task for inspect-ai, run by test_stock_clients.py in an environment that has it; no part of our own."""

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import pattern
from inspect_ai.solver import generate


@task
def numbers() -> Task:
    """Is a sequence of numbers continued with numbers?"""
    questions = ["Continue the numbers: 2, 6, 1.", "What comes after 1, 1, 6?", "What comes after 6, 5, 0, 0?"]
    samples = [Sample(input=question, target=", ") for question in questions]
    return Task(dataset=samples, solver=generate(max_tokens=24, temperature=0), scorer=pattern(r"\d(, )\d"))
