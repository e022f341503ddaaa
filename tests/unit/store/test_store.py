"""What is committed is whole, what is not committed is not there."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from inoc_ray.errors import InputError
from inoc_ray.store import processes, snapshots
from inoc_ray.store.filesystem import LocalFilesystem
from inoc_ray.store.layout import COMMIT, part_name
from inoc_ray.store.lease import LEASE_SECONDS, Lease, LeaseTaken
from inoc_ray.store.place import at
from inoc_ray.store.samples import list_parts
from inoc_ray.store.store import Store


def commit(store: Store, trial_id: str, text: str = "weights") -> None:
    with store.stage_trial(trial_id) as folder:
        (folder / "adapter").mkdir()
        (folder / "adapter" / "a.bin").write_text(text)
        (folder / "trial.json").write_text("{}")


def test_a_trial_is_done_only_after_its_commit(tmp_path):
    store = Store(tmp_path)
    assert not store.trial_done("t")

    def killed_half_way() -> None:
        with store.stage_trial("t") as folder:
            (folder / "trial.json").write_text("{}")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        killed_half_way()
    assert not store.trial_done("t")
    assert list((tmp_path / "trials").iterdir()) == []
    commit(store, "t")
    assert store.trial_done("t", verify=True)


def test_a_damaged_trial_is_not_done_and_can_be_committed_again(tmp_path):
    store = Store(tmp_path)
    commit(store, "t")
    (store.adapter("t") / "a.bin").write_text("weightz")
    assert not store.trial_done("t")
    (store.adapter("t") / "a.bin").write_text("cut")
    assert not store.trial_done("t")
    commit(store, "t")
    assert store.trial_done("t", verify=True)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"files": 3}', '{"files": {"trial.json": {}}}'])
def test_a_half_written_marker_is_never_a_commit(tmp_path, damage):
    store = Store(tmp_path)
    commit(store, "t")
    (store.trial("t") / COMMIT).write_text(damage)
    assert not store.trial_done("t")


def test_the_first_commit_of_a_trial_stays_when_two_finish(tmp_path):
    store = Store(tmp_path)
    with store.stage_trial("t") as slow:
        (slow / "trial.json").write_text('{"by": "slow"}')
        with store.stage_trial("t") as quick:
            (quick / "trial.json").write_text('{"by": "quick"}')
    assert store.read_trial("t")["by"] == "quick"
    assert [p.name for p in (tmp_path / "trials").iterdir()] == ["t"]


def test_a_commit_removes_old_staging_folders_and_leaves_a_young_one_of_another_process(tmp_path):
    store = Store(tmp_path)
    old, young = (tmp_path / "trials" / f".t.{name}.tmp" for name in ("old", "young"))
    old.mkdir(parents=True)
    young.mkdir()
    os.utime(old, (1, 1))
    commit(store, "t")
    assert sorted(p.name for p in (tmp_path / "trials").iterdir()) == [young.name, "t"]


def test_what_killed_workers_staged_of_trials_that_nobody_trains_is_discarded_however_young_it_is(tmp_path):
    store = Store(tmp_path)
    kill = "import os, sys; from inoc_ray.store.store import Store\nwith Store(sys.argv[1]).stage_trial(sys.argv[2]): os._exit(1)"
    for trial in ("mine", "mine.too", "anothers"):
        subprocess.run([sys.executable, "-c", kill, tmp_path, trial], check=False)
    commit(store, "done")
    assert len(list((tmp_path / "trials").iterdir())) == 4
    store.discard_staged({"mine", "mine.too", "done", "never"})
    left = sorted(path.name for path in (tmp_path / "trials").iterdir())
    assert [name.split(".")[-3:][0] for name in left] == ["anothers", "done"]
    assert store.trial_done("done")


def test_a_lease_is_held_by_one_process_and_free_when_its_holder_is_dead(tmp_path):
    code = (
        "import sys, time; from inoc_ray.store.store import Store\n"
        f"with Store({str(tmp_path)!r}).lease('study-x'):\n print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LeaseTaken, match=str(other.pid)), Store(tmp_path).lease("study-x"):
            pass
        assert Store(tmp_path).holder("study-x")["pid"] == other.pid
    finally:
        other.kill()
        other.wait()
    with Store(tmp_path).lease("study-x"):
        assert Store(tmp_path).holder("study-x")["pid"] == os.getpid()
    assert Store(tmp_path).holder("study-x") is None


@pytest.mark.parametrize("of_another_user", [False, True])
def test_a_process_that_proc_hides_lives_as_long_as_its_id_is_taken(monkeypatch, of_another_user):
    """As with another user's process where /proc is mounted with `hidepid`."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        described = {**processes.this_process(), "pid": other.pid, "started": processes.started(other.pid)}
        assert not processes.is_dead(described)
        monkeypatch.setattr(processes, "started", lambda pid: "")
        if of_another_user:
            monkeypatch.setattr(os, "kill", not_allowed)
        assert not processes.is_dead(described)
    finally:
        monkeypatch.undo()
        other.kill()
        other.wait()
    assert processes.is_dead(described)
    monkeypatch.setattr(processes, "started", lambda pid: "")
    assert processes.is_dead(described)
    for nobody in (None, "1", 0, -1, 1 << 70):
        assert processes.is_dead({**described, "pid": nobody})


def not_allowed(pid: int, number: int) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


def test_a_lease_of_another_machine_is_taken_over_only_after_its_heartbeat_stopped(tmp_path):
    path = tmp_path / "leases" / "x.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "t"}))
    with pytest.raises(LeaseTaken), Store(tmp_path).lease("x"):
        pass
    old = time.time() - LEASE_SECONDS - 1
    os.utime(path, (old, old))
    with Store(tmp_path).lease("x"):
        pass


