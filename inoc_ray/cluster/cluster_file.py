"""A cluster that is not there yet, from a file: Ray's `cluster.yaml`, KubeRay's manifest, or a few lines that name the nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from inoc_ray.cluster.fit import DRIVER_RESOURCE, Capacity, Node
from inoc_ray.cluster.hardware import GPUS, MACHINES, Gpu, Machine, find_gpu
from inoc_ray.cluster.kuberay_file import as_ray_file, is_manifest
from inoc_ray.config.base import Config, first_message, nearest
from inoc_ray.config.identity import runtime
from inoc_ray.config.reading import load_yaml, read_yaml_text
from inoc_ray.errors import InputError, shown

_MACHINE_KEYS = ("InstanceType", "machineType", "instance_type", "vmSize")
"""Where Ray's providers (AWS, GCP, others, Azure) name the kind of machine in a node's configuration."""
ACCELERATOR = "accelerator_type:"
"""Ray's resource that names a node's GPUs."""
MOST_NODES = 10_000
"""Nodes of a kind in a file: more is a slip of the pen, and a plan looks at each."""
MOST_DEVICES, MOST_GIB = 10_000, 1e6
"""Cores or GPUs of a node, and its memory, likewise: more has another unit."""
NETWORK = 100e9 / 8
"""Bytes/s between nodes where the file does not say."""
FORM = (
    "{nodes: {NAME: {machine: p5.48xlarge, count: 2}}} or "
    "{nodes: {NAME: {gpu: H100, gpus: 8, cpus: 96, memory_gib: 1024, count: 2}}}"
)
"""How a file of one's own is written."""


class NodesOfOneKind(Config):
    """Nodes of one kind in a file of one's own."""

    machine: str | None = runtime(None)
    """A cloud's name for it, such as `p5.48xlarge`; what follows is then known, and replaces what is known where given."""
    count: int = runtime(1, ge=1, le=MOST_NODES)
    """How many there can be."""
    gpu: str | None = runtime(None)
    """The kind of GPU."""
    gpus: int | None = runtime(None, ge=0, le=MOST_DEVICES)
    """GPUs of a node."""
    gpu_memory_gib: float | None = runtime(None, gt=0, le=MOST_GIB)
    """Memory of a GPU, if it is not that of its kind."""
    cpus: int | None = runtime(None, ge=1, le=MOST_DEVICES)
    """CPU cores of a node."""
    memory_gib: float | None = runtime(None, gt=0, le=MOST_GIB)
    """Memory of a node."""
    network_gbits: float | None = runtime(None, gt=0, le=1e6)
    """Gigabits a second between nodes."""
    dollars_per_hour: float | None = runtime(None, ge=0, le=1e6)
    """Price of a node."""


class ClusterShape(Config):
    """A file of one's own that names the nodes of a cluster."""

    nodes: dict[str, NodesOfOneKind] = runtime(min_length=1)
    """Kinds of nodes, by a name of your choice."""
    efficiency: float | None = runtime(None, gt=0, le=1)
    """Share of the GPUs' peak at which fine-tunes compute, if you have measured it (`hfu` of a trial)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKind:
    """Nodes of one kind, and how many there can be."""

    name: str
    machine: str
    """What it is, in words: the cloud's name, or its GPUs."""
    count: int
    gpu: Gpu | None
    gpus: int
    cpus: float
    memory_gib: float
    network: float
    """Bytes/s to other nodes."""
    dollars_per_hour: float | None

    @property
    def node(self) -> Node:
        """Its logical resources."""
        return Node(float(self.cpus), float(self.gpus))

    def in_words(self) -> str:
        """Return "2 × p5.48xlarge (8 × H100 of 79.6 GiB, 192 CPU, 2,048 GiB)"."""
        gpus = f"{self.gpus} × {self.gpu.name} of {self.gpu.memory_gib:g} GiB, " if self.gpu else ""
        return f"{self.count} × {self.machine} ({gpus}{self.cpus:g} CPU, {self.memory_gib:,.0f} GiB)"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCluster:
    """A cluster of a file."""

    file: str
    kinds: tuple[NodeKind, ...]
    efficiency: float | None = None
    has_driver_resource: bool = False

    @property
    def capacity(self) -> Capacity:
        """What it holds, node by node."""
        nodes = [kind.node for kind in self.kinds for _ in range(kind.count)]
        return Capacity.of(nodes, has_driver_resource=self.has_driver_resource)

    def only(self, kind: NodeKind) -> Capacity:
        """Return what the nodes of one kind hold. The drivers of trials run elsewhere if the cluster has a place for them."""
        return Capacity.of([kind.node] * kind.count, has_driver_resource=self.has_driver_resource)


