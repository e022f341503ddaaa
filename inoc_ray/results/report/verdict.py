"""The verdict on each inoculated arm in plain words: whether it works, by how much, how sure, at what price, where it leaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from inoc_ray.results.effects import TRAINING_PROMPT, TRIGGER, WITH_TRIGGER, is_directed
from inoc_ray.results.leaks import base_context
from inoc_ray.results.marks import SHOWN, mark
from inoc_ray.results.wording import MINUS, number, p_text, shortfall, with_interval

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.effects import Effect
    from inoc_ray.results.report.meta import JudgeLine
    from inoc_ray.results.rows import Row

MOSTLY = 0.8
"""From this suppression on, an arm "works"; a smaller one that is shown "works in part". A wanted trait is "kept" if the whole
interval of its retention lies above it: the usual bound of equivalence, four fifths."""
QUARTER = 0.25
"""Below this suppression an arm "hardly works" although something is shown: the paper's claims call less than that nothing."""
HALF = 0.5
"""An irrelevant prompt that surely does less than this share of a suppression leaves the prompt's content as its reason."""
INTERVALS = (
    "Brackets are 95 % intervals, each for itself (not adjusted). “Holm p” is a p-value adjusted for the other arms: in “How "
    "sure?” against no suppression at all (0), in “At what price?” against nothing lost (1). The claims test thresholds of their "
    "own."
)
SCALE = (
    f"“Works”: by the estimate at least {100 * MOSTLY:.0f} % of what training added is gone, and Holm p is below .05; the interval "
    f"shows how much less it may be. “In part”: less is gone, with p below .05; “hardly”: less than {100 * QUARTER:.0f} %. Of a "
    f"wanted trait, “kept”: the whole interval lies above {100 * MOSTLY:.0f} % of the baseline's rate (“slightly lower” if it is "
    "below the baseline's with p below .05); “partly lost”: it is below the baseline's rate with p below .05, and not kept by that "
    "rule; “not settled”: neither (“lower by its interval”: the interval lies below 1, and the adjusted p does not show it). “At a "
    "price”: partly lost, out of distribution or in it; “at no price”: kept in both, as far as both are measured; otherwise the "
    "price is not settled. An irrelevant prompt is “not shown” to do it if the interval of its share contains 0 and ends below "
    f"{100 * HALF:.0f} %."
)
State = Literal[
    "works", "open", "price", "part", "part_open", "part_price", "hardly", "no", "worse", "nothing", "unknown"
]
WORDS: Mapping[State, str] = {
    "works": "Works",
    "open": "Works, price not settled",
    "price": "Works, at a price",
    "part": "Works in part",
    "part_open": "Works in part, price not settled",
    "part_price": "Works in part, at a price",
    "hardly": "Hardly works",
    "no": "Not shown to work",
    "worse": "Makes it worse",
    "nothing": "Nothing to prevent",
    "unknown": "Cannot tell",
}
"""State → its words, the best first."""
_PRICED: Mapping[tuple[bool, str], State] = {
    (True, "none"): "works",
    (True, "open"): "open",
    (True, "paid"): "price",
    (False, "none"): "part",
    (False, "open"): "part_open",
    (False, "paid"): "part_price",
}
"""Whether most is gone, and what that costs → the state."""
NOTHING_TO_LOSE = "no wanted trait to lose"
NOT_TESTED = "not tested"
RETURNS = "returns: "
COHERENCE = "coherence"
"""The rubric that decides whether a response counts, where a study judges that."""
_PARTLY_LOST = "partly lost"
_KEPT = "kept"
_NOT_SETTLED = "not settled"
_PER_CENT = "\u00a0%"
_LITTLE_KEPT_OUT = "little was kept out, so little can return"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answers on one arm; all are plain text. Those that end in `_exactly` are the ratios behind the answer before them."""

    setting: str
    model: str
    arm: str
    kind: str
    prompt: str
    trait: str
    condition: str
    """`with the trigger`, or empty."""
    seeds: int
    """Fine-tunes an arm that the verdict rests on."""
    state: State
    """A key of the page's styles."""
    does_it_work: str
    by_how_much: str
    """E.g. "spanish 97 % → 10 % (untouched base: 5 %)": from the baseline to the arm."""
    by_how_much_exactly: str
    how_sure: str
    at_what_price: str
    at_what_price_exactly: str
    price_in_short: str
    """The price in a line with its numbers, for a headline that has said whether it is settled."""
    would_any_prompt_do: str
    where_it_leaks: str

    @property
    def is_control(self) -> bool:
        """Whether the prompt denies its trait: a control, and no inoculation."""
        return self.kind == "negative"

    @property
    def has_nothing_to_lose(self) -> bool:
        """Whether the arm inoculates against all that its setting teaches."""
        return self.at_what_price == NOTHING_TO_LOSE


