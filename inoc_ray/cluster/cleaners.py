"""Ray Train's detached helpers of runs that are over.

Each run has a `PlacementGroupCleaner`, which ends itself when it sees that the run's controller is dead. If the command dies just
after it was made, it was not yet told to look, and stays for as long as the cluster.
"""

from __future__ import annotations

import time

from inoc_ray.cluster.keeper import dead_jobs

_CLASS = "PlacementGroupCleaner"
_PATIENCE_SECONDS = 3.0
"""How long one may take to end itself: it looks every second (ray/train/v2/_internal/callbacks/placement_group_callback.py)."""


def end_cleaners() -> None:
    """End the cleaners of dead jobs that have not ended themselves. A chore of a command's keeper."""
    import ray
    from ray._private.worker import global_worker

    end = time.monotonic() + _PATIENCE_SECONDS
    while (left := _left()) and time.monotonic() < end:
        time.sleep(0.5)
    for actor_id in left:
        # Nobody has a handle of it any more, and it has no name.
        global_worker.core_worker.kill_actor(ray.ActorID(bytes.fromhex(actor_id)), True)


def _left() -> list[str]:
    """Return the ids of cleaners that live though their job is dead."""
    from ray._private import state

    dead = dead_jobs()
    return [
        actor_id
        for actor_id, actor in state.actors().items()
        if actor["ActorClassName"] == _CLASS and actor["State"] != "DEAD" and actor["JobID"] in dead
    ]
