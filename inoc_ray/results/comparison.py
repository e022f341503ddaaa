"""The comparison of a study's arms as data: rates with intervals, effects, leaks, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from inoc_ray.results.capabilities import CapabilityRate
from inoc_ray.results.claim_checks import CheckedClaim
from inoc_ray.results.completeness import Missing, Planned
from inoc_ray.results.courses import StepRates
from inoc_ray.results.dynamics import Followed, courses_of
from inoc_ray.results.effects import NEUTRAL, Effect
from inoc_ray.results.leaks import Leak
from inoc_ray.results.notes import notes_on
from inoc_ray.results.rows import Place, Row, TrialRate
from inoc_ray.study.evaluation import Outcome

if TYPE_CHECKING:
    from inoc_ray.store.failures import Failure


SCORE_NOTE = (
    "all rates are mean scores from 0 to 1 (evaluation.outcome: score): the judge's number on its scale, 1 at the end where "
    "the trait shows"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The results of a study. trial_rates: place → rates of that fine-tune alone."""

    study: str
    rows: tuple[Row, ...]
    effects: tuple[Effect, ...]
    trial_rates: Mapping[Place, tuple[TrialRate, ...]] = field(default_factory=dict)
    profile: str = ""
    """The threshold profile as text."""
    leaks: tuple[Leak, ...] = ()
    """The results of a leak audit; empty without one."""
    agreement: tuple[Mapping[str, Any], ...] = ()
    """How well judges agree: an entry for each pair of judges and trait."""
    capabilities: tuple[Mapping[str, Any], ...] = ()
    capability_rates: tuple[CapabilityRate, ...] = ()
    """Of each arm on each task, with intervals; of metrics that are means over items."""
    missing: tuple[Missing, ...] = ()
    """What the study asks for and the store lacks."""
    failures: tuple[Failure, ...] = ()
    """Failures of work that is not done yet."""
    planned: Planned = field(default_factory=Planned)
    """What the study asks for; empty if the comparison was made without a plan."""
    reference: str = NEUTRAL
    """The context in which arms are compared."""
    outcome: Outcome = "shown"
    """What a rate is of: the responses that show a trait, or their mean score."""
    levels: tuple[Effect, ...] = ()
    """The rates of every arm out of distribution, averaged as the effects average them (`effects.levels`)."""
    claims: tuple[CheckedClaim, ...] = ()
    """What the study says to the claims on it."""
    followed: Followed = field(default_factory=Followed)
    """What was followed while the fine-tunes trained."""
    courses: tuple[StepRates, ...] = ()
    """Rates over the steps of the fine-tunes, in the order of the steps; empty where the study samples nothing on the way."""
    remarks: tuple[str, ...] = ()
    """Remarks of the plan on the study, e.g. on fine-tunes that have two names."""

    @property
    def complete(self) -> bool:
        """Whether nothing is missing or failed, and every row rests on all that was planned for it."""
        return not self.missing and not self.failures and all(row.complete for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return what `inoc-ray compare --json` prints."""
        measured = (
            "setting",
            "model",
            "arm",
            "measure",
            "value",
            "low",
            "high",
            "p",
            "complete",
            "why",
            "seeds",
            "replicated",
        )
        return {
            "study": self.study,
            "rows": [{name: getattr(row, name) for name in Row.__slots__} for row in self.rows],
            "effects": [{name: getattr(effect, name) for name in measured} for effect in self.effects],
            "profile": self.profile,
            "leaks": [asdict(leak) for leak in self.leaks],
            "agreement": [dict(pair) for pair in self.agreement],
            "capabilities": [dict(score) for score in self.capabilities],
            "capability_rates": [asdict(rate) for rate in self.capability_rates],
            "complete": self.complete,
            "missing": [asdict(one) for one in self.missing],
            "failures": [failure.to_json() for failure in self.failures],
            "reference": self.reference,
            "outcome": self.outcome,
            "claims": [claim.to_json() for claim in self.claims],
            "dynamics": [asdict(course) for course in courses_of(self.followed.looks)],
            "courses": [
                {"step": rates.step, **{name: getattr(row, name) for name in Row.__slots__}}
                for rates in self.courses
                for row in rates.rows
            ],
        }

    def groups(self) -> list[tuple[str, str]]:
        """Return (setting, model) pairs in order of appearance."""
        return list(dict.fromkeys((row.setting, row.model) for row in self.rows))

    def seed_rates(self) -> dict[tuple[str, ...], list[tuple[int, TrialRate]]]:
        """Return (setting, model, arm, evaluation, context, trait) → (seed, its rate) of each fine-tune, in order of the seeds."""
        found: dict[tuple[str, ...], list[tuple[int, TrialRate]]] = {}
        for (setting, model, arm, seed), rates in self.trial_rates.items():
            if seed is None:
                continue
            for rate in rates:
                place = setting, model, arm, rate.evaluation, rate.context, rate.trait
                found.setdefault(place, []).append((seed, rate))
        return {place: sorted(rates, key=lambda one: one[0]) for place, rates in found.items()}

    def notes(self) -> list[str]:
        """Return the plan's remarks and the notes on each setting × model."""
        outcome = [SCORE_NOTE] if self.outcome == "score" else []
        return [*outcome, *self.remarks, *(note for group in self.groups() for note in notes_on(self.rows, *group))]
