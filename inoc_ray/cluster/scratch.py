"""Scratch space on this node for the state that Ray Train and Ray Tune keep of a run, which nobody reads when the run is over.

They would have it on a folder that all nodes mount, or in a bucket, for the sake of checkpoints and of resuming. Here neither is
Ray's affair (the store has the trials and their snapshots), and only the process that starts a run reads and writes its state.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """Yield a new folder on this node, and delete it at the end.

    It lies in the folder of the cluster's session, so that what a killed process leaves goes with the cluster.
    """
    from ray._private import worker

    # None for a process that is connected from outside the cluster (ray://): then it is a temporary folder like any other.
    node = worker._global_node
    session = None if node is None else node.get_session_dir_path()
    with tempfile.TemporaryDirectory(prefix="inoc-ray-", dir=session, ignore_cleanup_errors=True) as folder:
        yield folder
