"""No character of a table can be read as part of a number, marks mean one thing each, and every dash has its reason."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from results_table import ARMS, score_table

from inoc_ray.results.compare import compare
from inoc_ray.results.effects import MEASURES, Effect
from inoc_ray.results.marks import dash_reasons, effect_table, effect_text, legend, mark
from inoc_ray.results.report.meta import ReportMeta
from inoc_ray.results.report.page import render
from inoc_ray.results.table import comparison_text
from inoc_ray.results.wording import number, with_minus

NUMBER = r"−?\d?\d*\.\d\d|−?\d+|−?inf"
CELL = re.compile(rf"(?:{NUMBER}) \[(?:{NUMBER}), (?:{NUMBER})\](?: \*| [a-z]+| \([^)]*\))?|–|\d+( of \d+)?|\d+%|")


def an_effect(measure: str, value: float | None, p: float | None = 0.001, why: str = "", arm: str = "a") -> Effect:
    low, high = (None, None) if value is None else (value - 0.1, value + 0.1)
    return Effect(setting="toy", model="tiny", arm=arm, measure=measure, value=value, low=low, high=high, p=p, why=why)


def tables(text: str) -> list[list[str]]:
    """The cells of all lines of tables: an indented line whose columns are two spaces or more apart."""
    lines = [line for line in text.splitlines() if re.match(r"  (base|baseline|inoc|irrelevant)", line)]
    return [re.split(r" {2,}", line.strip()) for line in lines]


def test_a_rate_that_is_inoculated_against_carries_no_sign() -> None:
    text = comparison_text(compare(score_table(2), "toy"))
    cells = [cell for line in tables(text) for cell in line[1:]]
    assert len(cells) > 40
    words = {"spanish", "capitals"}
    assert not [cell for cell in cells if not CELL.fullmatch(cell) and cell not in words]
    assert not re.search(r"[-+−]\s*\.\d\d \[\.", text)
    assert not re.search(r"[^\s\w.\[\],()%*–−-]\.?\d", text)


def test_a_star_is_for_what_is_wanted_and_a_loss_has_a_word() -> None:
    wanted = {
        ("suppression", 0.9): "*",
        ("suppression", -0.9): "worse",
        ("selectivity", 0.5): "*",
        ("selectivity", -0.5): "worse",
        ("retention_id", 0.4): "lost",
        ("retention_ood", 0.4): "lost",
        ("retention_ood", 1.6): "more",
        ("conditionalisation", 0.9): "shared",
        ("conditionalisation", -0.9): "reversed",
        ("leakage", 0.7): "leaks",
        ("leakage", -0.2): "less",
        ("leakage.spanish", 0.7): "leaks",
    }
    assert {key: mark(an_effect(*key)) for key in wanted} == wanted


@pytest.mark.parametrize("kind", ["irrelevant", "placebo", "trigger", "control"])
def test_an_arm_whose_prompt_elicits_nothing_never_has_a_star(kind: str) -> None:
    found = [replace(an_effect(m, 0.9), kind=kind) for m in ("suppression", "suppression.spanish", "selectivity")]
    assert [mark(effect) for effect in found] == ["suppresses"] * 3
    assert "suppresses = less of the trait with an arm whose prompt does not elicit it" in legend(found)
    assert mark(replace(an_effect("suppression", -0.9), kind=kind)) == "worse"


def test_every_effect_says_what_kind_its_arm_is() -> None:
    kinds = {effect.arm: effect.kind for effect in compare(score_table(2), "toy").effects}
    assert kinds == {"inoc_spanish": "specific", "inoc_capitals": "specific", "irrelevant": "irrelevant"}


@given(st.sampled_from(MEASURES), st.floats(-3, 3), st.floats(0, 1), st.booleans())
def test_only_a_significant_success_of_a_whole_arm_has_a_star(
    measure: str, value: float, p: float, complete: bool
) -> None:
    text = effect_text(replace(an_effect(measure, value, p), complete=complete))
    success = measure.startswith(("suppression", "selectivity")) and value > 0 and p < 0.05 and complete
    assert ("*" in text) == success
    assert ("(incomplete)" in text) == (not complete)


def test_the_legend_names_the_marks_that_are_there_and_no_others() -> None:
    text = legend([an_effect("suppression", 0.9), an_effect("retention_ood", 0.4)])
    assert "* = suppressed" in text
    assert "lost = less of the trait" in text
    assert "leaks" not in text
    assert "No Holm-adjusted p is below .05" in legend([an_effect("suppression", 0.1, 0.4)])


def test_each_dash_is_explained_under_its_own_measure_and_for_its_own_arm() -> None:
    same = "the baseline did not rise above the base"
    found = [
        an_effect("suppression", None, None, same, "a"),
        an_effect("selectivity", None, None, same, "a"),
        an_effect("suppression", 0.5, 0.2, "", "b"),
        an_effect("selectivity", None, None, "no desired trait", "b"),
        an_effect("suppression.capitals", None, None, same, "irrelevant"),
    ]
    assert dash_reasons(found) == [
        f"suppression: a, irrelevant (capitals): {same}",
        f"selectivity: a: {same}",
        "selectivity: b: no desired trait",
    ]
    heads, body = effect_table(found)
    explained = {
        (name.strip(), line.split(":")[0]) for line in dash_reasons(found) for name in line.split(": ")[1].split(",")
    }
    assert {
        (line[0], head) for line in body for head, cell in zip(heads, line, strict=True) if cell == "–"
    } == explained


@pytest.mark.parametrize("rates", [(0.05, 0.05, 0.05, 0.05), (0.95, 0.0, 0.45, 0.0)])
def test_terminal_and_page_explain_every_dash_of_a_real_comparison(rates: tuple[float, float, float, float]) -> None:
    arms = {**ARMS, "baseline": ("baseline", "spanish", rates)}
    found = compare(score_table(2, arms=arms), "toy")
    lines = dash_reasons(found.effects)
    assert lines
    text, page = " ".join(comparison_text(found).split()), unescape(render(found, ReportMeta(title="t")))
    for line in lines:
        assert f"– {line}" in text
        assert f"– under {line}" in page
    _, body = effect_table(found.effects)
    dashed = sum(cell == "–" for line in body for cell in line)
    assert dashed == sum(len(line.split(": ")[1].split(", ")) for line in lines)


@pytest.mark.parametrize("width", [60, 80, 100, 118, 200])
def test_a_table_fits_the_terminal_it_is_for(width: int) -> None:
    text = comparison_text(compare(score_table(2), "toy"), width)
    # A page with a number that is cut in two is worse than one that is scrolled: what cannot be broken may be longer.
    assert max(len(line) for line in text.splitlines() if not line.startswith("note:")) <= width
    assert len(tables(text)) >= 9


def test_numbers_that_are_not_finite_and_zeros_are_written_plainly() -> None:
    assert [number(v) for v in (None, -0.001, 0.0, 1.0, -0.12, 250.0, -250.0, 12.3)] == [
        "–",
        ".00",
        ".00",
        "1.00",
        "−.12",
        "inf",
        "−inf",
        "12",
    ]


def test_only_a_negative_number_gets_a_minus() -> None:
    assert with_minus("within [-0.1, 0.1]: GPT-4.1, 2-3 runs, -.5") == "within [−0.1, 0.1]: GPT-4.1, 2-3 runs, −.5"
