"""A cluster from a file: Ray's own, and a few lines that name the nodes."""

from pathlib import Path
from typing import get_args

import pytest
import yaml

from inoc_ray.cluster.cluster_file import NodesOfOneKind, PlannedCluster, read_cluster
from inoc_ray.errors import InputError

ROOT = Path(__file__).parents[3]


def read(folder: Path, value: object) -> PlannedCluster:
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(value))
    return read_cluster(path)


SHIPPED = {
    "cluster.yaml": [("p5.4xlarge", 8, 1, "H100"), ("p5.48xlarge", 4, 8, "H100")],
    "deploy/gcp.yaml": [("a2-ultragpu-1g", 8, 1, "A100-80G"), ("a3-highgpu-8g", 2, 8, "H100")],
    "deploy/on-premise.yaml": [("worker", 2, 8, "H100")],
    "deploy/kuberay/raycluster.yaml": [("p5.4xlarge", 16, 1, "H100"), ("p5.48xlarge", 4, 8, "H100")],
    "deploy/kuberay/rayjob.yaml": [("p5.4xlarge", 16, 1, "H100"), ("p5.48xlarge", 4, 8, "H100")],
}
"""Each file of the repository that describes a cluster: its nodes (machine, how many, GPUs of each, their kind)."""


@pytest.mark.parametrize("name", SHIPPED)
def test_the_clusters_of_the_repository_are_read(name):
    found = read_cluster(ROOT / name)
    assert [(k.machine, k.count, k.gpus, k.gpu.name if k.gpu else "") for k in found.kinds] == SHIPPED[name]
    assert found.has_driver_resource
    assert found.file == str(ROOT / name)


@pytest.mark.parametrize("name", ["cluster.yaml", "deploy/kuberay/rayjob.yaml"])
def test_a_study_is_planned_on_one_of_them(name, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from inoc_ray.cli import cli

    monkeypatch.chdir(ROOT)
    words = ["plan", "jobs/studies/quickstart.yaml", "--cluster", name, "--storage", str(tmp_path / "runs")]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, (done.output, done.exception)
    assert f"on {name}: " in done.output


def test_spot_and_on_demand_are_one_kind_and_no_more_nodes_than_the_file_allows(tmp_path):
    node = {"resources": {"CPU": 16, "GPU": 1}, "node_config": {"InstanceType": "p5.4xlarge"}, "max_workers": 4}
    spot = {**node, "node_config": {**node["node_config"], "InstanceMarketOptions": {"MarketType": "spot"}}}
    other = {**node, "node_config": {"InstanceType": "p5.48xlarge"}, "resources": {"CPU": 192, "GPU": 8}}
    types = {"head": {"resources": {"CPU": 0}}, "a": node, "a_spot": spot, "b": other}
    found = read(tmp_path, {"max_workers": 6, "head_node_type": "head", "available_node_types": types})
    assert [(kind.name, kind.count) for kind in found.kinds] == [("a", 6), ("b", 4)]


def group(name: str, **more: object) -> dict[str, object]:
    limits = {"cpu": "3500m", "memory": "32Gi", "nvidia.com/gpu": 2}
    container = {"name": "ray", "resources": {"limits": limits, "requests": {"cpu": 1}}}
    template = {"spec": {"containers": [container], **more}}
    return {"groupName": name, "minReplicas": 0, "maxReplicas": 3, "template": template}


def rayjob(**more: object) -> dict[str, object]:
    cluster = {
        "headGroupSpec": {**group("head"), "resources": {"CPU": "0", "GPU": "0"}},
        "workerGroupSpecs": [],
        **more,
    }
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "spec": {"rayClusterSpec": cluster}}


def test_a_group_of_pods_has_what_its_container_may_use(tmp_path):
    pods = {**group("gpu"), "labels": {"ray.io/accelerator-type": "H100"}, "numOfHosts": 2}
    (kind,) = read(tmp_path, rayjob(workerGroupSpecs=[pods])).kinds
    assert (kind.name, kind.count, kind.cpus, kind.gpus, kind.memory_gib) == ("gpu", 6, 4.0, 2, 32.0)
    assert kind.gpu is not None
    assert (kind.gpu.name, kind.dollars_per_hour) == ("H100", None)


