"""A plan's many questions about a bucket cost few requests, and have the answers that a request for each would give."""

import time

import numpy as np
import pytest
from object_store import ObjectStore, Wire
from safetensors.numpy import save_file

from inoc_ray.store import layout
from inoc_ray.store.commit import weights_in, write_trial
from inoc_ray.store.object_filesystem import ObjectFilesystem
from inoc_ray.store.samples import Sample, commit_samples
from inoc_ray.store.store import Store

pytestmark = pytest.mark.slow

TRIALS = [f"{number:016x}" for number in range(6)]


@pytest.fixture
def store(line: Wire, s3_server: ObjectStore) -> Store:
    """Two trials with samples, one damaged, one without a commit, one whose samples are of other weights, one that is not there."""
    store = Store(f"s3://{s3_server.new_bucket()}/runs")
    for number, trial_id in enumerate(TRIALS[:5]):
        with store.stage_trial(trial_id) as staging:
            weights_in(staging).mkdir()
            save_file({"a": np.full((4,), number, np.float32)}, weights_in(staging) / "adapter_model.safetensors")
            write_trial(staging, {"training": {}}, [])
        store.bind(trial_id, trial_id)
        for start in (0, 3):
            samples = [Sample(start + i, "q", "?", "p", i, f"{i}", "stop", 1, 1) for i in range(3)]
            commit_samples(store.evaluation(trial_id, "e"), samples)
    (store.trial(TRIALS[2]) / layout.TRIAL).write_text("rubbish")
    (store.trial(TRIALS[3]) / layout.COMMIT).unlink()
    (store.evaluation(TRIALS[4], "e").parent / layout.WEIGHTS).write_json({"trial_id": TRIALS[4], "weights": "0" * 16})
    store.trial_log(TRIALS[5]).write_text("Error: x")
    return store


def answers(store: Store) -> list[object]:
    return [
        *(store.trial_done(one) for one in TRIALS),
        *(store.trial_fault(one) for one in TRIALS),
        *(store.weights(one) for one in TRIALS),
        *(store.stored_samples(one, "e") for one in TRIALS),
        *(store.is_unbound(one) for one in TRIALS),
        *(store.trial_log(one).exists() for one in TRIALS),
        *(sorted(found.name for found in store.evaluation(one, "e").iterdir()) for one in TRIALS),
        store.damage(TRIALS, [(one, "e") for one in TRIALS]),
        [path.fetch().exists() for one in TRIALS if (path := store.trial(one)).is_dir()],
    ]


def test_a_glance_gives_the_answers_of_single_requests_and_asks_little_the_second_time(store, line):
    expected = answers(store)
    counts = []
    for _ in range(2):
        before = len(line.requests)
        with store.glance(TRIALS):
            assert answers(store) == expected
            assert answers(store) == expected
        counts.append(len(line.requests) - before)
    # A listing of the logs, and of each trial and its evaluations.
    assert counts[1] == 1 + 2 * len(TRIALS)
    assert answers(store) == expected


def test_what_is_written_in_a_glance_is_seen_in_it(store):
    with store.glance(TRIALS):
        assert store.stored_samples(TRIALS[0], "e") == 6
        commit_samples(store.evaluation(TRIALS[0], "e"), [Sample(6, "q", "?", "p", 0, "x", "stop", 1, 1)])
        assert store.stored_samples(TRIALS[0], "e") == 7
        with store.stage_trial(TRIALS[3]) as staging:
            write_trial(staging, {"training": {}}, [])
        assert store.trial_done(TRIALS[3])
        (store.trial(TRIALS[1]) / layout.COMMIT).unlink()
        assert not store.trial_done(TRIALS[1])
        store.trial_log(TRIALS[1]).write_text("x")
        assert store.trial_log(TRIALS[1]).exists()


def test_a_file_that_grows_is_whole_in_a_glance(store):
    log = store.trial_log(TRIALS[0])
    with log.append() as stream:
        for text in (b"a", b"b", b"c"):
            stream.write(text)
            stream.flush()
    with store.glance(TRIALS):
        assert (log.read_bytes(), log.stat().size, [one.name for one in store.logs().iterdir()]) == (
            b"abc",
            3,
            [f"{TRIALS[0]}.log", f"{TRIALS[5]}.log"],
        )


def test_a_glance_ends_with_its_block(store):
    filesystem = ObjectFilesystem(store.address)
    with filesystem.glance(["logs"], lambda name: False):
        with filesystem.glance(["logs"], lambda name: False):
            pass
        # As another process.
        filesystem._bucket.__class__.__mro__[1].put(filesystem._bucket, "logs/new", b"1")
        assert filesystem.stat("logs/new") is None
    assert filesystem.stat("logs/new") is not None


def test_many_trials_are_looked_at_in_parallel(store, line):
    with store.glance(TRIALS):
        pass
    line.slow = 0.5
    before = time.monotonic()
    with store.glance(TRIALS):
        assert store.trial_done(TRIALS[0])
    # 13 requests one after another would take 6.5 s.
    assert time.monotonic() - before < 4
