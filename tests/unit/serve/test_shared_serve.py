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
        self.runs, self.ignores, self.job = False, 0, "01000000"
        self.dead: set[str] = set()
        self.applications: dict[str, dict[str, Any]] = {}
        self.http_config = SimpleNamespace(host="127.0.0.1", port=8123)
        self.on_delete: Callable[[], object] = lambda: None

    def client(self) -> Serve | None:
        return self if self.runs else None

    def start(self, spec: object = None) -> None:
        self.runs = True

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
            self.deploy(target.name, target.route_prefix, target.target)

    def deploy(self, name: str, route: str, marks: dict[str, str]) -> None:
        options = {"ray_actor_options": {"runtime_env": {"env_vars": marks}}}
        deployments = {"engine": {"deployment_config": options}}
        self.applications[name] = {"route_prefix": route, "status": "RUNNING", "deployments": deployments}

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
    monkeypatch.setattr(ray, "get_actor", lambda name, namespace: there)
    monkeypatch.setattr(owner, "dead_jobs", lambda: there.dead)
    for name in ("check_spec", "_check_resources"):
        monkeypatch.setattr(app, name, lambda spec: None)
    monkeypatch.setattr(app, "_with_end_of_turn", lambda spec: spec)
    monkeypatch.setattr(app, "application", lambda spec, marks: dict(marks))
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


def test_a_command_that_ends_leaves_serve_to_one_that_began_meanwhile(shared: Serve):
    only = begin(shared, "01000000", name="evaluate-s")
    shared.on_delete = lambda: shared.deploy("new", "/new", {})
    app.stop(only)
    assert shared.runs
    assert list(shared.applications) == ["new"]


def test_a_serve_that_somebody_else_started_stays_even_without_applications(shared: Serve):
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


def test_serve_stays_if_somebody_begins_while_it_is_reclaimed(shared: Serve):
    begin(shared, "01000000", name="evaluate-s")
    shared.dead = {"01000000"}
    shared.on_delete = lambda: shared.deploy("new", "/new", {})
    assert owner.reclaim() == ["evaluate-s-01000000"]
    assert (shared.runs, list(shared.applications)) == (True, ["new"])


def test_a_serve_that_is_being_shut_down_is_waited_for_and_started_anew(shared: Serve):
    shared.start()
    shared.ignores = 3
    endpoint = begin(shared, "01000000", name="evaluate-s")
    assert list(shared.applications) == [endpoint.name]
    assert endpoint.owns_serve


def test_a_serve_that_takes_no_engine_is_not_waited_for_for_ever(shared: Serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(app, "_SERVE_ENDS_S", 0.01)
    shared.start()
    shared.ignores = 10**9
    with pytest.raises(TrialError, match="took no engine for 0 s"):
        begin(shared, "01000000", name="evaluate-s")
