"""The comparison of a study's arms: rates with intervals, effects, and the same as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from inoc_ray.errors import InputError
from inoc_ray.results.complete import (
    Missing,
    Planned,
    beside_plan,
    judged_effects,
    judged_leaks,
    list_missing,
    seeds_text,
)
from inoc_ray.results.effects import MIN_SEEDS, NEUTRAL, Arm, Direction, Effect, View, effects
from inoc_ray.results.leaks import Leak, leaks
from inoc_ray.results.rows import FIRST, LAST, Place, Row, TrialRate
from inoc_ray.results.stats import Cell, RateKey, draw_rates, model_interval
from inoc_ray.results.variance import question_correlation

if TYPE_CHECKING:
    import pandas as pd

    from inoc_ray.store.failures import Failure

COLUMNS = (
    "setting",
    "model",
    "arm",
    "kind",
    "trial_id",
    "seed",
    "evaluation",
    "split",
    "context",
    "question_id",
    "sample_index",
    "trait",
    "role",
    "score",
    "shown",
    "outcome",
)
TRIGGERED = "triggered"
"""An optional column: whether the evaluation's questions carry the setting's trigger."""
CUT_NOTED = 0.05
"""The share of answers that ran into max_tokens from which a note names it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything the results of a study say. trial_rates: place → rates of that fine-tune alone."""

    study: str
    rows: tuple[Row, ...]
    effects: tuple[Effect, ...]
    trial_rates: Mapping[Place, tuple[TrialRate, ...]] = field(default_factory=dict)
    profile: str = ""
    """The threshold profile in words."""
    leaks: tuple[Leak, ...] = ()
    """What a leak audit found; empty without one."""
    agreement: tuple[Mapping[str, Any], ...] = ()
    """How well the judges agree, per pair and trait."""
    capabilities: tuple[Mapping[str, Any], ...] = ()
    missing: tuple[Missing, ...] = ()
    """What the study asks for and is not there."""
    failures: tuple[Failure, ...] = ()
    """What failed and is not done yet."""
    planned: Planned = field(default_factory=Planned)
    """What the study asks for; empty where the comparison was made without a plan."""
    reference: str = NEUTRAL
    """The context in which arms are compared."""
    remarks: tuple[str, ...] = ()
    """What the plan notes on the study, such as fine-tunes that stand under two names."""

    @property
    def complete(self) -> bool:
        """Whether all that the study asks for is there and every row rests on all of it."""
        return not self.missing and not self.failures and all(row.complete for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return what `inoc-ray compare --json` prints."""
        measured = (
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
        )
        return {
            "study": self.study,
            "rows": [{name: getattr(row, name) for name in Row.__slots__} for row in self.rows],
            "effects": [{name: getattr(effect, name) for name in measured} for effect in self.effects],
            "profile": self.profile,
            "leaks": [asdict(leak) for leak in self.leaks],
            "agreement": [dict(pair) for pair in self.agreement],
            "capabilities": [dict(score) for score in self.capabilities],
            "complete": self.complete,
            "missing": [asdict(one) for one in self.missing],
            "failures": [failure.to_json() for failure in self.failures],
            "reference": self.reference,
        }

    def groups(self) -> list[tuple[str, str]]:
        """Return (setting, model) pairs in order of appearance."""
        return list(dict.fromkeys((row.setting, row.model) for row in self.rows))

    def notes(self) -> list[str]:
        """Return what a reader must know about the numbers: arms with fewer seeds, one seed only, unparsed responses."""
        return [*self.remarks, *(note for group in self.groups() for note in _notes(self, *group))]


