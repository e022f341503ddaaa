"""What a study leaves open of the GPUs that it takes, decided by the memory of those that its command finds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from inoc_ray.cluster.checks import Report, host_memory
from inoc_ray.cluster.cluster_file import NETWORK, NodeKind, PlannedCluster
from inoc_ray.cluster.connect import expected_capacity
from inoc_ray.cluster.fit import Node
from inoc_ray.cluster.gpus import seen_gpus
from inoc_ray.plan.plan import Plan
from inoc_ray.serve.memory import GIB
from inoc_ray.sizing.engines import with_engine_gpus
from inoc_ray.sizing.estimate import with_shapes
from inoc_ray.sizing.fine_tunes import OFFLOADS
from inoc_ray.sizing.schedule import GPU
from inoc_ray.study.resources import GroupResources


def on_this_machine(plan: Plan, *, trains: bool = True) -> Plan:
    """Return the plan with what its study leaves open, where its command runs on this machine and not on a cluster.

    The GPUs of its engines and, if the command trains, the shape of its fine-tunes.
    """
    capacity = expected_capacity() if plan.study.resources.trains_on_gpus else None
    if capacity is None or not (gpus := seen_gpus()):
        return plan
    memory = min(gpu.memory for gpu in gpus)
    found = [(node, memory, host_memory()) for node in capacity.nodes]
    return _chosen(plan, found, trains=trains, has_driver_resource=capacity.has_driver_resource)


def on_nodes(
    plan: Plan, nodes: Iterable[tuple[Node, Report]], *, trains: bool = True, has_driver_resource: bool = False
) -> Plan:
    """Return the plan with what its study leaves open, on a cluster whose nodes have reported.

    has_driver_resource: as `Capacity` has it.
    """
    there = [(node, report.gpu_bytes, report.host_bytes) for node, report in nodes]
    found = [(node, memory, host) for node, memory, host in there if memory is not None]
    return _chosen(plan, found, trains=trains, has_driver_resource=has_driver_resource)


def _chosen(plan: Plan, nodes: Sequence[tuple[Node, int, int]], *, trains: bool, has_driver_resource: bool) -> Plan:
    """nodes: each with the bytes of one of its GPUs and its own."""
    # Ray puts an engine, and a worker, on any node that has as many GPUs.
    least = min((memory for _, memory, _ in nodes), default=0)
    alike: dict[Node, list[int]] = {}
    for node, _, host in nodes:
        alike.setdefault(node, []).append(host)
    kinds = [
        NodeKind(
            name="node",
            machine="node",
            count=len(hosts),
            # How fast it is matters little beside how much it holds.
            gpu=replace(GPU, memory_gib=least / GIB),
            gpus=int(node.gpus),
            cpus=node.cpus,
            memory_gib=min(hosts) / GIB,
            network=NETWORK,
            dollars_per_hour=None,
        )
        for node, hosts in alike.items()
    ]
    cluster = PlannedCluster(file="the cluster", kinds=tuple(kinds), has_driver_resource=has_driver_resource)
    return with_engine_gpus(with_shapes(plan, cluster) if trains else plan, cluster)


def shape_notes(plan: Plan) -> list[str]:
    """Return a line on each shape that was chosen for fine-tunes."""
    return [
        f"{model} · {recipe or 'prior stage'}: {_in_words(one)}; the fewest GPU-hours by the memory of the GPUs here, since the "
        "study leaves workers open"
        for (model, recipe), one in plan.shapes.items()
    ]


def _in_words(shape: GroupResources) -> str:
    """Return "workers: 4, zero_stage: 3, micro_batch_size: 1", with what is offloaded if something is."""
    size = "micro_batch_size" if shape.micro_batch_tokens is None else "micro_batch_tokens"
    numbers = [f"{name}: {getattr(shape, name)}" for name in ("workers", "zero_stage", size)]
    return ", ".join([*numbers, *(f"{name}: true" for name in OFFLOADS if getattr(shape, name))])
