"""The few numbers of a run that MLflow's charts compare, under short names; the tables among its artifacts have all of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inoc_ray.evaluate.harness_run import CapabilityScore
from inoc_ray.results.effects import WITH_TRIGGER
from inoc_ray.results.report.verdict import verdicts_on
from inoc_ray.results.wording import with_interval

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.effects import Effect
    from inoc_ray.results.rows import Place

MAX_METRICS = 15
"""Of a run, curves included: MLflow makes a chart of each."""
_TRIGGERED = f".{WITH_TRIGGER}"
EFFECTS = {
    "suppression": "suppression",
    f"suppression{_TRIGGERED}": "suppression_with_trigger",
    "retention_ood": "retention",
    "retention_narrow": "retention_narrow",
    "selectivity": "selectivity",
    "leakage": "leakage",
    "conditionalisation": "conditionalisation",
}
"""Measure → its short name, those that are read first first."""
RETENTION_ID = "ci.retention_id"
"""A tag alone: a chart of it would stand beside that of the retention out of distribution, on which an arm is judged."""
LEVELS = {
    "undesired": "undesired",
    f"undesired{_TRIGGERED}": "undesired_with_trigger",
    "desired": "desired",
    f"desired{_TRIGGERED}": "desired_with_trigger",
}


def short_names(comparison: Comparison, setting: str, model: str) -> dict[str, str]:
    """Return measure → short name for the arms of one setting × model, in the order of the charts.

    Traits have a metric of their own only where arms inoculate against different ones: `undesired` is then another trait in
    each arm, and the base and the baseline have none.
    """
    roles = _roles(comparison, setting, model)
    undesired = {frozenset(traits) for traits in roles.values() if traits}
    traits: dict[str, str] = {}
    if len(undesired) > 1:
        levels = [one.measure for one in comparison.levels if (one.setting, one.model) == (setting, model)]
        traits = {measure: measure.removeprefix("rate.").replace(_TRIGGERED, "_with_trigger") for measure in levels}
        traits = {measure: name for measure, name in sorted(traits.items()) if measure.startswith("rate.")}
    return {**LEVELS, **traits, **EFFECTS}


def _roles(comparison: Comparison, setting: str, model: str) -> dict[str, set[str]]:
    """Return arm → its undesired traits."""
    found: dict[str, set[str]] = {}
    for row in comparison.rows:
        if (row.setting, row.model) == (setting, model) and row.role == "undesired":
            found.setdefault(row.arm, set()).add(row.trait)
    return found


def arm_estimates(comparison: Comparison, setting: str, model: str, arm: str) -> dict[str, Effect]:
    """Return short name → level or effect of an arm, in the order of the charts.

    Without effects that rest on something incomplete: the tables have them, marked.
    """
    own = [e for e in (*comparison.levels, *comparison.effects) if (e.setting, e.model, e.arm) == (setting, model, arm)]
    of = {e.measure: e for e in own if e.value is not None and (e.complete or e in comparison.levels)}
    names = short_names(comparison, setting, model)
    return {name: of[measure] for measure, name in names.items() if measure in of}


def in_words(estimates: Mapping[str, Effect]) -> dict[str, str]:
    """Return tags `ci.<name>`: an estimate with its 95 % interval, as the runs table shows it, and whether it is incomplete."""
    return {
        f"ci.{name}": with_interval(e.value, e.low, e.high) + ("" if e.complete else " (incomplete)")
        for name, e in estimates.items()
    }


def verdict_tags(comparison: Comparison, setting: str, model: str, arm: str) -> dict[str, str]:
    """Return the tag `verdict` of an inoculated arm, in the report's words, and its retention in distribution with its interval."""
    own = verdicts_on(comparison, setting, model, arm)
    said = "; ".join(f"{v.does_it_work}{f' ({v.condition})' if v.condition else ''}" for v in own)
    tags = {"verdict": said} if said else {}
    for e in comparison.effects:
        if (e.setting, e.model, e.arm, e.measure) == (setting, model, arm, "retention_id"):
            tags |= {} if e.value is None or not e.complete else {RETENTION_ID: with_interval(e.value, e.low, e.high)}
    return tags


