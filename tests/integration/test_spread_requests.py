"""Replicas on several nodes: the proxy gives each of them its share of the requests."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import httpx
import pytest
import ray
from ray_nodes import ray_nodes

from inoc_ray.cluster.connect import connected
from inoc_ray.serve.app import _start_serve
from inoc_ray.serve.spec import ServeSpec

pytestmark = pytest.mark.slow


def test_requests_go_to_the_replicas_of_every_node_and_not_first_to_those_beside_the_proxy():
    from ray import serve

    @serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 1})
    class Where:
        async def __call__(self) -> str:
            await asyncio.sleep(0.05)
            return str(ray.get_runtime_context().get_node_id())

    with ray_nodes(1, head_cpus=1), connected():
        _start_serve(ServeSpec(model=Path(), model_id="none"))
        serve.run(Where.bind(), name="where", route_prefix="/where")
        port = serve.context._get_global_client().http_config.port
        found: list[str] = []

        def ask() -> None:
            found.extend(httpx.get(f"http://127.0.0.1:{port}/where", timeout=60).text for _ in range(10))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        serve.shutdown()
    assert min(found.count(node) for node in set(found)) >= 10, found
    assert len(set(found)) == 2
