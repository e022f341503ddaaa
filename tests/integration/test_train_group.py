"""A worker group trains its trials one after another, each committed by itself; restarts and reruns skip those."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from tiny_base import chat_rows, make_base, make_spec, run, weights_hash

from inoc_ray.cluster.connect import connected
from inoc_ray.data.chat import rows_hash, rows_text
from inoc_ray.serve.adapters import FolderCatalogue
from inoc_ray.store import snapshots
from inoc_ray.store.store import Store
from inoc_ray.study.recipe import Lora
from inoc_ray.study.resources import Resources
from inoc_ray.train.export import validate_adapter
from inoc_ray.train.group import train_group
from inoc_ray.train.job import TrialJob
from inoc_ray.train.process import set_threads

pytestmark = pytest.mark.slow

RESOURCES = Resources(workers=1, micro_batch_size=8, max_failures=1)
ROWS = [row.to_dict() for row in chat_rows()]


@pytest.fixture(scope="module")
def cluster():
    """A private Ray on this machine's cores, as the product starts it."""
    with connected():
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return make_base(tmp_path_factory.mktemp("base"))


def job(base: str, name: str, rows=ROWS, **changes) -> TrialJob:
    return TrialJob(
        trial_id=name,
        label=f"setting/{name}",
        spec=make_spec(base, **changes),
        rows=rows,
        study="groups",
        record={"seed": changes.get("seed", 0)},
    )


def committed_at(store: Store, name: str) -> float:
    return store.read_trial(name)["committed_at"]


@pytest.fixture(scope="module")
def first_group(cluster, base, tmp_path_factory):
    """Three good trials and a bad one among them, on one group."""
    store = Store(tmp_path_factory.mktemp("store"))
    rows = rows_hash(chat_rows())
    store.keep_rows(rows, rows_text(chat_rows()).encode())
    jobs = [
        job(base, "a"),
        job(base, "b", seed=1, checkpoints=(1, 2, "...")),
        job(base, "bad", max_length=8),
        job(base, "c", rows=rows),
    ]
    return store, jobs, train_group(jobs, RESOURCES, str(store.root), run_name="group")


def test_each_trial_is_committed_by_itself_in_order(first_group):
    store, _, outcomes = first_group
    assert [(o.trial_id, o.status) for o in outcomes] == [
        ("a", "trained"),
        ("b", "trained"),
        ("bad", "failed"),
        ("c", "trained"),
    ]
    times = [committed_at(store, name) for name in "abc"]
    assert times == sorted(times)
    assert all(store.trial_done(name, verify=True) for name in "abc")
    assert all(0 < o.seconds_training < o.seconds_total for o in outcomes if o.status == "trained")


def test_a_committed_trial_holds_record_curve_template_and_adapter(first_group, base):
    store, _, outcomes = first_group
    trial = store.read_trial("b")
    assert (trial["label"], trial["seed"], trial["loop"]["model"]) == ("setting/b", 1, base)
    assert "<|im_start|>" in trial["chat_template"]
    curve = store.read_curves("b")
    assert [record["step"] for record in curve] == [1, 2, 3, 4, 5, 6]
    assert curve[-1]["loss"] == trial["training"]["final_loss"] == outcomes[1].final_loss
    assert (store.adapter("b") / "adapter_model.safetensors").exists()


def test_weights_that_were_kept_on_the_way_are_committed_with_the_trial_and_served_by_their_step(first_group, base):
    store, _, _ = first_group
    assert store.read_trial("b")["training"]["checkpoints"] == [1, 2, 4]
    kept = store.checkpoints("b")
    assert list(kept) == [1, 2, 4]
    for folder in kept.values():
        validate_adapter(folder, base, 8)
    assert len({store.weights("b"), *(store.weights("b", step) for step in kept)}) == 4
    assert store.weights("b", 3) is None
    catalogue = FolderCatalogue(store.trials())
    assert catalogue.fetch("b@4") == kept[4]
    assert catalogue.find("b@3") is None
    assert catalogue.ids() == ["a", "b", "c"]
    assert not store.snapshots("b").exists()
    assert store.checkpoints("a") == {}


