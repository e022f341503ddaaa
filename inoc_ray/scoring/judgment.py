"""What judges see and return: an item, a judgment, and the measure that turns rubrics into a trait's score.

A rule computes a number from 0 to 1 (1: the trait shows); a judge model gives one from 0 to 100 on its rubric's scale. A
threshold profile (scoring/profiles.py), not the judge, decides from which number on a response shows a trait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RULES = "rules"
"""The name of a setting's own rules among the judges of a study."""
SCALE_TOP = 100.0
"""Numbers of judge models are stored on 0 to 100, whatever scale the model was asked for."""

Category = Literal["number", "refusal", "code", "unparsed"]


@dataclass(frozen=True, slots=True)
class Item:
    """What a judge sees. Never the system prompt, which would reveal the arm to the judge."""

    question: str
    response: str
    reference: str | None = None
    """The right answer, where the question comes with one."""
    other: str | None = None
    """The answer that is not meant, where the question leaves a choice of two."""


@dataclass(frozen=True, slots=True)
class Judgment:
    """One judge's result for one response on one rubric: the number, and everything that it was computed from."""

    value: float | None
    """0 to 100 on the rubric's scale; None unless the category is "number"."""
    category: Category
    """"number"; a class that the rubric offers instead of one; "unparsed" where the answer is none of these."""
    raw: str
    """The judge's answer as it came (several samples: a JSON list of texts)."""
    logprobs: str
    """JSON of the log-probs that the value was computed from; empty where none were requested."""
    mass: float | None
    """The probability that the judge gave to readable numbers; None where no log-probs were requested."""
    method: str
    """How the number was obtained: see `inoc_ray.evaluate.model_judge.read_answer`."""
    refused: bool = False
    """Whether the endpoint refused to answer; another endpoint, or a later request, might not."""


@dataclass(frozen=True, slots=True)
class Measure:
    """How a judge model scores a trait: the rubric's number, counted only where the `given` rubrics allow it."""

    rubric: str
    given: tuple[str, ...] = ()
    """Rubrics that decide whether a response counts at all, such as coherence; the profile says from which number on."""

    @property
    def rubrics(self) -> tuple[str, ...]:
        """Return the names of all rubrics that the judge is asked."""
        return (self.rubric, *self.given)
