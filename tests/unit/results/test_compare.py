"""The comparison says what was measured, no more: rows, counts, partial studies, and the form that scripts read."""

from __future__ import annotations

import functools
import json

import numpy as np
import pandas as pd
import pytest
from results_table import ARMS, planned, score_table

from inoc_ray.errors import InputError
from inoc_ray.results.compare import COLUMNS, compare
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.effects import Effect
from inoc_ray.results.rows import Row
from inoc_ray.results.table import comparison_text

ROW_KEYS = [
    "setting",
    "model",
    "arm",
    "kind",
    "evaluation",
    "split",
    "context",
    "trait",
    "role",
    "rate",
    "low",
    "high",
    "seeds",
    "samples",
    "unparsed",
    "excluded",
    "cut",
    "seeds_planned",
    "samples_planned",
    "complete",
    "triggered",
    "replicated",
    "trained",
]
KEYS = [
    "study",
    "rows",
    "effects",
    "profile",
    "leaks",
    "agreement",
    "capabilities",
    "capability_rates",
    "complete",
    "missing",
    "failures",
    "reference",
    "outcome",
    "claims",
    "dynamics",
    "courses",
]
EFFECT_KEYS = [
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
]


def row(comparison: Comparison, arm: str, trait: str = "spanish", split: str = "ood", context: str = "neutral") -> Row:
    (found,) = [r for r in comparison.rows if (r.arm, r.trait, r.split, r.context) == (arm, trait, split, context)]
    return found


def test_json_has_exactly_the_promised_keys_and_the_base_is_a_row() -> None:
    printed = json.loads(json.dumps(compare(score_table(), "toy").to_json(), allow_nan=False))
    assert list(printed) == KEYS
    assert all(list(r) == ROW_KEYS for r in printed["rows"])
    assert all(list(e) == EFFECT_KEYS for e in printed["effects"])
    assert any(r["arm"] == "base" and r["seeds"] == 1 for r in printed["rows"])


def test_rates_and_counts_are_those_of_the_table() -> None:
    found = row(compare(score_table(seeds=3), "toy"), "baseline")
    assert found.rate == pytest.approx(0.45)
    assert (found.seeds, found.samples, found.unparsed, found.role) == (3, 120, 0, "undesired")
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.45 < found.high


def test_roles_belong_to_the_arm() -> None:
    found = compare(score_table(), "toy")
    assert row(found, "inoc_capitals", "capitals").role == "undesired"
    assert row(found, "inoc_spanish", "capitals").role == "desired"


def test_unparsed_scores_are_counted_and_left_out() -> None:
    table = score_table(seeds=1)
    mine = (table["arm"] == "baseline") & (table["split"] == "ood") & (table["trait"] == "spanish")
    hits = mine & (table["score"] == 1.0)
    table.loc[table.index[hits][:10], ["shown", "outcome"]] = [np.nan, "unparsed"]
    found = row(compare(table, "toy"), "baseline")
    assert found.rate == pytest.approx(8 / 30)
    assert (found.samples, found.unparsed) == (40, 10)
    table.loc[mine, ["shown", "outcome"]] = [np.nan, "unparsed"]
    nothing = compare(table, "toy")
    assert (row(nothing, "baseline").rate, row(nothing, "baseline").low) == (None, None)
    assert row(nothing, "baseline").unparsed == 40
    assert any("baseline 40 of 160" in note for note in nothing.notes())
    json.dumps(nothing.to_json(), allow_nan=False)


def test_what_does_not_count_is_neither_shown_nor_unparsed() -> None:
    table = score_table(seeds=1)
    mine = (table["arm"] == "baseline") & (table["split"] == "ood") & (table["trait"] == "spanish")
    table.loc[table.index[mine][:5], ["shown", "outcome"]] = [np.nan, "excluded"]
    table.loc[table.index[mine][5:8], ["shown", "outcome"]] = [np.nan, "withheld"]
    found = row(compare(table, "toy"), "baseline")
    assert (found.samples, found.unparsed, found.excluded) == (40, 0, 8)
    assert any("not counted" in note and "baseline 8 of 160" in note for note in compare(table, "toy").notes())


def test_a_partial_study_is_shown_as_partial() -> None:
    without = {("irrelevant", 2)}
    found = compare(score_table(seeds=3, without=without), "toy", planned=planned(3, without=without))
    assert (row(found, "irrelevant").seeds, row(found, "irrelevant").seeds_planned) == (2, 3)
    assert any("irrelevant 2 of 3" in note for note in found.notes())
    assert "missing: toy, tiny: irrelevant seed 2: 0 of 160 samples" in comparison_text(found)


