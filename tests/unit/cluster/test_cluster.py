"""The arithmetic that keeps a nested sweep from waiting for itself."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inoc_ray.cluster.connect import (
    DRIVER_CPUS,
    Capacity,
    check_address,
    check_serving,
    concurrent_groups,
    local_capacity,
)
from inoc_ray.errors import InputError
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
    "address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no-such-host.invalid:6379", "127.0.0.1:99999"]
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