def test_the_node_that_a_group_selects_gives_the_price(tmp_path):
    pods = group("gpu", nodeSelector={"node.kubernetes.io/instance-type": "g6e.12xlarge"})
    (kind,) = read(tmp_path, rayjob(workerGroupSpecs=[pods])).kinds
    assert (kind.machine, kind.gpu.name if kind.gpu else "", kind.gpus) == ("g6e.12xlarge", "L40S", 2)
    assert kind.dollars_per_hour == 10.49264


def test_what_ray_is_started_with_counts_before_what_kubernetes_gives(tmp_path):
    pods = {**group("gpu"), "rayStartParams": {"num-cpus": "2", "num-gpus": "0"}}
    (kind,) = read(tmp_path, rayjob(workerGroupSpecs=[pods])).kinds
    assert (kind.cpus, kind.gpus) == (2.0, 0)


def test_a_known_machine_is_enough_and_its_values_can_be_replaced(tmp_path):
    own = {"machine": "p5.48xlarge", "count": 2, "dollars_per_hour": 20, "gpu_memory_gib": 70}
    (kind,) = read(tmp_path, {"nodes": {"gpu": own}, "efficiency": 0.4}).kinds
    assert (kind.gpus, kind.cpus, kind.dollars_per_hour) == (8, 192, 20)
    assert kind.gpu is not None
    assert kind.gpu.memory_gib == 70
    assert "2 × p5.48xlarge (8 × H100 of 70 GiB, 192 CPU, 2,048 GiB)" in kind.in_words()


def test_nodes_of_no_cloud(tmp_path):
    (kind,) = read(tmp_path, {"nodes": {"lab": {"gpu": "A100-80G", "gpus": 4, "cpus": 64, "memory_gib": 512}}}).kinds
    assert (kind.gpus, kind.count, kind.dollars_per_hour) == (4, 1, None)


