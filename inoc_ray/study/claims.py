"""Claims: statements about arms that a study's results can confirm or refute, as data with a source."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import field_validator, model_validator

from inoc_ray.config.base import Config, check_name
from inoc_ray.config.identity import runtime

KIND = "kind:"
"""The prefix of a kind of arms in `Claim.arms` and `Claim.than`."""
REFERENCE = "reference"
"""The reference context in `Claim.than_context`, whichever it is."""
ROLES = ("undesired", "desired", "narrow")

Measure = Literal[
    "rate",
    "suppression",
    "retention_id",
    "retention_ood",
    "retention_narrow",
    "selectivity",
    "conditionalisation",
    "leakage",
    "capability",
    "log_prob_gain",
    "log_prob_late_gain",
    "log_prob_lead",
]

DYNAMICS = ("log_prob_gain", "log_prob_late_gain", "log_prob_lead")
"""Measures of what `dynamics` follows: shares of the way from a response's first log-probability to certainty."""
SHARES = ("rate", "leakage", *DYNAMICS)
"""Measures whose thresholds lie between -1 and 1."""
RATIOS = ("suppression", "retention_id", "retention_ood", "retention_narrow", "selectivity", "conditionalisation")
"""Measures that are 1 for all of what they are a share of, and may be more."""
_MOST = 10.0
"""No ratio is claimed to lie farther from 0: a larger number is a percentage."""


