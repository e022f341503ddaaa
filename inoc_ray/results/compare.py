"""From the score table of a study to the comparison of its arms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from inoc_ray.errors import InputError
from inoc_ray.results.claim_checks import Measured, check_claims
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.completeness import (
    Planned,
    list_missing,
    mark_incomplete_effects,
    mark_incomplete_leaks,
    rows_with_plan,
)
from inoc_ray.results.effects import MIN_SEEDS, NEUTRAL, Arm, Direction, Effect, View, effects, levels
from inoc_ray.results.leaks import Leak, leaks
from inoc_ray.results.rows import FIRST, LAST, Place, Row, TrialRate
from inoc_ray.results.stats import Cell, RateKey, draw_rates, model_interval
from inoc_ray.results.variance import question_correlation
from inoc_ray.scoring.score_columns import COLUMNS, TRIGGERED
from inoc_ray.study.claims import StatedClaim

if TYPE_CHECKING:
    import pandas as pd


def compare(
    frame: pd.DataFrame,
    study: str,
    profile: str = "",
    planned: Planned | None = None,
    reference: str | None = None,
    *,
    claims: Sequence[StatedClaim] = (),
) -> Comparison:
    """Compare the arms of a study.

    frame: the score table, one row per sample × trait, with COLUMNS (others are ignored): `shown` is 1 or 0 if the outcome is
    "counted", and NaN otherwise. It may be partial: the rows lack what is missing, and effects that need it are None. profile:
    the thresholds behind `shown`, as text. planned: what the study asks for; without it, the table counts as complete. reference:
    the context in which arms are compared; by default `neutral`, or `none` if nothing was evaluated in the neutral context. claims:
    what to check. Raises `InputError` if a column is missing.
    """
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise InputError(f"the score table of study {study!r} lacks the column(s) {', '.join(missing)}")
    contexts = set(frame["context"])
    where = reference or next((name for name in (NEUTRAL, "none") if name in contexts), NEUTRAL)
    rows: list[Row] = []
    found: list[Effect] = []
    of_arms: list[Effect] = []
    trials: dict[Place, list[TrialRate]] = {}
    counted = _count(frame)
    leaked: list[Leak] = []
    measured: list[Measured] = []
    for (setting, model), part in counted.groupby(["setting", "model"], sort=False):
        of_group, group_rows = _measured(str(setting), str(model), part, reference=where, trials=trials)
        view = of_group.view
        measured += [of_group] if claims else []
        rows += group_rows
        found += effects(view)
        of_arms += levels(view)
        leaked += leaks(view, _shares_out_of_distribution(group_rows))
    planned = planned or Planned()
    rows = rows_with_plan(rows, planned.cells)
    return Comparison(
        study=study,
        rows=tuple(rows),
        effects=tuple(mark_incomplete_effects(found, rows)),
        levels=tuple(mark_incomplete_effects(of_arms, rows)),
        trial_rates={k: tuple(v) for k, v in trials.items()},
        profile=profile,
        leaks=tuple(mark_incomplete_leaks(leaked, rows, where)),
        missing=tuple(list_missing(planned)),
        planned=planned,
        reference=where,
        claims=tuple(check_claims(claims, measured, rows)),
    )


def _shares_out_of_distribution(rows: Iterable[Row]) -> dict[tuple[str, str, bool], tuple[float, float]]:
    """Return (arm, context, with the trigger) → shares of unparsed and excluded responses over the undesired traits."""
    counts: dict[tuple[str, str, bool], list[int]] = {}
    for row in rows:
        if row.split == "ood" and row.role == "undesired":
            total = counts.setdefault((row.arm, row.context, row.triggered), [0, 0, 0])
            for place, number in enumerate((row.unparsed, row.excluded, row.samples)):
                total[place] += number
    return {key: (unparsed / of, excluded / of) for key, (unparsed, excluded, of) in counts.items()}


def _count(frame: pd.DataFrame) -> pd.DataFrame:
    """Count responses per fine-tune × question × trait: hits, counts (counted), unparsed, excluded and samples (all)."""
    keys = [name for name in COLUMNS if name not in {"sample_index", "score", "shown", "outcome"}]
    table = frame[keys].copy()
    table[TRIGGERED] = frame[TRIGGERED].astype(bool) if TRIGGERED in frame.columns else False
    keys.append(TRIGGERED)
    table["counts"] = frame["shown"].notna().astype("int64")
    table["hits"] = (frame["shown"] == 1.0).astype("int64")
    table["unparsed"] = (frame["outcome"] == "unparsed").astype("int64")
    table["excluded"] = frame["outcome"].isin(["excluded", "withheld"]).astype("int64")
    table["cut"] = frame["cut"].astype("int64") if "cut" in frame.columns else 0
    table["samples"] = 1
    # Every table lists arms in this order: base, baseline, control, the inoculated ones, placebo, irrelevant.
    table["_first"] = table["kind"].map(FIRST).fillna(len(FIRST))
    table["_last"] = table["kind"].map(LAST).fillna(0)
    keys += ["_first", "_last"]
    summed = table.groupby(keys, sort=False, observed=True, dropna=False, as_index=False).sum()
    return summed.sort_values(["_first", "_last"], kind="stable")


def _measured(
    setting: str, model: str, part: pd.DataFrame, *, reference: str, trials: dict[Place, list[TrialRate]]
) -> tuple[Measured, list[Row]]:
    """Return the rates of one setting × model, and its rows; append the rates of each fine-tune to `trials`."""
    cells: dict[RateKey, Cell] = {}
    described: dict[RateKey, pd.DataFrame] = {}
    for evaluation, of_evaluation in part.groupby("evaluation", sort=False):
        questions, column = np.unique(of_evaluation["question_id"].to_numpy(dtype=str), return_inverse=True)
        placed = of_evaluation.assign(_column=column)
        for names, cell_rows in placed.groupby(["arm", "context", "trait"], sort=False):
            arm, context, trait = map(str, names)
            key = RateKey(arm, str(evaluation), context, trait)
            cells[key], described[key] = _cell(cell_rows, len(questions)), cell_rows
    rates = draw_rates(cells)
    correlations: dict[tuple[str, str], float] = {}
    rows: list[Row] = []
    for key, cell_rows in described.items():
        first = cell_rows.iloc[0]
        estimate = rates.get(key)
        low, high = estimate.interval() if estimate is not None else (None, None)
        seeds = int(cell_rows.loc[cell_rows["counts"] > 0, "trial_id"].nunique())
        count = {name: int(cell_rows[name].sum()) for name in ("samples", "unparsed", "excluded", "cut")}
        rows.append(
            Row(
                setting=setting,
                model=model,
                arm=key.arm,
                kind=str(first["kind"]),
                evaluation=key.evaluation,
                split=str(first["split"]),
                context=key.context,
                trait=key.trait,
                role=str(first["role"]),
                rate=estimate.value if estimate is not None else None,
                low=low,
                high=high,
                seeds=seeds,
                samples=count["samples"],
                unparsed=count["unparsed"],
                excluded=count["excluded"],
                cut=count["cut"],
                triggered=bool(first[TRIGGERED]),
                replicated=None if first["kind"] == "base" else seeds >= MIN_SEEDS,
            )
        )
        where = (key.evaluation, key.context)
        if where not in correlations:
            correlations[where] = question_correlation(c for k, c in cells.items() if k[1:3] == where)
        for _, own in cell_rows.groupby("trial_id", sort=True):
            place = (setting, model, key.arm, _seed(own["seed"].iloc[0]))
            cell = _cell(own, cells[key].counts.shape[1])
            shares = {name: float(own[name].sum() / own["samples"].sum()) for name in ("unparsed", "excluded")}
            trials.setdefault(place, []).append(_trial_rate(rows[-1], cell, correlation=correlations[where], **shares))
    splits = {str(e): str(s) for e, s in zip(part["evaluation"], part["split"], strict=True)}
    triggered = frozenset(part.loc[part[TRIGGERED], "evaluation"].astype(str))
    view = View(
        setting=setting,
        model=model,
        arms=tuple(_arms(part)),
        splits=splits,
        rates=rates,
        reference=reference,
        triggered=triggered,
    )
    return Measured(view=view, cells=cells), rows


def _seed(value: Any) -> int | None:
    import pandas as pd

    return None if pd.isna(value) else int(value)


def _cell(rows: pd.DataFrame, questions: int) -> Cell:
    """Return the crossed fine-tune × question table of one arm, context and trait."""
    trials, line = np.unique(rows["trial_id"].to_numpy(dtype=str), return_inverse=True)
    hits = np.zeros((len(trials), questions), dtype=np.int64)
    counts = np.zeros_like(hits)
    place = (line, rows["_column"].to_numpy())
    np.add.at(hits, place, rows["hits"].to_numpy())
    np.add.at(counts, place, rows["counts"].to_numpy())
    first = rows.iloc[0]
    return Cell(hits, counts, replicated=first["kind"] != "base", models=tuple(map(str, trials)))


def _trial_rate(row: Row, cell: Cell, *, correlation: float, unparsed: float, excluded: float) -> TrialRate:
    low, high = model_interval(cell, correlation=correlation) or (None, None)
    return TrialRate(
        evaluation=row.evaluation,
        split=row.split,
        context=row.context,
        trait=row.trait,
        rate=cell.rate,
        low=low,
        high=high,
        unparsed=unparsed,
        excluded=excluded,
    )


def _arms(part: pd.DataFrame) -> Iterator[Arm]:
    for (arm, kind), rows in part.groupby(["arm", "kind"], sort=False):
        pairs = list(dict.fromkeys(zip(rows["trait"], rows["role"], strict=True)))
        undesired, desired, narrow = (
            tuple(sorted({trait for trait, role in pairs if role == one})) for one in ("undesired", "desired", "narrow")
        )
        yield Arm(str(arm), str(kind), Direction(undesired, desired, narrow))