def test_rays_accelerator_type_says_which_gpu(tmp_path):
    node = {"resources": {"CPU": 64, "GPU": 8, "accelerator_type:H100": 8}, "node_config": {"InstanceType": "x9.large"}}
    value = {"max_workers": 3, "head_node_type": "head", "available_node_types": {"head": {}, "gpu": node}}
    (kind,) = read(tmp_path, value).kinds
    assert (kind.gpu.name if kind.gpu else "", kind.count) == ("H100", 3)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"max_workers": 2}, "neither a file for `ray up`"),
        ({"provider": {"type": "local"}, "metadata": {"nodes": 3}}, r"metadata: nodes: must be a mapping"),
        (rayjob(headGroupSpec=None), r"rayClusterSpec\.headGroupSpec: must be a mapping, found nothing"),
        (rayjob(workerGroupSpecs=[3]), r"spec\.rayClusterSpec\.workerGroupSpecs\.0: must be a mapping, found 3"),
        (rayjob(workerGroupSpecs=[group("a"), group("a")]), r"workerGroupSpecs\.1: groupName 'a' is taken"),
        (rayjob(workerGroupSpecs=[group("gpu")]), r"workerGroupSpecs\.gpu: has 2 GPUs, and neither a machine"),
        (rayjob(workerGroupSpecs=[{**group("gpu"), "maxReplicas": "x"}]), "maxReplicas: must be a quantity"),
        (rayjob(workerGroupSpecs=[{"groupName": "gpu"}]), r"workerGroupSpecs\.0\.template: must be a mapping"),
        ({"apiVersion": "ray.io/v1", "kind": "RayCluster"}, r"spec: must be a mapping, found nothing"),
        ({"nodes": {}}, "nodes: must have at least one entry"),
        (
            {"nodes": {"a": {"machine": "p5.48xlarg"}}},
            r"nodes\.a: the machine 'p5.48xlarg' is not known \(did you mean",
        ),
        ({"nodes": {"a": {"gpu": "H1000", "cpus": 1, "memory_gib": 1}}}, "the GPU 'H1000' is not known"),
        ({"nodes": {"a": {"gpus": 2, "cpus": 1, "memory_gib": 1}}}, "has 2 GPUs and does not say which"),
        ({"nodes": {"a": {"gpu": "H100", "memory_gib": 1}}}, "cpus is missing"),
        ({"nodes": {"a": {"machin": "x"}}}, "unknown key 'machin'"),
        ({"nodes": [{"machine": "p5.48xlarge"}]}, r"nodes: must be a mapping, found .*\. Write \{nodes: \{NAME: "),
        ({"nodes": {"a": "p5.48xlarge"}}, r"nodes\.a: must be a mapping, found .*\. Write \{nodes: \{NAME: "),
        ({"nodes": {"a": {"machine": "p5.48xlarge", "count": 10**9}}}, r"nodes\.a\.count: must be at most 10000"),
        ({"available_node_types": []}, "available_node_types: must be a mapping"),
        ({"available_node_types": {"g": {"node_config": 3}}}, r"g\.node_config: must be a mapping, found 3"),
        ({"available_node_types": {"g": {"max_workers": "x"}}}, r"g\.max_workers: must be a number"),
        ({"available_node_types": {"g": {"resources": {"CPU": "x"}}}}, r"g\.resources\.CPU: must be a number"),
        ({"available_node_types": {"g": {"resources": {"CPU": 0}}}}, "no node of it has CPUs to give away"),
        ({"available_node_types": {"g": {"resources": {"CPU": 0, "GPU": 8}}}}, "no node of it has CPUs to give away"),
        ({"available_node_types": {"g": {"resources": {"GPU": 8}}}}, "says how many CPUs it has; write resources: "),
        (
            {"available_node_types": {"g": {"node_config": {"InstanceType": "m5.2xlarge"}}}},
            r"neither a machine that is known here \(m5\.2xlarge\) nor resources\.CPU",
        ),
        ({"available_node_types": {"g": {"resources": {"CPU": 4, "GPU": 0.5}}}}, "a node has whole GPUs, found 0.5"),
        ({"available_node_types": {"g": {"resources": {"CPU": 1e300}}}}, "CPU: must be at most 10,000"),
        ({"available_node_types": {"g": {"resources": {"CPU": 4, "memory": 1e300}}}}, "memory: must be at most"),
        (
            {"available_node_types": {"g": {"node_config": {"azure_arm_parameters": "D4"}}}},
            "azure_arm_parameters: must be a mapping, found 'D4'",
        ),
        (
            {"head_node_type": "hed", "available_node_types": {"head": {}}},
            r"head_node_type: 'hed' is none of available_node_types \(did you mean 'head'\?\)",
        ),
        ({"nodes": {"a": {"gpu": "H100", "gpus": 0, "cpus": 4, "memory_gib": 8}}}, "gpu is H100 and gpus is 0"),
        ({"nodes": {"a": {"cpus": 4, "memory_gib": 8, "gpu_memory_gib": 80}}}, "gpu_memory_gib is given, and the node"),
        (
            {"available_node_types": {"g": {"resources": {"GPU": 2, "CPU": 8}}}},
            "has 2 GPUs, and neither a machine that is known here",
        ),
    ],
)
def test_a_file_that_leaves_something_open_is_refused(tmp_path, value, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, value)


NUMBERS = [
    name for name, info in NodesOfOneKind.model_fields.items() if get_args(info.annotation)[:1] in ((int,), (float,))
]
"""Optional numbers; `count` is the only other one."""


@pytest.mark.parametrize("name", ["count", *NUMBERS])
@pytest.mark.parametrize("value", [-1, "many", True, 1e300, float("nan"), [1]])
def test_a_number_that_is_none_is_refused_with_its_place(tmp_path, name, value):
    """Whatever number a node has: no overflow, no conversion of what was meant otherwise."""
    own = {"gpu": "H100", "gpus": 8, "cpus": 8, "memory_gib": 8, name: value}
    with pytest.raises(InputError, match=rf"nodes\.a\.{name}: must be "):
        read(tmp_path, {"nodes": {"a": own}})


def test_a_resource_may_have_any_name(tmp_path):
    node = {"resources": {"CPU": 64, "GPU": 8, "accelerator_type:H100": 8, 5: 1}}
    (kind,) = read(tmp_path, {"available_node_types": {1: node}}).kinds
    assert (kind.name, kind.gpus) == ("1", 8)


def test_two_documents_in_a_file_are_called_that(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: 1\n---\nb: 2\n")
    with pytest.raises(InputError, match="expected a single document in the stream, but found another document"):
        read_cluster(path)
