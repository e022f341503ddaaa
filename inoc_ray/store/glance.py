"""A bucket as it was at one moment: some of its folders were listed, and questions about them need no further requests.

A plan asks of every trial and cell what there is; a request for each question would take minutes. Small files that are read are
kept on this machine, so that the next command asks for none of them again.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from inoc_ray.store.appended import PIECES, copy_version
from inoc_ray.store.local_copies import LocalCopies
from inoc_ray.store.objects import SHA, Bucket, Content, Object, streamed

_AT_ONCE = 16
_KEPT_BYTES = 1 << 20
"""Larger files are not kept on this machine only because somebody looks at them."""


class Kept(io.FileIO, Content):
    """A file of a bucket, read from its copy on this machine."""

    def __init__(self, path: Path, about: Object) -> None:
        super().__init__(path)
        self.about = about


class Glance(Bucket):
    """A bucket of which some folders are listed. What is written to such a folder ends that."""

    def __init__(self, address: str, folders: Iterable[str], early: Callable[[str], bool]) -> None:
        """folders: of one or two parts. early: names of files that will be read; that is done now, many at a time."""
        super().__init__(address)
        self._copies = LocalCopies(address)
        self._folders: dict[str, dict[str, Object]] = {}
        names = list(dict.fromkeys(folders))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            listed = pool.map(lambda folder: list(super(Glance, self).below(folder)), names)
            self._folders = {name: {one.key: one for one in found} for name, found in zip(names, listed, strict=True)}
            found = [one for objects in self._folders.values() for one in objects.values()]
            list(pool.map(self._keep, [one for one in found if early(one.key.rpartition("/")[2])]))

    def covers(self, folders: Iterable[str]) -> bool:
        """Return True if all these folders are listed still."""
        return all(folder in self._folders for folder in folders)

    def _around(self, key: str) -> dict[str, Object] | None:
        """Return the objects of the listed folder that a key is in or is; None if it is in none."""
        first, _, rest = key.partition("/")
        found = self._folders.get(first)
        return self._folders.get(f"{first}/{rest.partition('/')[0]}") if found is None else found

    def _grows(self, key: str, objects: Mapping[str, Object]) -> bool:
        return any(one.startswith(f"{key}{PIECES}/") for one in objects)

    def _keep(self, found: Object) -> bool:
        """Make a copy of a small file, unless there is one; return True if there is one now."""
        version = copy_version(found, ())
        if found.size > _KEPT_BYTES:
            return False
        if self._copies.has(found.key, version):
            return True
        try:
            body = super().get(found.key)
            with streamed(body) as stream:
                if body.about.etag != found.etag:
                    return False
                self._copies.keep(found.key, version, stream, body.about.notes.get(SHA))
        except FileNotFoundError:
            return False
        return True

    # -- looking --------------------------------------------------------------------------------------------

    def head(self, key: str) -> Object | None:
        """Return what is known of an object without its bytes, or None."""
        objects = self._around(key)
        return super().head(key) if objects is None or self._grows(key, objects) else objects.get(key)

    def get(self, key: str) -> Content:
        """Open an object for reading. Raises `FileNotFoundError`."""
        objects = self._around(key)
        if objects is None or self._grows(key, objects):
            return super().get(key)
        if key not in objects:
            raise FileNotFoundError(2, "No such file", key)
        if not self._keep(objects[key]):
            return super().get(key)
        try:
            return Kept(self._copies.path(key), objects[key])
        except FileNotFoundError:
            return super().get(key)

    def names(self, key: str) -> tuple[list[str], list[str]]:
        """Return the keys of the objects directly below a key, and of the folders."""
        objects = self._around(key)
        if objects is None:
            return super().names(key)
        inside = [one[len(key) + 1 :].partition("/") for one in objects if one.startswith(f"{key}/")]
        files = [f"{key}/{name}" for name, slash, _ in inside if not slash]
        return files, list(dict.fromkeys(f"{key}/{name}" for name, slash, _ in inside if slash))

    def below(self, key: str) -> Iterator[Object]:
        """Yield every object below a key, at any depth, by their keys."""
        objects = self._around(key)
        if objects is None:
            yield from super().below(key)
        else:
            yield from (one for one in objects.values() if one.key.startswith(f"{key}/"))

    def anything_below(self, key: str) -> bool:
        """Return True if there is an object below a key."""
        objects = self._around(key)
        return super().anything_below(key) if objects is None else any(one.startswith(f"{key}/") for one in objects)

    # -- writing --------------------------------------------------------------------------------------------

    def _forget(self, key: str) -> None:
        for folder in list(self._folders):
            if f"{key}/".startswith(f"{folder}/") or folder.startswith(f"{key}/"):
                del self._folders[folder]

    def put(self, key: str, data: bytes, notes: Mapping[str, str] | None = None) -> None:
        """Write an object, whatever is there."""
        self._forget(key)
        super().put(key, data, notes)

    def put_file(self, key: str, path: Path) -> None:
        """Write a local file, whatever is there."""
        self._forget(key)
        super().put_file(key, path)

    def put_if(self, key: str, data: bytes, version: str | None, notes: Mapping[str, str] | None = None) -> bool:
        """Write an object if it still has that version (None: if there is none); return False otherwise."""
        self._forget(key)
        return super().put_if(key, data, version, notes)

    def copy(self, key: str, to: str) -> None:
        """Copy an object within the bucket."""
        self._forget(to)
        super().copy(key, to)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects."""
        for key in keys:
            self._forget(key)
        super().delete(keys)
