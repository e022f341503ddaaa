"""The simulation knows its truth, and what it measures is what a reader of docs/statistics.md is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inoc_ray.results import calibrate
from inoc_ray.results.calibrate import Tally, measure, tables
from inoc_ray.results.simulate import SimulatedArm, SimulatedStudy, location, mean_rate, simulate
from inoc_ray.results.simulated_designs import Design, designs, truths


def design(table: str, label: str) -> Design:
    (found,) = [d for d in designs() if (d.table, d.label) == (table, label)]
    return found


def test_the_stated_rate_is_the_mean_over_seeds_and_questions() -> None:
    for rate in (0.002, 0.3, 0.95):
        assert mean_rate(location(rate, 1.3), 1.3) == pytest.approx(rate, abs=1e-9)
    arm = SimulatedArm(name="a", kind="general", rates={("ood", "neutral", "bad"): 0.2}, seed_sd=0.5)
    study = SimulatedStudy(name="", arms=[arm], seeds=200, questions=200, repeats=1)
    view, _ = simulate(study, np.random.default_rng(0), draws=10)
    (found,) = view.rates.values()
    assert found.value == pytest.approx(0.2, abs=0.03)


def test_the_true_effects_are_those_of_the_stated_rates() -> None:
    true = truths(design("effects", "3 seeds, 100 × 1").study)
    assert true["specific", "suppression"] == pytest.approx((0.6 - 0.08) / (0.6 - 0.04))
    assert true["specific", "retention_ood"] == pytest.approx(0.8 / 0.9)
    assert true["specific", "leakage"] == pytest.approx(0.55 - 0.08)
    failing = design("unsteady arm", "3 seeds, fails in 1 of 5 seeds").study
    assert truths(failing)["specific", "suppression_difference"] == pytest.approx(0.6 - (0.8 * 0.08 + 0.2 * 0.6))


def test_with_one_seed_no_arm_is_ever_called_significant() -> None:
    for label in ("1 seed, 100 × 1", "1 seed, 8 × 100"):
        found = measure(design("null", label), seed=5, first=0, studies=60, draws=400)
        assert (found.share("false"), found.share("with p")) == (0.0, 0.0)
        assert (found.share("rate first") or 0) >= 0.9  # of that very model
        assert (found.share("suppression_difference") or 1) < 0.8  # what a p-value from one seed would claim


@pytest.mark.parametrize("seeds", [2, 3])
def test_false_positives_are_rare(seeds: int) -> None:
    found = measure(design("null", f"{seeds} seeds, 100 × 1"), seed=5, first=0, studies=120, draws=400)
    assert found.share("with p") == 1.0
    assert (found.share("false") or 0) <= 0.05


@pytest.mark.parametrize("together", [-1, 1])
def test_traits_that_move_together_keep_the_error_of_the_family_and_the_coverage_of_selectivity(together: int) -> None:
    label = f"3 seeds, correlation {together}"
    null = measure(design("traits, null", label), seed=5, first=0, studies=80, draws=400)
    assert (null.share("any false") or 0) <= 0.08  # .05 and the error of 80 studies
    typical = measure(design("traits, typical", label), seed=5, first=0, studies=80, draws=400)
    assert (typical.share("selectivity specific") or 0) >= 0.9


def test_suppression_is_seldom_withheld_where_the_base_shows_nothing() -> None:
    found = measure(
        design("emergent misalignment", "base 0.002, 3 seeds, 8 × 100, question sd 1"),
        seed=5,
        first=0,
        studies=100,
        draws=400,
    )
    assert (found.share("withheld") or 0) <= 0.06
    assert (found.share("rate base") or 0) >= 0.92


def test_what_lies_outside_is_named() -> None:
    low, fine = Tally(), Tally()
    for number in range(100):
        low.add("false", number < 3)
        low.add("suppression_difference", number < 80)
        fine.add("suppression_difference", number < 95)
    text = "\n".join(tables({"null": {"few seeds": low, "many seeds": fine}}))
    assert "| few seeds | .030 | – | – | .800 |" in text
    assert "- null, few seeds, difference: .800" in text
    assert "many seeds, difference" not in text


def test_the_page_is_filled_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "statistics.md"
    page.write_text(f"before\n{calibrate.BEGIN}\nold\n{calibrate.END}\nafter\n")
    monkeypatch.setattr(calibrate, "designs", lambda: iter([design("null", "2 seeds, 8 × 100")]))
    monkeypatch.setattr(
        "sys.argv", ["calibrate", "--studies", "4", "--draws", "50", "--processes", "1", "--out", str(page)]
    )
    calibrate.main()
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| 2 seeds, 8 × 100 |" in text
