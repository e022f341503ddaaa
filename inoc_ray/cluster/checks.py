"""What a node must have for a study to run on it, looked at from the node itself.

Nothing here needs Ray: `cluster.survey` asks all nodes at once before anything starts, and a worker asks its own node, which may
have joined later.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from inoc_ray.cluster.fit import Node
from inoc_ray.cluster.gpus import gpu_faults, seen_gpus
from inoc_ray.cluster.versions import cuda_of_torch, differences, versions
from inoc_ray.config.identity import file_hash
from inoc_ray.errors import InputError, StorageError, TrialError
from inoc_ray.models.hub import cached_place
from inoc_ray.models.package import faults_here, package_of
from inoc_ray.models.resolve import model_files
from inoc_ray.store.store import Store

DISK_BYTES = 1 << 30
"""Free bytes of the folder for temporary files: Ray's session, its spilled objects and a trial's files before their commit."""
SHM_BYTES = 1 << 30
"""Size of /dev/shm on a node with GPUs: what NCCL's guide asks of containers (`--shm-size=1g`); Docker gives 64 MiB."""
_SHM = Path("/dev/shm")
DRIVERS_TOKEN, CONFIG = "driver", "config.json"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a study needs of the nodes of a cluster."""

    storage: str
    """The address of its storage, which every node reads and writes."""
    versions: Mapping[str, str]
    """Those of the process that runs the command."""
    models: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Folder → what `fingerprint` says of it where the command runs."""
    workers: tuple[Node, ...] = ()
    """What a worker of each fine-tune takes."""
    engines: tuple[Node, ...] = ()
    """What each engine takes."""
    probe: str = ""
    """The folder in the storage in which nodes and driver show each other that they see the same; "" if no driver looks."""
    gpus: int = 0
    """GPUs that Ray gives away on the node."""

    def of(self, node: Node) -> Needs:
        """Return what a node needs: models and GPUs only if a worker or an engine fits there."""
        shapes = (*self.workers, *self.engines)
        if not any(node.holds(shape.cpus, shape.gpus) for shape in shapes):
            return replace(self, models={}, gpus=0)
        takes_gpus = any(shape.gpus for shape in shapes)
        return replace(self, gpus=int(node.gpus) if takes_gpus else 0)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a node says of itself."""

    faults: tuple[str, ...]
    """In words, without the node's name."""
    clock: float
    """Its time of day, in seconds since the epoch."""
    gpu_bytes: int | None
    """Memory of its smallest GPU; None without one, and if the study takes none of it."""
    host_bytes: int
    """Its own memory."""


def fingerprint(folder: Path) -> dict[str, str]:
    """Return what tells one model folder from another without reading its weights: each file's size, config.json's hash."""
    found = {path.name: f"{path.stat().st_size:,} bytes" for path in model_files(folder)}
    return {**found, CONFIG: f"hash {file_hash(folder / CONFIG)[:12]}"}


def report(needs: Needs, token: str = "") -> Report:
    """Look at this machine. token: what this node leaves in the probe's folder, under the same name."""
    checks: tuple[Callable[[], Iterable[str]], ...] = (
        lambda: differences(needs.versions, versions()),
        lambda: _storage(needs, token),
        lambda: [fault for folder, wanted in needs.models.items() for fault in model_faults(Path(folder), wanted)],
        lambda: gpu_faults(needs.gpus, cuda_of_torch() if needs.gpus else None),
        lambda: room_faults(Path(tempfile.gettempdir()), gpus=needs.gpus),
    )
    faults = [fault for check in checks for fault in _said(check)]
    memory = min((gpu.memory for gpu in seen_gpus()), default=None) if needs.gpus else None
    return Report(faults=tuple(faults), clock=time.time(), gpu_bytes=memory, host_bytes=host_memory())


def host_memory() -> int:
    """Return the bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _said(check: Callable[[], Iterable[str]]) -> list[str]:
    """Return what a check finds; what it raises for people, or what the system raises, is a finding."""
    try:
        return list(check())
    except (InputError, TrialError, StorageError) as error:
        return [str(error).rstrip(".")]
    except OSError as error:
        return [f"{error.filename or 'input or output'}: {error.strerror or error}"]


def _storage(needs: Needs, token: str) -> Iterable[str]:
    store = Store(needs.storage)
    probe = store.probe(needs.probe)
    # Before anything is written: on a node whose mount is missing it would lie on the node's own disk.
    if needs.probe and not (probe / DRIVERS_TOKEN).exists():
        return [
            f"storage: {needs.storage} is another folder here than where this command runs (what that wrote is not here); give a "
            "mount that every node has, or a bucket"
        ]
    store.check_writable()
    if needs.probe:
        (probe / token).write_text(token)
    return []


def model_faults(folder: Path, wanted: Mapping[str, str]) -> list[str]:
    """Return how a model folder of this machine differs from the one whose `fingerprint` is wanted."""
    if not (folder / CONFIG).is_file():
        place = cached_place(folder)
        if (packaged := package_of(folder)) is not None:
            # A node converts what its package carries when it needs it.
            return faults_here(*packaged)
        if place is not None:
            # A node fetches what it lacks of the hub when it needs it.
            return _no_room_to_fetch(f"{place.repo} of the hub", wanted)
        return [f"no model folder {folder}; put the model on a mount that every node has, or use one of the hub"]
    found = fingerprint(folder)
    names = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    if not names:
        return []
    first, more = names[0], f", and {len(names) - 1} more files differ" if len(names) > 1 else ""
    here, there = (of.get(first, "missing") for of in (found, wanted))
    return [f"another model in {folder}: {first}: {here}, and {there} where this command runs{more}"]


def _no_room_to_fetch(model: str, wanted: Mapping[str, str]) -> list[str]:
    sizes = (said.removesuffix(" bytes").replace(",", "") for name, said in wanted.items() if name != CONFIG)
    needed = sum(map(int, sizes))
    folder = Path(os.environ.get("HF_HOME") or "~/.cache").expanduser()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free >= needed + DISK_BYTES:
        return []
    return [
        f"{model} is not here, and {folder} has room for {free / (1 << 30):.1f} GiB of its {needed / (1 << 30):.1f} GiB; give this "
        "node a larger disk, or HF_HOME on a mount"
    ]


def room_faults(temporary: Path, *, gpus: int, shm: Path = _SHM) -> list[str]:
    """Return what is too small on this machine: the disk below its folder for temporary files, or shared memory."""
    found = []
    free = shutil.disk_usage(temporary).free
    if free < DISK_BYTES:
        found.append(
            f"{temporary} has {free / (1 << 20):,.0f} MiB free, and Ray and the trials write there; make at least 1 GiB free"
        )
    if gpus and (size := shutil.disk_usage(shm).total if shm.is_dir() else 0) < SHM_BYTES:
        found.append(
            f"{shm} has {size / (1 << 20):,.0f} MiB, through which GPUs pass data; start the container with --shm-size=8g"
        )
    return found


def check_this_node(needs: Needs) -> None:
    """Raise InputError, naming the node, unless this machine has what a worker here needs."""
    faults = report(needs).faults
    if faults:
        raise InputError(f"node {own_address()}: {'; '.join(faults)}.")


def own_address() -> str:
    """Return the address of this node as Ray names it; without Ray, the machine's name."""
    with contextlib.suppress(ImportError):
        import ray

        if ray.is_initialized():
            return ray.util.get_node_ip_address()
    return socket.gethostname()
