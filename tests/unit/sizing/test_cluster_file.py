"""A cluster from a file: Ray's own, and a few lines that name the nodes."""

from pathlib import Path

import pytest
import yaml

from inoc_ray.cluster.cluster_file import PlannedCluster, read_cluster
from inoc_ray.errors import InputError

ROOT = Path(__file__).parents[3]


def read(folder: Path, value: object) -> PlannedCluster:
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(value))
    return read_cluster(path)


def test_the_cluster_of_the_repository_is_read():
    found = read_cluster(ROOT / "cluster.yaml")
    (kind,) = found.kinds
    assert (kind.machine, kind.count, kind.gpus, kind.gpu.name if kind.gpu else "") == ("g6e.12xlarge", 4, 4, "L40S")
    assert found.has_driver_resource
    assert (found.capacity.gpus, len(found.capacity.nodes)) == (16.0, 4)


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
        ({"available_node_types": {"g": {"resources": {"CPU": 0}}}}, "no node of it has CPUs or GPUs to give away"),
        (
            {"available_node_types": {"g": {"resources": {"GPU": 2, "CPU": 8}}}},
            "has 2 GPUs, and neither a machine that is known here",
        ),
    ],
)
def test_a_file_that_leaves_something_open_is_refused(tmp_path, value, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, value)
