"""From the score table of a study to the comparison of its arms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from inoc_ray.errors import InputError
from inoc_ray.evaluate.capability_items import CapabilityItems
from inoc_ray.results.capabilities import CapabilityRate, measure_capabilities
from inoc_ray.results.claim_checks import Measured, check_claims
from inoc_ray.results.claim_dynamics import draw_gains
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.completeness import (
    Planned,
    PlannedCell,
    list_missing,
    mark_incomplete_effects,
    mark_incomplete_leaks,
    rows_with_plan,
)
from inoc_ray.results.counts import Counted, CountTable
from inoc_ray.results.courses import StepRates
from inoc_ray.results.dynamics import Followed
from inoc_ray.results.effects import MIN_SEEDS, NEUTRAL, Arm, Direction, Effect, View, effects, levels
from inoc_ray.results.leaks import Leak, leaks
from inoc_ray.results.rows import FIRST, LAST, Place, Row, TrialRate
from inoc_ray.results.stats import Estimate, draw_rates
from inoc_ray.results.variance import question_correlation
from inoc_ray.scoring.score_columns import COLUMNS, LEVEL, TRIGGERED
from inoc_ray.study.claims import StatedClaim
from inoc_ray.study.evaluation import Outcome

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
    outcome: Outcome = "shown",
    items: Sequence[CapabilityItems] = (),
    followed: Followed | None = None,
) -> Comparison:
    """Compare the arms of a study.

    frame: the score table, one row per sample × trait, with COLUMNS (others are ignored): `shown` is 1 or 0 if the outcome is
    "counted", and NaN otherwise. It may be partial: the rows lack what is missing, and effects that need it are None. profile:
    the thresholds behind `shown`, as text. planned: what the study asks for; without it, the table counts as complete. reference:
    the context in which arms are compared; by default `neutral`, or `none` if nothing was evaluated in the neutral context.
    claims: what to check. outcome: what a rate is of, the responses that show a trait or their mean score (the column `level`).
    items: what each model scored on the items of capability tasks. followed: what was followed while its fine-tunes trained.

    Raises `InputError` if a column is missing.
    """
    missing = [name for name in (*COLUMNS, *([LEVEL] if outcome == "score" else [])) if name not in frame.columns]
    if missing:
        raise InputError(f"the score table of study {study!r} lacks the column(s) {', '.join(missing)}")
    contexts = set(frame["context"].unique())
    where = reference or next((name for name in (NEUTRAL, "none") if name in contexts), NEUTRAL)
    rows: list[Row] = []
    found: list[Effect] = []
    of_arms: list[Effect] = []
    trials: dict[Place, list[TrialRate]] = {}
    counted = _count(frame, outcome)
    leaked: list[Leak] = []
    followed = followed or Followed()
    measured: list[Measured] = []
    able: list[CapabilityRate] = []
    for (setting, model), part in counted.groupby(["setting", "model"], sort=False):
        of_group, group_rows = _measured(str(setting), str(model), part, reference=where, trials=trials)
        view = of_group.view
        own = [one for one in items if (one.setting, one.model) == (setting, model)]
        abilities = measure_capabilities(str(setting), str(model), own)
        able += abilities.rates
        if claims:
            looks = [one for one in followed.looks if (one.setting, one.model) == (setting, model)]
            measured.append(
                replace(
                    of_group,
                    scores={**abilities.scores, **draw_gains(looks)},
                    score_cells=abilities.cells,
                    looks=looks,
                )
            )
        rows += group_rows
        found += effects(view)
        of_arms += levels(view)
        leaked += leaks(view, _shares_out_of_distribution(group_rows))
    planned = planned or Planned()
    # Of what has no results at all, a claim says so.
    of_groups = dict.fromkeys((cell.setting, cell.model) for cell in planned.cells)
    there = {(one.view.setting, one.view.model) for one in measured}
    measured += [_nothing(*group) for group in of_groups if claims and group not in there]
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
        outcome=outcome,
        capability_rates=tuple(able),
        claims=tuple(check_claims(claims, measured, rows, planned.capabilities, followed.to_train)),
        followed=followed,
    )


def rates_after(
    step: int, frame: pd.DataFrame, planned: Sequence[PlannedCell], reference: str, outcome: Outcome = "shown"
) -> StepRates:
    """Return the rates of what fine-tunes are after a step. frame, reference, outcome: as for `compare`, of these weights."""
    rows: list[Row] = []
    trials: dict[Place, list[TrialRate]] = {}
    for (setting, model), part in _count(frame, outcome).groupby(["setting", "model"], sort=False):
        rows += _measured(str(setting), str(model), part, reference=reference, trials=trials)[1]
    return StepRates(
        step=step,
        rows=tuple(rows_with_plan(rows, planned)),
        trial_rates={place: tuple(rates) for place, rates in trials.items()},
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


def _count(frame: pd.DataFrame, outcome: Outcome = "shown") -> pd.DataFrame:
    """Count responses per fine-tune × question × trait: hits, counts (counted), unparsed, excluded and samples (all).

    With the outcome `score` hits are the sum of scores, and squares that of their squares.
    """
    import pandas as pd

    keys = [name for name in COLUMNS if name not in {"sample_index", "score", "shown", "outcome"}]
    table = frame[keys].copy()
    table[TRIGGERED] = frame[TRIGGERED].astype(bool) if TRIGGERED in frame.columns else False
    counted = frame["shown"].notna().to_numpy()
    numbers: dict[str, Any] = {"counts": counted.astype(np.int64)}
    if outcome == "shown":
        numbers["hits"] = (frame["shown"] == 1.0).to_numpy().astype(np.int64)
    else:
        numbers["hits"] = np.where(counted, frame[LEVEL].to_numpy(dtype=float), 0.0)
        numbers["squares"] = numbers["hits"] ** 2
    numbers["unparsed"] = (frame["outcome"] == "unparsed").to_numpy().astype(np.int64)
    numbers["excluded"] = frame["outcome"].isin(["excluded", "withheld"]).to_numpy().astype(np.int64)
    numbers["cut"] = (frame["cut"].to_numpy() if "cut" in frame.columns else np.zeros(len(frame))).astype(np.int64)
    numbers["samples"] = np.ones(len(frame), np.int64)
    groups, first = _groups(table)
    summed = table.iloc[first].reset_index(drop=True)
    for name, values in numbers.items():
        summed[name] = np.bincount(groups, values, len(first)).astype(values.dtype)
    # Every table lists arms in this order: base, baseline, control, the inoculated ones, placebo, irrelevant.
    codes, kinds = pd.factorize(summed["kind"])
    before, after = ([rank.get(str(kind), other) for kind in kinds] for rank, other in ((FIRST, len(FIRST)), (LAST, 0)))
    return summed.iloc[np.lexsort([np.array(after)[codes], np.array(before)[codes]])]


def _groups(table: pd.DataFrame) -> tuple[Any, Any]:
    """Return for each line the number of its group, in order of appearance, and the first line of each group.

    Lines that agree in all columns are a group. pandas' own grouping takes several times as long with so many columns.
    """
    import pandas as pd

    number, count = np.zeros(len(table), np.int64), 1
    for name in table.columns:
        codes, values = pd.factorize(table[name], use_na_sentinel=False)
        if count * len(values) >= 2**62:
            number, known = pd.factorize(number)
            count = len(known)
        number, count = number * len(values) + codes, count * len(values)
    groups, known = pd.factorize(number)
    first = np.empty(len(known), np.int64)
    # Of several lines with a number the last one that is written stays: the first line.
    first[groups[::-1]] = np.arange(len(groups))[::-1]
    return groups, first


def _measured(
    setting: str, model: str, part: pd.DataFrame, *, reference: str, trials: dict[Place, list[TrialRate]]
) -> tuple[Measured, list[Row]]:
    """Return the rates of one setting × model, and its rows; append the rates of each fine-tune to `trials`."""
    found = {one.key: one for one in CountTable(part).cells()}
    cells = {key: one.cell for key, one in found.items()}
    rates = draw_rates(cells)
    correlations: dict[tuple[str, str], float] = {}
    rows: list[Row] = []
    for key, one in found.items():
        rows.append(_row(setting, model, one, rates.get(key)))
        where = (key.evaluation, key.context)
        if where not in correlations:
            correlations[where] = question_correlation(c for k, c in cells.items() if k[1:3] == where)
        for trial in one.trials(correlations[where], rows[-1]):
            trials.setdefault((setting, model, key.arm, trial[0]), []).append(trial[1])
    evaluations = part.drop_duplicates(["evaluation", "split", TRIGGERED])
    splits = {str(e): str(s) for e, s in zip(evaluations["evaluation"], evaluations["split"], strict=True)}
    triggered = frozenset(evaluations.loc[evaluations[TRIGGERED], "evaluation"].astype(str))
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


def _nothing(setting: str, model: str) -> Measured:
    return Measured(view=View(setting=setting, model=model, arms=(), splits={}, rates={}), cells={})


def _row(setting: str, model: str, one: Counted, estimate: Estimate | None) -> Row:
    low, high = estimate.interval() if estimate is not None else (None, None)
    key, seeds = one.key, int((one.cell.counts.sum(axis=1) > 0).sum())
    sums = {name: int(one.sums[name].sum()) for name in ("samples", "unparsed", "excluded", "cut")}
    return Row(
        setting=setting,
        model=model,
        arm=key.arm,
        kind=one.first["kind"],
        evaluation=key.evaluation,
        split=one.first["split"],
        context=key.context,
        trait=key.trait,
        role=one.first["role"],
        rate=estimate.value if estimate is not None else None,
        low=low,
        high=high,
        seeds=seeds,
        samples=sums["samples"],
        unparsed=sums["unparsed"],
        excluded=sums["excluded"],
        cut=sums["cut"],
        triggered=bool(one.first[TRIGGERED]),
        replicated=None if one.first["kind"] == "base" else seeds >= MIN_SEEDS,
    )


def _arms(part: pd.DataFrame) -> Iterator[Arm]:
    roles = part.drop_duplicates(["arm", "kind", "trait", "role"])
    for (arm, kind), rows in roles.groupby(["arm", "kind"], sort=False):
        pairs = list(dict.fromkeys(zip(rows["trait"], rows["role"], strict=True)))
        undesired, desired, narrow = (
            tuple(sorted({trait for trait, role in pairs if role == one})) for one in ("undesired", "desired", "narrow")
        )
        yield Arm(str(arm), str(kind), Direction(undesired, desired, narrow))
