"""Who started an engine on a shared cluster: engines whose command is gone are taken down by the next one.

Ray Serve is detached: a command that is killed leaves its controller, proxy and replica behind, with the replica's GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inoc_ray.cluster.keeper import dead_jobs
from inoc_ray.console import say

_OWNER, _STARTED_SERVE = "INOC_RAY_ENGINE_OF_JOB", "INOC_RAY_STARTED_SERVE"


def mark(*, started_serve: bool) -> dict[str, str]:
    """Return environment variables of a replica that say which Ray job started it, and whether that started Serve, too."""
    import ray

    return {_OWNER: ray.get_runtime_context().get_job_id(), _STARTED_SERVE: str(int(started_serve))}


def serve_client() -> Any:
    """Return the client of the Serve that runs on the cluster now; None if none does.

    Serve's own is kept from call to call, though another command may have taken that Serve down since.
    """
    from ray.serve.context import _check_cached_client_alive, _get_global_client

    client, _ = _check_cached_client_alive()
    return client or _get_global_client(raise_if_no_controller_running=False)


def marks_on(client: Any) -> dict[str, dict[str, str]]:
    """Return the variables of `mark` of each application of a Serve, by its name; {} for those of others."""
    return {name: marked_by(app) for name, app in client.get_serve_details()["applications"].items()}


def started_by_us(client: Any) -> bool:
    """Return whether a command of this package, which need not live any more, started the Serve that an engine of ours is on."""
    return any(found.get(_STARTED_SERVE) == "1" for found in marks_on(client).values())


def take_down(names: Sequence[str], *, with_serve: bool) -> None:
    """Take applications down; with_serve: and then Serve, if nobody's application is left on it."""
    from ray import serve

    for name in names:
        serve.delete(name)
    # Only now: another command may have begun to serve here meanwhile.
    if with_serve and not serve.status().applications:
        serve.shutdown()


def reclaim() -> list[str]:
    """Take down the engines of jobs that are dead, and Serve if one of ours started it and nothing is left; return their names.

    Applications of others, and those of living commands, stay.
    """
    import ray

    try:
        # Serve is imported only if it runs: that takes seconds.
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return []
    client = serve_client()
    if client is None:
        return []
    dead = dead_jobs()
    try:
        marks = marks_on(client)
        gone = [name for name, found in marks.items() if found.get(_OWNER) in dead]
        take_down(gone, with_serve=any(marks[name][_STARTED_SERVE] == "1" for name in gone))
    except ray.exceptions.RayActorError:
        # Somebody else took Serve down meanwhile.
        return []
    for name in gone:
        say(f"serve: took down engine {name!r}, whose command is gone")
    return gone


def marked_by(application: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables of `mark` in Serve's details of an application; {} if it is none of ours."""
    for deployment in application["deployments"].values():
        options = deployment["deployment_config"].get("ray_actor_options") or {}
        variables = (options.get("runtime_env") or {}).get("env_vars") or {}
        if _OWNER in variables:
            return {_OWNER: variables[_OWNER], _STARTED_SERVE: variables.get(_STARTED_SERVE, "0")}
    return {}
