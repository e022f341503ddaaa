"""Which nodes an autoscaler may still start, from the file of `ray up` or from the RayCluster on Kubernetes."""

import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from inoc_ray.cluster.fit import Capacity, Node, check_serving, concurrent_groups
from inoc_ray.cluster.kubernetes import raycluster_config
from inoc_ray.cluster.nodes import startable_nodes
from inoc_ray.errors import InputError
from inoc_ray.study.resources import EngineResources, GroupResources

HEAD, SMALL, LARGE = Node(0, 0), Node(8, 1), Node(192, 8)
TYPES = {
    "head": {"resources": {"CPU": 0}, "max_workers": 0},
    "small": {"resources": {"CPU": 8, "GPU": 1}, "min_workers": 0, "max_workers": 3},
    "large": {"resources": {"CPU": 192, "GPU": 8}, "min_workers": 0, "max_workers": 2},
}


def config(most: int, **types: Any) -> dict[str, Any]:
    return {"max_workers": most, "head_node_type": "head", "available_node_types": {**TYPES, **types}}


@pytest.mark.parametrize(
    ("most", "up", "found", "left"),
    [
        (8, [HEAD], [SMALL] * 3 + [LARGE] * 2, 8),
        (8, [HEAD, LARGE, SMALL], [SMALL] * 2 + [LARGE], 6),
        (2, [HEAD, SMALL], [SMALL] * 2 + [LARGE] * 2, 1),
        (2, [HEAD, SMALL, SMALL], [SMALL] + [LARGE] * 2, 0),
    ],
)
def test_what_may_start_is_what_the_types_and_the_whole_cluster_leave(
    most: int, up: list[Node], found: list[Node], left: int
):
    assert startable_nodes(config(most), up) == (found, left)


def test_a_node_that_is_up_counts_against_one_of_the_types_of_its_shape():
    spot = {"resources": {"CPU": 192, "GPU": 8}, "max_workers": 2}
    for running in range(5):
        found, _ = startable_nodes(config(9, spot=spot), [HEAD, *[LARGE] * running])
        assert found.count(LARGE) == 4 - running


def test_nothing_may_start_without_an_autoscaler_and_a_type_without_work_is_none():
    assert startable_nodes(None, [HEAD]) == ([], 0)
    assert startable_nodes(config(9, idle={"resources": {}, "max_workers": 9}), [HEAD])[0] == [SMALL] * 3 + [LARGE] * 2


def test_of_what_may_start_the_best_for_each_kind_of_worker_count_and_never_more_than_the_limit():
    """Nodes with GPUs are no reason against a study that needs CPUs alone, and the other way round."""
    cpus = Node(96, 0)
    capacity = Capacity.of([HEAD], has_driver_resource=True, startable=[cpus] * 4 + [SMALL] * 4, may_start=2)
    assert concurrent_groups(GroupResources(cpus_per_worker=96), capacity, 9) == 2
    assert concurrent_groups(GroupResources(gpus_per_worker=1), capacity, 9) == 2
    with pytest.raises(
        InputError, match=r"3 workers × 96 CPU = 288 CPU, and the cluster has 192; lower resources.workers"
    ):
        concurrent_groups(GroupResources(workers=3, cpus_per_worker=96), capacity, 9)
    odd = Capacity.of([HEAD], has_driver_resource=True, startable=[Node(5, 0)] * 4, may_start=2)
    with pytest.raises(
        InputError, match=r"3 workers of 3 CPU each.* holds 2 .* \(and its autoscaler starts 2 more at most"
    ):
        concurrent_groups(GroupResources(workers=3, cpus_per_worker=3), odd, 9)
    check_serving(EngineResources(serve_gpus=1), capacity)
    full = Capacity.of([HEAD, cpus], has_driver_resource=True, startable=[SMALL], may_start=0)
    with pytest.raises(InputError, match="serving needs 1 CPU and 1 GPU"):
        check_serving(EngineResources(serve_gpus=1), full)


def group(name: str, most: int, limits: dict[str, str]) -> dict[str, Any]:
    container = {"name": "ray", "image": "inoc-ray", "resources": {"limits": limits, "requests": limits}}
    return {
        "groupName": name,
        "replicas": 0,
        "minReplicas": 0,
        "maxReplicas": most,
        "rayStartParams": {},
        "template": {"spec": {"containers": [container]}},
    }


def raycluster(autoscaled: bool) -> dict[str, Any]:
    head = group("head", 1, {"cpu": "4", "memory": "16Gi"})
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "study", "namespace": "lab"},
        "spec": {
            "enableInTreeAutoscaling": autoscaled,
            "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": head["template"]},
            "workerGroupSpecs": [group("gpu", 4, {"cpu": "16", "memory": "200Gi", "nvidia.com/gpu": "1"})],
        },
    }


@pytest.fixture
def api(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A server that answers as Kubernetes does about the RayClusters `study` and `fixed`; gives a pod's environment."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    request = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(
        [*request.split(), "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    there = "/apis/ray.io/v1/namespaces/lab/rayclusters/"
    answers = {f"{there}study": raycluster(True), f"{there}fixed": raycluster(False)}

    class Kubernetes(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path)
            self.send_response(200 if found else 403)
            self.end_headers()
            self.wfile.write(json.dumps(found or {"reason": "Forbidden"}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Kubernetes)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT_HTTPS": str(server.server_port),
        "RAY_CLUSTER_NAMESPACE": "lab",
        # The key of a client in place of the pod's own token, whose path is fixed.
        "RAY_KUBERAY_CLIENT_CERT_PATH": str(certificate),
        "RAY_KUBERAY_CLIENT_KEY_PATH": str(key),
        "RAY_KUBERAY_CA_CERT_PATH": str(certificate),
    }
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "found"), [("study", [Node(16, 1)] * 4), ("fixed", []), ("of-others", [])])
def test_on_kubernetes_the_raycluster_says_it(api: dict[str, str], name: str, found: list[Node]):
    """In a process of its own: Ray reads the server's address when it is imported."""
    program = (
        "import json; from inoc_ray.cluster.kubernetes import raycluster_config; print(json.dumps(raycluster_config()))"
    )
    environment = {**os.environ, **api, "RAY_CLUSTER_NAME": name}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=True, stdout=subprocess.PIPE)
    assert startable_nodes(json.loads(done.stdout), [HEAD])[0] == found


def test_outside_kubernetes_nothing_is_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert raycluster_config() is None
