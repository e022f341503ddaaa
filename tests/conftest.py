"""Ray as the product starts it: token authentication and the loopback address, said before anything imports ray."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples import examples
from hypothesis import settings
from object_store import ObjectStore, Wire, object_store, wire

from inoc_ray.config.registry import withdraw

_TOKEN = Path(tempfile.mkdtemp(prefix="inoc-ray-test-")) / "token"
_TOKEN.write_text("0123456789abcdef" * 4)
_TOKEN.chmod(0o600)
# Ray reads these once, when it is imported; several modules of one test run start a cluster each.
os.environ.update(
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN_PATH=str(_TOKEN),
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_USAGE_STATS_ENABLED="0",
    # By default Ray runs its workers at the lowest priority: the other test process would have them wait for minutes.
    RAY_worker_niceness="0",
)
os.environ.pop("RAY_ADDRESS", None)
# Several test processes share the cores: torch's threads beyond one each wait for each other, and take 2.5 times as long for it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A wall-clock limit per example fails on a busy machine, and says nothing about the promise.
settings.register_profile("inoc_ray", deadline=None, max_examples=examples(100))
settings.load_profile("inoc_ray")

LONGEST_FIRST = (
    "integration/test_effects.py",
    "integration/test_end_to_end.py",
    "integration/test_stopped_jobs.py",
    "integration/test_team_cluster.py",
    "integration/test_judged_evaluation.py",
    "integration/test_stopped.py",
    "integration/test_train_loop.py",
    "integration/test_lost_nodes.py",
    "integration/test_memory_estimate.py",
    "integration/test_train_killed.py",
    "integration/test_jobs.py",
    "unit/miniature/test_miniature_judge_model.py",
    "integration/test_cases.py",
    "integration/test_replicas.py",
    "integration/test_stock_clients.py",
    "integration/test_train_group.py",
    "integration/test_train_stages.py",
    "integration/test_serve_endpoint.py",
    "integration/test_tracking.py",
    "integration/test_train_nodes.py",
    "integration/test_train_snapshot.py",
    "integration/test_cluster_setup.py",
    "integration/test_judge_endpoint.py",
    "integration/test_build_data.py",
)
"""Files that take minutes, in the order of their time; of two processes neither should begin one of them at the very end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST_FIRST)}
    assert all(path.is_file() for path in place), f"{__file__}: LONGEST_FIRST names a file that is not there"
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="module", autouse=True)
def plugins_of_one_file() -> Iterator[None]:
    """Take out what the plugin files of a test file have registered: the next file's tests may see what ships, and no more."""
    yield
    if plugins := sys.modules.get("inoc_ray.settings.plugins"):
        while plugins._LOADED:
            withdraw(plugins._LOADED.popitem()[1][1])


@pytest.fixture(scope="session")
def s3_server() -> Iterator[ObjectStore]:
    """A real S3 server, for all tests of this process."""
    with object_store() as server:
        yield server


@pytest.fixture
def line(s3_server: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Wire]:
    """The way of this process to the S3 server, which counts and can break."""
    with wire(s3_server) as found:
        for name, value in s3_server.environment(found.url).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("INOC_RAY_CACHE", str(tmp_path / "copies"))
        yield found


@pytest.fixture
def s3(s3_server: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The address of a storage in a new bucket; this process has the credentials, and copies of its own."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("INOC_RAY_CACHE", str(tmp_path / "copies"))
    return f"s3://{s3_server.new_bucket()}/team/runs"
