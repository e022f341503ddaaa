"""Ray Train's detached helpers of runs that are over.

Each run has a `PlacementGroupCleaner`, which ends itself when it sees that the run's controller is dead. If the command dies just
after it was made, it was not yet told to look, and stays for as long as the cluster.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from inoc_ray.cluster.keeper import dead_jobs

_CLASS = "PlacementGroupCleaner"
_PATIENCE_SECONDS = 3.0
"""How long one may take to end itself: it looks every second (ray/train/v2/_internal/callbacks/placement_group_callback.py)."""


def end_cleaners() -> None:
    """End the cleaners of dead jobs that have not ended themselves. A chore of a command's keeper."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    end = time.monotonic() + _PATIENCE_SECONDS
    while (left := _left()) and time.monotonic() < end:
        time.sleep(0.5)
    # Nobody has a handle of it any more, and it has no name: what can be reached is its process.
    kill = ray.remote(num_cpus=0)(os.kill)
    here = ray.get_runtime_context().get_node_id()
    for node_id, pid in left:
        if node_id == here:
            # A task would wait for a process to start.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            continue
        where = NodeAffinitySchedulingStrategy(node_id, soft=False)
        ray.wait([kill.options(scheduling_strategy=where).remote(pid, signal.SIGKILL)], timeout=10.0)


def _left() -> list[tuple[str, int]]:
    """Return node and process of the cleaners that live though their job is dead."""
    from ray._private import state

    dead = dead_jobs()
    return [
        (actor["Address"]["NodeID"], int(actor["Pid"]))
        for actor in state.actors().values()
        if actor["ActorClassName"] == _CLASS and actor["State"] == "ALIVE" and actor["JobID"] in dead
    ]
