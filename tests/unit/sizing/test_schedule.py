"""Whether models are evaluated beside the training follows from a cluster's nodes and an estimate, unless the study says."""

from pathlib import Path
from typing import Any

import pytest

from inoc_ray.cluster.fit import Capacity, Node
from inoc_ray.errors import InputError
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.run.preflight import check_capacity
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
