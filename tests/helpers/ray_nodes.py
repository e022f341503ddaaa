"""A Ray cluster of several raylets on this machine, each a node of its own to Ray, joined as the product joins a cluster."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from inoc_ray.cluster.connect import LOCAL_OBJECT_STORE_BYTES
from inoc_ray.cluster.fit import DRIVER_RESOURCE


class Nodes:
    """The raylets of a cluster: a head without CPUs, which holds the drivers, and one worker node per entry of `cpus`.

    Nodes without a common place: two ranks of one CPU each on nodes of one CPU each cannot lie on the same node.
    """

    def __init__(self, cpus: Sequence[int]) -> None:
        from ray.cluster_utils import Cluster

        common = {"node_ip_address": "127.0.0.1", "object_store_memory": LOCAL_OBJECT_STORE_BYTES}
        self._common = {**common, "include_dashboard": False}
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={**self._common, "num_cpus": 0, "resources": {DRIVER_RESOURCE: 1000.0}},
        )
        self.address: str = self._cluster.address
        self.workers: list[Any] = [self.add(count) for count in cpus]
        self._cluster.wait_for_nodes()

    def add(self, cpus: int) -> Any:
        """Start one more node."""
        return self._cluster.add_node(**self._common, num_cpus=cpus)

    def kill(self, node: Any) -> None:
        """SIGKILL the raylet of a node and its processes, as a machine that loses power."""
        self._cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        """End all raylets."""
        self._cluster.shutdown()


@contextlib.contextmanager
def ray_nodes(*cpus: int) -> Iterator[Nodes]:
    """Start a cluster with worker nodes of these CPUs, and name it in RAY_ADDRESS while the block runs."""
    nodes = Nodes(cpus)
    os.environ["RAY_ADDRESS"] = nodes.address
    try:
        yield nodes
    finally:
        del os.environ["RAY_ADDRESS"]
        nodes.close()
