"""What a group's driver decides without a cluster: widths, how long it waits, how many steps are done."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

from inoc_ray.console import Progress
from inoc_ray.store.store import Store
from inoc_ray.study.recipe import Recipe
from inoc_ray.study.resources import GroupResources, TrialResources
from inoc_ray.train.failure import Loss
from inoc_ray.train.group import _Group, widths
from inoc_ray.train.job import TrialJob
from inoc_ray.train.room import Patience
from inoc_ray.train.spec import LoopSpec
from inoc_ray.train.sweep import Steps, _follow, nothing


def job(batch_size: int, micro_batch_size: int) -> TrialJob:
    resources = TrialResources(micro_batch_size=micro_batch_size)
    spec = LoopSpec(
        model="m", seed=0, recipe=Recipe(learning_rate=1e-4, batch_size=batch_size, steps=1), resources=resources
    )
    return TrialJob(trial_id="t", label="t", spec=spec, rows=[])


def test_a_group_shrinks_only_to_numbers_of_workers_that_divide_every_batch():
    resources = GroupResources(workers=8, min_workers=1)
    assert widths([job(16, 1)], resources) == [8, 4, 2, 1]
    assert widths([job(16, 1), job(24, 2)], resources) == [8, 4, 2, 1]
    assert widths([job(48, 2)], GroupResources(workers=8, min_workers=3)) == [8, 6, 4, 3]
    in_pairs = GroupResources(workers=8, min_workers=1, zero_stage=3, hpz_partition_size=2)
    assert widths([job(48, 2)], in_pairs) == [8, 6, 4, 2]


def test_a_group_keeps_its_workers_unless_the_study_says_otherwise():
    assert widths([job(16, 1)], GroupResources(workers=8)) == [8]


def test_the_end_of_a_group_is_no_failure_of_those_that_it_trained_or_that_failed_by_themselves(tmp_path, monkeypatch):
    store = Store(tmp_path)
    done, failed, lost = (dataclasses.replace(job(16, 1), trial_id=name, label=name) for name in ("a", "b", "c"))
    group = _Group([done, failed, lost], GroupResources(max_failures=0), store, run_name="g", callbacks=[], tell=str)

    starts: list[list[str]] = []

    def start(jobs, workers) -> Loss:
        starts.append([job.trial_id for job in jobs])
        with store.stage_trial("a") as folder:
            (folder / "trial.json").write_text("{}")
        store.trial_log("b").write_text("the loss is nan\n")
        (store.attempts("g") / "c").write_text("1")
        return Loss("worker 0 died")

    monkeypatch.setattr(group, "_start", start)
    monkeypatch.setattr("inoc_ray.train.group.give_up", lambda held: None)
    monkeypatch.setattr("inoc_ray.train.group.wait_for_room", lambda *args, **options: 1)
    why = group.run(Patience(1.0))
    # The first time it got further, so even without any failure to spare it was started again.
    assert starts == [["a", "b", "c"], ["c"]]
    assert why == "worker 0 died, 2 times without getting further"
    assert not store.trial_log("a").exists()
    assert store.trial_log("b").read_text() == "the loss is nan\n"
    assert store.trial_log("c").read_text() == f"{why}\n"


def test_a_group_that_is_lost_after_its_last_commit_does_not_say_that_it_starts_again(tmp_path, monkeypatch):
    store = Store(tmp_path)
    told: list[str] = []
    last = dataclasses.replace(job(16, 1), trial_id="a", label="a")
    group = _Group([last], GroupResources(), store, run_name="g", callbacks=[], tell=told.append)

    def start(jobs, workers) -> Loss:
        (store.attempts("g") / "a").write_text("1")
        with store.stage_trial("a") as folder:
            (folder / "trial.json").write_text("{}")
        return Loss("worker 0 died")

    monkeypatch.setattr(group, "_start", start)
    monkeypatch.setattr("inoc_ray.train.group.give_up", lambda held: None)
    monkeypatch.setattr("inoc_ray.train.group.wait_for_room", lambda *args, **options: 1)
    assert group.run(Patience(1.0)) is None
    assert told == ["training: a: worker 0 died; nothing is lost, all of its fine-tunes are trained"]


def test_the_wait_for_room_ends_but_lasts_while_others_of_the_command_train(tmp_path: Path):
    store = Store(tmp_path)
    sign = store.sign_of_life("sweep")
    sign.write_text("1")
    patience = Patience(0.3 / 60, sign)
    assert not patience.over()
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        sign.write_text(str(time.monotonic()))
        assert not patience.over()
        time.sleep(0.05)
    time.sleep(0.35)
    assert patience.over()


def test_a_sign_of_an_earlier_command_is_no_reason_to_wait(tmp_path: Path):
    sign = Store(tmp_path).sign_of_life("sweep")
    sign.write_text("1")
    patience = Patience(0.1 / 60, sign)
    time.sleep(0.15)
    assert patience.over()


def test_steps_of_a_lost_trial_are_not_counted_as_done_because_its_group_took_another_first():
    steps = Steps({"a": 66, "b": 66})
    steps.report("group", "a", 40)
    steps.lost("group")
    steps.report("group", "b", 10)
    assert steps.done == 50
    steps.report("group", "a", 41)
    assert steps.done == 66 + 41


def test_steps_of_a_trial_that_starts_again_are_those_that_it_has_now():
    steps = Steps({"a": 66})
    steps.report("group", "a", 66)
    steps.lost("group")
    steps.report("group", "a", 1)
    assert steps.done == 1


def test_the_callback_of_a_sweep_can_be_written_to_disk_whatever_watches_it(tmp_path):
    """As Ray Tune does with it before it starts anything."""
    from ray import cloudpickle

    class Watcher:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def record(self, trial_id: str, step: object) -> None:
            raise AssertionError

    with Progress("training", 1, "steps") as progress:
        follow = _follow(progress, {"a": 1}, Store(tmp_path).sign_of_life("s"), Watcher().record, nothing)
        assert cloudpickle.loads(cloudpickle.dumps(follow)) is not None


def test_a_wait_asks_once_for_the_place_of_others_when_half_of_it_is_over():
    asked: list[float] = []
    began = time.monotonic()
    patience = Patience(1.0 / 60, None, lambda: asked.append(time.monotonic() - began))
    while not patience.over():
        time.sleep(0.01)
    assert len(asked) == 1
    assert 0.5 <= asked[0] < 0.9
    patience.renew()
    assert not patience.over()
    assert len(asked) == 1