def compare(
    frame: pd.DataFrame, study: str, profile: str = "", planned: Planned | None = None, reference: str | None = None
) -> Comparison:
    """Compare the arms of a study.

    frame: the tidy score table, one row per sample × trait, with COLUMNS (others are ignored): `shown` is 1 or
    0 where the outcome is "counted" and NaN elsewhere. May be partial: what is missing is missing from the
    rows, and effects that need it are None. profile: the thresholds behind `shown`, in words. planned: what the study
    asks for; without it, what is in the table counts as all that was asked for. reference: the context in which arms are
    compared; default `neutral`, or `none` where nobody was asked in the neutral one. Raises InputError when a column is
    missing.
    """
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise InputError(f"the score table of study {study!r} lacks the column(s) {', '.join(missing)}")
    asked = set(frame["context"])
    where = reference or next((name for name in (NEUTRAL, "none") if name in asked), NEUTRAL)
    rows: list[Row] = []
    found: list[Effect] = []
    trials: dict[Place, list[TrialRate]] = {}
    counted = _count(frame)
    leaked: list[Leak] = []
    for (setting, model), part in counted.groupby(["setting", "model"], sort=False):
        view, group_rows = _view(str(setting), str(model), part, where, trials)
        rows += group_rows
        found += effects(view)
        leaked += leaks(view, _shares_out_of_distribution(group_rows))
    planned = planned or Planned()
    rows = beside_plan(rows, planned.cells)
    return Comparison(
        study,
        tuple(rows),
        tuple(judged_effects(found, rows)),
        {k: tuple(v) for k, v in trials.items()},
        profile,
        tuple(judged_leaks(leaked, rows, where)),
        missing=tuple(list_missing(planned)),
        planned=planned,
        reference=where,
    )


def _shares_out_of_distribution(rows: Iterable[Row]) -> dict[tuple[str, str, bool], tuple[float, float]]:
    """(arm, context, with the trigger) → shares of unparsed and excluded responses over the undesired traits."""
    counts: dict[tuple[str, str, bool], list[int]] = {}
    for row in rows:
        if row.split == "ood" and row.role == "undesired":
            total = counts.setdefault((row.arm, row.context, row.triggered), [0, 0, 0])
            for place, number in enumerate((row.unparsed, row.excluded, row.samples)):
                total[place] += number
    return {key: (unparsed / of, excluded / of) for key, (unparsed, excluded, of) in counts.items()}


def _count(frame: pd.DataFrame) -> pd.DataFrame:
    """Responses per fine-tune × question × trait: hits, counts (counted), unparsed, excluded and samples (all)."""
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
    # Arms are listed in one order everywhere: base, baseline, control, the inoculated ones, placebo,
    # irrelevant.
    table["_first"] = table["kind"].map(FIRST).fillna(len(FIRST))
    table["_last"] = table["kind"].map(LAST).fillna(0)
    keys += ["_first", "_last"]
    summed = table.groupby(keys, sort=False, observed=True, dropna=False, as_index=False).sum()
    return summed.sort_values(["_first", "_last"], kind="stable")


def _view(
    setting: str, model: str, part: pd.DataFrame, reference: str, trials: dict[Place, list[TrialRate]]
) -> tuple[View, list[Row]]:
    cells: dict[RateKey, Cell] = {}
    described: dict[RateKey, pd.DataFrame] = {}
    for evaluation, asked in part.groupby("evaluation", sort=False):
        questions, column = np.unique(asked["question_id"].to_numpy(dtype=str), return_inverse=True)
        asked = asked.assign(_column=column)
        for names, cell_rows in asked.groupby(["arm", "context", "trait"], sort=False):
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
        alike = correlations[where]
        for _, own in cell_rows.groupby("trial_id", sort=True):
            place = (setting, model, key.arm, _seed(own["seed"].iloc[0]))
            shares = [float(own[name].sum() / own["samples"].sum()) for name in ("unparsed", "excluded")]
            cell = _cell(own, cells[key].counts.shape[1])
            trials.setdefault(place, []).append(_trial_rate(rows[-1], cell, alike, *shares))
    splits = {str(e): str(s) for e, s in zip(part["evaluation"], part["split"], strict=True)}
    triggered = frozenset(part.loc[part[TRIGGERED], "evaluation"].astype(str))
    return View(
        setting=setting,
        model=model,
        arms=tuple(_arms(part)),
        splits=splits,
        rates=rates,
        reference=reference,
        triggered=triggered,
    ), rows


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


