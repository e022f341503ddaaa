"""One line of the results: the rate of an arm, or of one fine-tune, for a trait in an evaluation and a context."""

from __future__ import annotations

from dataclasses import dataclass

FIRST = {"base": 0, "baseline": 1, "control": 2}
LAST = {"placebo": 1, "irrelevant": 2}


Place = tuple[str, str, str, int | None]
"""The place of a fine-tune in a study: setting, model, arm, seed (None for the base). Two places may share a trial id."""
Source = tuple[str, str, str, str]
"""arm, split, trait, context: the rows whose mean a level is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The rate of one arm for one trait in one evaluation × context.

    rate, low, high: shares of the responses that count (0 to 1), None if none does. seeds: fine-tunes with responses that count
    (1 for the base). samples: all responses; unparsed: those without a readable judgment; excluded: those judged but not counted
    (incoherent, a refusal, bare code, or withheld because the model's responses are degenerate). triggered: whether the questions
    contain the setting's trigger. replicated: whether the interval covers what another seed would give (two fine-tunes or more);
    None for the base, which is one given model.
    """

    setting: str
    model: str
    arm: str
    kind: str
    evaluation: str
    split: str
    context: str
    trait: str
    role: str
    rate: float | None
    low: float | None
    high: float | None
    seeds: int
    samples: int
    unparsed: int
    excluded: int
    cut: int = 0
    """Responses that ran into max_tokens; they count like any other."""
    seeds_planned: int = 0
    """Fine-tunes that the study asks for; without a plan, as many as there are."""
    samples_planned: int = 0
    complete: bool = True
    """Whether every planned fine-tune, response and judgment exists (see complete.py)."""
    triggered: bool = False
    replicated: bool | None = None
    trained: bool = True
    """Whether the weights of every planned fine-tune exist; responses may exist without them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRate:
    """The rate of one fine-tune; the interval is for this very model, over questions."""

    evaluation: str
    split: str
    context: str
    trait: str
    rate: float | None
    low: float | None
    high: float | None
    unparsed: float = 0.0
    """Share of this model's responses without a readable judgment."""
    excluded: float = 0.0
    """Share of them judged but not counted."""


def arm_rank(kind: str) -> tuple[int, int]:
    """Return the rank of a kind in every table: base, baseline, control, the inoculated arms, placebo, irrelevant."""
    return FIRST.get(kind, len(FIRST)), LAST.get(kind, 0)