class Claim(Config):
    """A claim: a number of some arms, and where it lies according to the claim.

    It *holds* if the interval of the number lies where the claim says, *fails* if it lies wholly elsewhere, and otherwise the
    study *cannot tell*. Of several arms each must do so.
    """

    name: str = runtime()
    """A short name, by which tables and MLflow show the claim."""
    says: str = runtime(min_length=1)
    """The claim in words."""
    source: str = runtime("")
    """Where the claim comes from."""
    measure: Measure = runtime("rate")
    """The number: the `rate` of a trait, a measure of the effects (docs/statistics.md), the score on a task (`capability`), or of
    what `dynamics` follows how far training takes responses with a trait from their first log-probability (0) to certainty (1;
    negative if they get less likely): in all (`log_prob_gain`), in the second half of the steps (`log_prob_late_gain`, near 0 on a
    plateau), and by how much more those with the desired trait than those with the undesired one (`log_prob_lead`)."""
    arms: tuple[str, ...] = runtime(min_length=1)
    """The arms that the claim is about, by name (`base` is the untouched model). `kind:general` means the mean over the arms
    of that kind: the wordings are a sample of prompts of the kind, and the interval covers another wording."""
    than: str | None = runtime(None)
    """An arm (or `kind:…`, `base`) whose number is subtracted."""
    trait: str | None = runtime(None)
    """A trait, or the role of the arm's traits (`undesired`, `desired`, `narrow`). Default: `undesired`; for a retention,
    what is to be kept."""
    split: Literal["id", "ood"] = runtime("ood")
    """For a rate, the questions: in distribution, or out of it."""
    evaluation: str | None = runtime(None)
    """Only this evaluation. Default: all of the split."""
    context: str | None = runtime(None)
    """For a rate, and for what `dynamics` follows, the context of the questions. Default: the reference context."""
    than_context: str | None = runtime(None)
    """For those, the context of what is subtracted; `reference` for the reference context. Without `than` it is the same arm
    in that context. Default: `context`."""
    triggered: bool = runtime(False)
    """Whether it is about questions with the backdoor's trigger."""
    task: str | None = runtime(None, min_length=1)
    """The capability task."""
    above: float | None = runtime(None)
    """The number is larger than this."""
    below: float | None = runtime(None)
    """The number is smaller than this."""
    within: tuple[float, float] | None = runtime(None)
    """The number lies between these two: equivalence, tested as two one-sided tests at .05 each (TOST)."""
    settings: tuple[str, ...] = runtime(())
    """The settings that the claim is about. Empty: all of the study."""
    models: tuple[str, ...] = runtime(())
    """The models that the claim is about. Empty: all of the study."""

    _name = field_validator("name")(check_name)

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        given = [name for name in ("above", "below", "within") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"claim {self.name!r}: give exactly one of above, below and within: where the number lies if the claim holds"
            )
        if self.within is not None and not self.within[0] < self.within[1]:
            raise ValueError(f"claim {self.name!r}: within must be [SMALLER, LARGER], found {list(self.within)}")
        given_bounds = [bound for bound in (self.above, self.below, *(self.within or ())) if bound is not None]
        if self.measure in SHARES and any(abs(bound) > 1 for bound in given_bounds):
            raise ValueError(
                f"claim {self.name!r}: {self.measure} is a share from 0 to 1, or a difference of two, not a percentage; found "
                f"{self.bound_in_words()}"
            )
        if self.measure in RATIOS and any(abs(bound) > _MOST for bound in given_bounds):
            raise ValueError(
                f"claim {self.name!r}: {self.measure} is a ratio, 1 for all of it, not a percentage; found {self.bound_in_words()}"
            )
        self._check_possible()
        return self

    def _check_possible(self) -> None:
        """Raise ValueError for a rate that is claimed to lie where none can, or where every one does."""
        if self.measure != "rate" or self.than is not None or self.than_context is not None:
            return
        low, high = self.within or (
            -math.inf if self.above is None else self.above,
            math.inf if self.below is None else self.below,
        )
        every = low < 0 and high > 1
        if every or low >= 1 or high <= 0:
            raise ValueError(
                f"claim {self.name!r}: {'every' if every else 'no'} rate is {self.bound_in_words()}, as it lies from 0 to 1; for a "
                "difference of two name the other arm (than) or context (than_context)"
            )

    @model_validator(mode="after")
    def _what_the_measure_has(self) -> Self:
        if (self.measure == "capability") != (self.task is not None):
            raise ValueError(
                f"claim {self.name!r}: `measure: capability` and `task` belong together; give both or neither"
            )
        others = [
            *([] if self.measure in DYNAMICS else ["context", "than_context"]),
            *(["evaluation"] if self.measure in ("capability", *DYNAMICS) else []),
            *(["trait"] if self.measure in ("capability", "log_prob_lead") else []),
        ]
        given = [name for name in others if getattr(self, name) is not None]
        # Every other measure has its split in its name or its definition.
        given += ["split"] if self.split == "id" else []
        if self.measure != "rate" and given:
            raise ValueError(
                f"claim {self.name!r}: {given[0]} does not belong to the measure {self.measure}; remove it"
            )
        if self.measure not in ("rate", "suppression") and self.triggered:
            raise ValueError(f"claim {self.name!r}: triggered belongs to the measures rate and suppression; remove it")
        return self

    @model_validator(mode="after")
    def _of_two_numbers(self) -> Self:
        """Refuse a number minus itself, which is 0 in every study."""
        if self.than is None and self.than_context is None:
            return self
        contexts = [
            None if context == REFERENCE else context
            for context in (self.context, self.than_context if self.than_context is not None else self.context)
        ]
        if contexts[0] == contexts[1] and (self.than is None or self.than in self.arms):
            of = "than_context" if self.than is None else "than"
            raise ValueError(
                f"claim {self.name!r}: {of} is what the claim is about already, and a number minus itself is 0; name another one"
            )
        return self

    def bound_in_words(self) -> str:
        """Return "> .5", "< .1" or "within [-.05, .05]"."""
        if self.within is not None:
            return f"within [{self.within[0]:g}, {self.within[1]:g}]"
        return f"> {self.above:g}" if self.above is not None else f"< {self.below:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedClaim:
    """A claim that a study checks; own: from the study file, not from the library of the paper's claims."""

    claim: Claim
    own: bool = False