def _trial_rate(row: Row, cell: Cell, alike: float, unparsed: float, excluded: float) -> TrialRate:
    low, high = model_interval(cell, correlation=alike) or (None, None)
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
            tuple(sorted({trait for trait, role in pairs if role == wanted}))
            for wanted in ("undesired", "desired", "narrow")
        )
        yield Arm(str(arm), str(kind), Direction(undesired, desired, narrow))


def _notes(comparison: Comparison, setting: str, model: str) -> Iterable[str]:
    where = f"{setting}, {model}"
    rows = [row for row in comparison.rows if (row.setting, row.model) == (setting, model) and row.kind != "base"]
    fewest: dict[str, Row] = {}
    for row in rows:
        if row.seeds < row.seeds_planned:
            fewest[row.arm] = min(row, fewest.get(row.arm, row), key=lambda r: r.seeds)
    if fewest:
        fewer = ", ".join(f"{arm} {seeds_text(row)}" for arm, row in fewest.items())
        yield f"{where}: fewer seeds than planned in at least one row: {fewer}"
    most = {arm: max(row.seeds for row in rows if row.arm == arm) for arm in dict.fromkeys(row.arm for row in rows)}
    single = [arm for arm, seeds in most.items() if seeds == 1]
    if single:
        whose = "one seed per arm" if max(most.values()) == 1 else f"one seed in {', '.join(single)}"
        yield (
            f"{where}: {whose}: the numbers are about these models only (intervals cover the questions, not what another seed "
            "would give), without p-values"
        )
    unparsed: dict[str, list[int]] = {}
    for row in comparison.rows:
        if (row.setting, row.model) == (setting, model):
            pair = unparsed.setdefault(row.arm, [0, 0])
            pair[0] += row.unparsed
            pair[1] += row.samples
    if any(bad for bad, _ in unparsed.values()):
        shares = ", ".join(f"{arm} {bad} of {total}" for arm, (bad, total) in unparsed.items() if bad)
        yield f"{where}: judgments that could not be read (left out of the rates): {shares}"
    excluded: dict[str, list[int]] = {}
    for row in comparison.rows:
        if (row.setting, row.model) == (setting, model):
            pair = excluded.setdefault(row.arm, [0, 0])
            pair[0] += row.excluded
            pair[1] += row.samples
    if any(out for out, _ in excluded.values()):
        shares = ", ".join(f"{arm} {out} of {total}" for arm, (out, total) in excluded.items() if out)
        yield f"{where}: judged but not counted (incoherent, refusals, bare code, degenerate): {shares}"
    yield from _cut_notes(where, [row for row in comparison.rows if (row.setting, row.model) == (setting, model)])


def _cut_notes(where: str, rows: Iterable[Row]) -> Iterable[str]:
    """For each evaluation in which an arm's answers often ran into max_tokens, the shares and the cure."""
    counts: dict[str, dict[str, list[int]]] = {}
    for row in rows:
        pair = counts.setdefault(row.evaluation, {}).setdefault(row.arm, [0, 0])
        pair[0] += row.cut
        pair[1] += row.samples
    for evaluation, arms in counts.items():
        shares = {arm: cut / total for arm, (cut, total) in arms.items() if total}
        often = [f"{arm} {share:.0%}" for arm, share in shares.items() if share >= CUT_NOTED]
        if often:
            yield (
                f"{where}: {evaluation}: answers that ran into max_tokens and were judged by their beginning: {', '.join(often)}; "
                f"for whole answers raise it, as `evaluation.overrides: {{{evaluation}: {{max_tokens: …}}}}`, or `max_tokens` "
                "of a suite of your own"
            )
