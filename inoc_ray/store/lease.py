"""Leases: which process works on what, so that no two do the same work. Each is a file, rewritten as a heartbeat."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from inoc_ray.errors import StorageError
from inoc_ray.store import layout
from inoc_ray.store.lock import FOREVER
from inoc_ray.store.place import Place, json_bytes
from inoc_ray.store.processes import is_dead, this_process

LEASE_SECONDS = 60.0
"""A lease whose heartbeat is older than this can be taken over; heartbeats come four times as often."""


class LeaseTaken(Exception):
    """Another process is working on this; the message says which."""


class Lease:
    """A lease that this process holds, or has lost."""

    def __init__(self, name: str, path: Place, claims: Iterable[str]) -> None:
        self.name, self.path = name, path
        self.lost: dict[str, Any] | None = None
        """The process that took it over, if this one gave no sign of life for too long."""
        self._beats = 0
        self.holder = {
            **this_process(),
            "token": uuid.uuid4().hex,
            "claims": sorted(claims),
        }

    def beat(self) -> None:
        """Give a sign of life, unless another process has taken the lease over."""
        filesystem, key = self.path.filesystem, self.path.key
        try:
            stat = filesystem.stat(key)
            found = {} if stat is None else _read_holder(self.path)
            if found.get("token", self.holder["token"]) != self.holder["token"]:
                self.lost = found
            else:
                # If another process was faster, the next beat sees which.
                self.write(None if stat is None else stat.version)
        except (OSError, StorageError):
            # A mount's transient error (ESTALE, EIO), a bucket that is away: the next beat may succeed, and three may be missed.
            return

    def write(self, version: str | None) -> bool:
        """Write the lease on the condition that its file has that version, or (None) does not exist."""
        # Counted, so that each has other bytes, and another ETag.
        self._beats += 1
        content = json_bytes({**self.holder, "beat": self._beats})
        return self.path.filesystem.write_if(self.path.key, content, version)

    def check(self) -> None:
        """Give a sign of life. Raises `LeaseTaken` if the lease was lost."""
        self.beat()
        if self.lost is not None:
            raise LeaseTaken(
                f"{self.name} was taken over by process {self.lost.get('pid')} on {self.lost.get('host')} while this one gave no "
                "sign of life. What this one committed is kept."
            )


def holder_of(folder: Place, name: str) -> dict[str, Any] | None:
    """Return host and pid of the process that holds the lease `name`, or None."""
    holder = _living_holder(_path(folder, name))
    return None if holder is None else {key: holder.get(key) for key in ("host", "pid")}


@contextlib.contextmanager
def hold(folder: Place, name: str, claims: Collection[str] = ()) -> Iterator[Lease]:
    """Hold the lease `name`, and what it claims, for this process while the block runs.

    Raises `LeaseTaken` if another process holds the name, or one of the claims under another name. The lease of a dead process is
    taken over: at once if the process was on this machine (and visible from here: not in another container), otherwise after
    LEASE_SECONDS without a heartbeat.
    """
    lease = Lease(name, _path(folder, name), claims)
    # Reading the old leases and writing the new one must be one step: two processes could both see a dead holder.
    with (folder / layout.TAKING).exclusive(FOREVER):
        stat = lease.path.filesystem.stat(lease.path.key)
        _refuse_if_alive(lease.path, name)
        _refuse_if_claimed(folder, name, set(claims))
        if not lease.write(None if stat is None else stat.version):
            # It gave a sign of life after all.
            _refuse_if_alive(lease.path, name)
            raise LeaseTaken(f"{name} is being worked on by another process.")
    stop = threading.Event()

    def beat() -> None:
        while lease.lost is None and not stop.wait(LEASE_SECONDS / 4):
            lease.beat()

    thread = threading.Thread(target=beat, daemon=True, name=f"lease-{name}")
    thread.start()
    try:
        yield lease
    finally:
        stop.set()
        thread.join()
        # An unreachable storage must not hide the error that ended the block.
        with contextlib.suppress(OSError, StorageError):
            if _read_holder(lease.path).get("token") == lease.holder["token"]:
                lease.path.unlink(missing_ok=True)


def _path(folder: Place, name: str) -> Place:
    return folder / f"{name}.json"


def _read_holder(path: Place) -> dict[str, Any]:
    """Return the content of a lease; {} if it is missing or not JSON. Raises `OSError` if the mount fails."""
    try:
        value = json.loads(path.read_bytes())
        return value if isinstance(value, dict) else {}
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}


def _living_holder(path: Place) -> dict[str, Any] | None:
    """Return the holder of a lease if it may still be alive; None otherwise."""
    stat = path.filesystem.stat(path.key)
    # Both times are of the storage's clock: that of a machine may be wrong.
    age = 0.0 if stat is None else path.filesystem.now() - stat.modified
    if stat is None or age > LEASE_SECONDS:
        return None
    holder: dict[str, Any] = {}
    with contextlib.suppress(OSError):
        holder = _read_holder(path)
    if is_dead(holder):
        return None
    return {**holder, "age": max(0.0, age)}


def _refuse_if_alive(path: Place, name: str) -> None:
    """Raise `LeaseTaken` if the lease's holder may still be alive."""
    holder = _living_holder(path)
    if holder is not None:
        raise LeaseTaken(f"{name} is being worked on by {_who(holder)}.")


def _refuse_if_claimed(folder: Place, name: str, claims: set[str]) -> None:
    """Raise `LeaseTaken` if a living process claims one of these under another name."""
    for path in folder.glob("*.json") if claims else ():
        holder = _living_holder(path)
        if path.stem == name or holder is None:
            continue
        shared = claims.intersection(holder.get("claims") or ())
        if shared:
            raise LeaseTaken(
                f"{len(shared)} of the trials and evaluations that {name} needs are being worked on by {path.stem} "
                f"({_who(holder)})."
            )


def _who(holder: Mapping[str, Any]) -> str:
    return f"process {holder.get('pid')} on {holder.get('host')}, last sign of life {holder['age']:.0f} s ago"
