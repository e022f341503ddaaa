"""What fits on a cluster, node by node: how many groups of workers at once, and whether an engine does. No Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace

from inoc_ray.errors import InputError
from inoc_ray.study.resources import EngineResources, GroupResources

DRIVER_RESOURCE = "inoc_ray_driver"
"""Logical resource of a local cluster, and of a team's head, for Tune's trial drivers: they take no CPU from their workers then."""
PRIVATE_RESOURCE = "inoc_ray_private"
"""What only a cluster has that a command started on its machine for itself; a team's has the drivers' resource as well."""
DRIVER_CPUS = 0.001
"""CPUs that a trial driver requests on an attached cluster, which has no such resource."""
_TINY = 1e-9
_SHOWN = 4
"""Kinds of nodes that a message lists."""


@dataclass(frozen=True)
class Node:
    """Logical resources of one node."""

    cpus: float
    gpus: float

    def holds(self, cpus: float, gpus: float) -> int:
        """Return how many workers of that size the node holds; a part of a GPU lies on one GPU."""
        # A node without CPUs, as heads often are, has less than none once the drivers are subtracted.
        by_cpus = max(0, int((self.cpus + _TINY) // cpus))
        if not gpus:
            return by_cpus
        by_gpus = int(self.gpus) * int((1 + _TINY) // gpus) if gpus < 1 else int((self.gpus + _TINY) // gpus)
        return min(by_cpus, by_gpus)

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


@dataclass(frozen=True)
class Capacity:
    """Logical resources of a cluster."""

    cpus: float
    gpus: float
    has_driver_resource: bool
    nodes: tuple[Node, ...] = ()
    """Each node that is up; without them, one that has everything."""
    startable: tuple[Node, ...] = ()
    """Nodes that an autoscaler may start, by their types."""
    may_start: int = 0
    """How many of them there can be at once, by the limit on the whole cluster."""

    def __post_init__(self) -> None:
        if not self.nodes and not self.startable:
            object.__setattr__(self, "nodes", (Node(self.cpus, self.gpus),))

    @classmethod
    def of(
        cls,
        nodes: Iterable[Node],
        *,
        has_driver_resource: bool,
        startable: Iterable[Node] = (),
        may_start: int | None = None,
    ) -> Capacity:
        """Return the capacity of a cluster of these nodes; may_start: None for all that are startable."""
        nodes, startable = tuple(nodes), tuple(startable)
        may_start = len(startable) if may_start is None else max(0, min(may_start, len(startable)))
        cpus, gpus = (
            sum(one[kind] for one in map(astuple, nodes))
            + sum(sorted((one[kind] for one in map(astuple, startable)), reverse=True)[:may_start])
            for kind in (0, 1)
        )
        return cls(cpus, gpus, has_driver_resource, nodes, startable, may_start)

    @property
    def all_nodes(self) -> tuple[Node, ...]:
        """The nodes that are up, and those that may be started, though perhaps not all of them at once."""
        return (*self.nodes, *self.startable)

    def nodes_for(self, cpus: float, gpus: float) -> list[Node]:
        """Return the nodes that a kind of worker can have: those that are up, and the best that the limit lets start."""
        best = sorted(self.startable, key=lambda node: node.holds(cpus, gpus), reverse=True)
        return [*self.nodes, *best[: self.may_start]]

    def beside(self, engine: Node, worker: Node) -> Capacity | None:
        """Return what is left for workers of that size while an engine runs, wherever Ray puts it; None if it has no place."""
        left = [
            Capacity.of(
                (*self.nodes[:at], Node(node.cpus - engine.cpus, node.gpus - engine.gpus), *self.nodes[at + 1 :]),
                has_driver_resource=self.has_driver_resource,
                startable=self.startable,
                may_start=self.may_start,
            )
            for at, node in enumerate(self.nodes)
            if node.cpus + _TINY >= engine.cpus and node.gpus + _TINY >= engine.gpus
        ]
        if not left and self.may_start and any(n.cpus >= engine.cpus and n.gpus >= engine.gpus for n in self.startable):
            # A machine of its own, whatever else that has.
            left = [replace(self, may_start=self.may_start - 1)] if self.may_start > 1 or self.nodes else []
        if not left:
            return None
        return min(
            left, key=lambda one: sum(n.holds(worker.cpus, worker.gpus) for n in one.nodes_for(*astuple(worker)))
        )

    def driver_request(self) -> dict[str, float]:
        """Return the resources that one trial driver requests; never 0, which Ray refuses."""
        return {DRIVER_RESOURCE: 1.0} if self.has_driver_resource else {"cpu": DRIVER_CPUS}


def in_words(nodes: Iterable[Node]) -> str:
    """Return "2 nodes of 96 CPU and 8 GPU, 1 node of 8 CPU"; largest first."""
    kinds = sorted(Counter(nodes).items(), key=lambda item: (-item[0].gpus, -item[0].cpus))
    shown = [f"{count} node{'s' if count > 1 else ''} of {node}" for node, count in kinds[:_SHOWN]]
    return ", ".join(shown) + (", …" if len(kinds) > _SHOWN else "") if kinds else "no node"


def concurrent_groups(resources: GroupResources, capacity: Capacity, groups: int) -> int:
    """Return how many worker groups can train at once.

    Each group holds workers × (cpus, gpus) while it trains, a worker's on one node; and its driver holds a little while it
    waits for them, so drivers must never take what a group needs, or both wait for ever. Raises InputError, with the
    arithmetic, when not even one group fits.
    """
    fits = min(groups, _slots(resources, capacity, drivers=0) // resources.workers)
    while fits and fits * resources.workers > _slots(resources, capacity, drivers=fits):
        fits -= 1
    if not fits:
        raise InputError(_why_no_group_fits(resources, capacity))
    return min(fits, resources.max_concurrent_groups or groups)


def _slots(resources: GroupResources, capacity: Capacity, *, drivers: int) -> int:
    """Return how many workers the nodes hold beside so many drivers, wherever Ray puts those."""
    per_worker = (resources.cpus_per_worker, resources.gpus_per_worker)
    nodes = capacity.nodes_for(*per_worker)
    slots = sum(node.holds(*per_worker) for node in nodes)
    if capacity.has_driver_resource:
        return slots
    beside = (Node(node.cpus - drivers * DRIVER_CPUS, node.gpus) for node in nodes)
    return slots - min(drivers, slots - sum(node.holds(*per_worker) for node in beside))


def _why_no_group_fits(resources: GroupResources, capacity: Capacity) -> str:
    workers, driver = resources.workers, 0.0 if capacity.has_driver_resource else DRIVER_CPUS
    for name, per_worker, has, beside in (
        ("CPU", resources.cpus_per_worker, capacity.cpus, driver),
        ("GPU", resources.gpus_per_worker, capacity.gpus, 0.0),
    ):
        need = workers * per_worker
        if need + beside > has + _TINY:
            taken = f", of which the trial's driver takes {beside:g}" if need <= has else ""
            return (
                f"resources: one trial needs {workers} workers × {per_worker:g} {name} = {need:g} {name}, "
                f"and the cluster has {has:g}{taken}; {_smaller(name, per_worker, has)}."
            )
    one = Node(resources.cpus_per_worker, resources.gpus_per_worker)
    slots = _slots(resources, capacity, drivers=1)
    if not slots:
        lower = "gpus_per_worker" if one.gpus > max(node.gpus for node in capacity.all_nodes) else "cpus_per_worker"
        return (
            f"resources: one worker needs {one} on one node, and the cluster has {in_words(capacity.all_nodes)}; lower "
            f"resources.{lower} (and raise resources.workers), or use larger nodes."
        )
    with_driver = "" if capacity.has_driver_resource else " beside the trial's driver"
    return (
        f"resources: one trial needs {workers} workers of {one} each, and the cluster holds {slots} of them{with_driver}: "
        f"{in_words(capacity.all_nodes)}{_limit(capacity)}; lower resources.workers, or use a larger cluster."
    )


def _limit(capacity: Capacity) -> str:
    """Return " (of which at most 4 are started)" where the cluster's limit is below what its types allow together."""
    if capacity.may_start == len(capacity.startable):
        return ""
    return f" (and its autoscaler starts {capacity.may_start} more at most)"


