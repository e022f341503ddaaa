"""The files for `ray up` are valid by Ray's own schema, say what the project needs, and Ray's autoscaler starts what they mean."""

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from inoc_ray.cluster.fit import DRIVER_RESOURCE

ROOT = Path(__file__).parents[3]
CLOUDS = ("cluster.yaml", "deploy/gcp.yaml")
FILES = (*CLOUDS, "deploy/on-premise.yaml")
GIB = 1 << 30


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.fixture(scope="module")
def prepared() -> Callable[[str], dict[str, Any]]:
    """A file as `ray up` completes it with its provider's defaults, and checks it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    whole = {name: prepare_config(yaml.safe_load(text_of(name))) for name in FILES}
    for config in whole.values():
        validate_config(config)
    return lambda name: whole[name]


@pytest.mark.parametrize("name", FILES)
def test_rays_schema_accepts_it_and_refuses_an_unknown_key(prepared, name):
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(ValidationError):
        validate_config({**prepared(name), "storage": "/mnt"})


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_does_not_train_and_gpu_nodes_of_one_and_of_eight_start_from_none(prepared, name):
    types = prepared(name)["available_node_types"]
    assert types[prepared(name)["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0, DRIVER_RESOURCE: 10_000}
    workers = {kind: value for kind, value in types.items() if kind != prepared(name)["head_node_type"]}
    assert {value["resources"]["GPU"] for value in workers.values()} == {1, 8}
    assert all(value["min_workers"] == 0 for value in workers.values())
    assert 0 < prepared(name)["idle_timeout_minutes"] <= 60


@pytest.mark.parametrize("name", CLOUDS)
def test_a_spot_machine_differs_from_the_one_on_demand_in_nothing_else(prepared, name):
    types = prepared(name)["available_node_types"]
    market = {"InstanceMarketOptions", "scheduling"}
    spots = [kind for kind in types if kind.endswith("_spot")]
    assert len(spots) == 2
    for kind in spots:
        spot, demand = types[kind], types[kind.removesuffix("_spot")]
        assert spot["resources"] == demand["resources"]
        one, other = (
            {k: v for k, v in value["node_config"].items() if k not in market and k != "KeyName"}
            for value in (spot, demand)
        )
        assert one == other
        assert "spot" in str(spot["node_config"]).lower()
        assert "spot" not in str(demand["node_config"]).lower()


@pytest.mark.parametrize("name", CLOUDS)
def test_ray_counts_on_a_machine_what_the_machine_has(prepared, name):
    """Where the catalogue of machines and the file differ, one of them is wrong."""
    from inoc_ray.cluster.hardware import GPUS, MACHINES

    for value in prepared(name)["available_node_types"].values():
        kind = value["node_config"].get("InstanceType") or value["node_config"]["machineType"]
        if value["resources"]["GPU"]:
            machine = MACHINES[kind]
            assert (value["resources"]["CPU"], value["resources"]["GPU"]) == (machine.cpus, machine.gpus)
            assert machine.gpu is not None
            assert GPUS[machine.gpu].memory_gib > 75


@pytest.mark.parametrize("name", FILES)
def test_every_node_asks_for_the_token_that_every_node_has(prepared, name):
    config = prepared(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for side in ("head", "worker"):
        assert ". ~/inoc_ray/deploy/environment.sh && " in config[f"{side}_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


@pytest.mark.parametrize("name", FILES)
def test_every_node_is_set_up_from_the_gpu_lock_and_runs_what_was_set_up(prepared, name):
    commands = [c for key, value in prepared(name).items() if key.endswith("_commands") for c in value]
    made = r"make -C ~/inoc_ray setup LOCK=gpu VENV=\$HOME/(\S+)"
    (venv,) = {found for command in commands for found in re.findall(made, command)}
    assert (ROOT / "requirements" / "gpu.txt").exists()
    assert {found for c in commands for found in re.findall(r"~/(\S+)/bin/\w+", c)} == {venv}
    assert f'PATH="$HOME/{venv}/bin:' in text_of("deploy/environment.sh")
    # Ray's autoscaler reads every byte of what is mounted.
    mounted = [f"~/{venv}".startswith(f"{place}/") for place in prepared(name)["file_mounts"]]
    mounted += [f"/home/ubuntu/{venv}".startswith(f"{place}/") for place in prepared(name)["file_mounts"]]
    assert mounted
    assert not any(mounted)


@pytest.mark.parametrize("name", FILES)
def test_the_commands_are_the_shells(prepared, name):
    bash = shutil.which("bash")
    assert bash is not None
    commands = [c for key, value in prepared(name).items() if key.endswith("_commands") for c in value]
    assert len(commands) >= 7
    for command in commands:
        done = subprocess.run([bash, "-n", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stderr)


@pytest.mark.parametrize(
    ("name", "count"), [("cluster.yaml", 3), ("deploy/gcp.yaml", 3), ("deploy/on-premise.yaml", 5)]
)
def test_values_that_a_user_must_fill_in_are_marked(name, count):
    values = [line for line in text_of(name).splitlines() if "REPLACE" in line and not line.lstrip().startswith("#")]
    assert len(values) == count


Request = list[dict[str, float]]
ONE_GPU: Request = [{"CPU": 1, "GPU": 1}]
EIGHT_ON_ONE: Request = [{"CPU": 8, "GPU": 8}]


class Clock:
    """Time that a test moves."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Autoscaler:
    """What Ray's autoscaler would start on cluster.yaml: its scheduler, its record of refused starts, the score in the file."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        from ray.autoscaler._private.node_provider_availability_tracker import NodeProviderAvailabilityTracker
        from ray.autoscaler._private.resource_demand_scheduler import ResourceDemandScheduler

        self.clock = Clock()
        self.tracker = NodeProviderAvailabilityTracker(timer=self.clock)
        # The scheduler asks the provider about nodes that are up; there are none.
        nobody: Any = None
        self.scheduler = ResourceDemandScheduler(
            nobody, config["available_node_types"], config["max_workers"], config["head_node_type"], 1.0
        )

    def refuse(self, kind: str) -> None:
        """As Ray's launcher notes a start for which the cloud had no machine."""
        from ray.autoscaler.node_launch_exception import NodeLaunchException

        error = NodeLaunchException("InsufficientInstanceCapacity", "no spot machine", None)
        self.tracker.update_node_availability(kind, int(self.clock.now), error)

    def starts(self, request: Request) -> dict[str, int]:
        found, unfulfilled = self.scheduler.get_nodes_to_launch(
            [], {"head": 1}, request, {}, [], {}, [], self.tracker.summary()
        )
        assert not unfulfilled
        return {kind: count for kind, count in found.items() if count}


