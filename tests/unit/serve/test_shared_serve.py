"""Several commands that serve on one cluster: names, routes, and who shuts Serve down. Serve itself is a double here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import serve

from inoc_ray.errors import InputError, TrialError
from inoc_ray.serve import app, owner
from inoc_ray.serve.spec import ServeSpec


class Serve:
    """Ray Serve on a cluster, as far as commands see it; and which of them is asking, by its Ray job."""

    def __init__(self) -> None:
        self.runs, self.ignores, self.job, self.started_in = False, 0, "01000000", ""
        self.dead: set[str] = set()
        self.applications: dict[str, dict[str, Any]] = {}
        self.http_config = SimpleNamespace(host="127.0.0.1", port=8123)
        self.on_delete: Callable[[], object] = lambda: None
        self.notes: dict[str, str] = {}

    @property
    def _controller(self) -> Any:
        """The handle of the controller's actor, whose id names the job that made it."""
        return SimpleNamespace(_ray_actor_id=SimpleNamespace(job_id=bytes.fromhex(self.started_in)))

    def read_notes(self, prefix: str) -> dict[str, str]:
        return {key.removeprefix(prefix): text for key, text in self.notes.items() if key.startswith(prefix)}

    def actor(self, name: str, namespace: str) -> Serve:
        """A handle of the controller's actor."""
        if not self.runs:
            raise ValueError(f"Failed to look up actor {name!r}")
        return self

    def client(self) -> Serve | None:
        return self if self.runs else None

    def start(self, spec: object = None) -> None:
        self.runs, self.started_in = True, self.job

    def get_serve_details(self) -> dict[str, Any]:
        return {"applications": self.applications}

    def status(self) -> Any:
        return SimpleNamespace(applications=self.applications)

    def run_many(self, targets: list[Any], **_: object) -> None:
        """A Serve that shuts down ignores it some times, and then is gone."""
        if self.ignores:
            self.ignores -= 1
            self.runs = bool(self.ignores)
            return
        for target in targets:
            self.deploy(target.name, target.route_prefix)

    def deploy(self, name: str, route: str) -> None:
        self.applications[name] = {"route_prefix": route, "status": "RUNNING"}

    def delete(self, name: str) -> None:
        self.applications.pop(name, None)
        self.on_delete()

    def shutdown(self) -> None:
        self.runs, self.applications = False, {}


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """A cluster that commands joined, without Serve."""
    there = Serve()
    for name in ("run_many", "status", "delete", "shutdown"):
        monkeypatch.setattr(serve, name, getattr(there, name))
    monkeypatch.setattr(serve, "RunTarget", SimpleNamespace)
    for module in (app, owner):
        monkeypatch.setattr(module, "serve_client", there.client)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: there.job))
    monkeypatch.setattr(ray, "get_actor", there.actor)
    monkeypatch.setattr(owner.notes, "put", lambda key, text="": there.notes.update({key: text}))
    monkeypatch.setattr(owner.notes, "remove", lambda key: there.notes.pop(key, None))
    monkeypatch.setattr(owner.notes, "read", there.read_notes)
    monkeypatch.setattr(owner, "dead_jobs", lambda: there.dead)
    for name in ("check_spec", "_check_resources"):
        monkeypatch.setattr(app, name, lambda spec: None)
    monkeypatch.setattr(app, "_with_end_of_turn", lambda spec: spec)
    monkeypatch.setattr(app, "application", lambda spec: spec.name)
    monkeypatch.setattr(app, "_start_serve", there.start)
    monkeypatch.setattr(app, "_wait", lambda *_, **__: 512)
    monkeypatch.setattr(app, "_SERVE_ENDS_POLL_S", 0.0)
    monkeypatch.setattr(app, "owns_cluster", lambda: True)
    monkeypatch.setattr(app.nodes, "on_head", lambda: True)
    monkeypatch.setattr(app.keepers, "wait_for_keepers", lambda: None)
    return there


def begin(there: Serve, job: str, **spec: Any) -> app.Endpoint:
    """Start an engine as the command of a Ray job."""
    there.job = job
    return app.start(ServeSpec(model=Path("m"), model_id="m", **spec), lambda line: None)


