"""How a worker group was lost, in half a sentence: out of Ray's error and the nodes that are there before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inoc_ray.cluster import nodes


@dataclass(frozen=True)
class Loss:
    """How a group was lost."""

    cause: str
    """In half a sentence, without Ray's state of the cluster."""
    is_late: bool = False
    """Whether others took the room before the group started; nothing of it had begun."""


def loss_of(error: Exception, up: Mapping[str, str]) -> Loss:
    """Return how a group was lost whose Ray Train run raised `error`; up: the nodes before, address by id."""
    from ray.train import ControllerError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
    from ray.train.v2.api.exceptions import PreemptionError

    if isinstance(error, ControllerError):
        failure = error.controller_failure
        if isinstance(failure, WorkerGroupStartupTimeoutError):
            return Loss("the room for its workers was taken", is_late=True)
        return Loss(f"its workers did not start ({_last_line(failure)})")
    if isinstance(error, PreemptionError):
        return Loss("a node of it was preempted")
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    dead = sorted(rank for rank, failure in failures.items() if _is_death(failure))
    there = nodes.addresses()
    if gone := [address for node, address in up.items() if node not in there]:
        return Loss(f"lost node {', '.join(gone)}")
    if dead:
        return Loss(f"worker {', '.join(map(str, dead))} died{_why(failures[dead[0]])}")
    if failures:
        rank = min(failures)
        return Loss(f"worker {rank} failed: {_last_line(failures[rank]).rstrip('.')}")
    return Loss(_last_line(error))


def _is_death(failure: Any) -> bool:
    from ray.exceptions import OutOfMemoryError, RayActorError

    return isinstance(getattr(failure, "health_check_failure", failure), RayActorError | OutOfMemoryError)


def _why(failure: Exception) -> str:
    """Return ": out of memory" where Ray ended the worker for that; its message on any dead worker says that it might be so."""
    from ray.exceptions import OutOfMemoryError

    found = getattr(failure, "health_check_failure", failure)
    return ": out of memory" if isinstance(found, OutOfMemoryError) else ""


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
