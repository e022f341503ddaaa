"""The commands of cluster.yaml run on two empty machines, after Ray has prepared the account at a stand-in for AWS."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from machines import HOME, ROOT, Machine, two_machines, why_not

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "there are namespaces")]

AWS = "http://127.0.0.1:5000"
KEYS = {
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ENDPOINT_URL": AWS,
}
VENV = "inoc_ray_venv"
PYTHON = f"~/{VENV}/bin/python"
JOIN = "import ray; ray.init(log_to_driver=False, logging_level='error'); "
STATUS = JOIN + "print([node['Resources'] for node in ray.nodes() if node['Alive']])"


def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def set_up(machine: Machine, *keys: str) -> list[str]:
    """Run the set-up commands of cluster.yaml; return those that this machine cannot run."""
    left = []
    for command in [command for key in keys for command in config()[key]]:
        if command.startswith("sudo "):
            left.append(command)
        else:
            machine.run(command)
    return left


def start(machine: Machine, key: str, resources: dict[str, int], **more: str) -> None:
    """Run the commands that start Ray, with the environment that `ray up` and its autoscaler put in front of them."""
    from ray.autoscaler._private.command_runner import _with_environment_variables
    from ray.autoscaler._private.constants import RESOURCES_ENVIRONMENT_VARIABLE as RESOURCES
    from ray.autoscaler._private.util import with_envs

    for command in with_envs(config()[key], more):
        machine.run(_with_environment_variables(command, {RESOURCES: resources, "RAY_USAGE_STATS_ENABLED": 0}))


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Machine, Machine]]:
    """The head and a worker of eight GPUs, as `ray up` and the autoscaler make them from two empty machines."""
    types = config()["available_node_types"]
    with two_machines() as (head, worker):
        for machine in (head, worker):
            machine.copy_checkout(VENV)
            # As `make setup` leaves it; that it makes the environment is what test_install_torch and every CI run show.
            machine.run(f"touch ~/{VENV}/.installed-gpu")
            machine.write(".ray/auth_token", "a-token-of-these-tests-alone-0123456789")
            # The environment of the tests may have the package of another checkout.
            variables = KEYS | {"PYTHONPATH": f"{HOME}/inoc_ray"}
            machine.write(".inoc_ray.env", "".join(f"{key}={value}\n" for key, value in variables.items()))
        head.start(sys.executable, "-m", "moto.server", "-p", "5000")
        left = set_up(head, "setup_commands", "head_setup_commands") + set_up(worker, "setup_commands")
        # Debian's packages are not for a test to install.
        assert len(left) == 2
        assert all("apt-get" in command for command in left)
        head.until("curl -s http://127.0.0.1:5000/moto-api/ > /dev/null")
        head.run(f"{PYTHON} {ROOT}/tests/helpers/bootstrap_program.py ~/inoc_ray/cluster.yaml")
        start(head, "head_start_ray_commands", types["head"]["resources"], RAY_enable_autoscaler_v2="1")
        start(worker, "worker_start_ray_commands", types["gpu8"]["resources"], RAY_HEAD_IP=head.ip)
        yield head, worker


def test_a_head_and_a_worker_come_up_from_nothing_and_ask_for_the_token(cluster):
    head, worker = cluster
    for machine in (head, worker):
        # The shells that `ray attach` opens have the environment.
        found = machine.run(f'RAY_ADDRESS={head.ip}:6379 python -c "{STATUS}"').stdout
        assert f"'GPU': {8.0}" in found
        assert "'inoc_ray_driver': 10000.0" in found
        assert machine.run("stat -c %a ~/.ray/auth_token ~/.inoc_ray.env").stdout.split() == ["600", "600"]
    stranger = f'RAY_AUTH_TOKEN_PATH= RAY_AUTH_TOKEN=wrong RAY_ADDRESS={head.ip}:6379 timeout 60 python -c "{STATUS}"'
    refused = worker.run(stranger, check=False)
    assert refused.returncode
    assert "GPU" not in refused.stdout


def test_the_job_server_answers_on_the_head_alone_and_to_the_token_alone(cluster):
    head, worker = cluster
    head.until("curl -s -o /dev/null http://127.0.0.1:8265/api/version")
    code = "curl -s -o /dev/null -w '%{http_code}' -m 5"
    token = '-H "Authorization: Bearer $(cat ~/.ray/auth_token)"'
    assert head.run(f"{code} http://127.0.0.1:8265/api/jobs/").stdout == "401"
    assert head.run(f"{code} {token} http://127.0.0.1:8265/api/jobs/").stdout == "200"
    assert worker.run(f"{code} {token} http://{head.ip}:8265/api/jobs/", check=False).stdout == "000"


def test_a_link_that_leads_nowhere_fails_the_set_up_since_the_autoscaler_would_end_at_it(cluster):
    _, worker = cluster
    (command,) = [command for command in config()["head_setup_commands"] if "find" in command]
    worker.run("ln -s ~/nowhere ~/inoc_ray/data")
    refused = worker.run(command, check=False)
    worker.run("rm ~/inoc_ray/data")
    assert refused.returncode
    assert f"{HOME}/inoc_ray/data" in refused.stderr
    worker.run(command)


def test_the_autoscaler_has_no_more_to_read_than_the_checkout(cluster):
    """It hashes all of `file_mounts` when it starts; a node whose hash is another one is set up again."""
    for machine in cluster:
        size = "find -L ~/inoc_ray -type f -printf '%s\\n' | awk '{ total += $1 } END { printf \"%d\", total }'"
        assert 1e6 < int(machine.run(size).stdout) < 100e6


def test_a_command_of_ours_finds_the_machines_that_may_be_started(cluster):
    head, worker = cluster
    capacity = (
        "from inoc_ray.cluster.connect import connected; c = connected().__enter__(); "
        "print(c.has_driver_resource, c.may_start, *[int(n.gpus) for n in (*c.nodes, *c.startable)])"
    )
    # Eight of each type with one GPU; two of each with eight, but for the one that is up; and seven of all of them at once.
    found = ["True", "7", "0", "8", *["1"] * 16, *["8"] * 3]
    for machine in (head, worker):
        said = machine.run(f'RAY_ADDRESS={head.ip}:6379 python -c "{capacity}"').stdout.split()
        assert [*said[-23:-21], *sorted(said[-21:])] == [*found[:2], *sorted(found[2:])]
