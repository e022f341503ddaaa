"""The checks of a study that need the cluster: once it is joined, before anything starts on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from inoc_ray.cluster.checks import Report
from inoc_ray.cluster.connect import is_attached
from inoc_ray.cluster.fit import Capacity, Node, check_serving
from inoc_ray.cluster.survey import survey
from inoc_ray.console import say
from inoc_ray.plan.needs import needs_of
from inoc_ray.plan.plan import Plan
from inoc_ray.run.open_resources import on_nodes
from inoc_ray.run.preflight import check_capacity, check_own_judge, check_requests, to_judge
from inoc_ray.serve.memory import Memory
from inoc_ray.store.store import Store


def check_cluster(plan: Plan, store: Store, capacity: Capacity, *, trains: bool = True) -> Plan:
    """Check what is known of a cluster only once it is joined, before anything starts on it.

    Return the plan with what its study leaves open of the GPUs: those of engines, and if it trains those of fine-tunes. Raise
    InputError if what is to be trained, sampled or judged does not fit its nodes, or their GPUs' memory; and, with one line
    for each node, if nodes lack something: see `survey`.
    """
    _check_room(plan, capacity)
    if not is_attached():
        return plan
    say("checking the nodes of the cluster ...")
    nodes = survey(needs_of(plan, store))
    plan = on_nodes(plan, nodes, trains=trains, has_driver_resource=capacity.has_driver_resource)
    _check_room(plan, capacity)
    memory = _engine_memory(nodes, needs_of(plan, store).engines)
    check_requests(plan, memory)
    for model, cells in to_judge(plan, store):
        if model.folder is not None:
            check_own_judge(plan, model, cells, memory)
    return plan


def _check_room(plan: Plan, capacity: Capacity) -> None:
    check_capacity(plan, capacity)
    for name, judge in plan.study.judges.items():
        if judge.path is not None:
            check_serving(plan.study.resources.of_judge(name), capacity)


def _engine_memory(nodes: Sequence[tuple[Node, Report]], engines: Iterable[Node]) -> Memory:
    """Return the least memory of the nodes that hold an engine: on GPUs for those that take GPUs, else their own."""

    def least(on_gpus: bool, of: Callable[[Report], int | None]) -> int | None:
        shapes = [one for one in engines if bool(one.gpus) == on_gpus]
        holding = (of(report) for node, report in nodes if any(node.holds(one.cpus, one.gpus) for one in shapes))
        return min((size for size in holding if size is not None), default=None)

    return Memory(gpu=least(True, lambda report: report.gpu_bytes), host=least(False, lambda report: report.host_bytes))
