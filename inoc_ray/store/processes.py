"""Who a process is, on whatever machine, and whether one of this machine still lives."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def machine() -> str:
    """Return the host, its boot and the container: the scope within which a process id is unique."""
    boot, namespace = "", ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {boot} {namespace}"


def started(pid: object) -> str:
    """Return when a process of this machine started, in clock ticks; "" for none. Process ids are reused."""
    try:
        # The name, in parentheses, may contain spaces and parentheses; the start is the 22nd field.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def this_process() -> dict[str, Any]:
    """Return what tells this process from every other one: host, pid, machine, started."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "machine": machine(), "started": started(os.getpid())}


def is_dead(process: Mapping[str, Any]) -> bool:
    """Return True if a process that `this_process` described has ended for certain: it was of this machine, and is gone."""
    if process.get("machine") != machine():
        return False
    now = started(process.get("pid"))
    return process.get("started") != now and (now != "" or not _is_hidden(process.get("pid")))


def _is_hidden(pid: object) -> bool:
    """Return True if there is a process with this id that /proc does not show: another user's, where /proc has `hidepid`."""
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        # It lives, and is another user's.
        pass
    return True