def test_one_seed_is_flagged() -> None:
    assert any("one seed" in note for note in compare(score_table(seeds=1), "toy").notes())
    assert compare(score_table(seeds=2), "toy").notes() == []


def test_growing_by_a_seed_leaves_each_fine_tunes_own_rate_as_it_was() -> None:
    before, after = (compare(score_table(seeds=n), "toy").trial_rates for n in (2, 3))
    assert {trial: after[trial] for trial in before} == before
    assert len(after) == 1 + 4 * 3


def test_arms_are_listed_base_first_and_irrelevant_last() -> None:
    found = compare(score_table(arms={name: ARMS[name] for name in reversed(list(ARMS))}), "toy")
    arms = list(dict.fromkeys(r.arm for r in found.rows))
    assert (arms[0], arms[1], arms[-1]) == ("base", "baseline", "irrelevant")


def test_the_text_fits_a_terminal_and_shows_both_tables() -> None:
    text = comparison_text(compare(score_table(), "toy"))
    assert max(map(len, text.splitlines())) <= 118
    assert ".45 [" in text
    assert "suppression" in text


def test_an_empty_table_is_no_error() -> None:
    empty = compare(score_table().iloc[:0], "toy")
    assert [empty.to_json()[key] for key in ("study", "rows", "effects")] == ["toy", [], []]
    assert "no results yet" in comparison_text(empty)


def test_a_table_without_a_needed_column_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="score"):
        compare(score_table().drop(columns="score"), "toy")


def discordant_table(seeds: int, questions: int, discordant: int) -> pd.DataFrame:
    """Baseline and arm say the same to each question, four in five of them hits, but for so many responses of the arm. Under
    its training prompt the arm says what the baseline says."""
    hits = np.tile(np.arange(questions) < questions * 4 // 5, (seeds, 1))
    changed = hits.copy()
    for number in range(discordant):
        changed[number % seeds, number // seeds] = False
    cells = [("base", "base", "neutral", hits[:1] & False), ("baseline", "baseline", "neutral", hits)]
    cells += [("inoc", "specific", "neutral", changed), ("inoc", "specific", "training_prompt", hits)]
    rows = [
        (
            "toy",
            "tiny",
            arm,
            kind,
            f"{arm}-{seed}",
            None if kind == "base" else seed,
            "ood_questions",
            "ood",
            context,
            f"q{i:03}",
            0,
            trait,
            role,
            float(hit),
            float(hit),
            "counted",
        )
        for arm, kind, context, table in cells
        for seed, row in enumerate(table)
        for i, hit in enumerate(row)
        for trait, role in (("spanish", "undesired"), ("capitals", "desired"))
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


@functools.cache
def measured(seeds: int, questions: int, discordant: int) -> dict[str, Effect]:
    return {e.measure: e for e in compare(discordant_table(seeds, questions, discordant), "toy").effects}


def limits(effect: Effect) -> tuple[float, float]:
    assert effect.low is not None
    assert effect.high is not None
    return effect.low, effect.high


SIZES = [(1, 15), (1, 60), (1, 300), (3, 5), (3, 20), (3, 100)]


@pytest.mark.parametrize(("seeds", "questions"), SIZES)
def test_arms_that_agree_in_every_response_may_still_differ(seeds: int, questions: int) -> None:
    """About by what the score interval of a paired difference says (Tango 1998): ±z²/(n + z²)."""
    found, size = measured(seeds, questions, 0), seeds * questions
    least = 1.96**2 / (size + 1.96**2)
    for measure in ("suppression_difference", "leakage", "suppression", "retention_ood"):
        effect = found[measure]
        # Ratios are told in parts of the baseline's rate or rise, and skewed where these are little known.
        most = 1.35 if measure in ("suppression_difference", "leakage") else 5
        assert effect.value is not None
        for limit in limits(effect):
            assert 0.8 * least < abs(limit - effect.value) < most * least, measure
        assert effect.p is None if seeds == 1 else effect.p > 0.8


@pytest.mark.parametrize(("seeds", "questions"), SIZES)
def test_limits_of_a_difference_move_by_little_from_no_discordant_response_to_one(seeds: int, questions: int) -> None:
    found = [measured(seeds, questions, discordant) for discordant in (0, 1, 2)]
    for measure in ("suppression_difference", "leakage"):
        none, one, two = (limits(effects[measure]) for effects in found)
        for less, more in ((none, one), (one, two)):
            assert abs(more[0] - less[0]) < 1.5 / (seeds * questions)
            assert 0 < more[1] - less[1] < 2.5 / (seeds * questions)
        assert one[0] < 0 < one[1]