def read_cluster(path: Path) -> PlannedCluster:
    """Read Ray's file for `ray up`, a manifest for KubeRay, or a file of one's own.

    Ray's file for machines that are there already names no types of nodes; its `metadata`, which Ray does not read, may have
    `nodes` as a file of one's own. Raises InputError for a file that is none of these, or that leaves out which GPUs a node has.
    """
    value = load_yaml(read_yaml_text(path, "a cluster file"), path)
    if isinstance(value, dict):
        if "available_node_types" in value:
            return _of_ray(path, value)
        if is_manifest(value):
            return _of_ray(path, as_ray_file(str(path), value), "workerGroupSpecs")
        if "nodes" in value:
            return of_own(str(path), value)
        described = value.get("metadata")
        if "provider" in value and isinstance(described, dict) and "nodes" in described:
            return of_own(f"{path}: metadata", {"nodes": described["nodes"]}, file=str(path))
    raise InputError(
        f"{path}: neither a file for `ray up` with available_node_types (or metadata.nodes), nor a RayCluster or RayJob, nor a "
        f"file of your own; write {FORM}."
    )


def of_own(where: str, value: Mapping[str, Any], *, file: str | None = None) -> PlannedCluster:
    """Read the content of a file of one's own; `where` begins a message. Raises InputError as `read_cluster` does.

    file: the file's name, if `where` is more than that.
    """
    try:
        shape = ClusterShape.model_validate(value)
    except ValidationError as error:
        message = first_message(error, "the file: ")
        form = f" Write {FORM}." if "must be a mapping" in message else ""
        raise InputError(f"{where}: {message}{form}") from error
    kinds = [_own(f"{where}: nodes.{name}", name, given) for name, given in shape.nodes.items()]
    # The head is a machine of its own there, as in Ray's file.
    return PlannedCluster(file=file or where, kinds=tuple(kinds), efficiency=shape.efficiency, has_driver_resource=True)


def _own(where: str, name: str, given: NodesOfOneKind) -> NodeKind:
    known = None if given.machine is None else _known_machine(where, given.machine)
    if given.gpus == 0 and given.gpu is not None:
        raise InputError(f"{where}: gpu is {given.gpu} and gpus is 0; give the number of them, or leave gpu out.")
    gpus = given.gpus if given.gpus is not None else known.gpus if known else (1 if given.gpu else 0)
    cpus = given.cpus or (known.cpus if known else None)
    memory = given.memory_gib or (known.memory_gib if known else None)
    if cpus is None or memory is None:
        raise InputError(
            f"{where}: {'cpus' if cpus is None else 'memory_gib'} is missing; give it, or a known machine."
        )
    gpu = _gpu(where, given.gpu or (known.gpu if known else None), gpus)
    if gpu is None and given.gpu_memory_gib is not None:
        raise InputError(f"{where}: gpu_memory_gib is given, and the node has no GPU; give gpu and gpus as well.")
    if gpu is not None and given.gpu_memory_gib is not None:
        gpu = Gpu(
            name=gpu.name,
            memory_gib=given.gpu_memory_gib,
            flops=gpu.flops,
            bandwidth=gpu.bandwidth,
            link=gpu.link,
        )
    network = given.network_gbits * 1e9 / 8 if given.network_gbits else known.network if known else NETWORK
    price = given.dollars_per_hour if given.dollars_per_hour is not None else known.dollars_per_hour if known else None
    return NodeKind(
        name=name,
        machine=given.machine or name,
        count=given.count,
        gpu=gpu,
        gpus=gpus,
        cpus=cpus,
        memory_gib=memory,
        network=network,
        dollars_per_hour=price,
    )


def _known_machine(where: str, name: str) -> Machine:
    if name not in MACHINES:
        raise InputError(
            f"{where}: the machine {name!r} is not known{nearest(name, list(MACHINES))}; leave `machine` out and give gpu, gpus, "
            "cpus and memory_gib."
        )
    return MACHINES[name]


def _gpu(where: str, name: str | None, gpus: int) -> Gpu | None:
    if not gpus:
        return None
    if name is None:
        raise InputError(f"{where}: has {gpus} GPUs and does not say which; known are {', '.join(GPUS)}.")
    found = find_gpu(name)
    if found is None:
        raise InputError(
            f"{where}: the GPU {name!r} is not known{nearest(name, list(GPUS))}; a file of your own can "
            "give the most similar one, with another gpu_memory_gib."
        )
    return found


