"""cluster.yaml is valid by Ray's own schema and says what the project needs of a cluster."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from inoc_ray.cluster.fit import DRIVER_RESOURCE

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture(scope="module")
def prepared(config) -> dict[str, Any]:
    """As `ray up` completes it with AWS's defaults, and checks it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    whole = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    validate_config(whole)
    return whole


def test_rays_schema_accepts_it_and_refuses_an_unknown_key(prepared):
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(ValidationError):
        validate_config({**prepared, "storage": "/mnt"})


def test_the_head_does_not_train_and_gpu_nodes_start_on_demand(prepared):
    types = prepared["available_node_types"]
    assert set(types) == {prepared["head_node_type"], "gpu"}
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0, DRIVER_RESOURCE: 10_000}
    assert types["gpu"]["min_workers"] == 0
    assert types["gpu"]["resources"]["GPU"] > 0
    assert 0 < prepared["idle_timeout_minutes"] <= 60


def test_every_node_asks_for_the_token_that_every_node_has(prepared):
    assert prepared["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for side in ("head", "worker"):
        start = prepared[f"{side}_start_ray_commands"][-1]
        assert "RAY_AUTH_MODE=token" in start
        assert "~/inoc_ray/.venv/bin" in start or "$HOME/inoc_ray/.venv/bin:" in start
    assert "--dashboard-host=127.0.0.1" in prepared["head_start_ray_commands"][-1]


def test_every_node_mounts_the_storage_before_it_installs_the_gpu_lock(prepared):
    commands = prepared["setup_commands"]
    mount = next(n for n, c in enumerate(commands) if "mount -t nfs4" in c)
    install = next(n for n, c in enumerate(commands) if "make -C ~/inoc_ray setup LOCK=gpu" in c)
    assert mount < install
    assert (ROOT / "requirements" / "gpu.txt").exists()


def test_the_commands_are_the_shells(prepared):
    bash = shutil.which("bash")
    assert bash is not None
    for key, commands in prepared.items():
        if key.endswith("_commands"):
            for command in commands:
                done = subprocess.run([bash, "-n", "-c", command], capture_output=True, text=True, check=False)
                assert done.returncode == 0, (key, command, done.stderr)


def test_values_that_a_user_must_fill_in_are_marked():
    text = (ROOT / "cluster.yaml").read_text()
    values = [line for line in text.splitlines() if "REPLACE" in line and not line.lstrip().startswith("#")]
    assert len(values) == 2
