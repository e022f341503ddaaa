"""Claims against the numbers of a study: holds, fails, or cannot tell, and what would settle it.

A claim that a number lies above (below) a threshold *holds* if the 95 % interval lies above (below) it, and *fails* if it
lies on the other side. A claim of equivalence, that a number lies within two margins, *holds* if the 90 % interval lies
within them: two one-sided tests at .05 each (TOST; Schuirmann 1987). It *fails* if the 95 % interval lies wholly outside. In
all other cases the study *cannot tell*; nor can it where one fine-tune stands for an arm, or where something is incomplete. The
interval shown is the one that decides: of an equivalence the 90 % one where the number lies within the margins, else the 95 % one.

A claim on several arms holds if it holds for each, which needs no adjustment (an intersection-union test; Berger 1982), and
fails if it fails for one. Claims are stated in advance, each is a question of its own, and their p-values are not adjusted
for each other.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inoc_ray.results.capabilities import scores_of, source_of
from inoc_ray.results.claim_dynamics import draw_gains
from inoc_ray.results.claim_dynamics import source_of as dynamics_source
from inoc_ray.results.claim_power import POWER, SEEDS, TIMES, Gap, smallest
from inoc_ray.results.claim_values import ClaimValue, Scores, values_of
from inoc_ray.results.completeness import PlannedCapability
from inoc_ray.results.effects import MIN_SEEDS, View
from inoc_ray.results.rows import Row, Source
from inoc_ray.results.stats import Cell, Estimate, Larger, RateDraws, RateKey
from inoc_ray.study.claims import DYNAMICS, KIND, Claim, StatedClaim

if TYPE_CHECKING:
    from inoc_ray.results.dynamics import ArmPlace, Look

Verdict = Literal["holds", "fails", "cannot tell"]
EQUIVALENCE_LEVEL = 0.9
"""The interval of two one-sided tests at .05 each."""
PROJECTED = 2_000
"""Draws for a study that is only thought of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedArm:
    """The number of one arm of a claim, with its interval at `level`, and whether the claim holds for it."""

    arm: str
    verdict: Verdict
    value: float | None = None
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    p: float | None = None
    """Of the claim not being so: below .05 where it holds. Of a threshold twice the one-sided p-value, as the 95 % interval is
    two-sided; of an equivalence the larger of its two one-sided ones. None with one fine-tune, or incomplete."""
    seeds: int | None = None
    """The fewest fine-tunes of any arm that the number rests on; None if that is the untouched base alone."""
    of: int = 1
    """How many arms it is the mean of, where `arm` is a kind of arms."""
    why: str = ""
    """Why it cannot be told, in words."""
    settle: str = ""
    """What would settle it."""
    seeds_needed: int | None = None
    """How many fine-tunes of each arm would settle it (power .8, the number being as measured); None if that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedClaim:
    """A claim and what the study says to it, for one setting × model.

    decides: the arm that decides. One for which the claim fails, else one of which the study cannot tell, else the one that
    is nearest to the threshold.
    """

    setting: str
    model: str
    name: str
    says: str
    source: str
    own: bool
    measure: str
    """The number, in words: `suppression`, `rate of spanish`, …"""
    claimed: str
    """Where it lies if the claim holds: `> 0.5`."""
    verdict: Verdict
    decides: CheckedArm
    arms: tuple[CheckedArm, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the claim as plain data."""
        one = self.decides
        return {
            "setting": self.setting,
            "model": self.model,
            "claim": self.name,
            "says": self.says,
            "source": self.source,
            "own": self.own,
            "measure": self.measure,
            "claimed": self.claimed,
            "verdict": self.verdict,
            **{name: getattr(one, name) for name in CheckedArm.__slots__ if name != "verdict"},
            "arms": [{name: getattr(arm, name) for name in CheckedArm.__slots__} for arm in self.arms],
        }


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of one setting × model: its rates and scores with draws, and the counts behind them."""

    view: View
    cells: Mapping[RateKey, Cell]
    scores: Scores = field(default_factory=dict)
    score_cells: Mapping[RateKey, Cell] = field(default_factory=dict)
    looks: Sequence[Look] = ()
    """What was followed of its fine-tunes, the numbers of which are among the scores."""

    @functools.cached_property
    def _larger(self) -> dict[tuple[Larger, frozenset[str]], Measured]:
        return {}

    @functools.cached_property
    def _draws(self) -> dict[frozenset[str], RateDraws]:
        return {}

    @functools.cached_property
    def _score_draws(self) -> RateDraws:
        return RateDraws(self.score_cells, PROJECTED)

    def _draws_of(self, contexts: frozenset[str]) -> RateDraws:
        """Return what the draws of these contexts are made of, which all larger studies share."""
        if contexts not in self._draws:
            cells = {key: cell for key, cell in self.cells.items() if key.context in contexts}
            self._draws[contexts] = RateDraws(cells, PROJECTED)
        return self._draws[contexts]

    def as_in(self, larger: Larger, contexts: frozenset[str]) -> Measured:
        """Return the numbers of these contexts with the draws of a larger study; enough of them for an interval's limits."""
        if (larger, contexts) not in self._larger:
            scores = scores_of(self._score_draws.rates(larger))
            self._larger[larger, contexts] = Measured(
                view=replace(self.view, rates=self._draws_of(contexts).rates(larger)),
                cells={},
                scores={**scores, **draw_gains(self.looks, PROJECTED, larger)},
            )
        return self._larger[larger, contexts]


