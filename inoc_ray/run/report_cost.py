"""What a study took, for the report: hours by device with the price of a list, tokens, judgments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inoc_ray.cluster.hardware import MACHINES, PRICES, find_gpu
from inoc_ray.plan.plan import Plan
from inoc_ray.store.store import Store

if TYPE_CHECKING:
    from inoc_ray.run.report_samples import StudySamples


def cost(plan: Plan, store: Store, samples: StudySamples) -> dict[str, str]:
    """Return label → what the study took. Fine-tunes that it shares with another study are counted whole."""
    trials = dict.fromkeys(t.trial_id for t in plan.fine_tunes if t.trial_id in plan.done_trials)
    training = [store.read_trial(trial)["training"] for trial in trials]
    found: dict[str, str] = {}
    if training:
        found["fine-tuning"] = hours_text(training)
        tokens = sum(int(one.get("tokens", 0)) for one in training)
        found["tokens trained on"] = f"{tokens:,} (prompts, questions and answers, every pass counted)"
    if samples.responses:
        found["sampling"] = (
            f"{samples.responses:,} responses: {samples.prompt_tokens:,} tokens read, {samples.completion_tokens:,} written"
        )
    if samples.judged:
        found["judging"] = ", ".join(f"{name} {count:,} responses" for name, count in samples.judged.items())
    return found


def hours_text(training: Sequence[Mapping[str, Any]]) -> str:
    """Return e.g. "8 fine-tunes: 3.6 minutes of CPU workers", with money where the list has a price for the device."""
    hours: dict[str, float] = {}
    for one in training:
        # Records of earlier versions do not name the device.
        device = str(one.get("device", "a device that was not noted"))
        hours[device] = hours.get(device, 0.0) + one["seconds_total"] * one.get("world_size", 1) / 3600
    parts = [f"{_time(spent)} of {_called(device)}{_money(device, spent)}" for device, spent in hours.items()]
    count = len(training)
    return (
        f"{count} fine-tune{'s' if count != 1 else ''}: {', '.join(parts)}; starts of workers and engines are not in it"
    )


def _time(hours: float) -> str:
    return f"{60 * hours:.1f} minutes" if hours < 1 else f"{hours:,.2f} hours"


def _called(device: str) -> str:
    return "CPU workers" if device == "cpu" else f"{device} GPUs" if find_gpu(device) else device


def _money(device: str, hours: float) -> str:
    """Return the price by the cheapest machine with that GPU; empty if the list has none."""
    gpu = find_gpu(device) if device != "cpu" else None
    if gpu is None:
        return ""
    prices = [m.dollars_per_hour / m.gpus for m in MACHINES.values() if m.gpu == gpu.name and m.dollars_per_hour]
    return f" (about ${hours * min(prices):,.2f} by {PRICES})" if prices else ""
