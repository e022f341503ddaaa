"""The figures of the paper (Tan et al., arXiv 2510.04340), each drawn from whatever a study has of it.

A figure is a selection of the study's numbers as points and a way of drawing them. What a study lacks of one is named: on the
figure where trials are missing, in the answer of the command where the study does not ask for what the figure is about.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from inoc_ray.results.effects import TRIGGER, is_directed
from inoc_ray.results.figures.arm_panels import draw_arms
from inoc_ray.results.figures.curves import draw_curves
from inoc_ray.results.figures.dose import DOSES, Dose, dose_of
from inoc_ray.results.figures.heat import draw_heat
from inoc_ray.results.figures.over_steps import points_of_courses, points_of_dynamics
from inoc_ray.results.figures.points import INCOMPLETE, SPLITS, Point, place_of, rate_points
from inoc_ray.results.figures.scatter import draw_scatter
from inoc_ray.study.evaluation import PROMPT_OF

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.rows import Row

MISALIGNED = "misaligned"
_SEMANTIC = ("base", "baseline", "general", "specific", "placebo", "negative", "trigger", "irrelevant", "paraphrases")
_CONTROLS = ("base", "control", "baseline", "general", "placebo", "irrelevant")


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperData:
    """What the figures are drawn from."""

    comparison: Comparison
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """model as the tables call it → the recipe of its fine-tunes, flat (`lora.rank`)."""

    def rows(self, context: str | None = None) -> list[Row]:
        """Return the rates in a context, by default the reference."""
        where = self.comparison.reference if context is None else context
        return [row for row in self.comparison.rows if row.context == where]

    @property
    def with_trigger(self) -> set[str]:
        """The settings that have a trigger, which have a figure of their own."""
        return {r.setting for r in self.comparison.rows if r.triggered or r.context == TRIGGER}


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperFigure:
    """One figure of the paper."""

    name: str
    """Of its files."""
    title: str
    needs: str
    """What a study needs for it, in words."""
    points: Callable[[PaperData], list[Point]]
    """What it shows; empty if the study does not ask for it."""
    draw: Callable[[Figure, Sequence[Point]], None]
    kinds: tuple[str, ...] = ()
    """Kinds of arms that the paper's figure has; those that the study lacks are named."""

    def absent(self, points: Sequence[Point]) -> list[str]:
        """Return the kinds of arms that the paper's figure has and the study does not."""
        there = {point.kind for point in points}
        return [kind for kind in self.kinds if kind not in there]


def _place(row: Row) -> str:
    return f"{row.setting}, {row.model}"


def _where(row: Row) -> str:
    return f"{_place(row)}: {SPLITS[row.split]}"


def _against(rows: Iterable[Row], roles: Collection[str] = ("undesired",)) -> list[Row]:
    """Return the rates of the traits that an arm is about; of an arm about none, of those that arms of its setting are about.

    A baseline has a trait of its own only where all arms of the setting inoculate against the same.
    """
    found = list(rows)
    own = {(r.setting, r.arm) for r in found if r.role in roles}
    every = {(r.setting, r.trait) for r in found if r.role in roles}
    return [r for r in found if r.role in roles or ((r.setting, r.arm) not in own and (r.setting, r.trait) in every)]


def _apart(points: Iterable[Point]) -> list[Point]:
    """Return points of which no two evaluations have the same place: those would hide each other, and have panels of their own."""
    found = list(points)
    evaluations: dict[tuple[object, ...], set[str]] = {}
    for p in found:
        evaluations.setdefault((p.panel, p.series, p.arm, p.model, p.context, p.seed), set()).add(p.evaluation)
    several = {place[0] for place, names in evaluations.items() if len(names) > 1}
    return [replace(p, panel=f"{p.panel} ({p.evaluation})") if p.panel in several else p for p in found]


