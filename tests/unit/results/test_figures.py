"""Every figure shows what its table says: seeds, intervals, units, what is missing; and people who see few colours can read it."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from paper_table import RECIPES, SEEDS, paper_table, planned_for
from results_table import ARMS, score_table

from inoc_ray.results.compare import compare
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.courses import StepRates
from inoc_ray.results.dynamics import Followed, Look
from inoc_ray.results.figures.dose import dose_of
from inoc_ray.results.figures.drawing import ALL, COLOURS, rendered
from inoc_ray.results.figures.marks import looks
from inoc_ray.results.figures.paper import PAPER, PaperData, PaperFigure
from inoc_ray.results.figures.points import Point, csv_of, missing_of, place_of

LOOKS = tuple(
    Look(
        setting="spanish_caps",
        model="m",
        arm=arm,
        kind="specific",
        seed=seed,
        probe=trait,
        trait=trait,
        context="neutral",
        step=step,
        response=0,
        logprob=-20.0 + 0.1 * step * (trait == "caps") - seed,
        tokens=5,
    )
    for arm in ("baseline", "specific_spanish")
    for trait in ("spanish", "caps")
    for seed in (0, 1)
    for step in (0, 1, 2, 4, 8, 16)
)


def followed(comparison: Comparison) -> Comparison:
    """The comparison with looks at its fine-tunes, and with rates before the first step and after the last one."""
    first, last = (
        StepRates(
            step=step,
            rows=tuple(
                r for r in comparison.rows if (r.kind == "base") == (step == 0) and r.context == comparison.reference
            ),
            trial_rates=comparison.trial_rates,
        )
        for step in (0, 16)
    )
    return replace(comparison, followed=Followed(looks=LOOKS), courses=(first, last))


@pytest.fixture(scope="module")
def data() -> PaperData:
    return PaperData(comparison=followed(compare(paper_table(), "paper")), recipes=RECIPES)


def of(name: str) -> PaperFigure:
    return next(figure for figure in PAPER if figure.name == name)


@pytest.fixture(scope="module")
def svgs(data: PaperData) -> dict[str, str]:
    """Every figure, drawn once."""
    return {figure.name: svg_of(figure, figure.points(data)) for figure in PAPER}


def svg_of(figure: PaperFigure, points: list[Point]) -> str:
    return rendered(lambda drawing: figure.draw(drawing, points), ("svg",)).svg


def words_of(svg: str) -> str:
    """Matplotlib keeps the text of what it draws as letters in comments."""
    return " ".join(" ".join(re.findall(r"<!-- (.*?) -->", svg, re.DOTALL)).split())


def test_a_figure_has_three_formats_and_is_the_same_for_the_same_numbers(data: PaperData) -> None:
    figure = of("figure_4")
    points = figure.points(data)
    first, second = (rendered(lambda drawing: figure.draw(drawing, points), ALL) for _ in range(2))
    assert first == second
    assert first.svg.startswith("<?xml")
    assert first.png.startswith(b"\x89PNG")
    assert first.pdf.startswith(b"%PDF")


@pytest.mark.parametrize("figure", PAPER, ids=lambda figure: figure.name)
def test_a_figure_names_every_arm_or_trait_its_unit_and_its_panels(
    data: PaperData, svgs: dict[str, str], figure: PaperFigure
) -> None:
    points, words = figure.points(data), words_of(svgs[figure.name])
    for name in {p.series for p in points} | {p.unit for p in points} | {p.panel for p in points}:
        assert name in words, name
    assert "95 % intervals" in words


@pytest.mark.parametrize("figure", PAPER, ids=lambda figure: figure.name)
def test_the_table_beside_a_figure_has_every_mean_with_its_interval_and_every_fine_tune(
    data: PaperData, figure: PaperFigure
) -> None:
    points = figure.points(data)
    lines = list(csv.DictReader(io.StringIO(csv_of(points))))
    assert len(lines) == len(points) > 0
    assert all(line["unit"] and line["measure"] for line in lines)
    rows = {
        (r.setting, r.model, r.arm, r.evaluation, r.context, r.trait): (r.rate, r.low, r.high)
        for r in data.comparison.rows
    }
    means = [p for p in points if p.seed is None and p.measure == "rate"]
    # What an untouched base says stands at every prompt, and before the first step of every arm.
    means = [replace(p, arm="base") if figure.name == "elicitation" or p.x == 0.0 else p for p in means]
    for p in means:
        assert (p.value, p.low, p.high) == rows[p.setting, p.model, p.arm, p.evaluation, p.context, p.trait]
        assert p.value is not None
    for (series, panel, arm), own in itertools.groupby(
        sorted((p for p in points if p.measure == "rate"), key=lambda p: (p.series, p.panel, p.arm, p.model)),
        key=lambda p: (p.series, p.panel, p.arm),
    ):
        seeds = {p.seed for p in own if p.kind != "base"}
        assert seeds in (set(), {None, *range(SEEDS)}), (series, panel, arm)


@pytest.fixture(scope="module")
def lacking() -> PaperData:
    """The same study without the second fine-tune of every baseline."""
    table = paper_table()
    lost = table[(table["arm"] == "baseline") & (table["seed"] == 1)]
    found = compare(table.drop(lost.index), "paper", planned=planned_for(table, lost))
    return PaperData(comparison=found, recipes=RECIPES)


@pytest.mark.parametrize("name", ["figure_2", "figure_3", "figure_4", "figure_5", "figure_7", "dose"])
def test_a_fine_tune_that_is_missing_is_named_on_the_figure_and_in_its_table(lacking: PaperData, name: str) -> None:
    figure = of(name)
    points = figure.points(lacking)
    missing = missing_of(points)
    assert missing
    assert all(("baseline" in one and "2 of 3 seeds" in one) or "incomplete" in one for one in missing)
    if name in ("figure_4", "dose"):
        assert f"pale: incomplete missing: {missing[0]}" in words_of(svg_of(figure, points))


def test_a_study_without_what_a_figure_is_about_has_none_of_it() -> None:
    table = paper_table()
    style = compare(table[table["setting"] == "spanish_caps"], "style")
    there = {figure.name for figure in PAPER if figure.points(PaperData(comparison=style))}
    assert there == {"figure_2"}


def test_an_arm_that_the_paper_has_and_the_study_has_not_is_named(data: PaperData) -> None:
    figure = of("figure_3")
    points = figure.points(data)
    assert figure.absent(points) == []
    assert figure.absent([p for p in points if p.kind != "control"]) == ["control"]


def drawn(figure: PaperFigure, points: list[Point]) -> Figure:
    found = Figure()
    figure.draw(found, points)
    return found


def test_panels_beside_each_other_have_the_same_scale_and_stand_in_full_rows(data: PaperData) -> None:
    courses = drawn(of("courses"), of("courses").points(data))
    assert len({axes.get_ylim() for axes in courses.axes if axes.get_visible()}) == 1
    four = drawn(of("figure_7"), of("figure_7").points(data))
    assert [axes.get_visible() for axes in four.axes] == [True] * 4


def test_doubling_the_steps_is_as_far_everywhere_on_a_logarithmic_axis_that_begins_at_0(data: PaperData) -> None:
    axes = drawn(of("figure_6"), of("figure_6").points(data)).axes[0]
    places = [axes.transData.transform((step, 0.0))[0] for step in (0, 1, 2, 4, 8, 16)]
    gaps = np.diff(places)
    assert np.allclose(gaps[1:], gaps[1])
    assert gaps[1] < gaps[0] < 2 * gaps[1]


def test_arms_about_no_trait_are_shown_beside_those_that_are_about_different_ones() -> None:
    """Where what is undesired depends on the arm, a baseline has none, and was said not to be in the study."""
    arms = {
        **ARMS,
        "denies": ("negative", *ARMS["inoc_spanish"][1:]),
        **{name: (name, "none", ARMS["irrelevant"][2]) for name in ("placebo", "trigger")},
    }
    table = score_table(arms=arms)
    directionless = table["kind"].isin(["base", "baseline", "irrelevant", "placebo", "trigger"])
    table.loc[directionless, "role"] = "other"
    figure = of("figure_5")
    points = figure.points(PaperData(comparison=compare(table, "toy")))
    assert figure.absent(points) == ["general"]
    shown = {(p.arm, p.trait) for p in points}
    assert {(arm, trait) for arm in ("base", "baseline", "placebo") for trait in ("spanish", "capitals")} <= shown
    assert {trait for arm, trait in shown if arm == "inoc_capitals"} == {"capitals"}


@pytest.mark.parametrize("name", ["figure_3", "figure_5", "elicitation", "dose"])
def test_two_evaluations_of_one_trait_do_not_hide_each_other(name: str) -> None:
    table = paper_table()
    more = table[table["evaluation"] == "em"].assign(evaluation="em_other")
    points = of(name).points(PaperData(comparison=compare(pd.concat([table, more]), "paper"), recipes=RECIPES))
    places = [(p.panel, p.series, p.arm, p.model, p.seed) for p in points]
    assert len(set(places)) == len(places)
    assert any("(em_other)" in p.panel for p in points)


def test_of_three_traits_those_that_arms_inoculate_against_are_shown() -> None:
    table = paper_table()
    table = table[table["setting"] == "spanish_caps"]
    third = table[table["trait"] == "caps"].assign(trait="art", role="desired")
    points = of("figure_2").points(PaperData(comparison=compare(pd.concat([table, third]), "style")))
    assert {p.trait for p in points} == {"spanish", "caps"}


def test_the_dose_is_the_number_in_which_recipes_differ(data: PaperData) -> None:
    points = of("dose").points(data)
    assert {p.x_name for p in points} == {"steps"}
    assert {p.x for p in points if p.setting == "code"} == {10.0, 160.0}
    same = {name: {**recipe, "steps": 40} for name, recipe in RECIPES.items()}
    assert of("dose").points(replace(data, recipes=same)) == []


RECIPE = {"steps": 10, "learning_rate": 1e-3, "lora.rank": 8, "warmup_steps": 0}


@pytest.mark.parametrize(
    ("recipes", "name", "curves"),
    [
        # Of another base model, or with another learning rate, the same steps are another curve.
        (
            {f"{model}/{name}": {"steps": n} for model in "mn" for name, n in (("a", 10), ("b", 40))},
            "steps",
            {"m": {10.0, 40.0}, "n": {10.0, 40.0}},
        ),
        (
            {
                f"m/{n}-{rate}": {"steps": n, "learning_rate": rate}
                for n, rate in itertools.product((10, 40), (1e-3, 1e-2))
            },
            "steps",
            {"learning_rate 0.001": {10.0, 40.0}, "learning_rate 0.01": {10.0, 40.0}},
        ),
        # One that differs in something else beside is on no curve.
        (
            {"m/a": {}, "m/b": {"learning_rate": 1e-2}, "m/c": {"steps": 40}},
            "steps",
            {"": {10.0, 40.0}},
        ),
        # Where more steps always come with a longer warm-up, the axis says so.
        (
            {"m/a": {"steps": 20, "warmup_steps": 2}, "m/b": {"steps": 40, "warmup_steps": 4}},
            "steps (with warmup_steps)",
            {"": {20.0, 40.0}},
        ),
        # Steps tell nothing where rank is all that differs at a given number of them.
        ({"m/a": {"lora.rank": 4}, "m/b": {"lora.rank": 16}}, "lora.rank", {"": {4.0, 16.0}}),
        ({"m/a": {}, "n/a": {"steps": 40}}, None, {}),
    ],
)
def test_a_curve_over_the_dose_has_fine_tunes_that_differ_in_nothing_else(
    recipes: dict[str, dict[str, float]], name: str | None, curves: dict[str, set[float]]
) -> None:
    found = dose_of({label: {**RECIPE, **recipe} for label, recipe in recipes.items()})
    if found is None:
        assert name is None
        return
    assert found.name == name
    at: dict[str, set[float]] = {}
    for label, dose in found.at.items():
        at.setdefault(found.curve[label], set()).add(dose)
    assert at == curves


# -- colours --------------------------------------------------------------------------------------------------------

# Machado, Oliveira, Fernandes (2009), "A physiologically-based model for simulation of color vision deficiency", severity 1.0:
# matrices on linear RGB.
DEFICIENCIES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "none": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
}
LEAST = 10.0
"""The least distance in CIELAB (ΔE 1976) at which two marks side by side are told apart at a glance; 2.3 is just noticeable."""


def lab(colour: str, deficiency: str) -> np.ndarray:
    """A colour as a person with that deficiency sees it, in CIELAB under D65."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(DEFICIENCIES[deficiency]) @ linear, 0, 1)
    xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    x, y, z = (xyz @ seen) / np.array([0.95047, 1.0, 1.08883])
    f = [value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116 for value in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def nearest(colours: list[str], deficiency: str) -> float:
    pairs = itertools.combinations(colours, 2)
    return min(float(np.linalg.norm(lab(a, deficiency) - lab(b, deficiency))) for a, b in pairs)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_colours_of_the_palette_are_told_apart_with_every_colour_vision(deficiency: str) -> None:
    assert nearest(list(COLOURS), deficiency) >= LEAST


def test_the_simulator_finds_a_palette_that_many_people_cannot_read() -> None:
    assert nearest(["#d62728", "#8c6d00"], "none") > 3 * LEAST
    assert nearest(["#d62728", "#8c6d00"], "deuteranopia") < LEAST


def series_colours(svg: str) -> Iterator[str]:
    for colour in set(re.findall(r"#[0-9a-f]{6}", svg.lower())):
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        if max(red, green, blue) - min(red, green, blue) > 12:
            yield colour


@pytest.mark.parametrize("figure", [f for f in PAPER if f.name != "elicitation"], ids=lambda figure: figure.name)
def test_a_figure_has_no_colour_but_those_of_the_palette(svgs: dict[str, str], figure: PaperFigure) -> None:
    assert set(series_colours(svgs[figure.name])) <= {colour.lower() for colour in COLOURS}


def test_series_differ_in_form_or_colour_and_the_first_ten_in_form_alone() -> None:
    found = looks(f"arm {i}" for i in range(40))
    assert len(set(found.values())) == 40
    assert len({form for _, form in itertools.islice(found.values(), 8)}) == 8


def test_the_points_of_a_study_are_a_table_that_pandas_reads(data: PaperData) -> None:
    points = of("figure_3").points(data)
    frame = pd.read_csv(io.StringIO(csv_of(points)))
    means = frame[frame["seed"].isna() & (frame["arm"] == "baseline")]
    assert means["value"].tolist() == [p.value for p in points if p.seed is None and p.arm == "baseline"]


def test_an_axis_of_steps_shows_steps_and_the_unit_never_leaves_the_figure(
    data: PaperData, svgs: dict[str, str]
) -> None:
    """Doses of 10 and 160 steps are 10 and 160, not powers of ten; a long unit is wrapped in a narrow figure."""
    words = words_of(svgs["dose"]).split()
    assert {"10", "160"} <= set(words)
    assert {"0", "1", "2", "4", "8", "16"} <= set(words_of(svgs["figure_6"]).split())
    assert "neutral context" in words_of(svgs["figure_2"])
    assert "untouched base" in words_of(svgs["elicitation"])
    feet = re.findall(r"<!-- (untouched base.*?) -->", svgs["elicitation"], re.DOTALL)
    assert feet
    assert max(map(len, feet[0].splitlines())) <= 13 * 4.8


@pytest.mark.parametrize(
    ("split", "evaluation", "title"),
    [
        ("id", "in_distribution", "in distribution"),
        ("ood", "out_of_distribution", "out of distribution"),
        ("ood", "ood_questions", "out of distribution (ood_questions)"),
        ("ood", "in_distribution", "out of distribution (in_distribution)"),
    ],
)
def test_the_title_of_a_panel_says_nothing_twice(split: str, evaluation: str, title: str) -> None:
    assert place_of(split, evaluation) == title