def test_two_runs_of_studies_of_one_name_serve_side_by_side_and_the_public_endpoint_is_at_the_root(shared: Serve):
    one, two = (begin(shared, job, name="evaluate-s") for job in ("01000000", "02000000"))
    public = begin(shared, "03000000")
    assert one.base_url == "http://127.0.0.1:8123/evaluate-s-01000000/v1"
    assert two.base_url == "http://127.0.0.1:8123/evaluate-s-02000000/v1"
    assert public.base_url == "http://127.0.0.1:8123/v1"
    assert [there["route_prefix"] for there in shared.applications.values()] == [
        "/evaluate-s-01000000",
        "/evaluate-s-02000000",
        "/",
    ]


def test_a_second_public_endpoint_is_refused_and_the_first_stays(shared: Serve):
    begin(shared, "01000000")
    with pytest.raises(InputError, match=r"another application, 'inoc-ray-01000000', runs .* answers at /: stop it"):
        begin(shared, "02000000")
    assert list(shared.applications) == ["inoc-ray-01000000"]


def test_an_endpoint_without_a_key_is_not_put_on_a_serve_that_others_reach(shared: Serve):
    app.check_key_for_running_serve(None)
    shared.start()
    app.check_key_for_running_serve(None)
    shared.http_config.host = "0.0.0.0"
    app.check_key_for_running_serve("secret")
    # An engine of a run gets a key of its own, which nobody else has to know.
    assert begin(shared, "01000000", name="evaluate-s").api_key
    with pytest.raises(InputError, match=r"listens on 0\.0\.0\.0, where others reach it; set INOC_RAY_API_KEY"):
        app.check_key_for_running_serve(None)


@pytest.mark.parametrize("first", [0, 1])
def test_serve_is_shut_down_by_the_last_of_ours_whoever_started_it(shared: Serve, first: int):
    ends = [begin(shared, job, name="evaluate-s") for job in ("01000000", "02000000")]
    app.stop(ends.pop(first))
    assert shared.runs
    assert list(shared.applications) == [ends[0].name]
    app.stop(ends[0])
    assert not shared.runs


def test_the_last_of_ours_shuts_serve_down_though_it_began_before_the_engine_of_who_started_it(
    shared: Serve, monkeypatch: pytest.MonkeyPatch
):
    shared.start()
    one: list[app.Endpoint] = []

    def wait(*_: object, **__: object) -> int:
        monkeypatch.setattr(app, "_wait", lambda *_, **__: 512)
        shared.runs = False
        one.append(begin(shared, "01000000", name="evaluate-s"))
        return 512

    monkeypatch.setattr(app, "_wait", wait)
    two = begin(shared, "02000000", name="evaluate-s")
    app.stop(one[0])
    app.stop(two)
    assert not shared.runs


def test_a_command_that_ends_leaves_serve_to_others(shared: Serve):
    """An application of somebody else that was there, or came while the engine was deleted."""
    for on_delete in (lambda: None, lambda: shared.deploy("new", "/new")):
        shared.shutdown()
        only = begin(shared, "01000000", name="evaluate-s")
        shared.deploy("there", "/there")
        shared.on_delete = on_delete
        app.stop(only)
        assert shared.runs
        assert only.name not in shared.applications
        assert "there" in shared.applications


def test_serve_stays_for_a_command_that_is_about_to_deploy_its_engine(shared: Serve):
    only = begin(shared, "01000000", name="evaluate-s")
    shared.job = "02000000"
    owner.note_engine("coming")
    app.stop(only)
    assert (shared.runs, shared.applications) == (True, {})
    # It never came to it.
    shared.dead = {"02000000"}
    assert owner.reclaim() == ["coming"]
    assert (shared.runs, list(shared.notes)) == (False, ["serve/01000000", "serve/02000000"])


def test_of_commands_that_end_at_the_same_time_one_shuts_serve_down(shared: Serve):
    one, two = (begin(shared, job, name="evaluate-s") for job in ("01000000", "02000000"))

    def other() -> None:
        shared.on_delete = lambda: None
        app.stop(two)

    shared.on_delete = other
    app.stop(one)
    assert not shared.runs


def test_a_serve_that_somebody_else_started_stays_even_without_applications(shared: Serve):
    shared.job = "0a000000"
    shared.start()
    app.stop(begin(shared, "01000000", name="evaluate-s"))
    assert shared.runs
    assert not shared.applications


