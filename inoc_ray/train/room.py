"""Room for a group of workers: reserved before the group starts, with lines on what is waited for, and an end to waiting."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from inoc_ray.cluster import nodes
from inoc_ray.cluster.fit import Node, in_words
from inoc_ray.store.place import Place

FIRST_LINE_SECONDS = 10.0
"""A wait that is shorter is not worth a line."""
LINE_SECONDS = 60.0
"""Time between two lines on the same wait."""
NARROWER_AFTER_SECONDS = 20.0
"""How long a group waits for all of its workers before it starts with fewer, if it may."""
_LOOK_SECONDS = 2.0


class NoRoom(Exception):
    """The wait is over without room; the message says what was asked and what was there."""


@dataclass
class Patience:
    """How long a group waits while nothing of the command that it belongs to goes on.

    A group waits for others of its command as long as they train; `sign` is a file that is written when they do.
    """

    minutes: float
    sign: Place | None = None
    on_half: Callable[[], None] = lambda: None
    """Called once when half of it is spent: something else of the command may hold the room."""
    _seen: Any = None
    _since: float = field(default_factory=time.monotonic)
    _is_half: bool = False

    def renew(self) -> None:
        """Begin to count again."""
        self._since, self._is_half = time.monotonic(), False

    def over(self) -> bool:
        """Return whether nothing went on for `minutes`."""
        stat = None if self.sign is None else self.sign.filesystem.stat(self.sign.key)
        if stat is not None and stat != self._seen:
            if self._seen is not None:
                self.renew()
            self._seen = stat
        spent = (time.monotonic() - self._since) / (60.0 * self.minutes)
        if spent > 0.5 and not self._is_half:
            self._is_half = True
            self.on_half()
        return spent > 1


def wait_for_room(widths: Sequence[int], worker: Node, *, patience: Patience, tell: Callable[[str], None]) -> int:
    """Wait until the cluster has room for a group of workers, and return how many: the first of `widths` that fits.

    The smaller ones count after NARROWER_AFTER_SECONDS. The wait is a pending placement group, so that an autoscaler starts
    nodes for it. The reservation is given up on return, and the group that starts takes its place. `tell` gets a line on what
    is waited for, and another every minute. Raises NoRoom when the patience is over.
    """
    began = time.monotonic()
    told = began - LINE_SECONDS + FIRST_LINE_SECONDS
    with _reserved(widths[0], worker) as all_of_them:
        while not all_of_them.wait(_LOOK_SECONDS):
            waited = time.monotonic() - began
            if waited >= NARROWER_AFTER_SECONDS:
                for workers in widths[1:]:
                    with _reserved(workers, worker) as some:
                        if some.wait(_LOOK_SECONDS):
                            return workers
            if patience.over():
                raise NoRoom(
                    f"no room for {_workers(widths[-1], worker)} for {patience.minutes:g} minutes ({_there()}); start more nodes, "
                    "or lower resources.workers or resources.min_workers, and run the study again"
                )
            if time.monotonic() - told >= LINE_SECONDS:
                told = time.monotonic()
                tell(f"waiting for room for {_workers(widths[0], worker)} ({_there()}; {waited:.0f} s)")
    return widths[0]


@contextlib.contextmanager
def watch_for_room(
    workers: int, worker: Node, *, started: Callable[[], bool], on_room: Callable[[], None]
) -> Iterator[None]:
    """Call `on_room` when there is room for so many more workers while the block runs; hold the room until the block ends.

    Looks from the time on when `started` returns True: before, it would take the room of the group that is about to start.
    """
    if workers < 1:
        yield
        return
    stop = threading.Event()

    def watch() -> None:
        while not started():
            if stop.wait(_LOOK_SECONDS):
                return
        with _reserved(workers, worker) as reserved:
            while not reserved.wait(_LOOK_SECONDS):
                if stop.is_set():
                    return
            on_room()
            stop.wait()

    thread = threading.Thread(target=watch, daemon=True, name="watch-for-room")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def _reserved(workers: int, worker: Node) -> Iterator[Any]:
    from ray.util import placement_group, remove_placement_group

    bundle = {"CPU": worker.cpus} | ({"GPU": worker.gpus} if worker.gpus else {})
    group = placement_group([bundle] * workers, strategy="PACK")
    try:
        yield group
    finally:
        remove_placement_group(group)


def give_up(held: Place) -> None:
    """Remove the placement group that is named in a file, if there is one, and the file.

    Ray removes a group with the actor that made it, but for one that died with its node (2.60.0); with the dashboard, Ray
    Train's own cleaner does it a little later.
    """
    import ray
    from ray.util.placement_group import PlacementGroup

    if not held.is_file():
        return
    found = held.read_text()
    if found and found in ray.util.placement_group_table():
        ray.util.remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(found))))
    held.unlink(missing_ok=True)


def _workers(count: int, worker: Node) -> str:
    return f"{count} worker{'s' if count > 1 else ''} of {worker}{' each' if count > 1 else ''}"


def _there() -> str:
    """Return what is up and what of it is free."""
    return f"free: {nodes.free()}; up: {in_words(nodes.up())}"
