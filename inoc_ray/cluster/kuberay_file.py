"""A manifest of KubeRay as Ray's autoscaler sees it: groups of workers are types of nodes, as in Ray's own `cluster.yaml`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from inoc_ray.errors import InputError, shown

KINDS = ("RayCluster", "RayJob")
"""Kinds of manifests that describe a cluster."""
MACHINE_LABEL = "node.kubernetes.io/instance-type"
"""Label of Kubernetes' nodes that names the kind of machine, by which a group may choose its nodes."""
GPU_LABEL = "ray.io/accelerator-type"
"""Label of Ray's nodes that names their GPUs."""
_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(m|[kMGTPE]|[KMGTPE]i)?")
_FACTORS = {"m": 1e-3, "": 1.0} | {
    unit: base**power
    for base, units in ((1000, ("k", "M", "G", "T", "P", "E")), (1024, ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei")))
    for power, unit in enumerate(units, 1)
}


def is_manifest(value: Mapping[str, Any]) -> bool:
    """Return whether a YAML file is a manifest of a cluster for KubeRay."""
    return value.get("kind") in KINDS and str(value.get("apiVersion", "")).startswith("ray.io/")


def as_ray_file(where: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of Ray's `cluster.yaml` that names types of nodes, with what the groups of a manifest have.

    The rules are those of Ray (`ray.autoscaler._private.kuberay.autoscaling_config`): what a group gives away stands in its
    `resources`, in its `rayStartParams`, or is the limit or request of its first container, in this order. Raises InputError,
    which begins with `where`, for a part that is not what KubeRay expects.
    """
    spec, at = _part(where, manifest, "spec"), "spec"
    if manifest["kind"] == "RayJob":
        spec, at = _part(f"{where}: spec", spec, "rayClusterSpec"), "spec.rayClusterSpec"
    groups = spec.get("workerGroupSpecs") or []
    if not isinstance(groups, list):
        raise InputError(f"{where}: {at}.workerGroupSpecs: must be a list, found {shown(groups)}.")
    types: dict[str, Any] = {
        "head": _type(f"{where}: {at}.headGroupSpec", _part(f"{where}: {at}", spec, "headGroupSpec"))
    }
    for number, group in enumerate(groups):
        place = f"{where}: {at}.workerGroupSpecs.{number}"
        if not isinstance(group, Mapping):
            raise InputError(f"{place}: must be a mapping, found {shown(group)}.")
        name = str(group.get("groupName", number))
        if name in types:
            raise InputError(f"{place}: groupName {name!r} is taken; each group needs a name of its own.")
        hosts = _quantity(f"{place}.numOfHosts", group.get("numOfHosts", 1))
        most = int(hosts * _quantity(f"{place}.maxReplicas", group.get("maxReplicas", 1)))
        types[name] = _type(place, group) | {"max_workers": most}
    # The head group gives nothing away that a file for `ray up` would call a worker's.
    total = sum(kind.get("max_workers", 0) for kind in types.values())
    return {"max_workers": total, "head_node_type": "head", "available_node_types": types}


def _type(where: str, group: Mapping[str, Any]) -> dict[str, Any]:
    pod = _part(f"{where}.template", _part(where, group, "template"), "spec")
    containers = pod.get("containers")
    if not isinstance(containers, list) or not containers or not isinstance(containers[0], Mapping):
        raise InputError(f"{where}.template.spec.containers: must be a list with Ray's container first.")
    place = f"{where}.template.spec.containers.0"
    asked = _part(place, containers[0], "resources", needed=False)
    limits, requests = (_part(f"{place}.resources", asked, key, needed=False) for key in ("limits", "requests"))
    given, params = (_part(where, group, key, needed=False) for key in ("resources", "rayStartParams"))
    resources: dict[str, Any] = {
        str(name): _quantity(f"{where}.resources.{name}", amount) for name, amount in given.items()
    }
    for name, param, key in (
        ("CPU", "num-cpus", "cpu"),
        ("GPU", "num-gpus", _gpu_key(limits, requests)),
        ("memory", "memory", "memory"),
    ):
        found = next((part[at] for part, at in ((params, param), (limits, key), (requests, key)) if at in part), None)
        if name not in resources and found is not None:
            resources[name] = _quantity(f"{where}: {key or param}", found)
    # Ray counts whole CPUs and GPUs, and rounds up.
    resources |= {name: math.ceil(resources[name]) for name in ("CPU", "GPU") if name in resources}
    gpu = _part(where, group, "labels", needed=False).get(GPU_LABEL)
    if gpu is not None and resources.get("GPU"):
        resources[f"accelerator_type:{gpu}"] = 1
    machine = _part(f"{where}.template.spec", pod, "nodeSelector", needed=False).get(MACHINE_LABEL)
    return {"resources": resources, "node_config": {} if machine is None else {"InstanceType": machine}}


def _gpu_key(*parts: Mapping[str, Any]) -> str:
    """Return the key that counts GPUs, such as `nvidia.com/gpu`; empty without one."""
    return next((key for part in parts for key in part if str(key).endswith("gpu")), "")


def _part(where: str, value: Mapping[str, Any], key: str, *, needed: bool = True) -> Mapping[str, Any]:
    found = value.get(key)
    if found is None and not needed:
        return {}
    if not isinstance(found, Mapping):
        raise InputError(f"{where}.{key}: must be a mapping, found {'nothing' if found is None else shown(found)}.")
    return found


def _quantity(where: str, value: Any) -> float:
    """Return the number that a quantity of Kubernetes stands for: 14, "500m", "220Gi"."""
    match = _QUANTITY.fullmatch(str(value))
    if match is None or isinstance(value, bool):
        raise InputError(f"{where}: must be a quantity such as 4, 500m or 32Gi, found {shown(value)}.")
    return float(match[1]) * _FACTORS[match[2] or ""]