def _smaller(name: str, per_worker: float, has: float) -> str:
    """Return what to change in `resources` so that a trial's CPUs or GPUs fit."""
    if name == "GPU" and not has:
        return "set resources.gpus_per_worker: 0 to train on CPUs, or use a cluster with GPUs"
    field = "resources.workers" if per_worker <= has else f"resources.{name.lower()}s_per_worker"
    return f"lower {field} or use a larger cluster"


def engines_at_once(resources: EngineResources, capacity: Capacity) -> int:
    """Return how many engines the cluster holds side by side, each on one node."""
    cpus, gpus = resources.serve_cpus, resources.gpus
    return sum(node.holds(cpus, gpus) for node in capacity.nodes_for(cpus, gpus))


def hold_together(engines: Iterable[Node], capacity: Capacity) -> bool:
    """Return whether the nodes hold these engines at once: the largest first, each on the fullest node that still holds it."""
    startable = sorted(capacity.startable, key=lambda node: (node.gpus, node.cpus), reverse=True)
    free = [*capacity.nodes, *startable[: capacity.may_start]]
    for engine in sorted(engines, key=lambda one: (one.gpus, one.cpus), reverse=True):
        fits = [node for node in free if node.holds(engine.cpus, engine.gpus)]
        if not fits:
            return False
        best = min(fits, key=lambda node: (node.gpus, node.cpus))
        free[free.index(best)] = Node(best.cpus - engine.cpus, best.gpus - engine.gpus)
    return True