def other_holder(folder: Path, name: str, **changes: Any) -> Path:
    """A lease as another process of this machine would hold it; `changes` to what it says."""
    path = folder / "leases" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    mine = Lease(name, path, ()).holder
    path.write_text(json.dumps({**mine, "token": "another", **changes}))
    return path


def test_a_process_of_another_container_is_alive_as_long_as_its_heart_beats(tmp_path):
    # Its number means nothing here, and the name of the host may be the same.
    path = other_holder(tmp_path, "x", pid=2**22 + 1, machine="of another container", started="1")
    with pytest.raises(LeaseTaken), Store(tmp_path).lease("x"):
        pass
    old = time.time() - LEASE_SECONDS - 1
    os.utime(path, (old, old))
    with Store(tmp_path).lease("x"):
        pass


def test_a_process_number_that_was_given_again_is_not_the_holder(tmp_path):
    other_holder(tmp_path, "x", started="1")
    with Store(tmp_path).lease("x"):
        pass


def test_two_studies_do_not_do_the_same_at_once(tmp_path):
    store = Store(tmp_path)
    with store.lease("study-a", ["train 1", "ask 1/2"]) as lease:
        said = pytest.raises(LeaseTaken, match=r"1 of the trials and evaluations that study-b needs .* by study-a")
        with said, store.lease("study-b", ["ask 1/2", "ask 1/3"]):
            pass
        with store.lease("study-b", ["train 2"]):
            pass
        assert store.holder("study-a") == {"host": lease.holder["host"], "pid": os.getpid()}
    with store.lease("study-b", ["ask 1/2"]):
        pass


def test_a_heart_beats_on_after_a_hiccup_of_the_mount_and_after_its_file_was_deleted(tmp_path):
    with Store(tmp_path).lease("x") as lease:
        lease.path.unlink()
        # What stands there cannot be read: any OSError will do.
        lease.path.fetch().mkdir()
        lease.beat()
        lease.path.fetch().rmdir()
        lease.beat()
        assert json.loads(lease.path.read_text())["token"] == lease.holder["token"]
        old = time.time() - LEASE_SECONDS - 1
        os.utime(lease.path.fetch(), (old, old))
        lease.check()
        assert time.time() - lease.path.stat().modified < LEASE_SECONDS / 2


def test_who_lost_a_lease_notices_and_leaves_it_to_the_other(tmp_path):
    with Store(tmp_path).lease("x") as lease:
        path = other_holder(tmp_path, "x", pid=77)
        old = time.time() - LEASE_SECONDS / 2
        os.utime(path, (old, old))
        with pytest.raises(LeaseTaken, match="x was taken over by process 77"):
            lease.check()
        assert path.stat().st_mtime == pytest.approx(old)
    assert json.loads(path.read_text())["token"] == "another"


def test_storage_that_cannot_be_written_is_refused_with_the_reason(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Store(tmp_path / "file" / "below").check_writable()


def test_samples_count_up_to_the_first_gap(tmp_path):
    for start, stop in ((0, 100), (100, 150), (160, 200)):
        (tmp_path / part_name(start, stop)).write_bytes(b"")
    assert [part[:2] for part in list_parts(at(tmp_path))] == [(0, 100), (100, 150)]


def test_a_commit_that_was_quicker_by_a_moment_is_kept(tmp_path, monkeypatch):
    store = Store(tmp_path)
    rename = os.rename

    def later(source, target):
        if not target.exists():
            # The other process has the same content: its whole folder appears a moment before ours.
            shutil.copytree(source, target)
            (target / "theirs").write_text("")
        rename(source, target)

    monkeypatch.setattr(os, "rename", later)
    with store.stage_trial("abc") as folder:
        (folder / "trial.json").write_text("{}")
    assert store.trial_done("abc")
    assert (store.trial("abc") / "theirs").exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '"text"'])
def test_a_damaged_trial_is_named_with_what_to_do(tmp_path, text):
    store = Store(tmp_path)
    with store.stage_trial("abc") as folder:
        (folder / "trial.json").write_text(text)
        (folder / "curves.jsonl").write_text("{\n")
    for read in (store.read_trial, store.read_curves):
        with pytest.raises(InputError, match="abc: the trial is damaged; delete this folder"):
            read("abc")


def test_nobody_holds_a_lease_below_a_file_and_an_unknown_home_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert Store(tmp_path / "file").holder("study-s") is None
    assert Store("~no-such-user/x").root.is_absolute()


def test_snapshots_that_cannot_be_used_take_no_place_of_those_that_were_taken_since(tmp_path):
    folder = Store(tmp_path).snapshots("t")

    def taken(step: int) -> str:
        name = snapshots.new_name(step)
        snapshots.commit(folder / name, [], {})
        return name

    passed_over = {taken(90), taken(80)}
    names = [taken(10)]
    snapshots.prune(folder, passed_over)
    assert [place.name for place in snapshots.committed(folder)] == names
    names = [taken(30), taken(20), *names]
    snapshots.prune(folder, passed_over)
    assert [place.name for place in snapshots.committed(folder)] == names[: snapshots.KEPT]


def test_a_snapshot_that_is_deleted_while_somebody_looks_is_no_error(tmp_path, monkeypatch):
    folder = Store(tmp_path).snapshots("t")
    for step in (10, 20):
        snapshots.commit(folder / snapshots.new_name(step), [], {})
    look = LocalFilesystem.stat

    def look_and_delete(self, key: str):
        found = look(self, key)
        if "00000010-" in key and key.endswith(".json"):
            self.delete_folder(key.rpartition("/")[0])
        return found

    monkeypatch.setattr(LocalFilesystem, "stat", look_and_delete)
    assert snapshots.latest_step(folder) == 20
    assert snapshots.latest_step(folder) == 20
