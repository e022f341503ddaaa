"""Judges: what turns a response into a raw number. Rules compute it; judging models are asked for it.

A number of a rule is 0 to 1 (1: the trait shows), that of a judging model 0 to 100 on its rubric's scale. Which number
counts as showing a trait is no matter of the judges but of a threshold profile (evaluate/profiles.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RULES = "rules"
"""The name under which a setting's own rules stand among the judges of a study."""
SCALE_TOP = 100.0
"""Numbers of judging models are kept on 0 to 100, whatever scale the model was asked on."""

Category = Literal["number", "refusal", "code", "unparsed"]


@dataclass(frozen=True, slots=True)
class Item:
    """What a judge looks at. Never the system prompt: it would tell the judge which arm answered."""

    question: str
    response: str
    reference: str | None = None
    """The right answer, where the question comes with one."""


@dataclass(frozen=True, slots=True)
class Judgment:
    """What one judge said about one response on one rubric: the number, and everything that it was computed from."""

    value: float | None
    """0 to 100 on the rubric's scale; None unless the category is "number"."""
    category: Category
    """"number"; a class that the rubric offers instead of one; "unparsed" where the answer is none of these."""
    raw: str
    """The judge's answer as it came (several samples: a JSON list of texts)."""
    logprobs: str
    """JSON of the log-probs that the value was computed from; empty where none were asked for."""
    mass: float | None
    """The probability that the judge put on readable numbers; None where no log-probs were asked for."""
    method: str
    """How the number was got: see `inoc_ray.evaluate.model_judge.parse`."""
    refused: bool = False
    """Whether the endpoint would not answer; another one, or another day, might."""


@dataclass(frozen=True, slots=True)
class Measure:
    """How a trait is told by a judging model: the rubric's number, counted only where the `given` rubrics allow it."""

    rubric: str
    given: tuple[str, ...] = ()
    """Rubrics that decide whether a response counts at all, such as coherence; the profile says from which number on."""

    @property
    def rubrics(self) -> tuple[str, ...]:
        return (self.rubric, *self.given)
