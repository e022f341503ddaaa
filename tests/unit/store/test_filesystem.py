"""A store stands on its file system alone: in a bucket of a real S3 server a study gives what it gives in a folder."""

import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file
from stub_api import Stub

from inoc_ray.evaluate.grading import grade_missing
from inoc_ray.evaluate.sampling import sample_missing
from inoc_ray.evaluate.score_table import read_score_table
from inoc_ray.evaluate.ungraded import ungraded_parts
from inoc_ray.plan.build import build_plan
from inoc_ray.results.comparison import Comparison
from inoc_ray.run.integrity import claims_of, seal_samples, verify_used
from inoc_ray.run.mlflow_records import trial_records
from inoc_ray.run.publish import compare_study, write_study_report
from inoc_ray.run.status import status_json
from inoc_ray.run.study_record import keep_study, study_record
from inoc_ray.serve.adapters import FolderCatalogue
from inoc_ray.serve.app import Endpoint
from inoc_ray.store import layout
from inoc_ray.store.address import open_filesystem
from inoc_ray.store.commit import weights_in, write_trial
from inoc_ray.store.failures import Failure, keep_failures, read_failures
from inoc_ray.store.filesystem import Filesystem, LocalFilesystem
from inoc_ray.store.journal import Journal
from inoc_ray.store.lease import LeaseTaken
from inoc_ray.store.objects import Bucket
from inoc_ray.store.place import Place
from inoc_ray.store.samples import Sample, commit_samples, list_parts, seal_parts
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study


@pytest.fixture(params=["local", "s3"])
def filesystem(request: pytest.FixtureRequest, tmp_path: Path) -> Filesystem:
    return open_filesystem(request.getfixturevalue("s3") if request.param == "s3" else tmp_path / "runs")


def commit(store: Store, trial_id: str, model_hash: str = "", fill: float = 0.5) -> None:
    with store.stage_trial(trial_id) as staging:
        weights_in(staging).mkdir()
        save_file({"a": np.full((4,), fill, np.float32)}, weights_in(staging) / "adapter_model.safetensors")
        record = {"training": {"seconds_total": 1.0}, "model_hash": model_hash, "recipe": {"method": "lora"}}
        write_trial(staging, record, [{"step": 1, "loss": 2.5, "learning_rate": 0.001}])


def run(store: Store, stub: Stub) -> tuple[pd.DataFrame, Comparison]:
    """All that a study does with its store, but for Ray and MLflow: its samples as they are compared, and the comparison."""
    value = {
        "name": "s",
        "settings": ["miniature/harmful_advice"],
        "arms": ["baseline"],
        "seeds": [0],
        "recipes": {"lora": {"learning_rate": 1e-3, "steps": 10}},
        "judges": {"gpt": {"endpoint": stub.url, "served_model": "judge", "method": "sample"}},
        "evaluation": {"samples": 6, "contexts": ["neutral"], "max_degenerate": 1.0},
    }
    study = Study.model_validate(value)
    store.check_writable()
    plan = build_plan(study, store)
    with store.lease("study-s", claims_of(plan, store, train=True)) as lease:
        for trial in plan.to_train:
            commit(store, trial.trial_id, trial.model.hash)
        plan = build_plan(study, store)
        seal_samples(plan, store)
        assert not verify_used(plan, store, train=True)
        lease.check()

        @contextlib.contextmanager
        def serve(spec):
            yield Endpoint(base_url=stub.url, model_id=spec.model_id, api_key=None, name=spec.name)

        assert sample_missing(plan, store, serve) == []
        assert grade_missing(build_plan(study, store), store).failed == []
    plan = build_plan(study, store)
    assert (plan.to_train, plan.to_sample, ungraded_parts(plan, store), plan.damaged) == ([], [], {}, ())
    keep_study(plan, store)
    assert study_record(plan, store).created_at
    keep_failures(store, "s", [], [Failure("judge gpt", "refused the key", "log", (("judge", "other"),))])
    assert len(read_failures(store, "s")) == 1
    records = trial_records(plan, store)
    for record in records:
        assert record.samples_path is not None
        assert len(pd.read_parquet(record.samples_path.fetch())) > 0
    adapters = [record.adapter_dir for record in records if record.adapter_dir is not None]
    assert [place.name for folder in adapters for place in folder.iterdir()] == ["adapter_model.safetensors"]
    comparison = compare_study(plan, store)
    page = write_study_report(plan, store, comparison)
    assert "harmful_advice" in page.read_text()
    assert status_json(plan, store)["running"] is None
    catalogue = FolderCatalogue(store.trials(), model_hash=plan.bases[0].model.hash)
    assert catalogue.ids() == [trial.trial_id for trial in plan.trials]
    served = catalogue.fetch(plan.trials[0].trial_id)
    assert [path.name for path in served.iterdir()] == ["adapter_model.safetensors"]
    return read_score_table(plan, store), comparison


def test_a_study_in_a_bucket_gives_what_it_gives_in_a_folder_and_writes_nowhere_else(tmp_path, monkeypatch, s3):
    # What takes an address for a path makes a folder here.
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with Stub(tmp_path) as stub:
        local = Store(tmp_path / "runs")
        frame, comparison = run(local, stub)
        again, same = run(Store(s3), stub)
    assert again.equals(frame)
    assert same.to_json() == comparison.to_json()
    assert list((tmp_path / "here").iterdir()) == []
    mine = {str(path.relative_to(local.root)) for path in local.root.rglob("*") if path.is_file()}
    # Answers of judges lie under random names; locks are the file system's own affair.
    kept = {key for key in mine if not key.startswith("judgments/") and not key.endswith(".lock")}
    keys = {found.key for found in Bucket(s3).below("")}
    assert {key for key in keys if not key.startswith("judgments/") and not key.endswith(".lock")} == kept
    assert {key.split("/")[0] for key in keys} < set(layout.FOLDERS)


