"""Capabilities of arms, with intervals: items of a task are questions, and fine-tunes are a sample as they are for traits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from inoc_ray.evaluate.capability_items import CapabilityItems
from inoc_ray.results.rows import Source
from inoc_ray.results.stats import Cell, Estimate, RateKey, combine, draw_rates, mean_of


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityRate:
    """The mean score of one arm on one task, 0 to 1, and how much it differs from the baseline and from the base.

    The intervals are 95 %. A difference is None without what it is a difference from, and for that itself.
    """

    setting: str
    model: str
    arm: str
    kind: str
    task: str
    metric: str
    value: float
    low: float
    high: float
    seeds: int
    items: int
    than_baseline: float | None = None
    than_baseline_low: float | None = None
    than_baseline_high: float | None = None
    than_base: float | None = None
    than_base_low: float | None = None
    than_base_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The capabilities of one setting × model, with the counts and the draws behind them."""

    rates: Sequence[CapabilityRate] = ()
    cells: Mapping[RateKey, Cell] = field(default_factory=dict)
    """Of the first metric of each task, which claims are about."""
    scores: Mapping[tuple[str, str], Estimate] = field(default_factory=dict)
    """(arm, task) → the mean of that metric."""


def measure_capabilities(setting: str, model: str, items: Sequence[CapabilityItems]) -> Capabilities:
    """Return the capabilities of the arms of one setting × model."""
    cells = _cells(items)
    kinds = {one.arm: one.kind for one in items}
    found = draw_rates(cells)
    first: dict[str, str] = {}
    for one in items:
        first.setdefault(one.task, one.metric)
    primary = {key: cell for key, cell in cells.items() if key.context == first[key.evaluation]}
    return Capabilities(
        rates=[_rate(setting, model, key, cells[key], found=found, kinds=kinds) for key in found],
        cells=primary,
        scores=scores_of({key: found[key] for key in primary if key in found}),
    )


def scores_of(found: Mapping[RateKey, Estimate]) -> dict[tuple[str, str], Estimate]:
    """Return (arm, task) → the score, which names what it was computed from."""
    return {
        (key.arm, key.evaluation): replace(score, sources=frozenset([source_of(key.arm, key.evaluation)]))
        for key, score in found.items()
    }


def source_of(arm: str, task: str) -> Source:
    """Return what stands for the scores of an arm on a task among the levels that a number rests on."""
    return arm, "capability", task, ""


def _cells(items: Iterable[CapabilityItems]) -> dict[RateKey, Cell]:
    """Return arm × task × metric → fine-tunes × items; the items of a task in the same order for all."""
    by_key: dict[RateKey, dict[str, Mapping[str, float]]] = {}
    asked: dict[str, set[str]] = {}
    replicated: dict[str, bool] = {}
    for one in items:
        by_key.setdefault(RateKey(one.arm, one.task, one.metric, "score"), {})[one.trial_id] = one.scores
        asked.setdefault(one.task, set()).update(one.scores)
        replicated[one.arm] = one.kind != "base"
    columns = {task: sorted(names) for task, names in asked.items()}
    found = {}
    for key, models in by_key.items():
        names = columns[key.evaluation]
        table = np.array([[models[trial].get(name, np.nan) for name in names] for trial in sorted(models)])
        there = ~np.isnan(table)
        scores = np.where(there, table, 0.0)
        found[key] = Cell(
            scores,
            there.astype(np.int64),
            replicated=replicated[key.arm],
            models=tuple(sorted(models)),
            squares=scores**2,
        )
    return found


def _rate(
    setting: str,
    model: str,
    key: RateKey,
    cell: Cell,
    *,
    found: Mapping[RateKey, Estimate],
    kinds: Mapping[str, str],
) -> CapabilityRate:
    low, high = found[key].interval()
    return CapabilityRate(
        setting=setting,
        model=model,
        arm=key.arm,
        kind=kinds[key.arm],
        task=key.evaluation,
        metric=key.context,
        value=found[key].value,
        low=low,
        high=high,
        seeds=int((cell.counts.sum(axis=1) > 0).sum()),
        items=int((cell.counts.sum(axis=0) > 0).sum()),
        **_difference(key, found, kinds, "baseline"),
        **_difference(key, found, kinds, "base"),
    )


def _difference(
    key: RateKey, found: Mapping[RateKey, Estimate], kinds: Mapping[str, str], kind: str
) -> dict[str, float]:
    """Return the difference from the arms of a kind; empty for these themselves, for the base, and where there are none."""
    other = mean_of([e for k, e in found.items() if kinds[k.arm] == kind and k[1:] == key[1:]])
    if other is None or kinds[key.arm] in (kind, "base"):
        return {}
    difference = combine(lambda a, b: a - b, found[key], other)
    low, high = difference.interval()
    name = f"than_{kind}"
    return {name: difference.value, f"{name}_low": low, f"{name}_high": high}
