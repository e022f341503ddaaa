"""How far a run is, as it wrote it itself, or how it ended; as text and as JSON."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from inoc_ray.console import duration, facts
from inoc_ray.store.progress import read_progress
from inoc_ray.store.store import Store


def progress_of(store: Store, study: str) -> dict[str, Any] | None:
    """Return the progress of the last run of a study, for `--json`; None before its first.

    `state` is "running", "done", "failed", "stopped", or "killed" for a run that ended without a word.
    """
    value = read_progress(store, study)
    if value is None:
        return None
    if value["state"] == "running" and store.holder(f"study-{study}") is None:
        value["state"] = "killed"
    return value


def progress_text(progress: Mapping[str, Any] | None) -> list[str]:
    """Return lines that say what a run does and since when, or how the last one ended; none before the first."""
    if progress is None:
        return []
    job = f" Job: {progress['job']}." if progress["job"] else ""
    if progress["state"] != "running":
        ended = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(progress["written"]))
        took = duration(progress["seconds_in_run"])
        why = f": {progress['error']}" if progress["error"] else ""
        where = "" if progress["state"] == "done" else f" ({progress['phase']})"
        return [f"Last run: {progress['state']}{where}{why}, {ended}, after {took}.{job}"]
    since = progress["seconds_in_phase"] + progress["age"]
    lines = [f"Phase: {progress['phase']} for {duration(since)}, written {progress['age']:.0f} s ago.{job}"]
    return [*lines, *(f"  {_activity_text(one)}" for one in progress["under_way"] if one["label"])]


def _activity_text(state: Mapping[str, Any]) -> str:
    return f"{state['label']} {' · '.join(facts(state))}".rstrip()