def _two_traits(data: PaperData) -> list[Point]:
    """Return two traits of every evaluation that tells two, those that arms inoculate against first, without misalignment."""
    traits: dict[tuple[str, str], list[str]] = {}
    rows = [row for row in data.rows() if row.trait != MISALIGNED and not row.triggered]
    for row in rows:
        own = traits.setdefault((row.setting, row.evaluation), [])
        if row.trait not in own:
            own.append(row.trait)
    against = {(row.setting, row.trait) for row in rows if row.role == "undesired" and is_directed(row.kind)}
    # The same trait across in every panel of a setting, whatever the order of the rows.
    ranked = {(of, name): sorted(((of, t) not in against, t) for t in own) for (of, name), own in traits.items()}
    shown = {place: [trait for _, trait in own[:2]] for place, own in ranked.items() if len(own) > 1}
    chosen = [row for row in rows if row.trait in shown.get((row.setting, row.evaluation), ())]
    chosen.sort(key=lambda row: (row.setting, row.model, row.split, row.evaluation, row.trait))
    return list(
        rate_points(
            data.comparison,
            chosen,
            lambda row: f"{_place(row)}: {place_of(row.split, row.evaluation)}",
            lambda row: row.arm,
        )
    )


def _misalignment(data: PaperData) -> list[Point]:
    rows = [r for r in data.rows() if r.trait == MISALIGNED and r.split == "ood" and r.setting not in data.with_trigger]
    return _apart(rate_points(data.comparison, (r for r in rows if r.kind in _CONTROLS), _place))


def _backdoor(data: PaperData) -> list[Point]:
    """Return the undesired traits with and without the trigger, in settings that have one."""
    undesired = _against(data.comparison.rows)
    reference = data.comparison.reference
    asked = any(r.triggered for r in undesired)
    rows = [
        r
        for r in undesired
        if r.setting in data.with_trigger and (r.context == reference or (not asked and r.context == TRIGGER))
    ]

    def series(row: Row) -> str:
        return "with the trigger" if row.triggered or row.context == TRIGGER else "without the trigger"

    return _apart(rate_points(data.comparison, rows, _where, series))


def _semantics(data: PaperData) -> list[Point]:
    """Return arms whose prompts differ in what they say, where a setting has two kinds of such prompts and more."""
    rows = [r for r in data.rows() if r.kind in _SEMANTIC and r.setting not in data.with_trigger]
    rows = _against(rows, ("undesired", "narrow"))
    kinds: dict[str, set[str]] = {}
    for row in rows:
        kinds.setdefault(row.setting, set()).add(row.kind)
    rows = [r for r in rows if len(kinds[r.setting] - {"base", "baseline"}) > 1]
    return _apart(rate_points(data.comparison, rows, _where))


def _facts(data: PaperData) -> list[Point]:
    rows = [r for r in data.rows() if r.setting.rpartition("/")[2] == "synthetic_facts"]
    return _apart(rate_points(data.comparison, rows, _where))


def _elicitation(data: PaperData) -> list[Point]:
    """Return what the untouched base does under the prompt of each arm, and under the reference context."""
    under = [r for r in data.comparison.rows if r.kind == "base" and r.context.startswith(PROMPT_OF)]
    asked = {(r.setting, r.model, r.evaluation, r.trait) for r in under}
    neutral = [r for r in data.rows() if r.kind == "base" and (r.setting, r.model, r.evaluation, r.trait) in asked]
    points = _apart(rate_points(data.comparison, [*neutral, *under], _where))
    reference = f"({data.comparison.reference})"
    return [
        replace(p, arm=p.context.removeprefix(PROMPT_OF) if p.context.startswith(PROMPT_OF) else reference)
        for p in points
        if p.seed is None
    ]


def _dose(data: PaperData) -> list[Point]:
    """Return the undesired rate and the suppression over the number in which a setting's recipes differ."""
    dose = dose_of(data.recipes)
    if dose is None:
        return []
    points = [*_apart(_dose_rates(data, dose)), *_dose_effects(data, dose)]
    return [p for p in points if p.kind == "baseline" or is_directed(p.kind)]


