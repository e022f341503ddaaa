"""What runs in the processes that vLLM starts for an engine: a watch that ends them when the replica they work for was killed.

vLLM's engine process does not look for its parent, and would keep a GPU's memory for ever: the replica that Serve starts in the
place of the lost one could not load the model. vLLM imports this module for its class (engine argument `worker_extension_cls`).
"""

from __future__ import annotations

import os
import signal
import threading
import time

REPLICA = "INOC_RAY_REPLICA_PID"
"""Variable of an engine's processes: the id of their replica's process."""
LOOK_SECONDS = 1.0


class EndsWithReplica:
    """Adds nothing to vLLM's workers."""


def end_with(pid: int) -> None:
    """Kill this process as soon as there is no process `pid` any more."""
    while _lives(pid):
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if REPLICA in os.environ and int(os.environ[REPLICA]) != os.getpid():
    threading.Thread(target=end_with, args=[int(os.environ[REPLICA])], daemon=True, name="watch").start()
