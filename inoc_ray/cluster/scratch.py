"""Scratch space on this node for the state that Ray Train and Ray Tune keep of a run, which nobody reads when the run is over.

They would have it on a folder that all nodes mount, or in a bucket, for the sake of checkpoints and of resuming. Here neither is
Ray's affair (the store has the trials and their snapshots), and only the process that starts a run reads and writes its state.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from inoc_ray.store.scratch import reclaim, scratch_folder

_TRIES, _TRY_SECONDS = 3, 1.0
"""How often it is tried to delete what a dead command left: its actors die a moment after it."""


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """Yield a new folder on this node, and delete it at the end.

    It lies in the folder of the cluster's session, so that what a killed process leaves goes with the cluster at the latest.
    """
    with scratch_folder(_session()) as folder:
        yield str(folder)


def _session() -> Path | None:
    from ray._private import worker

    # None for a process that is connected from outside the cluster (ray://): then it is a temporary folder like any other.
    node = worker._global_node
    return None if node is None else Path(node.get_session_dir_path())


def reclaim_on_nodes() -> None:
    """Delete, on every node that is up, what processes left there that were killed. A chore of a command's keeper."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0)(_reclaim_here)
    here = ray.get_runtime_context().get_node_id()
    for tries in range(_TRIES):
        if tries:
            time.sleep(_TRY_SECONDS)
        others = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
        on = [NodeAffinitySchedulingStrategy(node_id, soft=False) for node_id in others]
        looks = [look.options(scheduling_strategy=where).remote() for where in on]
        _reclaim_here()
        if looks:
            ray.wait(looks, num_returns=len(looks), timeout=10.0)


def _reclaim_here() -> None:
    session = _session()
    if session is not None:
        reclaim(session)