def _of_ray(path: Path, value: Mapping[str, Any], key: str = "available_node_types") -> PlannedCluster:
    """Read types of nodes as `ray up` has them; `key` is where they stand in the user's file."""
    most = _nodes(f"{path}: max_workers", value.get("max_workers", 2))
    types = value["available_node_types"]
    if not isinstance(types, Mapping) or not types:
        raise InputError(
            f"{path}: available_node_types: must be a mapping with at least one type, found {shown(types)}."
        )
    head = value.get("head_node_type")
    if head is not None and head not in [*types]:
        near = nearest(str(head)[:100], [str(name) for name in types])
        raise InputError(f"{path}: head_node_type: {shown(head)} is none of available_node_types{near}.")
    kinds, drivers = [], False
    for name, kind in ((str(name), kind) for name, kind in types.items()):
        where = f"{path}: {key}.{name}"
        if not isinstance(kind, Mapping):
            raise InputError(f"{where}: must be a mapping, found {shown(kind)}.")
        resources, config = (_mapping(f"{where}.{key}", kind.get(key)) for key in ("resources", "node_config"))
        drivers |= DRIVER_RESOURCE in resources
        is_head = head is not None and name == str(head)
        count = 1 if is_head else min(_nodes(f"{where}.max_workers", kind.get("max_workers", most)), most)
        found = _ray_kind(where, name, resources, config, count, is_head=is_head)
        if found is not None:
            kinds.append(found)
    if not kinds:
        raise InputError(f"{path}: no node of it has CPUs to give away, so nothing can run there; add a node type.")
    return PlannedCluster(file=str(path), kinds=_together(kinds, most), has_driver_resource=drivers)


def _together(kinds: list[NodeKind], most: int) -> tuple[NodeKind, ...]:
    """Return the kinds with equal ones as one, as for machines that exist as spot and on demand; at most `most` nodes each."""
    found: dict[NodeKind, NodeKind] = {}
    for kind in kinds:
        alike = replace(kind, name="", count=0)
        before = found.get(alike)
        found[alike] = kind if before is None else replace(before, count=min(before.count + kind.count, most))
    return tuple(found.values())


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"{where}: must be a mapping, found {shown(value)}.")
    return value or {}


def _number(where: str, value: Any, most: float = math.inf) -> float:
    """Return a number of a file of Ray's."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InputError(f"{where}: must be a number of at least 0, found {shown(value)}.")
    if value > most:
        raise InputError(f"{where}: must be at most {most:,.0f}, found {shown(value)}.")
    return value


def _nodes(where: str, value: Any) -> int:
    return min(int(_number(where, value)), MOST_NODES)


def _ray_kind(
    where: str, name: str, resources: Mapping[str, Any], config: Mapping[str, Any], count: int, *, is_head: bool
) -> NodeKind | None:
    """Return the nodes of a type, or None if Ray has nothing to give away on them."""
    azure = "azure_arm_parameters"
    nested = {**config, **_mapping(f"{where}.node_config.{azure}", config.get(azure))}
    machine = next((str(nested[key]).rsplit("/", 1)[-1] for key in _MACHINE_KEYS if key in nested), None)
    known = MACHINES.get(machine or "")
    gpus, cpus = (
        _number(f"{where}.resources.{name}", resources.get(name, default), MOST_DEVICES)
        for name, default in (("GPU", known.gpus if known else 0), ("CPU", known.cpus if known else 0))
    )
    if gpus != int(gpus):
        raise InputError(f"{where}.resources.GPU: a node has whole GPUs, found {gpus:g}.")
    if not count:
        return None
    if not is_head and known is None and "CPU" not in resources:
        raise InputError(
            f"{where}: neither a machine that is known here ({machine or 'no InstanceType'}) nor resources.CPU says how many CPUs "
            "it has; write resources: {CPU: …}."
        )
    if not cpus:
        # Whatever runs takes a part of a CPU.
        return None
    named = next((key.removeprefix(ACCELERATOR) for key in map(str, resources) if key.startswith(ACCELERATOR)), None)
    if gpus and named is None and known is None:
        raise InputError(
            f"{where}: has {gpus:g} GPUs, and neither a machine that is known here ({machine or 'no InstanceType'}) nor a resource "
            f'"{ACCELERATOR}NAME" says which; known are {", ".join(GPUS)}. Or describe the nodes in a file of your own: {FORM}.'
        )
    memory = _number(f"{where}.resources.memory", resources.get("memory") or 0, MOST_GIB * (1 << 30))
    return NodeKind(
        name=name,
        machine=machine or name,
        count=count,
        gpu=_gpu(where, named or (known.gpu if known else None), int(gpus)),
        gpus=int(gpus),
        cpus=float(cpus),
        memory_gib=memory / (1 << 30) if memory else known.memory_gib if known else 4.0 * cpus,
        network=known.network if known else NETWORK,
        dollars_per_hour=known.dollars_per_hour if known else None,
    )
