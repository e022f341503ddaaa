"""The node types of a cluster on Kubernetes: what its RayCluster says to KubeRay's autoscaler."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def raycluster_config() -> dict[str, Any] | None:
    """Return the autoscaler's configuration of the RayCluster that this pod, the head, belongs to, in the form of `ray up`.

    None outside Kubernetes, if the RayCluster has no autoscaler, and if the pod may not read it: KubeRay lets the head read it
    where there is an autoscaler.
    """
    name = os.environ.get("RAY_CLUSTER_NAME")
    if not name or "KUBERNETES_SERVICE_HOST" not in os.environ:
        return None
    import requests
    from ray.autoscaler._private.kuberay import autoscaling_config, node_provider

    namespace = os.environ.get("RAY_CLUSTER_NAMESPACE")
    try:
        client = node_provider.KubernetesHttpApiClient(
            namespace=namespace or _NAMESPACE_FILE.read_text().strip(), kuberay_crd_version="v1"
        )
        cluster = client.get(f"rayclusters/{name}")
        if not cluster["spec"].get("enableInTreeAutoscaling"):
            return None
        found: dict[str, Any] = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)
        return found
    except (OSError, ValueError, KeyError, requests.RequestException):
        return None
