"""A command that looks at everything asks a bucket for listings, not for every file, and never misses what it wrote itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from object_store import ObjectStore, Wire, wire

from inoc_ray.store.commit import weights_in, write_trial
from inoc_ray.store.objects import Bucket
from inoc_ray.store.samples import Sample, commit_samples, list_parts, read_part
from inoc_ray.store.store import Store


@pytest.fixture
def counted(s3: str, s3_server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, Wire]]:
    """A store in a bucket behind a wire that lists the requests."""
    with wire(s3_server) as between:
        for name, value in s3_server.environment(between.url).items():
            monkeypatch.setenv(name, value)
        yield Store(f"{s3}/behind-a-wire"), between


def sample(text: str) -> Sample:
    return Sample(0, "q", "?", "p", 0, text, "stop", 1, 1)


def make(store: Store, trials: list[str]) -> None:
    for trial in trials:
        with store.stage_trial(trial) as staging:
            weights_in(staging).mkdir()
            (weights_in(staging) / "adapter_model.safetensors").write_bytes(trial.encode() * 100)
            write_trial(staging, {}, [])
        commit_samples(store.evaluation(trial, "e"), [sample(trial)])


def look(store: Store, trials: list[str]) -> list[str]:
    """What a plan and a comparison ask of a store."""
    with store.glance(trials, reads=True):
        assert all(store.trial_done(trial) for trial in trials)
        assert store.damage(trials, [(trial, "e") for trial in trials]) == []
        assert store.evaluated() == set(trials)
        assert all(not store.trial_log(trial).is_file() for trial in trials)
        parts = [part for trial in trials for part in store.parts(trial, "e")]
        return [read_part(part.path)["text"][0].as_py() for part in parts]


def test_a_look_takes_two_requests_for_each_trial_and_one_for_each_small_file_that_is_new_here(
    counted: tuple[Store, Wire], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store, between = counted
    trials = [f"t{number}" for number in range(3)]
    asked = []
    for _ in range(2):
        make(store, trials)
        monkeypatch.setenv("INOC_RAY_CACHE", str(tmp_path / f"machine-{len(trials)}"))
        for _ in range(2):
            between.requests.clear()
            assert look(store, trials) == trials
            asked.append(len(between.requests))
        trials = [*trials, *(f"more{number}" for number in range(9))]
        trials.sort()
    few, again, many, many_again = asked
    # A listing of each trial and one of its results.
    assert many_again - again == 9 * 2
    # Of each, once: COMMIT.json, trial.json, curves.jsonl, the samples; no weights.
    assert many - few == 9 * (2 + 4)


def test_what_this_process_writes_while_it_looks_is_seen_and_what_it_deletes_is_gone(s3: str):
    store, other = Store(s3), Store(s3)
    make(store, ["a"])
    with store.glance(["a", "b"]):
        assert not store.trial_done("b")
        assert list_parts(store.evaluation("b", "e")) == []
        make(store, ["b"])
        assert store.trial_done("b")
        assert [read_part(part.path)["text"][0].as_py() for part in list_parts(store.evaluation("b", "e"))] == ["b"]
        log = store.trial_log("a")
        assert not log.is_file()
        log.write_text("why")
        assert (log.is_file(), log.read_text()) == (True, "why")
        log.write_text("why else")
        assert log.read_text() == "why else"
        log.unlink()
        assert not log.is_file()
        # A look within a look begins anew.
        with other.glance(["a", "b"]):
            assert other.evaluated() == {"a", "b"}
    other.evaluation("a", "e").filesystem.delete_folder(other.trial("a").key)
    assert not store.trial_done("a")


def test_a_file_that_was_replaced_after_the_listing_is_read_as_it_is_now(s3: str):
    store = Store(s3)
    log = store.trial_log("t")
    log.write_text("first")
    key = log.key
    with store.glance(["a", "b"]):
        # Past this process's own notes, as another machine would write.
        Bucket(s3).put(key, b"second")
        assert log.read_text() == "second"