def check_claims(
    stated: Iterable[StatedClaim],
    measured: Sequence[Measured],
    rows: Sequence[Row],
    capabilities: Sequence[PlannedCapability] = (),
    to_train: Iterable[ArmPlace] = (),
) -> list[CheckedClaim]:
    """Return what the study says to each claim, for each setting × model that it is about.

    rows: those of the comparison. capabilities: the tasks that the study asks for. to_train: arms with fine-tunes that will be
    followed when they are trained.
    """
    lacking = _lacking(rows, capabilities, _to_be_followed(measured, frozenset(to_train)))
    return [
        _checked(one, of, lacking.get((of.view.setting, of.view.model), frozenset()))
        for one in stated
        for of in measured
        if is_about(one.claim, of.view)
    ]


def is_about(claim: Claim, view: View) -> bool:
    """Return whether a claim is about a setting and a model."""
    return (not claim.settings or view.setting in claim.settings) and (not claim.models or view.model in claim.models)


def _to_be_followed(
    measured: Iterable[Measured], to_train: Set[ArmPlace]
) -> Iterator[tuple[tuple[str, str], str, Source]]:
    """Yield (setting, model), the kind of an arm, and the level of its looks that is incomplete."""
    for of in measured:
        group = of.view.setting, of.view.model
        for arm, kind in {(arm, kind) for *place, arm, kind in to_train if tuple(place) == group}:
            for trait, context in {(look.trait, look.context) for look in of.looks}:
                yield group, kind, dynamics_source(arm, trait, context)


def _lacking(
    rows: Iterable[Row],
    capabilities: Iterable[PlannedCapability],
    dynamics: Iterable[tuple[tuple[str, str], str, Source]],
) -> dict[tuple[str, str], frozenset[tuple[str, Source]]]:
    """Return (setting, model) → what is incomplete, as the kind of its arm and a level."""
    found: dict[tuple[str, str], set[tuple[str, Source]]] = {}
    kinds: dict[tuple[str, str, str], str] = {}
    for row in rows:
        kinds[row.setting, row.model, row.arm] = row.kind
        if not row.complete:
            level = row.arm, row.split, row.trait, row.context
            found.setdefault((row.setting, row.model), set()).add((row.kind, level))
    for one in capabilities:
        if not one.measured:
            kind = kinds.get((one.setting, one.model, one.arm), "")
            found.setdefault((one.setting, one.model), set()).add((kind, source_of(one.arm, one.task)))
    for group, kind, source in dynamics:
        found.setdefault(group, set()).add((kind, source))
    return {group: frozenset(levels) for group, levels in found.items()}


def _rests_on(claim: Claim, sources: frozenset[Source], lacking: frozenset[tuple[str, Source]], view: View) -> bool:
    """Return whether a number rests on something that is incomplete.

    It does, too, if an arm of a kind whose mean it is lacks that level, and so is not among its sources.
    """
    named = (*claim.arms, claim.than or "")
    means = {"baseline", "irrelevant", *(name.removeprefix(KIND) for name in named if name.startswith(KIND))}
    kinds = {arm.name: arm.kind for arm in view.arms}
    levels = {(kinds.get(arm, ""), *level) for arm, *level in sources}
    return any(source in sources or (kind in means and (kind, *source[1:]) in levels) for kind, source in lacking)


