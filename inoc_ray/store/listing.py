"""What a bucket holds, as one listing shows it, for a command that looks at thousands of its files and folders.

A plan looks at every trial and every cell of a study, and each look is a request of 10 to 50 ms. While a process looks (`looking`),
it answers from a listing of the folders concerned, which takes a request for every 1,000 files, and reads files from copies on
this machine, which it makes of many at once. What the process itself writes is asked for anew; what others write meanwhile it does
not see, as if it had looked a moment earlier.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence

from inoc_ray.store.filesystem import Stat


class Listing:
    """The files below some folders at one moment, less what this process has written since."""

    def __init__(self, folders: Sequence[str], files: Mapping[str, Stat]) -> None:
        self._folders = tuple(folders)
        self.files = dict(files)
        self._names: dict[str, dict[str, None]] = {}
        for key in files:
            inner = key
            while inner:
                outer, _, name = inner.rpartition("/")
                self._names.setdefault(outer, {})[name] = None
                inner = outer
        self._written: set[str] = set()

    def shows(self, folder: str) -> bool:
        """Return True if the content of this folder is known, at any depth."""
        inside = any(folder == one or folder.startswith(f"{one}/") for one in self._folders)
        return inside and folder not in self._written

    def names(self, folder: str) -> list[str]:
        """Return the names directly in a folder that is shown."""
        return list(self._names.get(folder, ()))

    def below(self, folder: str) -> Iterator[tuple[str, Stat]]:
        """Yield the path below a folder that is shown, and the `Stat`, of every file there."""
        for name in self._names.get(folder, ()):
            key = f"{folder}/{name}"
            if key in self.files:
                yield name, self.files[key]
            else:
                yield from ((f"{name}/{path}", stat) for path, stat in self.below(key))

    def write(self, key: str) -> None:
        """Note that this process changes a file or folder."""
        while key:
            self._written.add(key)
            key = key.rpartition("/")[0]


_lock = threading.Lock()
_active: dict[str, list[Listing]] = {}
"""The listings of this process by address, the one that was begun last at the end."""


def of(address: str, folder: str) -> Listing | None:
    """Return the listing that shows this folder, if the process looks at one."""
    with _lock:
        return next((one for one in reversed(_active.get(address, ())) if one.shows(folder)), None)


def written(address: str, keys: Iterable[str]) -> None:
    """Note that this process changes files or folders."""
    changed = list(keys)
    with _lock:
        for listing in _active.get(address, ()):
            for key in changed:
                listing.write(key)


@contextlib.contextmanager
def looking(address: str, listing: Listing) -> Iterator[None]:
    """Answer from this listing while the block runs."""
    with _lock:
        _active.setdefault(address, []).append(listing)
    try:
        yield
    finally:
        with _lock:
            _active[address].remove(listing)
