"""A command that is stopped asks the workers for snapshots first, and waits for them a moment."""

from __future__ import annotations

import time
from collections.abc import Collection

from inoc_ray.console import say
from inoc_ray.store import snapshots
from inoc_ray.store.store import Store

STOP_SECONDS = 2.5
"""How long a command that is stopped waits for snapshots: `ray job stop` kills it 3 s after it has told it to stop."""
_POLL_SECONDS = 0.05


def snapshot_before_stop(store: Store, trial_ids: Collection[str], seconds: float = STOP_SECONDS) -> int:
    """Have the workers that train these trials take snapshots; return how many did so in time.

    A worker looks about once a second, between two steps. One that is not fast enough goes on from its snapshot before.
    """
    if not trial_ids:
        return 0
    before = {trial_id: _latest(store, trial_id) for trial_id in trial_ids}
    for trial_id in trial_ids:
        store.snapshot_request(trial_id).write_text("")
    taken: set[str] = set()
    end = time.monotonic() + seconds
    while len(taken) < len(before) and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
        taken |= {t for t in before if store.trial_done(t) or _latest(store, t) != before[t]}
    for trial_id in trial_ids:
        store.snapshot_request(trial_id).unlink(missing_ok=True)
    say(f"training: stopped; {len(taken)} of {len(before)} trials in training took a snapshot just now.")
    return len(taken)


def _latest(store: Store, trial_id: str) -> str | None:
    return next((place.name for place in snapshots.committed(store.snapshots(trial_id))), None)