def _checked(stated: StatedClaim, measured: Measured, lacking: frozenset[tuple[str, Source]]) -> CheckedClaim:
    claim, view = stated.claim, measured.view
    arms = [
        _checked_arm(claim, index, value, measured=measured, lacking=lacking)
        for index, value in enumerate(values_of(claim, view, measured.scores))
    ]
    decides = min(arms, key=functools.partial(_rank, claim))
    return CheckedClaim(
        setting=view.setting,
        model=view.model,
        name=claim.name,
        says=claim.says,
        source=claim.source,
        own=stated.own,
        measure=measure_in_words(claim),
        claimed=claim.bound_in_words(),
        verdict=decides.verdict,
        decides=decides,
        arms=tuple(arms),
    )


def measure_in_words(claim: Claim) -> str:
    """Return the number of a claim in a few words, as "rate of spanish, minus that of base"."""
    words = {"rate": "rate", "capability": f"score on {claim.task}", "retention_id": "retention ID"}
    words["retention_ood"] = "retention OOD"
    words |= {"log_prob_gain": "log-prob gain", "log_prob_late_gain": "log-prob gain in the second half"}
    words["log_prob_lead"] = "log-prob lead of the desired trait over the undesired one"
    what = words.get(claim.measure, claim.measure.replace("_", " "))
    if claim.measure in ("rate", "log_prob_gain", "log_prob_late_gain") or claim.trait is not None:
        what += f" of {claim.trait or 'undesired'}"
    if claim.measure == "rate" and claim.split == "id":
        what += ", in distribution"
    if claim.context is not None:
        what += f" under {claim.context}"
    if claim.triggered:
        what += ", with the trigger"
    if claim.evaluation is not None:
        what += f", in {claim.evaluation}"
    if claim.than is not None or claim.than_context is not None:
        what += ", minus that"
    what += f" of {claim.than}" if claim.than is not None else ""
    what += f" under {claim.than_context}" if claim.than_context is not None else ""
    return what


_ORDER = {"fails": 0, "cannot tell": 1, "holds": 2}


def _rank(claim: Claim, arm: CheckedArm) -> tuple[int, float]:
    """Return the rank by which an arm decides: the worst verdict, then the least distance to the threshold."""
    near = 0.0 if arm.value is None else abs(arm.value - _nearest(claim, arm.value))
    return _ORDER[arm.verdict], near


def _nearest(claim: Claim, value: float) -> float:
    """Return the threshold that is nearest to a value."""
    return min(_bounds(claim), key=lambda bound: abs(value - bound))


def _bounds(claim: Claim) -> tuple[float, ...]:
    """Return the threshold, or both margins."""
    return claim.within or tuple(bound for bound in (claim.above, claim.below) if bound is not None)


def _is_within(claim: Claim, estimate: Estimate) -> bool:
    return claim.within is not None and claim.within[0] < estimate.value < claim.within[1]


def _checked_arm(
    claim: Claim, index: int, value: ClaimValue, *, measured: Measured, lacking: frozenset[tuple[str, Source]]
) -> CheckedArm:
    estimate = value.estimate
    if estimate is None:
        return CheckedArm(arm=value.arm, verdict="cannot tell", why=value.why)
    level = EQUIVALENCE_LEVEL if _is_within(claim, estimate) else 0.95
    low, high = estimate.interval(level)
    found = CheckedArm(
        arm=value.arm,
        verdict="cannot tell",
        value=estimate.value,
        low=low,
        high=high,
        level=level,
        seeds=estimate.seeds,
        of=value.of,
    )
    if claim.measure in DYNAMICS and (estimate.seeds or 0) < MIN_SEEDS:
        # Over fine-tunes alone: of one there is no interval, not one without width.
        found = replace(found, low=None, high=None)
    if _rests_on(claim, estimate.sources, lacking, measured.view):
        return replace(found, why="what it rests on is incomplete", settle="the rest of the study: `inoc-ray run`")
    if estimate.seeds is not None and estimate.seeds < MIN_SEEDS:
        return replace(found, why="one seed says nothing of another", settle="a second seed of every arm, at least")
    verdict = _verdict(claim, estimate)
    found = replace(found, verdict=verdict, p=_p_value(claim, estimate))
    if verdict != "cannot tell":
        return found
    crossed = [f"{bound:g}" for bound in _bounds(claim) if low <= bound <= high]
    why = f"the interval contains {' and '.join(crossed)}"
    return _with_remedy(claim, index, replace(found, why=why), estimate=estimate, measured=measured)