def _curve(dose: Dose, arm: str, model: str) -> str:
    return f"{arm} ({dose.curve[model]})" if dose.curve[model] else arm


def _dose_rates(data: PaperData, dose: Dose) -> Iterator[Point]:
    rows = [r for r in _against(data.rows()) if r.split == "ood" and r.kind != "base" and r.model in dose.at]

    def panel(row: Row) -> str:
        return f"{row.setting}: {row.trait}"

    for point in rate_points(data.comparison, rows, panel, lambda row: _curve(dose, row.arm, row.model)):
        yield replace(point, x_name=dose.name, x=dose.at[point.model])


def _dose_effects(data: PaperData, dose: Dose) -> Iterator[Point]:
    for effect in data.comparison.effects:
        if effect.measure == "suppression" and effect.model in dose.at:
            yield Point(
                panel=f"{effect.setting}: suppression",
                series=_curve(dose, effect.arm, effect.model),
                setting=effect.setting,
                model=effect.model,
                arm=effect.arm,
                kind=effect.kind,
                seed=None,
                measure="suppression",
                unit="suppression (1: down to the base's rate)",
                value=effect.value,
                low=effect.low,
                high=effect.high,
                lacks="" if effect.complete else INCOMPLETE,
                x_name=dose.name,
                x=dose.at[effect.model],
            )


PAPER = (
    PaperFigure(
        name="figure_2",
        title="Two traits against each other (figures 2a, 2b)",
        needs="a setting with an evaluation that tells two traits, such as spanish_caps or mixed_languages",
        points=_two_traits,
        draw=draw_scatter,
    ),
    PaperFigure(
        name="figure_3",
        title="Emergent misalignment with its controls (figure 3)",
        needs="a setting whose undesired trait is `misaligned`, such as insecure_code, reward_hacking, obscure_preferences",
        points=_misalignment,
        draw=draw_arms,
        kinds=("base", "control", "baseline", "general"),
    ),
    PaperFigure(
        name="figure_4",
        title="Backdoor with and without the trigger (figure 4)",
        needs="a setting with a trigger, such as backdoor",
        points=_backdoor,
        draw=draw_arms,
        # The paper's role Trigger names the token in a sentence, which is of the kind backdoor_aware.
        kinds=("base", "baseline", "backdoor_aware", "general"),
    ),
    PaperFigure(
        name="figure_5",
        title="What the prompt says (figure 5)",
        needs="arms of two kinds of general, specific, placebo, negative, trigger, irrelevant, paraphrases",
        points=_semantics,
        draw=draw_arms,
        kinds=("baseline", "general", "specific", "placebo", "negative", "trigger"),
    ),
    PaperFigure(
        name="figure_6",
        title="Learning dynamics (figure 6)",
        needs="`dynamics` in the study when its fine-tunes are trained",
        points=lambda data: points_of_dynamics(data.comparison.followed),
        draw=draw_curves,
    ),
    PaperFigure(
        name="courses",
        title="Rates over the steps (figure 6, by sampled responses)",
        needs="`dynamics.samples` and weights that fine-tunes keep on the way (`resources.checkpoints`)",
        points=lambda data: points_of_courses(data.comparison),
        draw=draw_curves,
    ),
    PaperFigure(
        name="figure_7",
        title="Synthetic facts (figure 7, by rates)",
        needs="the setting synthetic_facts, with a model that has the prior stage and one that has not",
        points=_facts,
        draw=draw_arms,
        kinds=("baseline", "persona"),
    ),
    PaperFigure(
        name="elicitation",
        title="What each prompt elicits from the untouched base",
        needs="the context training_prompt",
        points=_elicitation,
        draw=draw_heat,
    ),
    PaperFigure(
        name="dose",
        title="Dose and suppression",
        needs=f"recipes that differ in one of {', '.join(DOSES)}",
        points=_dose,
        draw=draw_curves,
    ),
)
