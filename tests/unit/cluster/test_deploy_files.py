"""The files under deploy/ are what their tools accept: KubeRay's and Kubernetes' schemas, linters of Dockerfiles and shells."""

import base64
import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator, ValidationError
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from inoc_ray.cluster.kuberay_file import as_ray_file
from inoc_ray.store.scratch import scratch_folder

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
SCHEMAS = ROOT / "tests" / "schemas"
BIN = Path(sys.executable).parent
MANIFESTS = ("raycluster.yaml", "rayjob.yaml")


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "kuberay" / name).read_text())


@pytest.fixture(scope="module")
def check() -> Callable[[Any], None]:
    """Raises ValidationError for what `kubectl apply` would refuse."""
    kuberay = yaml.safe_load((SCHEMAS / "kuberay.yaml").read_text())
    kubernetes = json.loads((SCHEMAS / "kubernetes.json").read_text())
    registry: Any = Registry().with_resource("kubernetes.json", Resource(contents=kubernetes, specification=DRAFT7))
    Draft7Validator.check_schema(kuberay)
    return Draft7Validator(kuberay, registry=registry).validate


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_accepts_the_manifest(check, name):
    check(manifest(name))


def cluster_of(value: dict[str, Any]) -> dict[str, Any]:
    return value["spec"].get("rayClusterSpec", value["spec"])


def pod(value: dict[str, Any]) -> dict[str, Any]:
    return cluster_of(value)["workerGroupSpecs"][0]["template"]["spec"]


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "an unknown field of the cluster": lambda v: cluster_of(v).update(gpus=8),
    "an unknown field of a group": lambda v: cluster_of(v)["workerGroupSpecs"][0].update(minWorkers=0),
    "a group without bounds": lambda v: cluster_of(v)["workerGroupSpecs"][0].pop("maxReplicas"),
    "a number where resources take text": lambda v: cluster_of(v)["headGroupSpec"]["resources"].update(CPU=0),
    "a mode that is none": lambda v: cluster_of(v)["authOptions"].update(mode="tokens"),
    "an unknown field of a pod": lambda v: pod(v).update(nodeselector={}),
    "an unknown field of a container": lambda v: pod(v)["containers"][0].update(envfrom=[]),
    "a variable without a name": lambda v: pod(v)["containers"][0].update(env=[{"value": "1"}]),
    "a variable that is a number": lambda v: pod(v)["containers"][0].update(env=[{"name": "A", "value": 1}]),
    "a quantity that is a list": lambda v: pod(v)["containers"][0]["resources"].update(limits={"cpu": []}),
    "a pod without containers": lambda v: pod(v).pop("containers"),
    "no specification": lambda v: v.pop("spec"),
}


@pytest.mark.parametrize("name", MANIFESTS)
@pytest.mark.parametrize("wrong", WRONG)
def test_the_schema_refuses(check, name, wrong):
    value = copy.deepcopy(manifest(name))
    WRONG[wrong](value)
    with pytest.raises(ValidationError):
        check(value)