def verdicts(comparison: Comparison, prompts: Mapping[tuple[str, str], str | None]) -> list[Verdict]:
    """Return the verdict on every inoculated arm, with and without the trigger where a setting has one.

    In the study's order, in which the claims on it name its arms; without claims, what works comes first.
    prompts: (setting, arm) → its prompt in the training rows, as the page shows it.
    """
    found = [
        list(
            verdicts_on(
                comparison, *group, prompt_of={arm: text for (of, arm), text in prompts.items() if of == group[0]}
            )
        )
        for group in comparison.groups()
    ]
    if not comparison.claims:
        order = list(WORDS)
        found = [sorted(of_group, key=lambda v: (v.is_control, order.index(v.state))) for of_group in found]
    return [one for of_group in found for one in of_group]


def verdicts_on(
    comparison: Comparison,
    setting: str,
    model: str,
    arm: str | None = None,
    prompt_of: Mapping[str, str | None] | None = None,
) -> Iterator[Verdict]:
    """Yield the verdicts on one arm, or on all of a setting × model, without and with the trigger.

    prompt_of: arm → its prompt in the training rows, as the page shows it.
    """
    rows = [r for r in comparison.rows if (r.setting, r.model) == (setting, model)]
    effects = {(e.arm, e.measure): e for e in comparison.effects if (e.setting, e.model) == (setting, model)}
    conditions = [""]
    if any(measure.endswith(WITH_TRIGGER) for _, measure in effects):
        conditions.append(f".{WITH_TRIGGER}")
    for name in dict.fromkeys(r.arm for r in rows if is_directed(r.kind) and arm in (None, r.arm)):
        for end in conditions:
            yield _Arm(comparison, setting, model, name, rows, effects, end).verdict((prompt_of or {}).get(name))


