"""The Ray cluster that a command works on: the one that RAY_ADDRESS names, or a private local one; and what fits on it.

A local cluster listens only on the loopback address, asks every caller for a token that only this user can read, and ends with
the command. An attached cluster is left as it was.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inoc_ray.errors import InputError
from inoc_ray.study.resources import EngineResources, GroupResources

DRIVER_RESOURCE = "inoc_ray_driver"
"""Logical resource of a local cluster for Tune's trial drivers, so that they take no CPU from their own workers."""
DRIVER_CPUS = 0.001
"""CPUs that a trial driver requests on an attached cluster, which has no such resource."""
EXPECTED_MESSAGES = "PYTHON worker processes have been started|ServeController.graceful_shutdown failed"
"""Ray's warnings about what is intended here: many small driver actors, and a shutdown of Serve from outside."""
LOCAL_OBJECT_STORE_BYTES = 256 << 20
ADDRESS_SECONDS = 5.0
"""Seconds within which the head of a cluster must accept a connection."""


@dataclass(frozen=True)
class Capacity:
    """Logical resources of a cluster."""

    cpus: float
    gpus: float
    has_driver_resource: bool

    def driver_request(self) -> dict[str, float]:
        """Return the resources that one trial driver requests; never 0, which Ray refuses."""
        return {DRIVER_RESOURCE: 1.0} if self.has_driver_resource else {"cpu": DRIVER_CPUS}


def local_capacity() -> Capacity:
    """Return the capacity of a private local cluster on this machine: its cores and its visible GPUs."""
    gpus = 0
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        # CUDA's rule: the list ends at the first entry that is not a device, so "" and "-1" show none.
        named = [device.strip() for device in visible.split(",")]
        gpus = len(list(itertools.takewhile(lambda d: d and d != "-1" and d != "NoDevFiles", named)))
    elif Path("/proc/driver/nvidia/gpus").is_dir():
        gpus = len(list(Path("/proc/driver/nvidia/gpus").iterdir()))
    return Capacity(float(len(os.sched_getaffinity(0))), float(gpus), True)


def concurrent_groups(resources: GroupResources, capacity: Capacity, groups: int) -> int:
    """Return how many worker groups can train at once.

    Each group holds workers × (cpus, gpus) while it trains, and its driver holds a little while it waits for them; so drivers
    must never take what a group needs, or both wait for ever. Raises InputError, with the arithmetic, when not even one group
    fits.
    """
    need_cpus = resources.workers * resources.cpus_per_worker
    need_gpus = resources.workers * resources.gpus_per_worker
    driver = 0.0 if capacity.has_driver_resource else DRIVER_CPUS
    for name, need, has in (("CPU", need_cpus + driver, capacity.cpus), ("GPU", need_gpus, capacity.gpus)):
        if need > has + 1e-9:
            per_worker = resources.cpus_per_worker if name == "CPU" else resources.gpus_per_worker
            raise InputError(
                f"resources: one trial needs {resources.workers} workers × {per_worker:g} {name} = {need:g} {name}, "
                f"and the cluster has {has:g}; {_smaller(name, per_worker, has)}."
            )
    fits = int((capacity.cpus + 1e-9) // (need_cpus + driver))
    if need_gpus > 0:
        fits = min(fits, int((capacity.gpus + 1e-9) // need_gpus))
    return max(1, min(fits, groups, resources.max_concurrent_groups or groups))


def _smaller(name: str, per_worker: float, has: float) -> str:
    """Return what to change in `resources` so that a trial's CPUs or GPUs fit."""
    if name == "GPU" and not has:
        return "set resources.gpus_per_worker: 0 to train on CPUs, or use a cluster with GPUs"
    field = "resources.workers" if per_worker <= has else f"resources.{name.lower()}s_per_worker"
    return f"lower {field} or use a larger cluster"


def check_serving(resources: EngineResources, capacity: Capacity) -> None:
    """Raise InputError when the engine does not fit the cluster."""
    advice = []
    if resources.serve_cpus > capacity.cpus:
        advice.append("lower resources.serve_cpus")
    if resources.serve_gpus > capacity.gpus:
        advice.append("lower resources.serve_gpus" if capacity.gpus else "set resources.serve_gpus: 0 to serve on CPUs")
    if advice:
        raise InputError(
            f"resources: serving needs {resources.serve_cpus:g} CPU and {resources.serve_gpus} GPU, and the cluster has "
            f"{capacity.cpus:g} CPU and {capacity.gpus:g} GPU; {' and '.join(advice)}, or use a larger cluster."
        )


def expected_capacity() -> Capacity | None:
    """Return the capacity if it is known without starting or joining anything: None for an attached cluster."""
    return None if os.environ.get("RAY_ADDRESS") else local_capacity()


def check_address() -> None:
    """Raise InputError when nothing listens at RAY_ADDRESS, where Ray itself would try for minutes."""
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        # `auto`, or something that Ray itself will refuse.
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ADDRESS_SECONDS):
            pass
    except (OSError, OverflowError) as error:
        raise InputError(
            f"RAY_ADDRESS={address}: nothing answers there ({error}); correct it, start the cluster, or unset it to run on this "
            "machine."
        ) from error


def _use_token(folder: Path) -> None:
    """Turn token authentication on with a new token, unless the user already chose a mode."""
    if os.environ.get("RAY_AUTH_MODE"):
        return
    token = folder / "token"
    handle = os.open(token, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(secrets.token_hex(32))
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)


@contextlib.contextmanager
def connected() -> Iterator[Capacity]:
    """Initialise Ray for the block, and yield the cluster's capacity. Raises InputError when no cluster can be joined."""
    # Ray reads these when it is imported or started, so they must be set before that.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", EXPECTED_MESSAGES)
    if os.environ.get("RAY_ADDRESS"):
        import ray

        address = os.environ["RAY_ADDRESS"]
        check_address()
        try:
            ray.init(address=address, log_to_driver=False, logging_level="warning")
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"RAY_ADDRESS={address}: no cluster can be joined there ({reason}).") from error
        try:
            yield _capacity()
        finally:
            ray.shutdown()
        return
    # Ray binds its servers to every interface unless its own address is the loopback one, which `_node_ip_address` cannot
    # set. This switch, read when ray is imported, makes it run on one machine alone.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    capacity = local_capacity()
    # A short path, because Ray puts Unix sockets below it, whose paths may have at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="inoc-ray-", dir="/tmp" if Path("/tmp").is_dir() else None))
    before = {key: os.environ.get(key) for key in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")}
    _use_token(folder)
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=int(capacity.cpus),
            num_gpus=int(capacity.gpus),
            resources={DRIVER_RESOURCE: 10_000.0},
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="warning",
            _temp_dir=str(folder / "ray"),
        )
        yield _capacity()
    finally:
        ray.shutdown()
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value
        shutil.rmtree(folder, ignore_errors=True)


def _capacity() -> Capacity:
    import ray

    total = ray.cluster_resources()
    return Capacity(float(total.get("CPU", 0)), float(total.get("GPU", 0)), DRIVER_RESOURCE in total)
