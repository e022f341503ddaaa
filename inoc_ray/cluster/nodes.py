"""The nodes of the cluster that this process is connected to: those that are up, and those that its autoscaler may start."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from inoc_ray.cluster.fit import DRIVER_RESOURCE, Capacity, Node
from inoc_ray.cluster.kubernetes import raycluster_config
from inoc_ray.errors import InputError

MOST_STARTED = 1000
"""Nodes of an autoscaler without a limit that are counted."""
HEAD_SECONDS = 60.0
"""How long the head may take to answer: it starts a process."""
_HEAD = "node:__internal_head__"
"""Ray's resource that only the head has."""
T = TypeVar("T")
_CONFIG = "--autoscaling-config="
"""The argument of Ray's monitor, on the head, that names the file of `ray up`."""


def capacity() -> Capacity:
    """Return what the cluster holds, with the nodes that its autoscaler may start beside those that are up."""
    import ray

    has_driver_resource = any(DRIVER_RESOURCE in node["Resources"] for node in alive())
    nodes = up()
    config = ask_head(autoscaler_config, ray.get_runtime_context().gcs_address)
    startable, most = startable_nodes(config, nodes)
    return Capacity.of(nodes, has_driver_resource=has_driver_resource, startable=startable, may_start=most)


def up() -> list[Node]:
    """Return the nodes that are up."""
    return [node_of(node["Resources"]) for node in alive()]


def addresses() -> dict[str, str]:
    """Return the address of each node that is up, by its id."""
    return {node["NodeID"]: node["NodeManagerAddress"] for node in alive()}


def alive() -> list[dict[str, Any]]:
    """Return what Ray says of each node that is up: NodeID, NodeManagerAddress, Resources and more."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def free() -> Node:
    """Return the CPUs and GPUs that nothing holds, over all nodes."""
    import ray

    return node_of(ray.available_resources())


def node_of(resources: Mapping[str, float]) -> Node:
    """Return the CPUs and GPUs among a node's resources."""
    return Node(float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))


def on_head() -> bool:
    """Return whether this process runs on the head, and not on another node of the cluster."""
    import ray

    head = head_node()
    return head is None or head["NodeID"] == ray.get_runtime_context().get_node_id()


def head_node() -> dict[str, Any] | None:
    """Return what Ray says of the head; None if it does not say which node that is."""
    return next((node for node in alive() if _HEAD in node["Resources"]), None)


def ask_head(function: Callable[..., T], *arguments: object, seconds: float = HEAD_SECONDS) -> T:
    """Return what a function of this package returns on the head: the cluster's files and its Serve proxy are there.

    Raises InputError if the head does not answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    head = head_node()
    if head is None or on_head():
        return function(*arguments)
    there = NodeAffinitySchedulingStrategy(head["NodeID"], soft=False)
    task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(function).remote(*arguments)
    try:
        answer: T = ray.get(task, timeout=seconds)
    except (ray.exceptions.RayError, TimeoutError) as error:
        ray.cancel(task, force=True)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        address = head["NodeManagerAddress"]
        raise InputError(
            f"the head of the cluster, {address}, cannot run a task ({reason}); install inoc_ray there, too."
        ) from error
    return answer


def startable_nodes(config: Mapping[str, Any] | None, up: Sequence[Node]) -> tuple[list[Node], int]:
    """Return the nodes that an autoscaler with this configuration may start beside those that are up, and how many at once."""
    if config is None:
        return [], 0
    there = Counter(up)
    found: list[Node] = []
    for name, kind in config.get("available_node_types", {}).items():
        node = node_of(kind.get("resources", {}))
        if name == config.get("head_node_type") or not (node.cpus or node.gpus):
            continue
        most = max(0, int(kind.get("max_workers", config.get("max_workers", 2))))
        # Types of one shape (on demand, and spot) share the nodes of that shape: each of them counts once.
        running = min(most, there[node])
        there[node] -= running
        found += [node] * min(most - running, MOST_STARTED)
    return found, max(0, int(config.get("max_workers", 2)) - (len(up) - 1))


def autoscaler_config(gcs_address: str) -> dict[str, Any] | None:
    """Return the configuration that Ray's autoscaler runs with, if it runs on this machine, the head; None without one.

    gcs_address: of the cluster, as "10.0.0.1:6379".
    """
    for arguments in _commands():
        paths = [a.removeprefix(_CONFIG) for a in arguments if a.startswith(_CONFIG)]
        if paths and any(a.endswith(gcs_address) for a in arguments):
            import yaml

            with contextlib.suppress(OSError, yaml.YAMLError):
                value = yaml.safe_load(Path(paths[0]).expanduser().read_text())
                return value if isinstance(value, dict) else None
    # There the autoscaler runs in another container of the head's pod.
    return raycluster_config()


def _commands(proc: Path = Path("/proc")) -> Iterator[list[str]]:
    """Yield the command of each process of this machine that this user may look at."""
    for path in proc.glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes().decode(errors="replace").split("\0")