@pytest.fixture
def autoscaler(prepared, monkeypatch: pytest.MonkeyPatch) -> Autoscaler:
    """With what the file's own command sets in the environment."""
    command = prepared("cluster.yaml")["head_start_ray_commands"][-1]
    (score,) = re.findall(r"RAY_AUTOSCALER_UTILIZATION_SCORER=(\S+)", command)
    monkeypatch.setenv("RAY_AUTOSCALER_UTILIZATION_SCORER", score)
    return Autoscaler(prepared("cluster.yaml"))


def test_a_spot_machine_of_the_size_that_is_asked_for_comes_first(autoscaler):
    assert autoscaler.starts(ONE_GPU) == {"gpu1_spot": 1}
    assert autoscaler.starts(EIGHT_ON_ONE) == {"gpu8_spot": 1}
    assert autoscaler.starts(ONE_GPU * 3) == {"gpu1_spot": 3}


def test_a_machine_on_demand_is_started_where_the_cloud_had_no_spot_machine_and_for_that_kind_alone(autoscaler):
    autoscaler.refuse("gpu1_spot")
    assert autoscaler.starts(ONE_GPU) == {"gpu1": 1}
    assert autoscaler.starts(EIGHT_ON_ONE) == {"gpu8_spot": 1}


def test_spot_is_tried_again_after_half_an_hour(autoscaler):
    autoscaler.refuse("gpu1_spot")
    autoscaler.clock.now += 29 * 60
    assert autoscaler.starts(ONE_GPU) == {"gpu1": 1}
    autoscaler.clock.now += 2 * 60
    assert autoscaler.starts(ONE_GPU) == {"gpu1_spot": 1}


def test_where_everything_was_refused_it_is_asked_for_again(autoscaler):
    for kind in ("gpu1", "gpu1_spot", "gpu8", "gpu8_spot"):
        autoscaler.refuse(kind)
    assert autoscaler.starts(ONE_GPU) == {"gpu1_spot": 1}
    assert autoscaler.starts(EIGHT_ON_ONE) == {"gpu8_spot": 1}


def test_rays_own_score_would_ask_for_the_refused_machine_for_ever(prepared):
    """When this fails, Ray has learnt to fall back, and inoc_ray/cluster/spot.py can go."""
    plain = Autoscaler(prepared("cluster.yaml"))
    plain.refuse("gpu1_spot")
    assert plain.starts(ONE_GPU) == {"gpu1_spot": 1}


def test_the_autoscaler_that_the_score_belongs_to_is_the_one_that_runs(prepared):
    """`ray up` turns the second one on in front of the file's command, which turns it off again."""
    from ray.autoscaler._private.util import with_envs

    command = prepared("cluster.yaml")["head_start_ray_commands"][-1]
    told = with_envs([command], {"RAY_enable_autoscaler_v2": "1"})[0]
    before = told[: told.index("ray start")]
    assert re.findall(r"RAY_enable_autoscaler_v2=(\d)", before)[-1] == "0"