class _Arm:
    """One arm under one condition, with the numbers that its verdict rests on."""

    def __init__(
        self,
        comparison: Comparison,
        setting: str,
        model: str,
        arm: str,
        rows: Sequence[Row],
        effects: Mapping[tuple[str, str], Effect],
        end: str,
    ) -> None:
        self.comparison, self.setting, self.model, self.arm, self.end = comparison, setting, model, arm, end
        self.effects = effects
        self.all_rows = rows
        self.own = [r for r in rows if r.arm == arm]
        here = [r for r in rows if r.context == comparison.reference]
        self.rows = [r for r in here if not r.triggered]
        if end:
            self.rows = [r for r in here if r.triggered] or [r for r in rows if r.context == TRIGGER]
        self.undesired = self._traits("undesired")

    def _traits(self, role: str) -> list[str]:
        return sorted({r.trait for r in self.own if r.role == role})

    def effect(self, measure: str) -> Effect | None:
        return self.effects.get((self.arm, measure + self.end))

    def rate(self, name: str, traits: Sequence[str], split: str = "ood") -> float | None:
        """Return the mean rate of the arm of that name, or of the base or the baselines (by kind)."""
        by_kind = name in ("base", "baseline")
        of = [r for r in self.rows if (r.kind if by_kind else r.arm) == name and r.split == split and r.trait in traits]
        rates = [r.rate for r in of if r.rate is not None]
        return sum(rates) / len(rates) if rates else None

    def verdict(self, prompt: str | None) -> Verdict:
        """Return the answers."""
        state, why = self._state()
        found = self.effect("suppression")
        price, price_exactly, price_in_short = self._price()
        return Verdict(
            setting=self.setting,
            model=self.model,
            arm=self.arm,
            kind=self.own[0].kind,
            prompt=prompt or "",
            trait=" and ".join(self.undesired),
            condition="with the trigger" if self.end else "",
            seeds=min(r.seeds for r in self.own),
            state=state,
            does_it_work=WORDS[state] + (f": {why}" if why else ""),
            by_how_much=self._amount(),
            by_how_much_exactly=""
            if found is None or found.value is None
            else f"{number(found.value)} of what training added is gone",
            how_sure=self._certainty(),
            at_what_price=price,
            at_what_price_exactly=price_exactly,
            price_in_short=price_in_short,
            would_any_prompt_do=self._any_prompt(state),
            where_it_leaks=self._leaks(state),
        )

    def _state(self) -> tuple[State, str]:
        """Return the state, and what a reader must know of it at once."""
        found = self.effect("suppression")
        lacking = [r for r in self.own if not r.complete]
        if lacking:
            return "unknown", f"the arm is incomplete ({shortfall(min(lacking, key=_share_there))})"
        if found is None or found.value is None:
            why = found.why if found is not None else "not measured"
            return ("nothing", why) if "did not rise" in why else ("unknown", why)
        if not found.complete:
            return "unknown", "what it is compared with is incomplete"
        if not found.replicated:
            return "unknown", "one fine-tune an arm; another seed may come out differently"
        shown = mark(found)
        if shown != SHOWN:
            return ("worse" if shown else "no"), ""
        if found.value < QUARTER:
            return "hardly", ""
        return _PRICED[found.value >= MOSTLY, self._cost()], ""

    def _cost(self) -> Literal["none", "open", "paid"]:
        """Return whether a wanted trait is shown to be kept, shown to be partly lost, or neither.

        Where no trait is wanted, what an arm costs is the narrow task, as in the answer on the price.
        """
        wanted = self._traits("desired")
        if not wanted and not self._traits("narrow"):
            return "none"
        first, *others = ("retention_ood", "retention_id") if wanted else ("retention_narrow",)
        found = [self.effect(first), *(e for e in map(self.effect, others) if e is not None and e.value is not None)]
        words = [_kept(e) if e is not None and e.value is not None else "" for e in found]
        if _PARTLY_LOST in words:
            return "paid"
        return "none" if all(word.startswith(_KEPT) for word in words) else "open"

    def _amount(self) -> str:
        """Return each trait's rates, e.g. "caps 97 % → 7 % (untouched base: 6 %)"; several, with commas."""
        if self.rate(self.arm, self.undesired) is None:
            return "not measured out of distribution"
        base = {trait: self._level(self.rate("base", [trait])) for trait in self.undesired}
        changes = (f"{self._change(trait, 'ood')} (untouched base:\u00a0{base[trait]})" for trait in self.undesired)
        return ("" if self.comparison.outcome == "shown" else "mean score of ") + ", ".join(changes)

    def _change(self, trait: str, split: str) -> str:
        """Return a trait with its rate in the baseline and in the arm, e.g. "caps 97 % → 45 %"; of scores, the mean ones."""
        before, after = self.rate("baseline", [trait], split), self.rate(self.arm, [trait], split)
        return f"{trait} {self._from_to(before, after)}"

    def _from_to(self, before: float | None, after: float | None) -> str:
        """Return two levels that stay on one line."""
        return f"{self._level(before)}\u00a0→\u00a0{self._level(after)}"

    def _level(self, rate: float | None) -> str:
        """Return a share of the answers in per cent, or a mean score as it is."""
        return _percent(rate) if self.comparison.outcome == "shown" else number(rate)

    def _certainty(self) -> str:
        found = self.effect("suppression")
        if found is None or found.value is None:
            return "no number"
        interval = f"interval [{number(found.low)}, {number(found.high)}]"
        if not found.complete:
            return f"{interval}; incomplete"
        seeds = f"{found.seeds} fine-tune{'s' if found.seeds != 1 else ''} an arm"
        p = f"Holm p {p_text(found.p)} against 0" if found.p is not None else "no p-value"
        return f"{interval}; {p}; {seeds}"

    def _price(self) -> tuple[str, str, str]:
        """Return what happens to the wanted traits, the ratios, and both in a line.

        Out of distribution, and in it unless all is kept there. Of the narrow task where no trait is wanted.
        """
        wanted = self._traits("desired")
        traits = wanted or self._traits("narrow")
        if not traits:
            return NOTHING_TO_LOSE, "", NOTHING_TO_LOSE
        first = self.effect("retention_ood" if wanted else "retention_narrow")
        at_home = self.effect("retention_id") if wanted else None
        if at_home is not None and (at_home.value is None or (_kept(at_home) == _KEPT and not _is_lower(at_home))):
            at_home = None
        if first is None or first.value is None:
            with_trigger = " with the trigger" * bool(self.end)
            text = f"{' and '.join(traits)}: {f'not measured{with_trigger}' if first is None else first.why}"
            exactly, in_short, said = "", text, ""
        else:
            changes = ", ".join(self._change(trait, "ood" if wanted else "id") for trait in traits)
            text, exactly = f"{_kept(first)}: {changes}", _share(first, of=" of the baseline's rate")
            in_short, said = f"{changes}, {exactly}", _kept(first)
        if at_home is None:
            return text, exactly, in_short
        pairs = ((self.rate("baseline", [trait], "id"), self.rate(self.arm, [trait], "id")) for trait in traits)
        how = "" if _kept(at_home) == said else f"{_kept(at_home)}: "
        changes = ", ".join(self._from_to(*pair) for pair in pairs)
        return (
            f"{text} (in distribution {how}{changes})",
            "; ".join(filter(None, [exactly, f"in distribution {_share(at_home)}"])),
            f"{in_short}; in distribution {changes}, {_share(at_home)}",
        )

    def _any_prompt(self, state: State) -> str:
        """Return whether an irrelevant prompt does the same."""
        if not any(r.kind == "irrelevant" for r in self.all_rows):
            return "not known: the study has no irrelevant arm"
        if state in ("no", "worse"):
            return "no question: this one is not shown to do it"
        found = self.effect("conditionalisation")
        if found is None or found.value is None or found.low is None or found.high is None:
            return f"not known: {found.why}" if found is not None and found.why else "not measured"
        does = f"an irrelevant one does {_percents(found.value, found.low, found.high)} of it"
        if not found.complete or not found.replicated:
            why = "one fine-tune an arm" if found.complete else "incomplete"
            return f"not settled ({why}): {does}"
        if found.high < HALF:
            return f"{'not shown' if found.low <= 0 else 'less than half'}: {does}"
        return f"largely: {does}" if found.low > HALF else f"not settled: {does}"

    def _leaks(self, state: State) -> str:
        """Return under which prompt the trait returns most: of a leak audit, else the arm's own prompt."""
        little = state in ("no", "hardly", "worse")
        audited = [
            k
            for k in self.comparison.leaks
            if (k.setting, k.model, k.arm, k.trigger) == (self.setting, self.model, self.arm, bool(self.end))
        ]
        if audited:
            worst = max(audited, key=lambda k: k.leak)
            prompt = "its own prompt" if worst.prompt is None else f"“{worst.prompt}”"
            so_far = "" if worst.audit_complete else ", so far"
            rates = f"{self._from_to(worst.neutral, worst.rate)}; {self._base_under(worst.base)}"
            text = f"most under {prompt}: {rates} (of {len(audited)} prompts{so_far})"
            return f"{_LITTLE_KEPT_OUT}; {text}" if little else text if worst.low > 0 else f"no leak shown; {text}"
        found = self.effect("leakage")
        if found is None or found.value is None or found.low is None:
            return NOT_TESTED
        if little and found.low <= 0:
            return _LITTLE_KEPT_OUT
        several = len(self.undesired) > 1
        back = [
            f"{trait} " * several
            + f"{self._from_to(self.rate(self.arm, [trait]), self._prompted(trait))} "
            + f"({self._base_under(self._prompted(trait, of_base=True))})"
            for trait in self.undesired
        ]
        start = RETURNS if found.low > 0 else "not shown to return: "
        if little:
            start = "little was kept out, and under its own prompt there is more: "
        return f"{start}{', '.join(back)}{'' if found.complete else '; incomplete'}"

    def _base_under(self, rate: float | None) -> str:
        """Return what the base shows under the same prompt, which the arm's rate there must be held against."""
        if rate is None:
            return "the untouched base was not asked under this prompt"
        return f"untouched base under the same prompt:\u00a0{self._level(rate)}"

    def _prompted(self, trait: str, *, of_base: bool = False) -> float | None:
        """Return the rate of the arm, or of the base, under the arm's own prompt."""
        context = base_context(self.arm, TRAINING_PROMPT) if of_base else TRAINING_PROMPT
        of = [r for r in self.all_rows if r.kind == "base"] if of_base else self.own
        under = [r for r in of if (r.context, r.split, r.trait) == (context, "ood", trait)]
        rates = [r.rate for r in under if r.rate is not None and r.triggered == bool(self.end)]
        return sum(rates) / len(rates) if rates else None


