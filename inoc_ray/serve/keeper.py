"""An actor beside an engine on a shared cluster: it outlives the command that started both, and then takes the engine down.

A command that is killed, or stopped with less time than an engine takes to end, would leave it on its GPUs until the next command.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from inoc_ray.serve import owner

NAMESPACE = "inoc_ray"
LOOK_SECONDS = 1.0
"""How often a keeper asks whether the command lives."""
FAREWELL_SECONDS = 30.0
"""How long a command waits for the keeper of a dead one to take its engine down."""


class Keeper:
    """Watches a Ray job from a detached actor, takes its engines down when it is dead, and ends itself."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        # Not a method that the command calls: a keeper that Ray starts again on another node has no caller.
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        import ray

        while self._job_id not in owner.dead_jobs():
            time.sleep(LOOK_SECONDS)
        try:
            owner.reclaim()
        finally:
            ray.kill(ray.get_runtime_context().current_actor)


def start() -> Any:
    """Start the keeper of an engine of this command, and return it."""
    import ray

    job_id = ray.get_runtime_context().get_job_id()
    # A name is free again only some time after its actor was killed.
    options = {"name": f"keeper-{job_id}-{uuid.uuid4().hex}", "namespace": NAMESPACE, "lifetime": "detached"}
    return ray.remote(Keeper).options(num_cpus=0, max_restarts=-1, **options).remote(job_id)


def release(keeper: Any) -> None:
    """End a keeper whose engine is gone."""
    import ray

    ray.kill(keeper)


def wait_for_keepers() -> None:
    """Wait until the keepers of dead commands are done, so that nobody builds on an engine that is being taken down."""
    end = time.monotonic() + FAREWELL_SECONDS
    while any(_at_work()) and time.monotonic() < end:
        time.sleep(LOOK_SECONDS / 4)


def _at_work() -> Iterator[str]:
    """Yield the names of keepers whose command is dead."""
    import ray

    names = [one["name"] for one in ray.util.list_named_actors(all_namespaces=True) if one["namespace"] == NAMESPACE]
    if names:
        dead = owner.dead_jobs()
        yield from (name for name in names if name.split("-")[1] in dead)
