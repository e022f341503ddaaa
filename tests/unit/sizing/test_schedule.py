"""Whether models are evaluated beside the training follows from a cluster's nodes and an estimate, unless the study says."""

from pathlib import Path
from typing import Any

import pytest

from inoc_ray.cluster.fit import Capacity, Node, concurrent_groups
from inoc_ray.errors import InputError
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.run.preflight import check_capacity
from inoc_ray.sizing.replicas import Room, judges_with_room, needs_of_engines
from inoc_ray.sizing.schedule import schedule_of, shared_engine
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study

GIB = 1 << 30


def planned(folder: Path, resources: dict[str, Any], *, steps: int = 60, **recipe: Any) -> Plan:
    value = {
        "name": "s",
        "settings": ["miniature/spanish_caps"],
        "arms": ["baseline", "specific_spanish", "specific_caps", "irrelevant"],
        "seeds": [0, 1],
        "models": ["miniature"],
        "recipes": {"r": {"learning_rate": 1e-3, "steps": steps, **recipe}},
        "evaluation": {"contexts": ["neutral"], "samples": 100},
        "resources": resources,
    }
    return build_plan(Study.model_validate(value), Store(folder / "runs"))


def judged(folder: Path, resources: dict[str, Any], judges: int = 1) -> Plan:
    """A study with judges on engines of their own."""
    names = [f"judge{n}" for n in range(judges)]
    value = {
        "name": "s",
        "settings": ["miniature/harmful_advice"],
        "arms": ["baseline", "general"],
        "seeds": [0],
        "recipes": {"r": {"learning_rate": 1e-3, "steps": 60}},
        "judges": {
            name: {"path": "miniature", "method": method}
            for name, method in zip(names, ("digit", "candidates", "sample"), strict=False)
        },
        "evaluation": {"contexts": ["neutral"], "samples": 100, "judged_by": names},
        "resources": resources,
    }
    return build_plan(Study.model_validate(value), Store(folder / "runs"))


def names(judges: Any) -> list[str]:
    return [judge.name for judge in judges]


def cores(count: int) -> Capacity:
    return Capacity(count, 0, True)


def test_two_cores_train_with_one_and_evaluate_with_the_other(tmp_path):
    found = schedule_of(planned(tmp_path, {}), cores(2))
    assert found.overlap
    assert found.capacity.cpus == 1
    assert "beside the training" in found.why


@pytest.mark.parametrize(
    ("capacity", "resources", "why"),
    [
        (cores(1), {}, "no room"),
        (cores(2), {"workers": 2}, "no room"),
        (cores(2), {"schedule": "phased"}, "as resources.schedule says"),
    ],
)
def test_without_room_and_where_the_study_says_so_evaluation_comes_afterwards(tmp_path, capacity, resources, why):
    found = schedule_of(planned(tmp_path, {"micro_batch_size": 8, **resources}), capacity)
    assert not found.overlap
    assert why in found.why
    assert found.capacity == capacity


def test_a_round_of_long_training_is_not_given_up_for_an_engine(tmp_path):
    """Eight fine-tunes of hours on eight cores: an engine beside them would make it two rounds."""
    plan = planned(tmp_path, {}, steps=100_000)
    assert not schedule_of(plan, cores(8)).overlap
    assert schedule_of(plan, cores(9)).overlap
    assert schedule_of(plan, cores(9)).capacity.cpus == 8


def test_overlap_is_refused_where_it_cannot_be(tmp_path):
    with pytest.raises(InputError, match="overlap needs an engine"):
        schedule_of(planned(tmp_path, {"schedule": "overlap"}), cores(1))


def test_overlap_without_room_is_refused_before_anything_starts(tmp_path):
    plan = planned(tmp_path, {"schedule": "overlap"})
    with pytest.raises(InputError, match="use phased, or a larger cluster"):
        check_capacity(plan, cores(1))
    check_capacity(plan, cores(2))


def test_too_little_memory_for_both_at_once_means_one_after_the_other(tmp_path):
    plan = planned(tmp_path, {})
    assert not schedule_of(plan, cores(2), host_bytes=3 * GIB).overlap
    assert schedule_of(plan, cores(2), host_bytes=16 * GIB).overlap


def test_full_fine_tunes_have_no_engine_before_they_are_trained(tmp_path):
    plan = planned(tmp_path, {}, method="full")
    cells = shared_engine(plan)
    assert {cell.subject.arm.name for cell in cells} == {"base"}


def test_what_an_engine_leaves_is_the_least_wherever_ray_puts_it():
    two = Capacity.of([Node(8, 4), Node(8, 2)], has_driver_resource=False)
    left = two.beside(Node(1, 2), Node(1, 4))
    assert left is not None
    assert [node.gpus for node in left.nodes] == [2, 2]
    assert two.beside(Node(1, 8), Node(1, 1)) is None
    empty = Capacity.of([], has_driver_resource=False, startable=[Node(8, 8)] * 3, may_start=3)
    left = empty.beside(Node(1, 8), Node(1, 1))
    assert left is not None
    assert left.may_start == 2


@pytest.mark.parametrize(
    ("capacity", "resources", "groups", "beside"),
    [
        # Two fine-tunes, the engine that samples and a judge.
        (cores(4), {}, 2, ["judge0"]),
        # The judge would take the place of a group.
        (cores(3), {}, 2, []),
        # One group is all that there ever is.
        (cores(3), {"max_concurrent_groups": 1}, 1, ["judge0"]),
        (cores(4), {"judges": {"judge0": {"serve_cpus": 2}}}, 2, []),
        (cores(5), {"judges": {"judge0": {"serve_cpus": 2}}}, 2, ["judge0"]),
        (cores(5), {"judges": {"judge0": {"serve_replicas": 2}}}, 2, ["judge0"]),
    ],
)
def test_a_judge_grades_beside_training_and_sampling_where_no_group_is_given_up_for_it(
    tmp_path, capacity, resources, groups, beside
):
    plan = judged(tmp_path, {"schedule": "overlap", **resources})
    found = schedule_of(plan, capacity)
    assert names(found.judges) == beside
    assert concurrent_groups(plan.resources_of(plan.trials[0]), found.capacity, 2) == groups


def test_a_judge_needs_memory_of_its_own_beside_training_and_sampling(tmp_path):
    plan = judged(tmp_path, {"schedule": "overlap"})
    assert names(schedule_of(plan, cores(4), host_bytes=8 * GIB).judges) == []
    assert names(schedule_of(plan, cores(4), host_bytes=16 * GIB).judges) == ["judge0"]


def test_as_many_judges_grade_beside_the_sampling_as_its_engines_leave_room_for(tmp_path):
    plan = judged(tmp_path, {}, judges=3)
    for count, beside in ((1, []), (2, ["judge0"]), (3, ["judge0", "judge1"]), (8, ["judge0", "judge1", "judge2"])):
        room = Room(capacity=cores(count))
        engines = needs_of_engines(plan, plan.to_sample, None)
        assert len(engines) == 1
        assert names(judges_with_room(plan, engines, room)) == beside
    small = Room(capacity=cores(8), host_bytes=8 * GIB)
    assert names(judges_with_room(plan, engines, small)) == ["judge0"]


def test_engines_have_the_room_that_others_leave(tmp_path):
    plan = judged(tmp_path, {})
    (engine,) = needs_of_engines(plan, plan.to_sample, None)
    room = Room(capacity=cores(3))
    assert room.holds([engine] * 3)
    assert not room.beside([engine]).holds([engine] * 3)
    assert room.beside([engine]).holds([engine] * 2)
