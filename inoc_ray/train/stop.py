"""A command that is stopped asks the workers for snapshots first, and waits for them a moment."""

from __future__ import annotations

import time
from collections.abc import Collection

from inoc_ray import stopping
from inoc_ray.console import say
from inoc_ray.store import snapshots
from inoc_ray.store.store import Store

STOP_SECONDS = 5.0
"""How long a command that is stopped waits for snapshots, if it has so long: 2.5 s of the 3 s after which `ray job stop` kills."""
_POLL_SECONDS = 0.05


def snapshot_before_stop(store: Store, trial_ids: Collection[str], seconds: float | None = None) -> int:
    """Have the workers that train these trials take snapshots; return how many did so in time.

    seconds: how long to wait, STOP_SECONDS or what is left of the stop. A worker looks about once a second, between two steps.
    One that is not fast enough goes on from its snapshot before.
    """
    if not trial_ids:
        return 0
    before = {trial_id: _latest(store, trial_id) for trial_id in trial_ids}
    for trial_id in trial_ids:
        store.snapshot_request(trial_id).write_text("")
    taken: set[str] = set()
    end = time.monotonic() + (min(STOP_SECONDS, stopping.seconds_left()) if seconds is None else seconds)
    while len(taken) < len(before) and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
        taken |= {t for t in before if store.trial_done(t) or _latest(store, t) != before[t]}
    for trial_id in trial_ids:
        store.snapshot_request(trial_id).unlink(missing_ok=True)
    say(f"training: stopped; {len(taken)} of {len(before)} trials in training took a snapshot just now.")
    return len(taken)


def _latest(store: Store, trial_id: str) -> str | None:
    return next((place.name for place in snapshots.committed(store.snapshots(trial_id))), None)
