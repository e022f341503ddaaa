"""The GPUs of engines that a study leaves open, by the memory of the GPUs that its command finds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from inoc_ray.cluster.checks import Report, host_memory
from inoc_ray.cluster.cluster_file import NodeKind, PlannedCluster
from inoc_ray.cluster.connect import expected_capacity
from inoc_ray.cluster.fit import Node
from inoc_ray.cluster.gpus import seen_gpus
from inoc_ray.plan.plan import Plan
from inoc_ray.serve.memory import GIB
from inoc_ray.sizing.engines import with_engine_gpus
from inoc_ray.sizing.schedule import GPU


def on_this_machine(plan: Plan) -> Plan:
    """Return the plan with the GPUs of its engines, where its command runs on this machine and not on a cluster."""
    capacity = expected_capacity() if plan.study.resources.trains_on_gpus else None
    if capacity is None or not (gpus := seen_gpus()):
        return plan
    memory = min(gpu.memory for gpu in gpus)
    return _chosen(plan, [(node, memory, host_memory()) for node in capacity.nodes])


def on_nodes(plan: Plan, nodes: Iterable[tuple[Node, Report]]) -> Plan:
    """Return the plan with the GPUs of its engines on a cluster whose nodes have reported."""
    there = [(node, report.gpu_bytes, report.host_bytes) for node, report in nodes]
    return _chosen(plan, [(node, memory, host) for node, memory, host in there if memory is not None])


def _chosen(plan: Plan, nodes: Sequence[tuple[Node, int, int]]) -> Plan:
    """nodes: each with the bytes of one of its GPUs and its own."""
    # Ray puts an engine on any node that has as many GPUs.
    least = min((memory for _, memory, _ in nodes), default=0)
    kinds = [
        NodeKind(
            name="node",
            machine="node",
            count=1,
            # How fast it is matters little beside how much it holds.
            gpu=replace(GPU, memory_gib=least / GIB),
            gpus=int(node.gpus),
            cpus=node.cpus,
            memory_gib=host / GIB,
            network=0.0,
            dollars_per_hour=None,
        )
        for node, _, host in nodes
    ]
    return with_engine_gpus(plan, PlannedCluster(file="the cluster", kinds=tuple(kinds)))
