"""All numbers of a study as tidy tables in CSV, a line each: rates, effects, and every fine-tune with what it took."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from inoc_ray.results.dynamics import looks_of
from inoc_ray.results.records import TrialRecord
from inoc_ray.results.rows import Place, Row, TrialRate

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison

_EFFECT = ("setting", "model", "arm", "kind", "measure", "value", "low", "high", "p", "seeds", "complete", "why")
_TRAINING = (
    "tokens",
    "target_tokens",
    "tokens_per_second",
    "mfu",
    "hfu",
    "padding",
    "seconds_training",
    "seconds_total",
    "peak_device_bytes",
    "peak_host_bytes",
    "device",
    "layout",
)


def tidy_tables(comparison: Comparison, trials: Sequence[TrialRecord]) -> dict[str, bytes]:
    """Return path → CSV: rates, effects (levels too), claims and dynamics if there are any, fine-tunes, and the rates of each."""
    tables = {
        "tables/rates.csv": _csv({f.name: getattr(row, f.name) for f in fields(Row)} for row in comparison.rows),
        "tables/effects.csv": _csv(
            {name: getattr(effect, name) for name in _EFFECT} for effect in (*comparison.effects, *comparison.levels)
        ),
        "tables/claims.csv": _csv(
            {name: value for name, value in claim.to_json().items() if name != "arms"} for claim in comparison.claims
        ),
        "tables/fine_tunes.csv": _csv(_fine_tune(trial) for trial in trials),
        "tables/fine_tune_rates.csv": _csv(
            _of_fine_tune(place, rate) for place, rates in comparison.trial_rates.items() for rate in rates
        ),
    }
    if comparison.courses:
        tables["tables/rates_over_steps.csv"] = _csv(
            {"step": rates.step, **{f.name: getattr(row, f.name) for f in fields(Row)}}
            for rates in comparison.courses
            for row in rates.rows
        )
        tables["tables/fine_tune_rates_over_steps.csv"] = _csv(
            {"step": rates.step, **_of_fine_tune(place, rate)}
            for rates in comparison.courses
            for place, of_place in rates.trial_rates.items()
            for rate in of_place
        )
    if followed := [asdict(look) for look in looks_of(trials)]:
        tables["tables/dynamics.csv"] = _csv(followed)
    return tables if comparison.claims else {path: table for path, table in tables.items() if "claims" not in path}


def _of_fine_tune(place: Place, rate: TrialRate) -> dict[str, Any]:
    return {
        **dict(zip(("setting", "model", "arm", "seed"), place, strict=True)),
        **{f.name: getattr(rate, f.name) for f in fields(rate)},
    }


def _fine_tune(trial: TrialRecord) -> dict[str, Any]:
    seconds = trial.training.get("seconds_by_phase", {})
    return {
        **{name: getattr(trial, name) for name in ("setting", "model", "arm", "kind", "seed", "trial_id", "status")},
        **{name: trial.training.get(name) for name in _TRAINING},
        **{f"seconds.{phase}": value for phase, value in seconds.items()},
        **_capabilities(trial),
    }


def _capabilities(trial: TrialRecord) -> dict[str, Any]:
    """Return `capability.<task>.<metric>` and the same with `.stderr`, without the parts of a task."""
    found: dict[str, Any] = {}
    for score in trial.capabilities:
        if not score.part:
            name = f"capability.{score.task}.{score.metric}"
            found |= {name: score.value, f"{name}.stderr": score.stderr}
    return found


def _csv(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return rows as CSV with a header of all their names; a number has all its digits, None is empty."""
    listed = list(rows)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in listed for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    return out.getvalue().encode()
