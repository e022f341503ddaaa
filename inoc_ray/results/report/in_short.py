"""The verdicts in short: how many inoculation prompts work, which ones, and how far a handful of fine-tunes can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inoc_ray.results.report.verdict import WORDS, State, Verdict

FEW = 3
"""Up to so many fine-tunes an arm say little about how far another one differs (docs/statistics.md)."""
_SHOWN: Sequence[State] = ("works", "open", "price", "part", "part_open", "part_price")
_UNSETTLED: Sequence[State] = ("open", "part_open")


@dataclass(frozen=True, slots=True, kw_only=True)
class InShort:
    """What the verdicts on one setting × model say together; all of it is plain text."""

    sentence: str
    points: tuple[tuple[str, str], ...]
    """(what, the arms of which that holds)."""
    warning: str
    """Of few fine-tunes; empty where there are more, or too few for any verdict."""

    def listed(self) -> str:
        """Return the points alone; empty if there are none."""
        return "; ".join(f"{what}: {arms}" for what, arms in self.points)

    def text(self) -> str:
        """Return all of it as one paragraph."""
        return " ".join(filter(None, [self.sentence, f"{self.listed()}." if self.points else "", self.warning]))


def in_short(found: Sequence[Verdict]) -> list[InShort]:
    """Return one summary for each setting × model that has an inoculation prompt, or one that denies its trait."""
    groups = dict.fromkeys((v.setting, v.model) for v in found)
    return [_summary([v for v in found if (v.setting, v.model) == group]) for group in groups]


def _summary(found: Sequence[Verdict]) -> InShort:
    own = [v for v in found if not v.is_control]
    # Where nothing had to be prevented without the trigger, the question is about the trigger.
    asked = [v for v in own if v.state != "nothing"] or own
    controls = [v for v in found if v.is_control]
    works = sum(v.state in _SHOWN for v in asked)
    sentence = f"{works} of {len(asked)} inoculation prompts {'is' if works == 1 else 'are'} shown to work"
    if untold := sum(v.state == "unknown" for v in asked):
        sentence += f"; of {untold} it cannot be told"
    if not asked:
        sentence = "no inoculation prompt is in the study"
    if controls:
        several = len({v.arm for v in controls})
        sentence += (
            f", and {several} prompt{'s' * (several != 1)} that {'deny their' if several > 1 else 'denies its'} trait"
        )
        sentence += f" {'are controls' if several > 1 else 'is a control'}"
    points: dict[str, list[str]] = {}
    for verdict in sorted(asked, key=lambda v: list(WORDS).index(v.state)):
        price = f" ({verdict.price_in_short})" if verdict.state in _UNSETTLED else ""
        points.setdefault(_point(verdict), []).append(_called(verdict) + price)
    for verdict in controls:
        points.setdefault("Denies its trait, a control", []).append(
            f"{_called(verdict)} ({_lowered(verdict.does_it_work)})"
        )
    return InShort(
        sentence=f"{found[0].setting} on {found[0].model}: {sentence}.",
        points=tuple((what, ", ".join(arms)) for what, arms in points.items()),
        warning=_warning(asked),
    )


def _point(verdict: Verdict) -> str:
    if verdict.state not in ("works", "part"):
        return verdict.does_it_work
    cost = "with no wanted trait to lose" if verdict.has_nothing_to_lose else "at no price"
    return f"{WORDS[verdict.state]}, {cost}"


def _warning(asked: Sequence[Verdict]) -> str:
    seeds = [v.seeds for v in asked if v.state in (*_SHOWN, "hardly", "no", "worse")]
    if not seeds or min(seeds) > FEW:
        return ""
    low, high = min(seeds), max(seeds)
    count = f"{low}" if low == high else f"{low} to {high}"
    return (
        f"With {count} fine-tunes an arm this is a first answer: another fine-tune may differ by more than these show."
    )


def _called(verdict: Verdict) -> str:
    return " ".join(filter(None, [verdict.arm, verdict.condition]))


def _lowered(text: str) -> str:
    return text[0].lower() + text[1:]
