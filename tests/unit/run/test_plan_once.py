"""A command plans once: what costs (rows, models, questions) is read at its beginning, the store as often as it changes."""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from finished_study import finish, write_study

from inoc_ray import settings
from inoc_ray.data.chat import ChatRow
from inoc_ray.errors import InputError
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.run import pipeline
from inoc_ray.run.load import load_study
from inoc_ray.run.pipeline import run_study
from inoc_ray.store.samples import Part
from inoc_ray.store.store import Store

NAME = "rows_counted"


@pytest.fixture(scope="module")
def reads() -> Iterator[list[str]]:
    """Register a setting whose rows note each time that a plan reads them."""
    found: list[str] = []
    shipped = settings.get("miniature/spanish_caps")

    def rows() -> list[ChatRow]:
        found.append(NAME)
        return shipped.rows()

    settings.register(replace(shipped, name=NAME, rows=rows))
    yield found
    settings.forget(NAME)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, reads) -> Path:
    """The file of a study of which everything is stored."""
    path = write_study(tmp_path_factory.mktemp("finished"), settings=[NAME])
    finish(path)
    return path


def state(plan: Plan) -> tuple[object, ...]:
    return plan.done_trials, plan.stored, plan.damaged, plan.to_train, plan.to_sample


def test_a_run_of_a_finished_study_plans_once(finished, reads):
    study = load_study(finished)
    reads.clear()
    outcome = run_study(study, Store(study.storage))
    assert (outcome.failed, outcome.trained, outcome.sampled) == ([], 0, 0)
    assert outcome.report is not None
    assert outcome.tracking_uri
    assert reads == [NAME]


def test_what_a_study_leaves_open_is_chosen_again_once_weights_are_found_damaged(tmp_path, monkeypatch):
    """Nothing was to be trained when it was chosen first, so nothing was chosen for what is trained again."""
    plan, store = finish(write_study(tmp_path))

    def damaged(plan: Plan, store: Store, *, train: bool) -> bool:
        shutil.rmtree(str(store.trial(plan.trials[0].trial_id)))
        return True

    def chosen(plan: Plan, *, trains: bool) -> Plan:
        if plan.to_train:
            raise InputError(f"chosen again for {len(plan.to_train)}")
        return plan

    monkeypatch.setattr(pipeline, "verify_used", damaged)
    monkeypatch.setattr(pipeline, "on_this_machine", chosen)
    with pytest.raises(InputError, match="chosen again for 1"):
        run_study(plan.study, store)


@pytest.mark.parametrize("command", ["plan", "status", "compare"])
def test_every_command_plans_once(finished, reads, inoc_ray, command):
    reads.clear()
    code, _, error = inoc_ray(command, str(finished))
    assert code == 0, error
    assert reads == [NAME]


def test_a_refreshed_plan_knows_the_store_and_reads_no_rows(tmp_path, reads):
    path = write_study(tmp_path, settings=[NAME])
    study, store = load_study(path), Store(tmp_path / "runs")
    empty = build_plan(study, store)
    assert len(empty.to_train) == 4
    assert not any(empty.stored.values())
    full, _ = finish(path)
    reads.clear()
    assert state(empty.refreshed(store)) == state(full)
    assert (full.to_train, full.to_sample) == ([], [])
    trial = full.trials[0]
    (store.adapter(trial.trial_id) / "adapter_model.safetensors").write_bytes(b"other")
    damaged = full.refreshed(store)
    assert damaged.to_train == [trial]
    assert len(damaged.damaged) == 1
    # What is the study's does not change.
    assert (damaged.trials, damaged.cells, damaged.notes) == (full.trials, full.cells, full.notes)
    assert reads == []
    assert state(damaged) == state(build_plan(study, store))


def test_a_refreshed_plan_of_some_evaluations_still_counts_all_samples(tmp_path):
    plan, store = finish(write_study(tmp_path))
    some = plan.only([plan.cells[0].evaluation.name])
    assert len(some.cells) < len(plan.cells)
    assert some.refreshed(store).stored == plan.stored


class Watched(Store):
    """A store that notes of which cells it was asked what samples it holds."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.looks: list[tuple[str, str]] = []

    def parts_of(self, cells: Iterable[tuple[str, str]]) -> dict[tuple[str, str], list[Part]]:
        asked = list(cells)
        self.looks += asked
        return super().parts_of(asked)


def test_only_cells_of_what_was_evaluated_are_looked_up_and_each_once(tmp_path):
    """A new study may have tens of thousands."""
    path = write_study(tmp_path)
    study, store = load_study(path), Watched(tmp_path / "runs")
    assert len(build_plan(study, store).cells) == 10
    assert store.looks == []
    full, _ = finish(path)
    build_plan(study, store)
    assert sorted(store.looks) == sorted(full.stored)