def check_serving(resources: EngineResources, capacity: Capacity) -> None:
    """Raise InputError when the engine does not fit on one node of the cluster, or as many as were asked for on all of them."""
    cpus, gpus = resources.serve_cpus, resources.gpus
    nodes = capacity.all_nodes if capacity.may_start else capacity.nodes
    if any(node.holds(cpus, gpus) for node in nodes):
        asked, held = resources.serve_replicas, engines_at_once(resources, capacity)
        if asked is not None and asked > held:
            raise InputError(
                f"resources: {asked} engines of {Node(cpus, gpus)} each are asked for (serve_replicas), and the cluster holds "
                f"{held} of them: {in_words(nodes)}{_limit(capacity)}; lower resources.serve_replicas, or leave it out."
            )
        return
    most_cpus, most_gpus = (max(of) for of in zip(*map(astuple, nodes), strict=True))
    advice = []
    if cpus > most_cpus:
        advice.append("lower resources.serve_cpus")
    if gpus > most_gpus:
        advice.append("lower resources.serve_gpus" if most_gpus else "set resources.serve_gpus: 0 to serve on CPUs")
    whole = len(nodes) == 1
    has = f"{capacity.cpus:g} CPU and {capacity.gpus:g} GPU" if whole else in_words(nodes)
    raise InputError(
        f"resources: serving needs {cpus:g} CPU and {gpus} GPU{'' if whole else ' on one node'}, and the cluster has {has}; "
        f"{' and '.join(advice or ['lower resources.serve_cpus or resources.serve_gpus'])}, or use "
        f"{'a larger cluster' if whole else 'larger nodes'}."
    )


def check_serving_together(engines: Sequence[EngineResources], capacity: Capacity) -> None:
    """Raise InputError when the engines do not fit on the cluster at once, each on one node."""
    for engine in engines:
        check_serving(engine, capacity)
    needs = [Node(engine.serve_cpus, engine.gpus) for engine in engines]
    if not hold_together(needs, capacity):
        nodes = capacity.all_nodes if capacity.may_start else capacity.nodes
        total = Node(sum(one.cpus for one in needs), sum(one.gpus for one in needs))
        raise InputError(
            f"resources: {len(engines)} engines at once need {total} (each base with its adapters is one, and each full "
            f"fine-tune), and the cluster has {in_words(nodes)}; serve fewer models (--model, --arm), lower "
            "resources.serve_cpus or resources.serve_gpus, or use a larger cluster."
        )