def test_what_dead_commands_left_goes_and_serve_with_it_when_nothing_else_is_there(shared: Serve):
    begin(shared, "01000000", name="evaluate-s")
    lives = begin(shared, "02000000", name="judge-s")
    shared.dead = {"01000000"}
    assert owner.reclaim() == ["evaluate-s-01000000"]
    assert (shared.runs, list(shared.applications)) == (True, [lives.name])
    shared.dead.add("02000000")
    assert owner.reclaim() == [lives.name]
    assert not shared.runs
    assert owner.reclaim() == []
    assert shared.notes == {}


class Killed(BaseException):
    """The end of a process, at a place that only the test knows."""


def served_to_its_end(there: Serve, job: str) -> None:
    """Start an engine as the command of a Ray job, and take it down."""
    owner.take_down([begin(there, job, name="evaluate-s").name])


@pytest.mark.parametrize("at", ["start", "run_many", "delete", "shutdown"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_wherever_a_command_is_killed_the_next_one_finds_what_it_left(
    shared: Serve, monkeypatch: pytest.MonkeyPatch, at: str, after: bool
):
    """`ray job stop` ends a process 3 s after its signal: it may have come to any of these, and no handler runs."""
    there = getattr(shared, at)

    def killed(*arguments: Any, **options: Any) -> None:
        if after:
            there(*arguments, **options)
        raise Killed

    with monkeypatch.context() as here:
        module, name = (app, "_start_serve") if at == "start" else (serve, at)
        here.setattr(module, name, killed)
        # Somebody else's engine is on Serve, or it would be shut down without a deletion.
        if at == "delete":
            here.setattr(app, "_wait", lambda *_, **__: shared.deploy("other", "/other"))
        # Nothing runs in a process that is gone.
        here.setattr(app, "_take_down", lambda name, keeper: None)
        with pytest.raises(Killed):
            served_to_its_end(shared, "01000000")
    shared.dead = {"01000000"}
    owner.reclaim()
    if at == "delete":
        assert (shared.runs, list(shared.applications)) == (True, ["other"])
        shared.delete("other")
        owner.reclaim()
    assert not shared.runs
    assert not [key for key in shared.notes if key.startswith("engine/")]


def test_a_serve_of_somebody_else_is_not_reclaimed_though_a_dead_command_was_on_it(shared: Serve):
    shared.job = "0a000000"
    shared.start()
    begin(shared, "01000000", name="evaluate-s")
    shared.dead = {"01000000", "0a000000"}
    assert owner.reclaim() == ["evaluate-s-01000000"]
    assert (shared.runs, shared.applications) == (True, {})


def test_a_serve_that_is_being_shut_down_is_waited_for_and_started_anew(shared: Serve):
    shared.start()
    shared.ignores = 3
    endpoint = begin(shared, "01000000", name="evaluate-s")
    assert list(shared.applications) == [endpoint.name]
    app.stop(endpoint)
    assert not shared.runs


@pytest.mark.parametrize(("runs", "on_head", "host"), [(0, 0, "127.0.0.1"), (1, 1, "127.0.0.1"), (1, 0, "0.0.0.0")])
def test_a_serve_that_this_node_can_reach_is_no_obstacle(
    shared: Serve, monkeypatch: pytest.MonkeyPatch, runs: int, on_head: int, host: str
):
    shared.runs, shared.http_config.host = bool(runs), host
    monkeypatch.setattr(app.nodes, "on_head", lambda: bool(on_head))
    app.check_running_serve()


def test_a_serve_that_this_node_cannot_reach_is_refused(shared: Serve, monkeypatch: pytest.MonkeyPatch):
    shared.start()
    monkeypatch.setattr(app.nodes, "on_head", lambda: False)
    with pytest.raises(
        InputError, match="loopback address alone, which this node cannot reach; run the command on the head"
    ):
        app.check_running_serve()


def test_a_serve_that_takes_no_engine_is_not_waited_for_for_ever(shared: Serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(app, "_SERVE_ENDS_S", 0.01)
    shared.start()
    shared.ignores = 10**9
    with pytest.raises(TrialError, match="took no engine for 0 s"):
        begin(shared, "01000000", name="evaluate-s")
