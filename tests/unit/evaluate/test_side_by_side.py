"""Engines of several models at once: as many as there is room for, with the samples of one after another."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from stub_api import Stub

from inoc_ray.cluster.fit import Capacity, Node
from inoc_ray.evaluate.sampling import sample_missing
from inoc_ray.evaluate.side_by_side import Task, side_by_side
from inoc_ray.miniature import weights_path
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.run.describe import plan_json, plan_text
from inoc_ray.serve.app import Endpoint, past_proxies
from inoc_ray.serve.memory import GIB
from inoc_ray.serve.spec import ServeSpec
from inoc_ray.sizing.replicas import EngineNeed, Room, judge_replicas, need_of, replicas_of
from inoc_ray.store.commit import weights_in, write_trial
from inoc_ray.store.store import Store
from inoc_ray.study.resources import EngineResources
from inoc_ray.study.study import Study

MODELS = 3


def planned(folder: Path, method: str = "full", **resources: Any) -> tuple[Plan, Store]:
    """A base and two finished fine-tunes, each of which needs an engine of its own if it is a full one."""
    value = {
        "name": "s",
        "settings": ["miniature/spanish_caps"],
        "arms": ["baseline"],
        "seeds": [0, 1],
        "models": ["miniature"],
        "recipes": {"r": {"method": method, "learning_rate": 1e-3, "steps": 1}},
        "evaluation": {"contexts": ["neutral"], "samples": 20},
        "resources": resources,
    }
    store = Store(folder)
    store.check_writable()
    study = Study.model_validate(value)
    for trial in build_plan(study, store).trials:
        with store.stage_trial(trial.trial_id) as staged:
            weights_in(staged).mkdir()
            (weights_in(staged) / "model.safetensors").write_bytes(trial.trial_id.encode())
            write_trial(staged, {"training": {"seconds_total": 1.0}}, [])
    return build_plan(study, store), store


def texts(store: Store) -> pd.DataFrame:
    files = sorted((store.root / "evaluations").rglob("samples-*.parquet"))
    frame = pd.concat([pd.read_parquet(f).assign(cell=f.parent.name, trial=f.parent.parent.name) for f in files])
    return frame.sort_values(["trial", "cell", "sample_index"], ignore_index=True)


class Engines:
    """An API in the place of the engines, and how many of them there are."""

    def __init__(self, stub: Stub, *, at_once: int) -> None:
        self.stub, self.most, self.names = stub, 0, []
        self._there = 0
        self._lock = threading.Lock()
        self._meet = threading.Barrier(at_once)

    @contextlib.contextmanager
    def serve(self, spec: ServeSpec) -> Iterator[Endpoint]:
        with self._lock:
            self._there += 1
            self.most = max(self.most, self._there)
            self.names.append(spec.name)
        # Fewer at once would never pass.
        with contextlib.suppress(threading.BrokenBarrierError):
            self._meet.wait(20)
        yield Endpoint(base_url=self.stub.url, model_id=spec.model_id, api_key=None, name=spec.name)
        with self._lock:
            self._there -= 1


def cluster(*cpus: float) -> Capacity:
    return Capacity.of([Node(each, 0.0) for each in cpus], has_driver_resource=True)


def test_engines_that_have_room_run_at_once_and_the_samples_are_those_of_one_after_another(tmp_path: Path):
    with Stub(tmp_path) as stub:
        plan, store = planned(tmp_path / "alone")
        alone = Engines(stub, at_once=1)
        assert sample_missing(plan, store, alone.serve) == []
        assert (alone.most, len(alone.names)) == (1, MODELS)
        plan, store_beside = planned(tmp_path / "beside")
        beside = Engines(stub, at_once=MODELS)
        assert sample_missing(plan, store_beside, beside.serve, room=Room(capacity=cluster(2, 1))) == []
        assert beside.most == MODELS
        assert len(set(beside.names)) == MODELS, "engines that run at once need names of their own"
        pd.testing.assert_frame_equal(texts(store), texts(store_beside))
        assert not store_beside.under_way("s").exists()


def test_an_engine_that_fails_leaves_the_others_alone(tmp_path: Path):
    with Stub(tmp_path) as stub:
        plan, store = planned(tmp_path / "runs")
        engines = Engines(stub, at_once=1)

        @contextlib.contextmanager
        def one_fails(spec: ServeSpec) -> Iterator[Endpoint]:
            if spec.name.endswith("-2"):
                raise RuntimeError("it burns")
            with engines.serve(spec) as endpoint:
                yield endpoint

        (failed,) = sample_missing(plan, store, one_fails, room=Room(capacity=cluster(8)))
        assert failed["error"] == "it burns"
        undone = {trial for _, trial, _ in failed["of"]}
        assert len(undone) == 1
        assert set(texts(store).trial) == {subject.trial_id for subject in (*plan.bases, *plan.trials)} - undone


def test_tasks_begin_in_their_order_as_room_comes_free_and_an_error_waits_for_the_others():
    log: list[str] = []
    ended = threading.Event()

    def do(name: str) -> str:
        log.append(f"{name} begins")
        if name == "wide":
            assert ended.is_set(), "there was no room for it yet"
            raise ValueError("no")
        if name == "second":
            ended.wait(1)
            ended.set()
        log.append(f"{name} ends")
        return name

    sizes = {"first": 1, "second": 2, "wide": 3, "last": 1}
    tasks = [Task(takes=[size], do=lambda name=name: do(name)) for name, size in sizes.items()]
    with pytest.raises(ValueError, match="no"):
        side_by_side(tasks, lambda taken: sum(taken) <= 3)
    assert log.index("second begins") < log.index("wide begins") < log.index("last begins")
    assert log[-1] == "last ends"
    assert side_by_side(tasks[:2], lambda taken: False) == ["first", "second"]


@pytest.mark.parametrize(
    ("engines", "nodes", "gib", "holds"),
    [
        ([(2, 0)], (2,), 16, True),
        ([(2, 0), (2, 0)], (3, 1), 16, False),
        ([(1, 0), (3, 0), (2, 0)], (3, 3), 16, True),
        ([(1, 5), (1, 5)], (8,), 10, False),
        ([(1, 4), (1, 4)], (8,), 10, True),
    ],
)
def test_engines_have_room_by_cores_on_one_node_each_and_by_memory(
    engines: Sequence[tuple[int, int]], nodes: Sequence[int], gib: int, holds: bool
):
    room = Room(capacity=cluster(*nodes), host_bytes=gib * GIB)
    assert room.holds([EngineNeed(shape=Node(cpus, 0), bytes=size * GIB) for cpus, size in engines]) == holds


def test_a_model_gets_as_many_engines_as_the_study_says_or_as_are_worth_it_and_have_room(tmp_path: Path):
    plan, _ = planned(tmp_path / "asked", serve_replicas=3)
    base = plan.bases[0]
    cells = [cell for cell in plan.to_sample if cell.subject == base]
    wide = Room(capacity=cluster(64))
    assert replicas_of(plan, base, cells, others=0, room=None) == 3
    plan, _ = planned(tmp_path / "few")
    assert replicas_of(plan, base, cells, others=0, room=wide) == 1, "60 answers take less than a start"
    many = [cell for cell in cells for _ in range(3000)]
    worth = replicas_of(plan, base, many, others=0, room=wide)
    assert 4 < worth < 64
    assert replicas_of(plan, base, many, others=1, room=wide) == min(worth, 32)
    assert replicas_of(plan, base, many, others=0, room=None) == 1
    by_memory = Room(capacity=cluster(64), host_bytes=4 * need_of(plan, base).bytes)
    assert replicas_of(plan, base, many, others=0, room=by_memory) == 3


def test_the_plan_names_its_engines_where_there_is_more_than_one(tmp_path: Path):
    plan, store = planned(tmp_path / "several", serve_replicas=2)
    assert " cells. 6 engines: 2 × miniature, 4 × miniature (full)." in plan_text(plan, store)
    found = plan_json(plan, store)["engines"]
    assert [engine["replicas"] for engine in found] == [2, 2, 2]
    assert {engine["full_fine_tune"] for engine in found} == {None, *(trial.trial_id for trial in plan.trials)}
    assert "engines:" not in plan_text(*planned(tmp_path / "one", method="lora"))


def test_a_judge_gets_as_many_engines_as_its_questions_are_worth():
    folder, engine, room = weights_path(), EngineResources(), Room(capacity=cluster(16))

    def replicas(questions: int, engine: EngineResources = engine, room: Room | None = room) -> int:
        return judge_replicas(folder, engine, questions=questions, response=50.0, room=room)

    assert replicas(100) == 1
    assert 1 < replicas(100_000) < replicas(400_000) <= replicas(10_000_000) == 16
    assert replicas(10_000_000, room=None) == 1
    assert replicas(100, EngineResources(serve_replicas=2)) == 2


def test_blocks_past_proxies_that_overlap_leave_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch):
    import os

    monkeypatch.setenv("NO_PROXY", "there")
    monkeypatch.delenv("no_proxy", raising=False)
    first, second = past_proxies("http://one:1/v1"), past_proxies("http://two:2/v1")
    first.__enter__()
    second.__enter__()
    assert os.environ["NO_PROXY"] == "there,one,two"
    first.__exit__(None, None, None)
    assert (os.environ["NO_PROXY"], os.environ["no_proxy"]) == ("there,two", "two")
    second.__exit__(None, None, None)
    assert os.environ["NO_PROXY"] == "there"
    assert "no_proxy" not in os.environ
