"""The nodes of the cluster that this process is connected to: those that are up, and those that its autoscaler may start."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from inoc_ray.cluster.fit import DRIVER_RESOURCE, Capacity, Node

MOST_STARTED = 1000
"""Nodes of an autoscaler without a limit that are counted."""
_CONFIG = "--autoscaling-config="
"""The argument of Ray's monitor, on the head, that names the file of `ray up`."""


def capacity() -> Capacity:
    """Return what the cluster holds, with the nodes that its autoscaler may start beside those that are up."""
    has_driver_resource = any(DRIVER_RESOURCE in node["Resources"] for node in _alive())
    nodes = up()
    return Capacity.of([*nodes, *_startable(nodes)], has_driver_resource=has_driver_resource)


def up() -> list[Node]:
    """Return the nodes that are up."""
    return [_node(node["Resources"]) for node in _alive()]


def addresses() -> dict[str, str]:
    """Return the address of each node that is up, by its id."""
    return {node["NodeID"]: node["NodeManagerAddress"] for node in _alive()}


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def free() -> Node:
    """Return the CPUs and GPUs that nothing holds, over all nodes."""
    import ray

    return _node(ray.available_resources())


def _node(resources: Mapping[str, float]) -> Node:
    return Node(float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))


def _startable(up: list[Node]) -> list[Node]:
    """Return the nodes that the autoscaler may start; none without an autoscaler whose node types can be read."""
    config = _autoscaler_config()
    if config is None:
        return []
    there = Counter(up)
    left = int(config.get("max_workers", 2)) - (len(up) - 1)
    found: list[Node] = []
    for name, kind in config.get("available_node_types", {}).items():
        node = _node(kind.get("resources", {}))
        if name == config.get("head_node_type") or not (node.cpus or node.gpus):
            continue
        most = int(kind.get("max_workers", config.get("max_workers", 2)))
        found += [node] * min(max(0, most - there[node]), MOST_STARTED)
    # The whole cluster may have fewer nodes than its types together; the largest are the ones that decide.
    return sorted(found, key=lambda node: (node.gpus, node.cpus), reverse=True)[: max(0, left)]


def _autoscaler_config() -> dict[str, Any] | None:
    """Return the configuration that Ray's autoscaler runs with, if it runs on this machine, as where a job's driver runs."""
    import ray
    import yaml

    address = ray.get_runtime_context().gcs_address
    for arguments in _commands():
        paths = [a.removeprefix(_CONFIG) for a in arguments if a.startswith(_CONFIG)]
        if paths and any(a.endswith(address) for a in arguments):
            with contextlib.suppress(OSError, yaml.YAMLError):
                value = yaml.safe_load(Path(paths[0]).expanduser().read_text())
                return value if isinstance(value, dict) else None
    return None


def _commands(proc: Path = Path("/proc")) -> Iterator[list[str]]:
    """Yield the command of each process of this machine that this user may look at."""
    for path in proc.glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes().decode(errors="replace").split("\0")