_SAME_PROMPT = (
    "Where the untouched base shows as much under the same prompt, the model does no more than when told to before."
)


def about_leaks(comparison: Comparison) -> str:
    """Return what the answers to "Where does it leak?" are about, for all rows at once."""
    if comparison.leaks:
        return f"the prompt of the leak audit under which the trait returns most. {_SAME_PROMPT}"
    if any(e.measure.startswith("leakage") and e.value is not None for e in comparison.effects):
        there = f"the rate in the {comparison.reference} context → under the arm's own training prompt"
        return f"{there}; no other prompt was tried. {_SAME_PROMPT}"
    return "not tested, since the study has neither the context “training_prompt” nor a leak audit."


def about_gone(found: Sequence[Verdict], judges: Sequence[JudgeLine]) -> str:
    """Return what "gone" means of a response, by who judged; empty without verdicts.

    found: the verdicts of the page. judges: who scores what, with the rubrics that decide which responses count.
    """
    unwanted = {(v.setting, trait) for v in found for trait in v.trait.split(" and ")}
    of_them = [one for one in judges if (one.setting, one.trait) in unwanted]
    if not found:
        return ""
    start = "“Gone” means that the judge does not find the trait in a response"
    if of_them and all(COHERENCE in one.how for one in of_them):
        return f"{start}. Responses judged incoherent are left out; one in yet another language may count as gone."
    return (
        f"{start}, not that the response is a plain answer: the study does not judge the coherence of these responses, so one that "
        "is garbled or in yet another language counts as gone. Read some before you rely on the number."
    )


