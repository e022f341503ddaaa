"""Which kind of node Ray's autoscaler starts next: on demand for a while, when the cloud has just had no spot machine.

Ray notes for half an hour which node types could not be started (`AUTOSCALER_NODE_AVAILABILITY_MAX_STALENESS_S`), and its own
score leaves that out. `cluster.yaml` names the score below in `RAY_AUTOSCALER_UTILIZATION_SCORER`. On AWS alone: only Ray's
provider for AWS reports why a machine did not start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def prefer_available(
    node_resources: Mapping[str, float],
    resources: Sequence[Mapping[str, float]],
    node_type: str,
    *,
    node_availability_summary: Any,
) -> tuple[Any, ...] | None:
    """Return Ray's own score of a node type, behind whether the cloud can be expected to have it; None if nothing fits on it.

    Arguments as Ray passes them to each scorer: what a node of the type has, what is asked for, the type's name, and what became
    of recent starts. The highest score wins, and of equal ones the type whose name sorts last. A type that was refused is still
    taken where nothing else fits.
    """
    from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer

    score = _default_utilization_scorer(
        node_resources, resources, node_type, node_availability_summary=node_availability_summary
    )
    if score is None:
        return None
    recent = node_availability_summary.node_availabilities.get(node_type)
    # First as in Ray's score: no GPU node for what needs no GPU.
    spares_gpus, *fit = score
    return (spares_gpus, recent is None or recent.is_available, *fit)