def test_of_two_that_write_on_a_condition_one_succeeds(filesystem):
    assert filesystem.write_if("a/x", b"1", None)
    assert not filesystem.write_if("a/x", b"2", None)
    stat = filesystem.stat("a/x")
    assert (stat.size, filesystem.open("a/x").read()) == (1, b"1")
    barrier, won = threading.Barrier(8), []

    def race(number: int) -> None:
        barrier.wait()
        if filesystem.write_if("a/x", f"{number}".encode() * 9, stat.version):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = won
    assert filesystem.open("a/x").read() == f"{winner}".encode() * 9
    assert filesystem.stat("a/x").version != stat.version
    filesystem.delete("a/x")
    filesystem.delete("a/x")
    assert filesystem.stat("a/x") is None
    assert not filesystem.write_if("a/x", b"3", stat.version)


def test_a_lease_is_held_by_one_and_let_go(filesystem):
    store, other = Store(filesystem), Store(filesystem)
    with store.lease("study-a", ["train 1"]) as lease:
        with pytest.raises(LeaseTaken), other.lease("study-a"):
            pass
        with pytest.raises(LeaseTaken, match="by study-a"), other.lease("study-b", ["train 1"]):
            pass
        lease.check()
        lease.path.write_json({**lease.holder, "token": "another", "pid": 77})
        with pytest.raises(LeaseTaken, match="taken over by process 77"):
            lease.check()
    # It is the other's now.
    assert lease.path.exists()


def test_samples_of_other_weights_are_set_aside(filesystem):
    store = Store(filesystem)
    commit(store, "t")
    assert not store.bind("t", "t")
    (store.evaluation("t", "e") / "evaluation.json").write_json({"old": True})
    filesystem.delete_folder(store.trial("t").key)
    commit(store, "t", fill=0.25)
    assert store.bind("t", "t")
    [aside] = [found for found in store.evaluation("t", "e").parent.parent.iterdir() if found.name.endswith(".old")]
    assert (aside / "e" / "evaluation.json").read_json() == {"old": True}
    assert not store.bind("t", "t")


def test_the_first_commit_of_a_trial_stays_and_a_damaged_one_gives_way(filesystem):
    store = Store(filesystem)
    with store.stage_trial("t") as slow:
        write_trial(slow, {"by": "slow"}, [])
        with store.stage_trial("t") as quick:
            write_trial(quick, {"by": "quick"}, [])
    assert store.read_trial("t")["by"] == "quick"
    (store.trial("t") / layout.TRIAL).write_text("rubbish")
    assert not store.trial_done("t")
    with store.stage_trial("t") as again:
        write_trial(again, {"by": "again"}, [])
    assert store.read_trial("t")["by"] == "again"
    assert [found.name for found in store.trials().iterdir()] == ["t"]


def test_a_journal_outlives_its_writer_and_passes_over_what_is_torn(filesystem):
    place = Place(filesystem, "studies/s/journal.jsonl")
    with Journal(place) as journal:
        assert journal.lines() == ([], 0)
        assert not place.exists()
        journal.add([{"n": 1}, {"n": 2}])
        # Written before it is closed.
        deadline = time.monotonic() + 60
        while Journal(place).lines() != ([{"n": 1}, {"n": 2}], 0):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    whole = place.read_bytes()
    for cut in range(len(whole) + 1):
        place.write_bytes(whole[:cut])
        kept, _ = Journal(place).lines()
        with Journal(place) as again:
            again.add([{"n": 3}])
        values, damaged = Journal(place).lines()
        assert values == [*kept, {"n": 3}]
        assert damaged <= 1
    with Journal(place) as journal:
        journal.rewrite([])
        assert not place.exists()


def test_journals_of_the_versions_before_are_read(filesystem):
    place = Place(filesystem, "j.jsonl")
    # Without seals; and with the UTF-8 that the very first ones had.
    place.write_bytes('["a", {"text": "70"}]\n["b", {"text": "é"}]\n'.encode() + b'["c", {"te\n')
    assert Journal(place).lines() == ([["a", {"text": "70"}], ["b", {"text": "é"}]], 1)


def test_a_place_is_no_path(filesystem):
    place = Store(filesystem).trials()
    with pytest.raises(TypeError):
        Path(place)
    with pytest.raises(AttributeError):
        place.__fspath__()


def test_a_lock_is_free_when_its_holder_is_killed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from inoc_ray.store.lock import exclusive\n"
        f"with exclusive(Path({str(tmp_path / 'x')!r})):\n print('held', flush=True); time.sleep(60)"
    )
    (tmp_path / "x").write_text("content")
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(TimeoutError), LocalFilesystem(tmp_path).exclusive("x", 0.2):
            pass
    finally:
        other.kill()
        other.wait()
    with LocalFilesystem(tmp_path).exclusive("x", 5):
        # A lock may be on the very file that is written.
        assert (tmp_path / "x").read_text() == "content"


def test_a_kill_between_a_sealed_name_and_the_old_one_costs_nothing(filesystem):
    folder = Place(filesystem, "evaluations/t/e")
    commit_samples(folder, [Sample(i, "q", "?", "p", i, f"{i}", "stop", 1, 1) for i in range(3)])
    [part] = list_parts(folder)
    earlier = folder / layout.part_name(0, 3)
    earlier.write_bytes(part.path.read_bytes())
    assert [found[:2] for found in list_parts(folder)] == [(0, 3)]
    assert seal_parts(folder) == 0
    assert [found.path for found in list_parts(folder)] == [part.path]
