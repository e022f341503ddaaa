"""Who needs a file of a trial on another machine than the one that made it fetches it, checked, and asks for little else."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from object_store import ObjectStore, Wire, wire
from safetensors.numpy import load_file, save_file

from inoc_ray.data.chat import ChatRow, rows_hash, rows_text
from inoc_ray.errors import InputError
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.records import StudyRecord, TrialRecord
from inoc_ray.results.study_runs import trial_runs
from inoc_ray.serve.adapters import FolderCatalogue, FullModel
from inoc_ray.store.commit import weights_in, write_trial
from inoc_ray.store.object_filesystem import ObjectFilesystem
from inoc_ray.store.place import Place
from inoc_ray.store.store import Store
from inoc_ray.study.recipe import Recipe
from inoc_ray.study.resources import TrialResources
from inoc_ray.train.job import TrialJob
from inoc_ray.train.spec import LoopSpec
from inoc_ray.train.watch import Watch
from inoc_ray.train.worker import on_node, read_rows

FILES = 8


def commit(store: Store, trial_id: str, steps: tuple[int, ...] = ()) -> None:
    with store.stage_trial(trial_id) as staging:
        weights_in(staging).mkdir()
        for number in range(FILES):
            save_file({"a": np.full((4,), number, np.float32)}, weights_in(staging) / f"part-{number}.safetensors")
        for step in steps:
            kept = staging / "checkpoints" / f"{step:08d}"
            kept.mkdir(parents=True)
            save_file({"a": np.full((4,), step, np.float32)}, kept / "adapter_model.safetensors")
        write_trial(staging, {"model_hash": "m", "recipe": {"method": "lora"}}, [])


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(request.getfixturevalue("s3") if request.param == "s3" else tmp_path / "runs")


@pytest.fixture
def counted(s3: str, s3_server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, Wire]]:
    """A store in a bucket behind a wire that lists the requests."""
    with wire(s3_server) as between:
        for name, value in s3_server.environment(between.url).items():
            monkeypatch.setenv(name, value)
        # Connections are kept by address.
        yield Store(f"{s3}/behind-a-wire"), between


def overwrite(place: Place) -> None:
    """Other bytes in the same number, as whoever has the bucket's keys could put there."""
    data = place.read_bytes()
    place.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_weights_are_fetched_with_every_byte_checked(store: Store):
    commit(store, "t", steps=(4,))
    catalogue = FolderCatalogue(store.trials(), model_hash="m")
    assert catalogue.ids() == ["t"]
    assert load_file(catalogue.fetch("t") / "part-3.safetensors")["a"][0] == 3
    assert load_file(catalogue.fetch("t@4") / "adapter_model.safetensors")["a"][0] == 4
    assert catalogue.find("t@5") is None
    assert FullModel(store.trials(), "t").fetch() == catalogue.fetch("t")
    overwrite(store.weights_place("t") / "part-3.safetensors")
    for fetch in (lambda: catalogue.fetch("t"), FullModel(store.trials(), "t").fetch):
        with pytest.raises(
            InputError, match=r"trial t is damaged: adapter/part-3\.safetensors does not have the bytes"
        ):
            fetch()
    # What is used is checked, and nothing else.
    assert catalogue.fetch("t@4").is_dir()
    with pytest.raises(InputError, match="COMMIT"):
        catalogue.fetch("missing")


