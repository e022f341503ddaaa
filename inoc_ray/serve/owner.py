"""Who serves on a cluster: an engine whose command is gone is taken down, and Ray Serve with it if a command of ours started that.

Ray Serve is detached: a command that is killed leaves its controller, proxy and replicas behind, with the replicas' GPUs. So each
command notes on the cluster what it starts before it starts it, and its keeper, or the next command, looks there.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection
from typing import Any

from inoc_ray.cluster import notes
from inoc_ray.cluster.keeper import dead_jobs
from inoc_ray.console import say

_ENGINE, _SERVE = "engine/", "serve/"
"""Notes: an engine, by its name, with the Ray job that serves it; and a job that may have started Ray Serve."""


def note_engine(name: str) -> None:
    """Note that this command is about to serve an engine of this name, and may start Serve for it."""
    import ray

    job = ray.get_runtime_context().get_job_id()
    notes.put(f"{_ENGINE}{name}", job)
    notes.put(f"{_SERVE}{job}")


def serve_runs() -> bool:
    """Return whether Ray Serve runs on the cluster, without importing it: that takes seconds."""
    import ray

    try:
        return bool(ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve"))
    except ValueError:
        return False


def serve_client() -> Any:
    """Return the client of the Serve that runs on the cluster now; None if none does.

    Serve's own is kept from call to call, though another command may have taken that Serve down since.
    """
    import ray
    from ray.serve.context import _check_cached_client_alive, _get_global_client

    client, _ = _check_cached_client_alive()
    try:
        return client or _get_global_client(raise_if_no_controller_running=False)
    except ray.exceptions.RayActorError:
        # It is ending at this moment.
        return None


talking_to_serve = threading.RLock()
"""Held by the thread that asks Serve something or describes an application to it.

Serve's classes of settings register a module with Ray's pickler, which all threads share, and take it out again: of two threads
that make one at once, one fails ("not registered for pickle by value"). Serve's answers have such settings in them, too.
"""


def take_down(names: Collection[str]) -> None:
    """Take engines of ours down, and Serve with them if a command of this package started it and nobody else is on it.

    Serve goes at once then, and not after its engines: a command that is killed in between would leave it, while a Serve that
    was told to end does so by itself.
    """
    _take_down(names, dead_jobs())


def _take_down(names: Collection[str], dead: Collection[str]) -> None:
    import ray
    from ray import serve

    # Somebody else may take Serve down at any moment.
    ended = False
    with contextlib.suppress(ray.exceptions.RayActorError), talking_to_serve:
        ended = _end_serve_if_unused(dead, but_for=names)
        if not ended:
            for name in set(names).intersection(_applications()):
                serve.delete(name)
    for name in names:
        notes.remove(f"{_ENGINE}{name}")
    if not ended:
        # Of commands that end at the same time, the last one to remove its note finds nobody.
        with contextlib.suppress(ray.exceptions.RayActorError), talking_to_serve:
            _end_serve_if_unused(dead)


def reclaim() -> list[str]:
    """Take down the engines of jobs that are dead, and Serve if one of ours started it and nobody is on it; return their names.

    Applications of others, and those of living commands, stay.
    """
    dead = dead_jobs()
    gone = [name for name, job in notes.read(_ENGINE).items() if job in dead]
    if not serve_runs():
        for key in (*(_ENGINE + name for name in gone), *(_SERVE + job for job in notes.read(_SERVE) if job in dead)):
            notes.remove(key)
        return []
    _take_down(gone, dead)
    for name in gone:
        say(f"serve: took down engine {name!r}, whose command is gone")
    return gone


def _applications() -> list[str]:
    """Return the names of what is on the Serve of the cluster, whoever started it."""
    client = serve_client()
    with talking_to_serve:
        return [] if client is None else list(client.get_serve_details()["applications"])


def _end_serve_if_unused(dead: Collection[str], but_for: Collection[str] = ()) -> bool:
    """Shut Serve down if one of ours started it, and nothing but `but_for` is on it or about to be; return whether none runs."""
    from ray import serve

    client = serve_client()
    if client is None:
        return True
    # Ray's id of an actor has the job in it that made the actor.
    if client._controller._ray_actor_id.job_id.hex() not in notes.read(_SERVE):
        return False
    coming = [name for name, job in notes.read(_ENGINE).items() if job not in dead]
    if not set(but_for).issuperset((*coming, *_applications())):
        return False
    serve.shutdown()
    return True