def test_the_bad_trial_says_what_is_wrong_and_leaves_nothing_but_its_log(first_group):
    store, _, outcomes = first_group
    assert "setting/bad, row 1: " in outcomes[2].error
    assert "max_length is 8" in outcomes[2].error
    first, second, *_ = store.trial_log("bad").read_text().splitlines()
    assert first == "study=groups trial=bad seed=0 attempt=1"
    assert second.startswith("Traceback")
    assert sorted(path.name for path in (store.root / "trials").iterdir()) == ["a", "b", "c"]


@pytest.mark.bench
def test_what_a_worker_logs_of_a_trial_says_which_one_it_is(first_group):
    """Opt-in until it has been seen to hold."""
    from ray._private import worker

    logs = Path(worker._global_node.get_session_dir_path()) / "logs" / "train"
    lines = [line for path in logs.rglob("*app-worker*") for line in path.read_text().splitlines()]
    (failed,) = [line for line in lines if "(setting/bad) failed" in line]
    assert "study=groups trial=bad seed=0 attempt=1: trial bad (setting/bad) failed" in failed


def test_the_group_does_not_show_in_the_weights(first_group, base, tmp_path):
    """The same bits as when trained alone, outside Ray; and rows from a file as rows handed in."""
    store = first_group[0]
    set_threads(1)
    run(base, tmp_path / "alone")
    assert weights_hash(store.adapter("a")) == weights_hash(tmp_path / "alone") == weights_hash(store.adapter("c"))


def test_a_rerun_skips_what_is_committed_and_starts_nothing_for_it(first_group, monkeypatch):
    store, jobs, before = first_group
    times = {name: committed_at(store, name) for name in "abc"}
    # Without Ray's trainer nothing could be trained, so this shows that nothing was tried.
    monkeypatch.setattr("ray.train.torch.TorchTrainer.fit", None)
    good = [j for j in jobs if j.trial_id != "bad"]
    outcomes = train_group(good, RESOURCES, str(store.root), run_name="group")
    assert [o.status for o in outcomes] == ["skipped"] * 3
    assert [o.final_loss for o in outcomes] == [o.final_loss for o in before if o.status == "trained"]
    assert {name: committed_at(store, name) for name in "abc"} == times


def steps_of_snapshots(store: Store, name: str) -> list[int]:
    return [snapshots.read(place).about["step"] for place in snapshots.committed(store.snapshots(name))]


def test_a_lost_worker_costs_the_trial_it_was_at_a_few_steps(cluster, base, tmp_path):
    """SIGKILL in the second trial: the group starts again, trains the third and goes on with the second to the same curve."""
    store = Store(tmp_path / "store")
    mark = store.ray() / "lost" / "attempts" / "b"
    jobs = [
        job(base, "a"),
        job(base, "b", steps=400, precision="bf16", lora=Lora(dropout=0.1), snapshot_minutes=0.02),
        job(base, "c"),
    ]
    killed: list[tuple[int, float]] = []

    def kill_in_the_second() -> None:
        while not steps_of_snapshots(store, "b"):
            time.sleep(0.05)
        killed.append((int(mark.read_text()), committed_at(store, "a")))
        os.kill(killed[0][0], signal.SIGKILL)

    lines: list[str] = []
    threading.Thread(target=kill_in_the_second, daemon=True).start()
    outcomes = train_group(jobs, RESOURCES, str(store.root), run_name="lost", tell=lines.append)
    assert [o.status for o in outcomes] == ["trained"] * 3
    assert len(killed) == 1
    assert committed_at(store, "a") == killed[0][1]
    # What was under way when the group was lost comes last.
    assert committed_at(store, "c") < committed_at(store, "b")
    assert len(lines) == 1
    assert "setting/b: worker 0 died; it goes on after step " in lines[0]
    (resumed,) = store.read_trial("b")["training"]["resumed"]
    assert f"after step {resumed['after_step']}, from its last snapshot" in lines[0]
    set_threads(1)
    unbroken, _ = run(base, None, steps=400, precision="bf16", lora=Lora(dropout=0.1))
    assert [record["loss"] for record in store.read_curves("b")] == [record.loss for record in unbroken]