def _kept(effect: Effect) -> str:
    """Return one of five words for a retention; no two hold at once."""
    if not effect.complete:
        return "incomplete"
    lower = mark(effect) == "lost"
    if effect.low is not None and effect.low > MOSTLY:
        return f"{_KEPT}, slightly lower" if lower else _KEPT
    if lower:
        return _PARTLY_LOST
    return f"{_NOT_SETTLED}, lower by its interval" if _is_lower(effect) else _NOT_SETTLED


def _is_lower(effect: Effect) -> bool:
    """Return whether the interval of a retention, which is not adjusted, lies below the baseline's."""
    return effect.high is not None and effect.high < 1


def _share(effect: Effect, of: str = "") -> str:
    p = f", Holm p {p_text(effect.p)} against 1" if effect.p is not None else ""
    return f"{with_interval(effect.value, effect.low, effect.high)}{of}{p}"


def _percents(value: float, low: float, high: float) -> str:
    """Return e.g. "0 % [−7, 5]"."""
    shown = [_percent(x).removesuffix(_PER_CENT) for x in (value, low, high)]
    return f"{shown[0]}{_PER_CENT} [{shown[1]}, {shown[2]}]"


def _share_there(row: Row) -> tuple[float, float]:
    return row.seeds / max(1, row.seeds_planned), row.samples / max(1, row.samples_planned)


def _percent(rate: float | None) -> str:
    # Rounded as in the tables: .975 must not be .97 there and 98 % here.
    return "–" if rate is None else f"{round(100 * float(f'{rate:.2f}'))}{_PER_CENT}".replace("-", MINUS)