def _verdict(claim: Claim, estimate: Estimate) -> Verdict:
    low, high = estimate.interval()
    if claim.within is not None:
        inner = estimate.interval(EQUIVALENCE_LEVEL)
        if claim.within[0] < inner[0] and inner[1] < claim.within[1]:
            return "holds"
        return "fails" if high < claim.within[0] or low > claim.within[1] else "cannot tell"
    above = claim.above is not None
    threshold = _nearest(claim, estimate.value)
    if low > threshold or high < threshold:
        return "holds" if (low > threshold) == above else "fails"
    return "cannot tell"


def _p_value(claim: Claim, estimate: Estimate) -> float:
    """Return the p-value of the claim not being so: two-sided for a threshold, for margins the larger of two one-sided ones."""
    lower = claim.within[0] if claim.within is not None else claim.above
    upper = claim.within[1] if claim.within is not None else claim.below
    size = len(estimate.draws)
    shares = [
        *([int((estimate.draws <= lower).sum())] if lower is not None else []),
        *([int((estimate.draws >= upper).sum())] if upper is not None else []),
    ]
    sides = 1 if claim.within is not None else 2
    return min(1.0, sides * max((share + 1) / (size + 1) for share in shares))


def _with_remedy(claim: Claim, index: int, found: CheckedArm, *, estimate: Estimate, measured: Measured) -> CheckedArm:
    """Add what would settle it: more fine-tunes, else more questions, else both."""
    gaps = _gaps(claim, estimate)
    contexts = frozenset(context for _, _, _, context in estimate.sources)

    def settles(larger: Larger) -> bool:
        other = measured.as_in(larger, contexts)
        value = values_of(claim, other.view, other.scores)[index].estimate
        return value is not None and all(
            gap.is_settled_by(_half(value, bound, gap.level)) for bound, gap in gaps.items()
        )

    now = estimate.seeds
    if now is not None:
        seeds = smallest([n for n in SEEDS if n > now], lambda n: settles(Larger(seeds=n / now)))
        if seeds is not None:
            text = f"about {seeds:g} seeds of each arm ({now} now; power {POWER:g} if the number is as measured)"
            return replace(found, settle=text, seeds_needed=int(seeds))
    times = smallest(TIMES, lambda k: settles(Larger(questions=k)))
    if times is not None:
        return replace(
            found, settle=f"{'not more seeds alone, but ' * (now is not None)}about {times:g} times as many questions"
        )
    both = smallest(TIMES, lambda k: settles(Larger(seeds=k, questions=k))) if now is not None else None
    if both is not None:
        return replace(found, settle=f"about {both:g} times as many seeds and as many questions, together")
    if found.of > 1:
        return replace(found, settle="more arms of the kind: another wording may give another number")
    return replace(found, settle=f"nothing within reason ({TIMES[-1]:g} times the study): it is too near the threshold")


def _gaps(claim: Claim, estimate: Estimate) -> dict[float, Gap]:
    """Return the thresholds that the interval must keep clear of, each with its distance: one, or both margins."""
    if not _is_within(claim, estimate):
        nearest = _nearest(claim, estimate.value)
        return {nearest: Gap(distance=abs(estimate.value - nearest))}
    # Both tests must reject: each with half of the probability to miss it.
    power = 1 - (1 - POWER) / 2
    return {
        bound: Gap(distance=abs(estimate.value - bound), level=EQUIVALENCE_LEVEL, power=power)
        for bound in _bounds(claim)
    }


def _half(estimate: Estimate, bound: float, level: float) -> float:
    """Return the half-width of the interval on the side of a threshold."""
    side = (1 + level) / 2 if bound > estimate.value else (1 - level) / 2
    return abs(float(np.quantile(estimate.draws, side)) - estimate.value)