def arm_metrics(estimates: Mapping[str, Effect], capabilities: Sequence[Sequence[CapabilityScore]]) -> dict[str, float]:
    """Return the metrics of an arm's run: its estimates, then the capabilities of its fine-tunes, each a mean over them."""
    return first_of(
        [
            *((name, e.value) for name, e in estimates.items() if e.value is not None),
            *mean_capabilities(capabilities).items(),
        ],
        MAX_METRICS,
    )


def trial_metrics(
    comparison: Comparison,
    place: Place,
    capabilities: Sequence[CapabilityScore],
    training: Mapping[str, Any],
    room: int,
) -> dict[str, float]:
    """Return the metrics of a fine-tune's run: its rates under the arm's names, then its cost, then its capabilities.

    room: how many metrics there may be beside its curves.
    """
    setting, model, *_ = place
    cost = {
        "minutes": None if (seconds := training.get("seconds_total")) is None else seconds / 60,
        "peak_gib": _gib(training.get("peak_device_bytes") or training.get("peak_host_bytes")),
    }
    return first_of(
        [
            *_trial_rates(comparison, place, short_names(comparison, setting, model)).items(),
            *((name, value) for name, value in cost.items() if value is not None),
            *capability_metrics(capabilities).items(),
        ],
        room,
    )


def _gib(size: int | None) -> float | None:
    return None if size is None else size / 2**30


def _trial_rates(comparison: Comparison, place: Place, names: Mapping[str, str]) -> dict[str, float]:
    """Return the rates of one fine-tune out of distribution: each a mean over the traits and evaluations that its arm's is over."""
    setting, model, arm, _ = place
    of_arm = [r for r in comparison.rows if (r.setting, r.model, r.arm, r.split) == (setting, model, arm, "ood")]
    rates = {(r.evaluation, r.context, r.trait): r.rate for r in comparison.trial_rates.get(place, ())}
    found: dict[str, float] = {}
    for level in comparison.levels:
        if (level.setting, level.model, level.arm) != (setting, model, arm) or level.measure not in names:
            continue
        about = {(trait, context) for _, _, trait, context in level.sources}
        with_trigger = level.measure.endswith(_TRIGGERED)
        # With the trigger: in the questions themselves or, where none has it, in the context `trigger`.
        rows = [
            r
            for r in of_arm
            if (r.trait, r.context) in about and r.triggered == (with_trigger and r.context == comparison.reference)
        ]
        values = [rates.get((r.evaluation, r.context, r.trait)) for r in rows]
        known = [value for value in values if value is not None]
        if known and len(known) == len(values):
            found[names[level.measure]] = statistics.fmean(known)
    return {name: found[name] for name in names.values() if name in found}


def mean_capabilities(of_trials: Sequence[Sequence[CapabilityScore]]) -> dict[str, float]:
    """Return capability → mean over fine-tunes, of those that every one of them has."""
    each = [capability_metrics(scores) for scores in of_trials]
    names = [name for name in (each[0] if each else {}) if all(name in one for one in each)]
    return {name: statistics.fmean(one[name] for one in each) for name in names}


def capability_metrics(scores: Sequence[CapabilityScore]) -> dict[str, float]:
    """Return metrics named `capability.gsm8k`, with the metric in the name where a task has several."""
    whole = [score for score in scores if score.value is not None and not score.part]
    several = {task for task in {s.task for s in whole} if sum(s.task == task for s in whole) > 1}
    names = [f"capability.{s.task}{f'.{s.metric}' if s.task in several else ''}" for s in whole]
    return {name: score.value for name, score in zip(names, whole, strict=True) if score.value is not None}


def first_of(metrics: Iterable[tuple[str, float]], room: int) -> dict[str, float]:
    """Return the first metrics for which there is room; of two with one name, the first."""
    found: dict[str, float] = {}
    for name, value in metrics:
        if len(found) < room:
            found.setdefault(name, value)
    return found
