"""The Ray cluster that a command works on: the one that RAY_ADDRESS names, or a private local one.

A local cluster listens only on the loopback address, asks every caller for a token that only this user can read, and ends with
the command. An attached cluster is left as it was.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inoc_ray import stopping
from inoc_ray.cluster import nodes
from inoc_ray.cluster.fit import DRIVER_RESOURCE, PRIVATE_RESOURCE, Capacity
from inoc_ray.errors import InputError, TrialError
from inoc_ray.store.scratch import scratch_folder
from inoc_ray.variables import environment

EXPECTED_MESSAGES = (
    "PYTHON worker processes have been started|ServeController.graceful_shutdown failed|Raylet is terminated|"
    "has been marked dead because|A worker died or was killed while executing a task"
)
"""Ray's warnings about what is intended here (many small driver actors, a shutdown of Serve from outside), and its reports on
a lost node, with the last lines of that node's log, and on a lost worker: who loses something by it says so in a line."""
LOCAL_OBJECT_STORE_BYTES = 256 << 20
_FOUND_BY_RAY = ("auto", "local")
"""Values of RAY_ADDRESS that are no addresses."""
ADDRESS_SECONDS = 5.0
"""Seconds within which the head of a cluster must accept a connection."""


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


def is_attached() -> bool:
    """Return whether RAY_ADDRESS names a cluster to join, in place of a private local one."""
    return bool(os.environ.get("RAY_ADDRESS"))


def owns_cluster() -> bool:
    """Return whether this process started the cluster that it is connected to, which then ends with it."""
    from ray._private import worker

    # None for a process that is connected from outside the cluster (ray://).
    node = worker._global_node
    return node is not None and bool(node.is_head())


def expected_capacity() -> Capacity | None:
    """Return the capacity if it is known without starting or joining anything: None for an attached cluster."""
    return None if is_attached() else local_capacity()


def check_address() -> None:
    """Raise InputError when nothing listens at RAY_ADDRESS, where Ray itself would try for minutes."""
    address = os.environ.get("RAY_ADDRESS", "")
    scheme, separator, _ = address.partition("://")
    if not address or address in _FOUND_BY_RAY or (separator and scheme not in ("http", "https", "ray")):
        return
    if separator and scheme != "ray":
        raise InputError(
            f"RAY_ADDRESS={address}: the address of a job server, to which `inoc-ray submit` sends a study; unset it to run on "
            "this machine, or give that of the cluster, as HOST:6379."
        )
    place = address.removeprefix("ray://")
    if not is_host_and_port(place):
        raise InputError(
            f"RAY_ADDRESS={address}: not the address of a cluster, as HOST:PORT; correct it, or unset it to run on this machine."
        )
    if (error := silence_of(place)) is not None:
        raise InputError(
            f"RAY_ADDRESS={address}: nothing answers there ({error}); correct it, start the cluster, or unset it to run on this "
            "machine."
        )


def is_host_and_port(address: str) -> bool:
    """Return whether a text has the form HOST:PORT."""
    host, _, port = address.rpartition(":")
    return bool(host) and port.isascii() and port.isdigit()


def silence_of(address: str) -> Exception | None:
    """Return why nothing listens at HOST:PORT; None if something does."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ADDRESS_SECONDS):
            return None
    except (OSError, OverflowError, UnicodeError) as error:
        # The last one for a host that is no name, as with two dots in a row.
        return error


def _new_token(folder: Path) -> dict[str, str]:
    """Return the variables that turn token authentication on with a new token; none where the user already chose a mode."""
    if os.environ.get("RAY_AUTH_MODE"):
        return {}
    token = folder / "token"
    handle = os.open(token, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(secrets.token_hex(32))
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}


@contextlib.contextmanager
def connected() -> Iterator[Capacity]:
    """Initialise Ray for the block, and yield the cluster's capacity. Raises InputError when no cluster can be joined."""
    # Ray reads these when it is imported or started, so they must be set before that.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", EXPECTED_MESSAGES)
    if is_attached():
        with _attached() as capacity:
            yield capacity
        return
    # A short path, because Ray puts Unix sockets below it, whose paths may have at most 107 bytes.
    with scratch_folder(Path("/tmp") if Path("/tmp").is_dir() else None) as folder, _private(folder) as capacity:
        yield capacity


@contextlib.contextmanager
def _ray(**options: Any) -> Iterator[None]:
    """Initialise Ray for the block, so that a stop of the command breaks off neither its start nor its end."""
    import ray

    try:
        with stopping.deferred():
            try:
                ray.init(log_to_driver=False, logging_level="warning", **options)
            finally:
                # Ray's own handlers: one ends the process, the other prints C++ frames and aborts.
                stopping.install()
        yield
    finally:
        with stopping.deferred():
            ray.shutdown()
            stopping.install()


@contextlib.contextmanager
def _attached() -> Iterator[Capacity]:
    """Join the cluster at RAY_ADDRESS."""
    address = os.environ["RAY_ADDRESS"]
    check_address()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_ray(address=address))
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"RAY_ADDRESS={address}: no cluster can be joined there ({reason}).") from error
        yield nodes.capacity()


_NOT_COLLECTED = {"RAY_task_events_report_interval_ms": "0", "RAY_event_stats": "0"}
"""What nobody reads on a cluster without a dashboard, and each of Ray's processes would collect on the cores that train."""


@contextlib.contextmanager
def _private(folder: Path) -> Iterator[Capacity]:
    """Start a cluster on this machine for this command alone."""
    # Ray binds its servers to every interface unless its own address is the loopback one, which `_node_ip_address` cannot
    # set. This switch, read when ray is imported, makes it run on one machine alone.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    capacity = local_capacity()
    with contextlib.ExitStack() as stack:
        stack.enter_context(environment(_new_token(folder), over=True))
        stack.enter_context(environment(_NOT_COLLECTED))
        start = _ray(
            address="local",
            num_cpus=int(capacity.cpus),
            num_gpus=int(capacity.gpus),
            resources={DRIVER_RESOURCE: 10_000.0, PRIVATE_RESOURCE: 1.0},
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
            include_dashboard=False,
            _temp_dir=str(folder / "ray"),
        )
        try:
            stack.enter_context(start)
        except Exception as error:
            # A machine without memory, or so busy that a process does not start in 30 s; Ray raises what it likes.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise TrialError(
                f"Ray did not start on this machine: {reason} Nothing was begun; run the command again when the machine has "
                "memory and time for it."
            ) from error
        yield nodes.capacity()
