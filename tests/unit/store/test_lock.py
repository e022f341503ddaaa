"""The lock on a file: its content and its rights stay, and nobody waits for ever for a process that hangs."""

import os
import stat
import threading
from pathlib import Path

import pytest

from inoc_ray.store.filesystem import LocalFilesystem
from inoc_ray.store.lock import FOREVER, exclusive


def test_a_file_that_is_locked_keeps_its_content(tmp_path: Path):
    """It may be the journal of a build, with answers that were paid for."""
    path = tmp_path / "rows.jsonl.partial"
    path.write_bytes(b"an answer\n")
    for _ in range(2):
        with exclusive(path, FOREVER):
            assert path.read_bytes() == b"an answer\n"
    assert path.read_bytes() == b"an answer\n"


def test_a_lock_file_has_the_rights_that_the_user_gives_new_files(tmp_path: Path):
    """A group that shares a storage must be able to lock what one of its members locked first."""
    before = os.umask(0o002)
    try:
        with exclusive(tmp_path / "taking.lock"):
            pass
        (tmp_path / "other").touch()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "taking.lock").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_a_process_that_hangs_in_a_conditional_write_holds_up_no_other_file_and_this_one_not_for_ever(tmp_path: Path):
    """Heartbeats of leases are conditional writes: a running study must not seem dead because another one is stopped."""
    filesystem = LocalFilesystem(tmp_path)
    for key in ("leases/a.json", "leases/b.json"):
        assert filesystem.write_if(key, b"1", None)
    release, held = threading.Event(), threading.Event()

    def hang() -> None:
        with exclusive(tmp_path / "leases" / ".a.json.lock"):
            held.set()
            release.wait()

    thread = threading.Thread(target=hang)
    thread.start()
    assert held.wait(60)
    try:
        assert filesystem.write_if("leases/b.json", b"2", filesystem.stat("leases/b.json").version)
        with pytest.raises(TimeoutError):
            filesystem.write_if("leases/a.json", b"2", filesystem.stat("leases/a.json").version)
    finally:
        release.set()
        thread.join()
    assert filesystem.write_if("leases/a.json", b"3", filesystem.stat("leases/a.json").version)
