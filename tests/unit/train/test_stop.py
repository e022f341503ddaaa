"""A command that is stopped has the workers take snapshots, and does not wait for one that does not."""

import threading
import time

from inoc_ray.store import snapshots
from inoc_ray.store.store import Store
from inoc_ray.train.stop import snapshot_before_stop


def take(store: Store, trial_id: str, step: int) -> None:
    snapshots.commit(store.snapshots(trial_id) / snapshots.new_name(step), [], {"step": step})


def test_a_snapshot_that_was_taken_for_the_request_counts_and_an_older_one_does_not(tmp_path, capsys):
    store = Store(tmp_path)
    take(store, "old", 3)
    take(store, "fast", 3)

    def worker() -> None:
        while not store.snapshot_request("fast").exists():
            time.sleep(0.01)
        take(store, "fast", 4)

    thread = threading.Thread(target=worker)
    thread.start()
    assert snapshot_before_stop(store, ["old", "fast"], seconds=1.0) == 1
    thread.join()
    assert "1 of 2 trials in training took a snapshot just now" in capsys.readouterr().err
    assert [place.name[:8] for place in snapshots.committed(store.snapshots("fast"))] == ["00000004", "00000003"]
    assert not store.snapshot_request("old").exists()


def test_without_a_trial_in_training_nothing_is_asked_or_said(tmp_path, capsys):
    assert snapshot_before_stop(Store(tmp_path), []) == 0
    assert capsys.readouterr().err == ""


def test_the_two_latest_snapshots_and_all_checkpoints_are_kept(tmp_path):
    folder = Store(tmp_path).snapshots("a")
    for step in (1, 2, 10):
        take(Store(tmp_path), "a", step)
    (folder / "00000011-killed" / snapshots.shard_name(0)).write_bytes(b"not committed")
    kept = snapshots.checkpoint(folder, 4)
    (kept / "adapter").write_bytes(b"weights")
    snapshots.commit(kept, snapshots.contents(kept.fetch()), {"identity": "x"})
    snapshots.prune(folder)
    assert [place.name.split("-")[0] for place in folder.iterdir()] == ["00000002", "00000010", "checkpoint"]
    assert snapshots.fault(kept, {"identity": "x"}) is None
    assert snapshots.fault(kept, {"identity": "y"}) == "it is of another trial, recipe or rows"
    (kept / "adapter").write_bytes(b"Weights")
    assert snapshots.fault(kept, {"identity": "x"}) == "adapter does not have the bytes that were written"
