"""What is committed lies on the disk before it has its name, and its name before the commit is reported.

The unit tests do not wait for the disk (conftest.py), and no test can cut the power: here it is asked for, and in which order.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from inoc_ray.store.filesystem import LocalFilesystem
from inoc_ray.store.snapshots import contents

Happened = list[tuple[str, int]]


def inode(path: Path) -> int:
    """What stays the same when a file gets another name."""
    return path.stat().st_ino


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch) -> Happened:
    """What was synced and what was renamed, in order."""
    found: Happened = []

    def renaming(rename: Any) -> Any:
        def noted(old: Path, new: Path) -> None:
            found.append(("renamed", inode(old)))
            rename(old, new)

        return noted

    monkeypatch.setattr(os, "fsync", lambda handle: found.append(("synced", os.fstat(handle).st_ino)))
    monkeypatch.setattr(os, "rename", renaming(os.rename))
    monkeypatch.setattr(os, "replace", renaming(os.replace))
    return found


def test_a_file_is_synced_before_it_gets_its_name_and_its_folder_afterwards(tmp_path: Path, happened: Happened) -> None:
    LocalFilesystem(tmp_path).write("a", b"x")
    file = inode(tmp_path / "a")
    assert happened == [("synced", file), ("renamed", file), ("synced", inode(tmp_path))]


def test_all_of_a_folder_is_synced_before_it_gets_its_name(tmp_path: Path, happened: Happened) -> None:
    """Its files, the folders in it, and the folder itself, in which their names stand."""
    store = LocalFilesystem(tmp_path)
    with store.staging("trials/t") as staging:
        (staging / "adapter").mkdir()
        for name in ("adapter/weights", "commit"):
            (staging / name).write_bytes(b"x")
        store.publish(staging, "trials/t", "commit")
    folder = tmp_path / "trials" / "t"
    renamed = happened.index(("renamed", inode(folder)))
    assert {one for _, one in happened[:renamed]} == {inode(path) for path in (folder, *folder.rglob("*"))}
    assert happened[renamed + 1 :] == [("synced", inode(folder.parent))]


def test_every_file_of_a_snapshot_is_synced_before_it_is_listed(tmp_path: Path, happened: Happened) -> None:
    for name in ("optimizer", "parts/0"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [file.name for file in contents(tmp_path)] == ["optimizer", "parts/0"]
    assert {one for _, one in happened} == {inode(tmp_path / name) for name in ("optimizer", "parts/0")}
