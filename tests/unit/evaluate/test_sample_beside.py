"""Models are sampled while others train: each when it is finished, and the samples are those of an evaluation afterwards."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from stub_api import Stub

from inoc_ray import stopping
from inoc_ray.errors import TrialError
from inoc_ray.evaluate.arrivals import Arrivals
from inoc_ray.evaluate.beside import LEAVE_SECONDS, Beside, Lingering
from inoc_ray.evaluate.grading import grade_missing
from inoc_ray.evaluate.grading_beside import JudgesBeside
from inoc_ray.evaluate.sampling import _Engine, _Sampler, sample_beside, sample_missing
from inoc_ray.evaluate.ungraded import ungraded_parts
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.cells import judges_of
from inoc_ray.plan.plan import Plan
from inoc_ray.serve.app import Endpoint
from inoc_ray.sizing.schedule import shared_engine
from inoc_ray.store.commit import checkpoint_in, weights_in, write_trial
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study


def planned(folder: Path) -> tuple[Plan, Store]:
    value = {
        "name": "s",
        "settings": ["miniature/spanish_caps"],
        "arms": ["baseline", "specific_spanish"],
        "seeds": [0, 1],
        "models": ["miniature"],
        "recipes": {"lora": {"learning_rate": 1e-3, "steps": 4}},
        "resources": {"checkpoints": [2]},
        "dynamics": {"samples": 5},
        "evaluation": {"contexts": ["neutral"], "samples": 20},
    }
    store = Store(folder)
    store.check_writable()
    return build_plan(Study.model_validate(value), store), store


def commit(store: Store, trial_id: str, kept: Sequence[int] = (2,)) -> None:
    with store.stage_trial(trial_id) as staged:
        for folder in (weights_in(staged), *(checkpoint_in(staged, step) for step in kept)):
            folder.mkdir(parents=True)
            (folder / "adapter_model.safetensors").write_bytes(f"{trial_id} {folder.name}".encode())
        write_trial(staged, {"training": {"seconds_total": 1.0}}, [])


def texts(store: Store) -> pd.DataFrame:
    files = sorted((store.root / "evaluations").rglob("samples-*.parquet"))
    frame = pd.concat([pd.read_parquet(f).assign(cell=f.parent.name, trial=f.parent.parent.name) for f in files])
    return frame.sort_values(["trial", "cell", "sample_index"], ignore_index=True)


class World:
    """A study whose training is done by the test, and an API in the place of its engine."""

    def __init__(self, folder: Path, stub: Stub) -> None:
        self.plan, self.store = planned(folder)
        self.stub, self.starts = stub, 0
        self.cells = shared_engine(self.plan)
        self.ids = [trial.trial_id for trial in self.plan.trials]
        self.arrivals = Arrivals(self.store, self.ids)

    @contextlib.contextmanager
    def serve(self, spec: Any) -> Iterator[Endpoint]:
        self.starts += 1
        yield Endpoint(base_url=self.stub.url, model_id=spec.model_id, api_key=None, name=spec.name)

    def begin(self) -> Beside[list[dict[str, Any]]]:
        return Beside(lambda: sample_beside(self.plan, self.store, self.arrivals, self.cells, self.serve), "test")

    def complete(self, trial_id: str) -> bool:
        """Whether everything is sampled of a trial or base, from weights that it kept on the way, too."""
        cells = [cell for cell in self.cells if trial_id in (cell.subject.trial_id, cell.subject.trained_by)]
        return all(self.store.stored_samples(*cell.key) == cell.samples for cell in cells)


def until(what: Any, work: Beside[Any] | None = None, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        if work is not None and work.is_over:
            pytest.fail(f"the work beside ended: {work.result()}")
        assert time.monotonic() < end
        time.sleep(0.02)


def test_each_model_is_sampled_when_it_is_finished_by_one_engine_and_the_samples_are_the_same(tmp_path):
    with Stub(tmp_path) as stub:
        world = World(tmp_path / "beside", stub)
        sampling = world.begin()
        base = world.plan.bases[0].trial_id
        until(lambda: world.complete(base), sampling)
        for trial_id in world.ids[:3]:
            world.arrivals.begun(trial_id)
            assert not world.complete(trial_id)
            commit(world.store, trial_id)
            until(lambda t=trial_id: world.complete(t), sampling)
        # The last one is never reported, and ends with the training.
        commit(world.store, world.ids[3])
        world.arrivals.over()
        assert sampling.result() == []
        assert world.starts == 1
        afterwards, store = planned(tmp_path / "afterwards")
        for trial_id in world.ids:
            commit(store, trial_id)
        assert sample_missing(afterwards.refreshed(store), store, world.serve) == []
    pd.testing.assert_frame_equal(texts(world.store), texts(store))
    assert not world.store.under_way("s").exists()


def test_a_fine_tune_that_fails_is_not_waited_for(tmp_path):
    with Stub(tmp_path) as stub:
        world = World(tmp_path / "runs", stub)
        sampling = world.begin()
        commit(world.store, world.ids[0])
        world.arrivals.over()
        assert sampling.result() == []
    assert [world.complete(trial_id) for trial_id in world.ids] == [True, False, False, False]


def test_weights_on_the_way_that_another_training_of_the_same_trial_has_not_kept_are_not_asked(tmp_path):
    with Stub(tmp_path) as stub:
        world = World(tmp_path / "runs", stub)
        sampling = world.begin()
        commit(world.store, world.ids[0], kept=())
        commit(world.store, world.ids[1])
        world.arrivals.over()
        assert sampling.result() == []
        plan = world.plan.refreshed(world.store)
        waiting = {cell.subject.trained_by for cell in plan.to_sample}
        assert waiting == set(world.ids[2:])
        there = {cell.subject.trial_id for cell in world.cells if world.store.stored_samples(*cell.key)}
    assert there & {f"{trial_id}@2" for trial_id in world.ids} == {f"{world.ids[1]}@2"}


def test_an_engine_gives_its_place_to_a_training_that_waits_for_room(tmp_path):
    with Stub(tmp_path) as stub:
        world = World(tmp_path / "runs", stub)
        sampling = world.begin()
        commit(world.store, world.ids[0])
        world.arrivals.begun(world.ids[0])
        until(lambda: world.complete(world.ids[0]), sampling)
        world.arrivals.give_way()
        assert sampling.result() == []
        for trial_id in world.ids[1:]:
            commit(world.store, trial_id)
        assert sample_missing(world.plan.refreshed(world.store), world.store, world.serve) == []
    assert all(map(world.complete, world.ids))


def test_an_engine_that_fails_beside_the_training_is_no_failure_and_what_it_drew_is_kept(tmp_path):
    with Stub(tmp_path) as stub:
        world = World(tmp_path / "runs", stub)

        @contextlib.contextmanager
        def dies(spec: Any) -> Iterator[Endpoint]:
            with world.serve(spec) as endpoint:
                yield endpoint
            raise TrialError("the engine ended")

        commit(world.store, world.ids[0])
        world.arrivals.over()
        assert sample_beside(world.plan, world.store, world.arrivals, world.cells, dies) == []
        asked = sum(stub.asked("sample").values())
        for trial_id in world.ids[1:]:
            commit(world.store, trial_id)
        assert sample_missing(world.plan.refreshed(world.store), world.store, world.serve) == []
        assert set(stub.asked("sample").values()) == {1}
        assert sum(stub.asked("sample").values()) > asked
    assert all(map(world.complete, world.ids))


def test_a_refused_sample_is_named_once_and_not_asked_again_after_the_training(tmp_path):
    names = World(tmp_path / "names", None).ids  # type: ignore[arg-type]
    with Stub(tmp_path, refuse_models=names[0]) as stub:
        world = World(tmp_path / "runs", stub)
        commit(world.store, names[0])
        world.arrivals.over()
        failed = sample_beside(world.plan, world.store, world.arrivals, world.cells, world.serve)
        refused = {thing for one in failed for thing in one["of"]}
        assert refused == {("cell", *cell.key) for cell in world.cells if cell.subject.trained_by == names[0]}
        log = world.store.study_log("s", "refused")
        before = log.read_text()
        assert "this adapter cannot be served" in before
        for trial_id in names[1:]:
            commit(world.store, trial_id)
        plan = world.plan.refreshed(world.store)
        assert sample_missing(plan, world.store, world.serve, without=refused) == []
        assert [world.complete(trial_id) for trial_id in names] == [False, True, True, True]
        # The failures of before refer to it.
        assert log.read_text() == before
        assert sample_missing(plan.refreshed(world.store), world.store, world.serve, without=refused) == []
        assert world.starts == 2


def test_an_engine_that_gives_its_place_measures_nothing_first(tmp_path, monkeypatch):
    def measured(self: Any, capabilities: Any, endpoint: Any) -> list[dict[str, Any]]:
        raise AssertionError("the training waits")

    monkeypatch.setattr(_Sampler, "measure", measured)
    with Stub(tmp_path) as stub:
        world = World(tmp_path / "runs", stub)
        world.arrivals.give_way()
        assert sample_beside(world.plan, world.store, world.arrivals, world.cells, world.serve) == []
        assert world.complete(world.plan.bases[0].trial_id)


def test_the_log_has_the_story_of_each_engine_that_failed(tmp_path, monkeypatch):
    plan, store = planned(tmp_path / "runs")

    @contextlib.contextmanager
    def dies(spec: Any) -> Iterator[Endpoint]:
        raise TrialError(f"no {spec.name}")
        yield

    two = [_Engine(plan.bases[0], [cell]) for cell in plan.cells[:2]]
    monkeypatch.setattr("inoc_ray.evaluate.sampling._engines", lambda *given: two)
    assert len(failed := sample_missing(plan, store, dies)) == 2
    assert {one["log"] for one in failed} == {str(store.study_log("s", "evaluation"))}
    story = store.study_log("s", "evaluation").read_text()
    assert "no evaluate-s\n" in story
    assert "no evaluate-s-2\n" in story


@pytest.mark.parametrize("waits", [False, True], ids=["for an answer", "for a fine-tune"])
def test_a_stop_ends_the_evaluation_beside_the_training(tmp_path, monkeypatch, waits):
    with Stub(tmp_path, latency=0.0 if waits else 60.0) as stub:
        world = World(tmp_path / "runs", stub)
        sampling = world.begin()
        base = world.plan.bases[0].trial_id
        until(lambda: world.complete(base) if waits else bool(stopping._stop.tell), sampling)
        began = time.monotonic()
        # What the handler of a signal does in the main thread.
        monkeypatch.setattr(stopping._stop, "signum", 2)
        monkeypatch.setattr(stopping._stop, "since", began)
        for tell in list(stopping._stop.tell):
            tell()
        with pytest.raises(KeyboardInterrupt):
            sampling.result()
        assert time.monotonic() - began < 3.0


def test_work_that_is_left_is_waited_for_unless_the_command_is_stopped():
    ended = threading.Event()
    work = Beside(lambda: ended.wait(0.5), "test")
    work.leave()
    assert work.result() is False


def test_an_engine_lingers_until_another_needs_its_place_or_the_results_are_written(tmp_path):
    events: list[str] = []

    @contextlib.contextmanager
    def serve(spec: Any) -> Iterator[Any]:
        events.append(f"{spec} starts")
        try:
            yield spec
        finally:
            events.append(f"{spec} ends")

    with Lingering(serve) as engines:
        with engines.serving("first"):
            pass
        assert events == ["first starts"]
        with engines.serving("second"):
            pass
        assert events == ["first starts", "first ends", "second starts"]
        engines.begin_to_end()
        until(lambda: events[-1] == "second ends")
    with pytest.raises(TrialError), Lingering(serve) as engines, engines.serving("third"):
        raise TrialError("it failed")
    assert events[-2:] == ["third starts", "third ends"]


class Judged:
    """A study with one judge; an API in the place of all engines, whose comings and goings are noted."""

    def __init__(self, folder: Path, stub: Stub, judge: dict[str, Any]) -> None:
        value = {
            "name": "judged",
            "settings": ["miniature/harmful_advice"],
            "arms": ["baseline"],
            "seeds": [0, 1],
            "recipes": {"lora": {"learning_rate": 1e-3, "steps": 1}},
            "judges": {"one": judge},
            "evaluation": {"samples": 6, "contexts": ["neutral"], "judged_by": ["one"]},
        }
        self.store = Store(folder)
        self.store.check_writable()
        self.plan = build_plan(Study.model_validate(value), self.store)
        self.cells, self.ids = shared_engine(self.plan), [trial.trial_id for trial in self.plan.trials]
        self.arrivals = Arrivals(self.store, self.ids)
        self.url, self.events = stub.url, list[str]()
        (self.judge,) = judges_of(self.plan.to_sample)
        self.engines = Lingering(self.serve)
        self.judges = JudgesBeside(self.plan, self.store, self.engines)

    @contextlib.contextmanager
    def serve(self, spec: Any) -> Iterator[Endpoint]:
        self.events.append(f"{spec.model_id} starts")
        yield Endpoint(base_url=self.url, model_id=spec.model_id, api_key=None, name=spec.name)
        self.events.append(f"{spec.model_id} ends")

    def sample(self) -> Beside[list[dict[str, Any]]]:
        work = (self.plan, self.store, self.arrivals, self.cells, self.serve, self.judges.add)
        return Beside(lambda: sample_beside(*work), "evaluation")

    def finish_training(self) -> None:
        for trial_id in self.ids:
            commit(self.store, trial_id)
        self.arrivals.over()

    def judged(self, trial_id: str) -> bool:
        mine = [cell for cell in self.plan.cells if cell.subject.trial_id == trial_id]
        there = all(self.store.stored_samples(*cell.key) == cell.samples for cell in mine)
        return there and not ungraded_parts(replace(self.plan, cells=tuple(mine)), self.store)

    def judgments(self) -> pd.DataFrame:
        files = sorted((self.store.root / "evaluations").rglob("judgments-*.parquet"))
        frame = pd.concat([pd.read_parquet(f).assign(cell=f.parent.name, trial=f.parent.parent.name) for f in files])
        return frame.sort_values(["trial", "cell", "rubric", "sample_index"], ignore_index=True)


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr("inoc_ray.evaluate.grading_beside.GATHER_SECONDS", 0.1)


def behind_an_api(stub: Stub) -> dict[str, Any]:
    return {"endpoint": stub.url, "served_model": "judge", "method": "sample"}


def on_an_engine(stub: Stub) -> dict[str, Any]:
    return {"path": "miniature", "method": "digit"}


@pytest.mark.parametrize("kind", [behind_an_api, on_an_engine])
def test_a_judge_grades_what_is_sampled_while_more_is_sampled_with_the_scores_of_one_that_comes_afterwards(
    tmp_path, at_once, kind
):
    with Stub(tmp_path) as stub:
        world = Judged(tmp_path / "beside", stub, kind(stub))
        world.judges.begin(world.judge)
        sampling = world.sample()
        until(lambda: world.judged(world.plan.bases[0].trial_id), sampling)
        assert not world.judged(world.ids[0])
        world.finish_training()
        assert sampling.result() == []
        assert world.judges.finish() > 0
        assert all(map(world.judged, world.ids))
        assert grade_missing(world.plan.refreshed(world.store), world.store).calls == 0
        own = kind is on_an_engine
        world.engines.end()
        assert [event for event in world.events if "judge" in event] == ["judge starts", "judge ends"] * own

        later = Judged(tmp_path / "afterwards", stub, kind(stub))
        later.finish_training()
        assert later.sample().result() == []
        later.judges.begin(later.judge)
        assert later.judges.finish() > 0
    pd.testing.assert_frame_equal(world.judgments(), later.judgments())


def test_a_judge_gives_its_place_to_what_waits_for_it_and_is_asked_nothing_twice(tmp_path, at_once):
    with Stub(tmp_path) as stub:
        world = Judged(tmp_path / "runs", stub, on_an_engine(stub))
        world.judges.begin(world.judge)
        assert world.judges.on_engines == [world.judge]
        sampling = world.sample()
        until(lambda: world.judged(world.plan.bases[0].trial_id), sampling)
        world.judges.give_way()
        until(lambda: "judge ends" in world.events, sampling)
        until(lambda: not world.judges.on_engines, sampling)
        world.finish_training()
        assert sampling.result() == []
        before = world.judges.finish()
        assert not world.judged(world.ids[0])
        again = JudgesBeside(world.plan, world.store, world.engines)
        again.begin(world.judge)
        assert again.finish() > 0
        assert before > 0
        assert all(map(world.judged, world.ids))
        assert set(stub.asked("judge").values()) == {1}


def test_a_judge_behind_an_api_gives_no_way_and_one_that_fails_beside_is_left_to_the_last_word(tmp_path, at_once):
    with Stub(tmp_path, refuse=401) as stub:
        world = Judged(tmp_path / "runs", stub, behind_an_api(stub))
        world.judges.begin(world.judge)
        assert world.judges.on_engines == []
        sampling = world.sample()
        world.finish_training()
        assert sampling.result() == []
        world.judges.finish()
        (failed,) = grade_missing(world.plan.refreshed(world.store), world.store).failed
        assert failed["of"] == [("judge", "one")]


def test_work_in_a_call_that_nothing_breaks_off_does_not_hold_up_a_stop(monkeypatch):
    release = threading.Event()
    work = Beside(lambda: release.wait(60), "test")
    try:
        began = time.monotonic()
        monkeypatch.setattr(stopping._stop, "signum", 2)
        monkeypatch.setattr(stopping._stop, "since", began)
        work.leave()
        assert LEAVE_SECONDS <= time.monotonic() - began < LEAVE_SECONDS + 1.5
        assert not work.is_over
    finally:
        release.set()