def test_the_job_has_the_cluster_of_the_other_manifest_with_its_study_mounted():
    job = manifest("rayjob.yaml")
    assert job["spec"]["entrypoint"] == "inoc-ray run /study/study.yaml"
    assert job["spec"]["shutdownAfterJobFinishes"]
    cluster = copy.deepcopy(job["spec"]["rayClusterSpec"])
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        spec = group["template"]["spec"]
        (mount,) = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "study"]
        assert mount["mountPath"] == "/study"
        spec["containers"][0]["volumeMounts"] = [
            m for m in spec["containers"][0]["volumeMounts"] if m["name"] != "study"
        ]
        spec["volumes"] = [v for v in spec["volumes"] if v["name"] != "study"]
    assert cluster == manifest("raycluster.yaml")["spec"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_manifest_is_for_the_ray_of_the_lock(name):
    (locked,) = re.findall(r"^ray==(.+)$", (ROOT / "requirements" / "gpu.txt").read_text(), re.M)
    assert cluster_of(manifest(name))["rayVersion"] == locked


def test_we_read_of_a_manifest_what_rays_autoscaler_reads():
    from ray.autoscaler._private.kuberay.autoscaling_config import _generate_available_node_types_from_ray_cr_spec

    spec = manifest("raycluster.yaml")["spec"]
    rays = _generate_available_node_types_from_ray_cr_spec(spec)
    ours = as_ray_file("raycluster.yaml", manifest("raycluster.yaml"))["available_node_types"]
    assert {name: kind for name, kind in ours.items() if name != "head"}.keys() == rays.keys() - {"headgroup"}
    for name, kind in rays.items():
        mine = ours["head" if name == "headgroup" else name]
        assert {k: v for k, v in mine["resources"].items() if not k.startswith("accelerator_type:")} == kind[
            "resources"
        ]
        if name != "headgroup":
            assert mine["max_workers"] == kind["max_workers"]


def chosen(unavailable: str | None, gpus: int) -> str:
    """The group of raycluster.yaml that Ray's second autoscaler, which KubeRay runs, adds a pod to."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _generate_available_node_types_from_ray_cr_spec
    from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    kinds = _generate_available_node_types_from_ray_cr_spec(manifest("raycluster.yaml")["spec"])
    event_logger: Any = None
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs={
            name: NodeTypeConfig(
                name=name,
                min_worker_nodes=kind["min_workers"],
                max_worker_nodes=kind["max_workers"],
                priority=kind.get("priority", 0),
                resources=kind["resources"],
            )
            for name, kind in kinds.items()
            if name != "headgroup"
        },
        max_num_nodes=10,
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make({"CPU": 1, "GPU": gpus})]),
        recoverable_resource_availabilities={} if unavailable is None else {unavailable: 0.0},
    )
    (launch,) = ResourceDemandScheduler(event_logger).schedule(request).to_launch
    assert launch.count == 1
    return launch.instance_type


def test_the_autoscaler_on_kubernetes_takes_spot_first_and_what_there_is_after_a_wait_in_vain():
    assert chosen(None, gpus=1) == "gpu1-spot"
    assert chosen(None, gpus=8) == "gpu8-spot"
    assert chosen("gpu1-spot", gpus=1) == "gpu1"
    assert chosen("gpu8-spot", gpus=8) == "gpu8"


def test_a_wait_in_vain_is_bounded():
    """A pod without a machine counts as such after this time; Ray's own default is an hour."""
    from ray.autoscaler.v2.instance_manager.config import InstanceReconcileConfig

    name = "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S"
    (variable,) = manifest("raycluster.yaml")["spec"]["autoscalerOptions"]["env"]
    assert variable["name"] == name
    assert 300 <= int(variable["value"]) < InstanceReconcileConfig().allocate_status_timeout_s


def lint(*words: str | Path) -> None:
    done = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_finds_nothing_in_the_dockerfile():
    lint(BIN / "hadolint", "--failure-threshold", "style", "deploy/Dockerfile")


def test_shellcheck_finds_nothing_in_the_scripts():
    scripts = [*DEPLOY.glob("*.sh"), ROOT / ".ci" / "run", *(ROOT / "requirements").glob("*.sh")]
    assert len(scripts) >= 4
    lint(BIN / "shellcheck", "-x", *scripts)


def test_the_linters_find_something_where_there_is_something(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN cd /x && sudo pip install ray\n")
    (tmp_path / "a.sh").write_text("#!/bin/bash\nrm -rf $1/*\n")
    for words in (("hadolint", tmp_path / "Dockerfile"), ("shellcheck", tmp_path / "a.sh")):
        with pytest.raises(AssertionError):
            lint(BIN / words[0], words[1])


def test_the_image_is_made_from_the_lock_and_leaves_out_what_git_leaves_out():
    text = (DEPLOY / "Dockerfile").read_text()
    assert 'RUN make setup "LOCK=$LOCK"' in text
    assert "ARG LOCK=gpu" in text
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert {".git", "**/.venv", "runs"} <= set(ignored)


def test_slurm_asks_for_the_signal_that_the_script_waits_for():
    text = (DEPLOY / "slurm.sh").read_text()
    (signal,) = re.findall(r"^#SBATCH --signal=B:(\w+)@\d+$", text, re.M)
    assert re.search(rf"^trap '.*requeue=yes.*' {signal}$", text, re.M)
    assert "#SBATCH --requeue" in text


SECRETS = {
    "PLAIN": "abc",
    "DOLLAR": "pa$$w$HOME$(id)`id`",
    "HASH": "a#b #c",
    "AMPERSAND": "a&b|c;d>e",
    "SPACES": "two  words ",
    "QUOTES": '"double" \'single',
    "BACKSLASH": "a\\b",
    "EQUALS": "a=b==",
    "EMPTY": "",
    "AFTER_SPACES": "x",
    "AT_THE_END": "without a newline",
}
SECRETS_FILE = "# A comment\n\n" + "\n".join(
    f"{'  ' * (name == 'AFTER_SPACES')}{name}={value}" for name, value in SECRETS.items()
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder with secrets, and the checkout where the nodes of a cluster have it."""
    (tmp_path / ".inoc_ray.env").write_text(SECRETS_FILE)
    (tmp_path / "inoc_ray").symlink_to(ROOT)
    return tmp_path


def secrets_in(environment: bytes) -> dict[str, str]:
    """Those of SECRETS in what `env -0` printed."""
    found = dict(line.split("=", 1) for line in environment.decode().split("\0") if line)
    return {name: value for name, value in found.items() if name in SECRETS}


def test_a_node_takes_secrets_as_they_stand(home):
    command = "set -eu; . ~/inoc_ray/deploy/environment.sh; env -0"
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, check=True)
    assert secrets_in(done.stdout) == SECRETS
    assert b"line=" not in done.stdout
    (home / ".inoc_ray.env").unlink()
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, check=True)
    assert secrets_in(done.stdout) == {}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubernetes_takes_the_same_secrets_from_the_same_file(home):
    words = ["create", "secret", "generic", "inoc-ray", f"--from-env-file={home}/.inoc_ray.env", "--dry-run=client"]
    done = subprocess.run(["kubectl", *words, "-o", "json"], capture_output=True, text=True, check=True)
    made = json.loads(done.stdout)["data"]
    assert {name: base64.b64decode(value).decode() for name, value in made.items()} == SECRETS


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_sets_nothing_that_the_secret_sets(name):
    """What stands under `env` would win over the secret."""
    cluster = cluster_of(manifest(name))
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert [source["secretRef"]["name"] for source in container["envFrom"]] == ["inoc-ray"]
        assert not [v["name"] for v in container["env"] if re.match("AWS_|MLFLOW_|GOOGLE_|AZURE_|HF_TOKEN", v["name"])]


def test_a_study_that_is_refused_does_not_start_another_cluster():
    """KubeRay does not look at the exit code of a job that failed."""
    assert manifest("rayjob.yaml")["spec"]["backoffLimit"] == 0


STAND_INS = {
    "ray": 'env -0 > "$SEEN/../$$"; mv "$SEEN/../$$" "$SEEN/ray-${3%%=*}"; exec sleep 60',
    # Runs its command in an environment of its own, as on another node, with what the script exported.
    "srun": 'echo $$ > "$SEEN/../srun"; while [ "$1" != bash ]; do shift; done; exec "$@"',
    # The signal reaches what `srun` runs; without it the script waits as long as it would for Ray on another node.
    "scancel": 'exec kill -TERM "$(cat "$SEEN/../srun")"',
    "scontrol": "echo NodeAddr=127.0.0.1",
    "squeue": "echo 7",
    "python": 'case "$1" in -c) echo token ;; esac',
    # Ends when Ray was started on both nodes.
    "inoc-ray": 'env -0 > "$SEEN/inoc-ray"; for _ in $(seq 200); do set -- "$SEEN"/ray-*; [ $# -ge 2 ] && exit; sleep 0.1; done',
}


@pytest.mark.parametrize("venv", [".venv", ".venv-gpu"])
def test_on_slurm_every_process_has_the_secrets_and_the_environment_that_was_named(home, venv):
    """Slurm itself, and what Ray makes of it: tests/integration/test_slurm.py."""
    checkout, seen = home / "checkout", home / "seen"
    programs = checkout / venv / "bin"
    programs.mkdir(parents=True)
    seen.mkdir()
    (checkout / "deploy").symlink_to(DEPLOY)
    for program, text in STAND_INS.items():
        (programs / program).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / program).chmod(0o755)
    environment = {
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",
        "SEEN": str(seen),
        "SLURM_SUBMIT_DIR": str(checkout),
        "SLURMD_NODENAME": "node1",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_ON_NODE": "2",
    } | ({} if venv == ".venv" else {"VENV": venv})
    subprocess.run(["bash", DEPLOY / "slurm.sh", "study.yaml"], env=environment, check=True, timeout=30)
    assert len(list(seen.iterdir())) == 3
    for file in seen.iterdir():
        assert secrets_in(file.read_bytes()) == SECRETS


def test_a_job_on_slurm_deletes_what_killed_jobs_left_and_no_folder_of_a_command(tmp_path):
    """Of other jobs that still run, or of commands outside of Slurm, which are at work on the same machine."""
    (script,) = re.findall(r"^on_machine='\n(.*?)^'$", (DEPLOY / "slurm.sh").read_text(), re.M | re.S)
    script = script.replace("/tmp/", f"{tmp_path}/")
    programs = tmp_path / "bin"
    programs.mkdir()
    for program, text in {
        "squeue": "echo 7; echo 8",
        "ray": f'mkdir {tmp_path}/inoc-ray-job-7; echo "$@" > {tmp_path}/options',
    }.items():
        (programs / program).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / program).chmod(0o755)
    for job in (8, 4000000):
        (tmp_path / f"inoc-ray-job-{job}" / "session").mkdir(parents=True)
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "3"}
    with scratch_folder(tmp_path) as at_work:
        subprocess.run(["bash", "-c", script, "bash", "--head"], env=environment, check=True, timeout=30)
        assert {path.name for path in tmp_path.glob("inoc-ray-*")} == {"inoc-ray-job-8", at_work.name}
    # Of this machine; those of a job may differ.
    assert {"--head", "--num-cpus=3"} <= set((tmp_path / "options").read_text().split())


def test_nothing_that_git_ignores_gets_into_the_image():
    """Secrets and results above all: the image has whatever else lies in the folder."""
    left_out = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    for line in (ROOT / ".gitignore").read_text().split():
        # Docker's patterns begin at the root; git's only with a slash at their beginning or in their midst.
        anchored = "/" in line.rstrip("/")
        assert (line.strip("/") if anchored else f"**/{line.rstrip('/')}") in left_out, line
    assert {"**/.env", "**/*.env", "mlflow/backups"} <= set(left_out)
    assert {".env", "*.env", "mlflow/backups/"} <= set((ROOT / ".rayignore").read_text().split())
