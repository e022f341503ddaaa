"""Who started an engine on a shared cluster: engines whose command is gone are taken down by the next one.

Ray Serve is detached: a command that is killed leaves its controller, proxy and replica behind, with the replica's GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inoc_ray.cluster.keeper import dead_jobs
from inoc_ray.console import say

_OWNER, _STARTED_SERVE = "INOC_RAY_ENGINE_OF_JOB", "INOC_RAY_STARTED_SERVE"


def mark(*, started_serve: bool) -> dict[str, str]:
    """Return environment variables of a replica that say which Ray job started it, and whether that started Serve, too."""
    import ray

    return {_OWNER: ray.get_runtime_context().get_job_id(), _STARTED_SERVE: str(int(started_serve))}


def reclaim() -> list[str]:
    """Take down the engines of jobs that are dead, and Serve with them if one of those started it; return their names.

    Applications of others, and those of living commands, stay.
    """
    import ray

    try:
        # Serve is imported only if it runs: that takes seconds.
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return []
    from ray import serve
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return []
    dead = dead_jobs()
    try:
        marks = {name: marked_by(app) for name, app in client.get_serve_details()["applications"].items()}
        gone = [name for name, found in marks.items() if found.get(_OWNER) in dead]
        if gone and len(gone) == len(marks) and any(marks[name][_STARTED_SERVE] == "1" for name in gone):
            serve.shutdown()
        else:
            for name in gone:
                serve.delete(name)
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
