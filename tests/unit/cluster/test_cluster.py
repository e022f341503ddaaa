"""The arithmetic that keeps a nested sweep from waiting for itself."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inoc_ray.cluster import connect
from inoc_ray.cluster.connect import check_address, connected, local_capacity
from inoc_ray.cluster.fit import DRIVER_CPUS, Capacity, Node, check_serving, concurrent_groups, engines_at_once
from inoc_ray.errors import InputError, TrialError
from inoc_ray.study.resources import Resources

whole = st.integers(1, 64)


@given(workers=whole, per=st.sampled_from([0.5, 1.0, 2.0, 8.0]), cpus=whole, groups=whole, own=st.booleans())
def test_groups_and_their_drivers_never_request_more_than_the_cluster_has(workers, per, cpus, groups, own):
    resources = Resources(workers=workers, cpus_per_worker=per)
    capacity = Capacity(float(cpus), 0.0, own)
    try:
        fits = concurrent_groups(resources, capacity, groups)
    except InputError:
        assert workers * per + (0 if own else DRIVER_CPUS) > cpus
        return
    assert 1 <= fits <= groups
    assert fits * (workers * per + (0 if own else DRIVER_CPUS)) <= cpus + 1e-6


def test_two_cpus_and_drivers_that_hold_cpu_run_one_group_at_a_time():
    assert concurrent_groups(Resources(), Capacity(2.0, 0.0, False), 8) == 1
    assert concurrent_groups(Resources(), Capacity(2.0, 0.0, True), 8) == 2


def test_gpus_limit_the_groups():
    resources = Resources(workers=2, gpus_per_worker=1.0)
    assert concurrent_groups(resources, Capacity(64.0, 5.0, True), 8) == 2


def test_a_shape_that_can_never_start_is_refused_with_the_arithmetic():
    with pytest.raises(InputError, match="8 workers × 1 CPU = 8 CPU, and the cluster has 2"):
        concurrent_groups(Resources(workers=8), Capacity(2.0, 0.0, True), 1)
    with pytest.raises(InputError, match="2 workers × 1 GPU = 2 GPU, and the cluster has 1"):
        concurrent_groups(Resources(workers=2, gpus_per_worker=1.0), Capacity(8.0, 1.0, True), 1)
    with pytest.raises(InputError, match="serving needs 1 CPU and 4 GPU"):
        check_serving(Resources(serve_gpus=4), Capacity(8.0, 1.0, True))


def cluster(*nodes: tuple[float, float], own: bool = True) -> Capacity:
    """A cluster of nodes of (CPUs, GPUs)."""
    return Capacity.of((Node(*node) for node in nodes), has_driver_resource=own)


def test_one_worker_must_fit_on_one_node_whatever_the_sum_of_all_is():
    with pytest.raises(
        InputError, match=r"one worker needs 1 CPU and 16 GPU on one node.* 2 nodes of 96 CPU and 8 GPU; low"
    ):
        concurrent_groups(Resources(gpus_per_worker=16), cluster((96, 8), (96, 8)), 1)
    assert concurrent_groups(Resources(workers=16, gpus_per_worker=1), cluster((96, 8), (96, 8)), 1) == 1


def test_what_is_left_over_on_each_node_is_no_place_for_a_worker():
    """Three nodes of 3 CPUs are 9 CPUs, and hold three workers of 2 CPUs, not four."""
    with pytest.raises(
        InputError, match=r"4 workers of 2 CPU each.* holds 3 of them: 3 nodes of 3 CPU; lower resources.work"
    ):
        concurrent_groups(Resources(workers=4, cpus_per_worker=2), cluster((3, 0), (3, 0), (3, 0)), 1)
    assert concurrent_groups(Resources(workers=1, cpus_per_worker=2), cluster((3, 0), (3, 0), (3, 0)), 9) == 3


def test_cpus_and_gpus_must_be_on_the_same_node():
    with pytest.raises(InputError, match="one worker needs 8 CPU and 1 GPU on one node"):
        concurrent_groups(Resources(cpus_per_worker=8, gpus_per_worker=1), cluster((64, 0), (4, 8)), 1)
    with pytest.raises(InputError, match=r"serving needs 8 CPU and 1 GPU on one node.*; lower resources.serve_cpus or"):
        check_serving(Resources(serve_cpus=8, serve_gpus=1), cluster((64, 0), (4, 8)))


def test_an_engine_does_not_spread_over_nodes():
    with pytest.raises(InputError, match=r"4 GPU on one node, and the cluster has 2 nodes of 16 CPU and 2 GPU; lower"):
        check_serving(Resources(serve_gpus=4), cluster((16, 2), (16, 2)))
    check_serving(Resources(serve_gpus=4), cluster((16, 2), (16, 4)))


def test_as_many_engines_as_were_asked_for_must_find_a_node_each():
    nodes = cluster((16, 2), (16, 4), (1, 8))
    assert engines_at_once(Resources(serve_gpus=2, serve_cpus=2), nodes) == 3
    check_serving(Resources(serve_gpus=2, serve_cpus=2, serve_replicas=3), nodes)
    with pytest.raises(
        InputError,
        match=r"4 engines of 2 CPU and 2 GPU each .*the cluster holds 3 of them: .*lower resources.serve_replicas",
    ):
        check_serving(Resources(serve_gpus=2, serve_cpus=2, serve_replicas=4), nodes)


@pytest.mark.parametrize("without", [1, 3])
def test_a_node_without_cpus_takes_no_place_from_the_workers(without):
    """As Ray advises for heads: on a large cluster they run nothing."""
    capacity = cluster(*[(0, 0)] * without, (8, 1), own=False)
    assert concurrent_groups(Resources(cpus_per_worker=4, gpus_per_worker=1), capacity, 9) == 1
    assert concurrent_groups(Resources(cpus_per_worker=1), capacity, 9) == 7


@given(
    workers=st.integers(1, 6),
    per=st.sampled_from([0.5, 1.0, 2.0, 3.0]),
    nodes=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    groups=whole,
    placed=st.randoms(use_true_random=False),
)
def test_wherever_the_drivers_lie_all_groups_find_their_places(workers, per, nodes, groups, placed):
    """Drivers are placed anywhere, as Ray does it; what is left of every node still holds all workers."""
    try:
        fits = concurrent_groups(
            Resources(workers=workers, cpus_per_worker=per), cluster(*((n, 0) for n in nodes), own=False), groups
        )
    except InputError:
        return
    left = list(map(float, nodes))
    for _ in range(fits):
        left[placed.randrange(len(left))] -= DRIVER_CPUS
    assert sum(int((cpus + 1e-9) // per) for cpus in left) >= fits * workers


@pytest.mark.parametrize(
    ("resources", "capacity", "advice"),
    [
        (Resources(workers=8), (2.0, 0.0), "lower resources.workers or use a larger cluster"),
        (Resources(cpus_per_worker=4), (2.0, 0.0), "lower resources.cpus_per_worker or use a larger cluster"),
        (Resources(gpus_per_worker=2), (2.0, 1.0), "lower resources.gpus_per_worker or use a larger cluster"),
        (
            Resources(gpus_per_worker=1),
            (2.0, 0.0),
            "set resources.gpus_per_worker: 0 to train on CPUs, or use a cluster with GPUs",
        ),
    ],
)
def test_the_advice_names_the_field_that_makes_a_trial_fit(resources, capacity, advice):
    with pytest.raises(InputError, match=f"; {advice}.$"):
        concurrent_groups(resources, Capacity(*capacity, True), 1)


@pytest.mark.parametrize(
    ("resources", "advice"),
    [
        (Resources(serve_gpus=1), "GPU; set resources.serve_gpus: 0 to serve on CPUs, or use a larger cluster"),
        (Resources(serve_cpus=4), "GPU; lower resources.serve_cpus, or use a larger cluster"),
    ],
)
def test_the_advice_names_the_field_that_makes_the_engine_fit(resources, advice):
    with pytest.raises(InputError, match=advice):
        check_serving(resources, Capacity(2.0, 0.0, True))


def test_max_concurrent_groups_is_kept():
    assert concurrent_groups(Resources(max_concurrent_groups=1), Capacity(64.0, 0.0, True), 8) == 1


def test_the_local_cluster_has_the_cores_this_process_may_use():
    assert local_capacity().cpus >= 1


@pytest.mark.parametrize(
    ("visible", "gpus"), [("", 0), ("-1", 0), ("NoDevFiles", 0), ("0", 1), ("1, 3", 2), ("0,-1,1", 1)]
)
def test_hidden_gpus_are_not_counted(monkeypatch, visible, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert local_capacity().gpus == gpus


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no-such-host.invalid:6379", "127.0.0.1:99999", "head..svc:6379"]
)
def test_a_cluster_at_which_nothing_listens_is_refused_at_once(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    began = time.monotonic()
    with pytest.raises(InputError, match=f"RAY_ADDRESS={address}: nothing answers there"):
        check_address()
    assert time.monotonic() - began < 10


def test_no_address_and_one_that_ray_finds_itself_are_left_to_ray(monkeypatch):
    for address in ("", "auto"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        check_address()


@pytest.mark.slow
def test_a_machine_on_which_ray_does_not_start_is_one_message(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(connect, "LOCAL_OBJECT_STORE_BYTES", 1)
    with (
        pytest.raises(TrialError, match=r"^Ray did not start on this machine: .*object store.* run the command again"),
        connected(),
    ):
        pass
