"""A scratch folder goes with its process: at its end, or with the next process if it was killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

from inoc_ray.store.scratch import reclaim, scratch_folder

HOLDS = """
import sys, time
from pathlib import Path
from inoc_ray.store.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "token").write_text("secret")
    print(folder, flush=True)
    time.sleep(60)
"""

WRITES = """
import contextlib, os, sys
for number in range(10**9):
    with contextlib.suppress(FileNotFoundError):
        os.close(os.open(f"{sys.argv[1]}/{number % 200}/{number}", os.O_CREAT))
"""


def test_a_folder_is_private_and_gone_at_the_end(tmp_path: Path):
    with scratch_folder(tmp_path) as folder:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_process_is_deleted_by_the_next_one_and_of_a_living_one_not(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        with scratch_folder(tmp_path):
            assert (folder / "token").exists()
    finally:
        process.kill()
        process.wait()
    assert folder.exists()
    with scratch_folder(tmp_path) as mine:
        assert list(tmp_path.iterdir()) == [mine]


def test_folders_that_name_no_owner_and_those_of_others_stay(tmp_path: Path):
    (tmp_path / "inoc-ray-test-abc").mkdir()
    (tmp_path / "other").mkdir()
    others = tmp_path / "inoc-ray-other"
    others.mkdir()
    (others / ".owner").write_text("")
    others.chmod(0)
    try:
        gone = reclaim(tmp_path)
        # Whom no right stops, as root, for whom it is a folder without a process.
        assert gone == ([others] if os.geteuid() == 0 else [])
    finally:
        if others.exists():
            others.chmod(0o700)
    assert (tmp_path / "inoc-ray-test-abc").exists()
    assert (tmp_path / "other").exists()


def test_a_folder_into_which_somebody_still_writes_is_deleted_when_nobody_does(tmp_path: Path):
    """A process that its owner started may outlive the owner by a moment."""
    for _ in range(5):
        with scratch_folder(tmp_path) as folder:
            for number in range(200):
                (folder / "state" / str(number)).mkdir(parents=True)
            writer = subprocess.Popen([sys.executable, "-S", "-c", WRITES, folder / "state"])
            while not list((folder / "state" / "199").iterdir()):
                time.sleep(0.001)
        writer.kill()
        writer.wait()
        reclaim(tmp_path)
        assert list(tmp_path.iterdir()) == []
