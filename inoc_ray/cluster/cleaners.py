"""Ray Train's detached helpers of runs that are over.

Each run has a `PlacementGroupCleaner`, which ends itself when Ray's dashboard tells it that the run's controller is dead: late on a
busy head, and never if the command died before the cleaner was told to look. What it would clean is gone by then, since Ray itself
removes the placement groups of a command that is dead.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from inoc_ray.cluster.keeper import dead_jobs

_CLASS = "PlacementGroupCleaner"
_LOOKS = 3
"""How often cleaners are looked for after the last one was ended: a controller that is just being killed may yet make one."""
_LOOK_SECONDS = 0.5
_CALL_SECONDS = 10.0


def end_cleaners() -> None:
    """End the cleaners of dead jobs, those too that have not started yet. A chore of a command's keeper."""
    looks = _LOOKS
    while looks:
        left = _left()
        if left:
            _kill(left)
        looks = _LOOKS if left else looks - 1
        time.sleep(_LOOK_SECONDS)


def _kill(actors: Iterable[str]) -> None:
    """Have the cluster kill actors by their ids: nobody has a handle of them any more, and they have no names."""
    import ray
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    with init_grpc_channel(ray.get_runtime_context().gcs_address) as channel:
        head = gcs_service_pb2_grpc.ActorInfoGcsServiceStub(channel)
        for actor in actors:
            asked = gcs_service_pb2.KillActorViaGcsRequest(
                actor_id=bytes.fromhex(actor), force_kill=True, no_restart=True
            )
            head.KillActorViaGcs(asked, timeout=_CALL_SECONDS)


def _left() -> list[str]:
    """Return the ids of the cleaners that there are though their job is dead."""
    from ray._private import state

    dead = dead_jobs()
    return [
        actor["ActorID"]
        for actor in state.actors().values()
        if actor["ActorClassName"] == _CLASS and actor["State"] != "DEAD" and actor["JobID"] in dead
    ]