def test_a_look_at_a_trial_is_two_requests_whatever_it_holds_and_a_use_fetches_no_more_than_it_needs(
    counted: tuple[Store, Wire], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store, between = counted
    commit(store, "t", steps=(4,))
    between.requests.clear()
    assert store.trial_done("t")
    assert len(between.requests) == 2
    between.requests.clear()
    assert not store.trial_done("missing")
    assert len(between.requests) == 1
    monkeypatch.setenv("INOC_RAY_CACHE", str(tmp_path / "another-machine"))
    between.requests.clear()
    FolderCatalogue(store.trials()).fetch("t")
    read = [line for line in between.requests if line.startswith("GET") and "safetensors" in line]
    assert len(read) == FILES
    between.requests.clear()
    FolderCatalogue(store.trials()).fetch("t")
    assert len(between.requests) <= 3


def test_a_list_of_adapters_costs_no_request_for_each(counted: tuple[Store, Wire]):
    store, between = counted
    ids = [f"t{number}" for number in range(5)]
    for trial_id in ids:
        commit(store, trial_id)
    (store.trial("t3") / "COMMIT.json").unlink()
    catalogue = FolderCatalogue(store.trials(), model_hash="m")
    for most in (1 + 2 * len(ids), 1):
        between.requests.clear()
        assert catalogue.ids() == ["t0", "t1", "t2", "t4"]
        assert len(between.requests) <= most
    # The list is of this moment.
    commit(store, "t3")
    assert catalogue.ids() == ids
    assert FolderCatalogue(store.trials(), model_hash="other").ids() == []


def test_a_trial_that_is_being_published_is_missing_and_not_damaged(store: Store, monkeypatch: pytest.MonkeyPatch):
    seen: list[str | None] = []
    put = ObjectFilesystem._put_new

    def looking(self: ObjectFilesystem, path: Path, key: str) -> bool:
        seen.append(store.trial_fault("t"))
        return put(self, path, key)

    monkeypatch.setattr(ObjectFilesystem, "_put_new", looking)
    commit(store, "t")
    assert set(seen) <= {None}
    assert len(seen) == (FILES + 3 if store.address.startswith("s3") else 0)
    overwrite(store.weights_place("t") / "part-3.safetensors")
    assert "part-3" in str(store.verify_trial("t"))
    # Its commit is set aside: now it is damaged.
    assert "part-3" in str(store.trial_fault("t"))
    assert "part-3" in store.damage(["t"], [])[0]


def test_whether_mlflow_has_an_adapter_is_known_without_reading_it(counted: tuple[Store, Wire]):
    store, between = counted
    commit(store, "t")
    record = TrialRecord(
        trial_id="t",
        setting="s",
        model="m",
        arm="a",
        kind="baseline",
        prompt=None,
        seed=0,
        recipe={},
        dataset_hash="",
        adapter_dir=store.weights_place("t"),
        adapter_files=store.committed_weights("t"),
    )
    between.requests.clear()
    [run] = trial_runs(StudyRecord("s", 0), [record], Comparison(study="s", rows=(), effects=()))
    assert run.artifacts_hash()
    assert run.model is not None
    assert [file.path for file in run.model.files] == [f"part-{number}.safetensors" for number in range(FILES)]
    assert all(file.state() == [file.path, file.committed] for file in run.model.files)
    assert between.requests == []


def test_a_job_names_nothing_of_the_drivers_disk_and_a_node_finds_it_all(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = [ChatRow.of(("user", "Hi"), ("assistant", "Hello"))]
    commit(store, "first")
    store.keep_rows(rows_hash(rows), rows_text(rows).encode())
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    spec = LoopSpec(
        model=str(model),
        seed=0,
        recipe=Recipe(learning_rate=1.0, steps=1),
        resources=TrialResources(),
        start=str(store.weights_place("first")),
    )
    job = TrialJob(trial_id="t", label="t", spec=spec, rows=rows_hash(rows), starts_from="first")
    sent = json.dumps(job.to_dict())
    monkeypatch.setenv("INOC_RAY_CACHE", str(tmp_path / "another-machine"))
    there = Store(store.address)
    found = on_node(TrialJob.from_dict(json.loads(sent)), there)
    assert found == dataclasses.replace(spec, start=str(there.adapter("first")))
    assert (Path(str(found.start)) / "part-0.safetensors").is_file()
    assert read_rows(job, there) == rows
    kept = store.rows(rows_hash(rows))
    kept.write_bytes(kept.read_bytes().replace(b"Hello", b"Hullo"))
    with pytest.raises(InputError, match=r"\.jsonl: damaged: its rows do not have the hash in its name"):
        read_rows(job, there)


def until(look: Callable[[], tuple[bool, bool]]) -> tuple[bool, bool]:
    end = time.monotonic() + 30
    while not any(found := look()):
        assert time.monotonic() < end
    return found


def test_requests_to_a_trial_are_seen_beside_the_training_and_taken_once(store: Store):
    ask, grow = store.snapshot_request("t"), store.grow_mark("run")
    with Watch(ask, grow) as watch:
        assert watch.taken() == (False, False)
        ask.write_text("")
        assert until(watch.taken) == (True, False)
        assert not ask.is_file()
        grow.write_text("")
        assert until(watch.taken) == (False, True)
        assert watch.taken() == (False, True)


def test_what_no_bucket_holds_lies_on_the_machine_and_its_lock_in_the_bucket(s3: str, tmp_path: Path):
    store = Store(s3)
    assert store.mlflow().is_relative_to(tmp_path / "copies")
    assert str(store.sync_lock()).startswith("s3://")
    assert Store(tmp_path / "runs").mlflow() == tmp_path / "runs" / "mlflow"
