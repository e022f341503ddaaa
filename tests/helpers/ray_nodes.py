"""A Ray cluster of several raylets on this machine, each a node of its own to Ray, joined as the product joins a cluster."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from rank_program import free_port

from inoc_ray.cluster.connect import LOCAL_OBJECT_STORE_BYTES
from inoc_ray.cluster.fit import DRIVER_RESOURCE


class Nodes:
    """The raylets of a cluster: a head, which holds the drivers, and one worker node per entry of `cpus`.

    Nodes without a common place: two ranks of one CPU each on nodes of one CPU each cannot lie on the same node.
    """

    def __init__(self, cpus: Sequence[int], head_cpus: int = 0) -> None:
        common = {"node_ip_address": "127.0.0.1", "object_store_memory": LOCAL_OBJECT_STORE_BYTES}
        self._common = {**common, "include_dashboard": False}
        self._cpus, self._head_cpus = tuple(cpus), head_cpus
        self._start()

    def _start(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={**self._common, "num_cpus": self._head_cpus, "resources": {DRIVER_RESOURCE: 1000.0}},
        )
        self.address: str = self._cluster.address
        self.workers: list[Any] = [self.add(count) for count in self._cpus]
        self._cluster.wait_for_nodes()
        os.environ["RAY_ADDRESS"] = self.address

    def add(self, cpus: int, gpus: int = 0) -> Any:
        """Start one more node; its GPUs are what Ray is told, and need not be there."""
        return self._cluster.add_node(**self._common, num_cpus=cpus, num_gpus=gpus)

    def of(self, pid: int) -> Any:
        """The node of a worker process."""
        above = {process.pid for process in psutil.Process(pid).parents()}
        return next(node for node in self._cluster.worker_nodes if raylet_of(node) in above)

    def kill(self, node: Any) -> None:
        """SIGKILL the raylet of a node and its processes, as a machine that loses power."""
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_all(self, *others: int) -> None:
        """SIGKILL everything at once, head and workers, and other processes: a power cut."""
        nodes = [self._cluster.head_node, *self._cluster.worker_nodes]
        started = [info.process.pid for node in nodes for infos in node.all_processes.values() for info in infos]
        roots = [psutil.Process(pid) for pid in (*started, *others) if psutil.pid_exists(pid)]
        for process in {one for root in roots for one in (root, *root.children(recursive=True))}:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def start_again(self) -> None:
        """Start the same nodes anew, after `kill_all`: another cluster, at another address, that knows nothing of the first."""
        self._cluster.shutdown()
        self._start()

    def close(self) -> None:
        """End all raylets."""
        self._cluster.shutdown()


def raylet_of(node: Any) -> int:
    """The process id of a node's raylet."""
    (raylet,) = node.all_processes["raylet"]
    return int(raylet.process.pid)


@contextlib.contextmanager
def ray_nodes(*cpus: int, head_cpus: int = 0) -> Iterator[Nodes]:
    """Start a cluster with worker nodes of these CPUs, and name it in RAY_ADDRESS while the block runs."""
    nodes = Nodes(cpus, head_cpus)
    try:
        yield nodes
    finally:
        del os.environ["RAY_ADDRESS"]
        nodes.close()


@contextlib.contextmanager
def autoscaled(folder: Path, *, cpus: int, at_most: int) -> Iterator[None]:
    """Start a cluster of a head alone whose autoscaler starts up to `at_most` nodes of `cpus` CPUs, on this machine."""
    from ray.cluster_utils import Cluster

    port = free_port()
    lists = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    config = {
        "cluster_name": "fake",
        "max_workers": at_most,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "docker": {},
        "auth": {},
        "provider": {"type": "fake_multinode", "gcs_address": f"127.0.0.1:{port}"},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "min_workers": 0, "max_workers": 0},
            "worker": {"resources": {"CPU": cpus}, "node_config": {}, "min_workers": 0, "max_workers": at_most},
        },
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{f"{name}_commands": [] for name in lists},
    }
    path = folder / "autoscaler.yaml"
    path.write_text(json.dumps(config))
    before = dict(os.environ)
    os.environ.update(RAY_FAKE_CLUSTER="1", AUTOSCALER_UPDATE_INTERVAL_S="1")
    try:
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "node_ip_address": "127.0.0.1",
                "object_store_memory": LOCAL_OBJECT_STORE_BYTES,
                "include_dashboard": False,
                "num_cpus": 0,
                "resources": {DRIVER_RESOURCE: 1000.0},
                "gcs_server_port": port,
                "autoscaling_config": str(path),
            },
        )
        os.environ["RAY_ADDRESS"] = cluster.address
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        session = cluster.head_node.get_session_dir_path()
        cluster.shutdown()
        # The nodes that the autoscaler started are no children of this process.
        for process in psutil.process_iter(["cmdline"]):
            if any(session in argument for argument in process.info["cmdline"] or ()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
