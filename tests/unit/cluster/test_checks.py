"""What a node finds wrong with itself, in one sentence that says what to change."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_base import make_spec

from inoc_ray.cluster import checks, gpus
from inoc_ray.cluster.checks import Needs, check_this_node, fingerprint, model_faults, report, room_faults
from inoc_ray.cluster.fit import Node
from inoc_ray.cluster.gpus import gpu_faults
from inoc_ray.cluster.survey import clock_faults
from inoc_ray.cluster.versions import differences, versions
from inoc_ray.errors import InputError
from inoc_ray.models.resolve import resolve_model
from inoc_ray.store.store import Store
from inoc_ray.train.group import of_a_worker
from inoc_ray.train.job import TrialJob
from inoc_ray.train.worker import train_worker

NODE = "a" * 56


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the package's own model, to spoil."""
    return Path(shutil.copytree(resolve_model("miniature", "models").path, tmp_path / "model"))


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program of that name on the PATH that prints a text."""

    def install(prints: str) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\nprintf '{prints}'\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return install


def test_a_node_like_the_drivers_has_no_fault_and_leaves_its_token(tmp_path: Path, model: Path):
    store = Store(tmp_path / "runs")
    with store.probing() as probe:
        (probe / checks.DRIVERS_TOKEN).write_text("x")
        needs = Needs(
            storage=store.address, versions=versions(), models={str(model): fingerprint(model)}, probe=probe.name
        )
        found = report(needs, NODE)
        assert found.faults == ()
        assert found.gpu_bytes is None
        assert (probe / NODE).exists()
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_folder_that_the_driver_does_not_share_is_said_and_stays_as_it_was(tmp_path: Path):
    elsewhere = tmp_path / "not" / "mounted"
    (fault,) = report(Needs(storage=str(elsewhere), versions={}, probe=".probe-1"), NODE).faults
    assert "another folder here" in fault
    assert not elsewhere.parent.exists()


def test_a_storage_that_cannot_be_written_is_said_by_the_node(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^node \S+: storage: .* cannot be written \(Not a directory\)"):
        check_this_node(Needs(storage=str(tmp_path / "file" / "runs"), versions={}))


@pytest.mark.parametrize(
    ("wanted", "found", "said"),
    [
        ({"ray": "2.60.0"}, {"ray": "2.60.0", "vllm": "1"}, []),
        (
            {"ray": "2.60.0"},
            {"ray": "2.59.0"},
            ["ray 2.59.0, and 2.60.0 where this command runs; install the same on all nodes"],
        ),
        ({"vllm": "0.29.0"}, {}, ["no vllm; install version 0.29.0, as where this command runs"]),
        (
            {"inoc_ray": "ab"},
            {"inoc_ray": "cd"},
            ["another inoc_ray (source cd, and ab where this command runs); install the same on all nodes"],
        ),
    ],
)
def test_versions_that_differ_are_named_with_both(wanted: dict[str, str], found: dict[str, str], said: list[str]):
    assert differences(wanted, found) == said


def test_what_this_process_computes_with_is_all_there_and_builds_do_not_differ():
    assert set(versions()) == {"python", "ray", "torch", "vllm", "inoc_ray"}
    assert not [version for version in versions().values() if "+" in version]


def test_another_model_under_the_same_path_is_seen(model: Path):
    wanted = fingerprint(model)
    assert model_faults(model, wanted) == []
    config = model / "config.json"
    config.write_text(config.read_text() + "\n")
    (fault,) = model_faults(model, wanted)
    assert f"another model in {model}: config.json: hash" in fault
    (weights,) = model.glob("*.safetensors")
    with weights.open("ab") as stream:
        stream.write(b"x")
    (fault,) = model_faults(model, wanted)
    assert "and 1 more files differ" in fault
    weights.unlink()
    config.write_text(config.read_text().removesuffix("\n"))
    assert f"{weights.name}: missing, and {wanted[weights.name]} where" in model_faults(model, wanted)[0]


def test_a_folder_that_is_not_there_is_refused_and_one_of_the_hub_will_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (fault,) = model_faults(tmp_path / "none", {})
    assert f"no model folder {tmp_path / 'none'}; put the model on a mount" in fault
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "models--Qwen--Qwen2.5-7B" / "snapshots" / ("0" * 40)
    assert model_faults(cached, {"config.json": "hash 00", "model.safetensors": "1,000 bytes"}) == []
    (fault,) = model_faults(cached, {"model.safetensors": f"{1 << 60:,} bytes"})
    assert "Qwen/Qwen2.5-7B of the hub is not here" in fault
    assert "of its 1073741824.0 GiB" in fault


def test_gpus_that_ray_gives_away_must_be_there_with_a_driver_for_torchs_cuda(nvidia_smi: Callable[[str], None]):
    assert gpu_faults(0, None) == []
    assert "torch's build is for CPUs" in gpu_faults(1, None)[0]
    nvidia_smi("81559, 580.95.05\\n81559, 580.95.05\\n")
    assert gpu_faults(2, "13.0") == []
    assert [gpu.memory >> 20 for gpu in gpus.seen_gpus()] == [81559, 81559]
    assert "Ray gives away 8 GPUs, and nvidia-smi reports 2" in gpu_faults(8, "13.0")[0]
    nvidia_smi("81559, 550.1\\n")
    assert gpu_faults(1, "12.8") == []
    assert "driver 550.1 is too old for CUDA 13.0; install 580 or later" in gpu_faults(1, "13.0")[0]
    nvidia_smi("NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver\\n")
    assert "nvidia-smi reports 0" in gpu_faults(1, "13.0")[0]


@pytest.mark.parametrize(
    ("clock", "ended", "apart"),
    [(1000.0, 1001.0, None), (1080.0, 1085.0, None), (995.0, 1001.0, None), (1.0, 1001.0, 999), (5001.0, 1001.0, 4000)],
)
def test_a_clock_that_differs_is_a_fault_and_a_slow_answer_is_none(clock: float, ended: float, apart: int | None):
    said = [] if apart is None else [f"its clock is {apart:,} s from this one's; synchronise the clocks (chrony, NTP)"]
    assert clock_faults(clock, began=1000.0, ended=ended) == said


def test_a_full_disk_and_small_shared_memory_are_faults(tmp_path: Path):
    # A file system without a free byte.
    assert "/proc has 0 MiB free" in room_faults(Path("/proc"), gpus=0)[0]
    assert room_faults(tmp_path, gpus=0, shm=tmp_path / "none") == []
    assert "--shm-size=8g" in room_faults(tmp_path, gpus=1, shm=tmp_path / "none")[0]


def test_a_node_on_which_nothing_of_the_study_fits_needs_neither_models_nor_gpus():
    needs = Needs(storage="s", versions={}, models={"m": {}}, workers=(Node(8, 1),), engines=(Node(4, 0),))
    assert needs.of(Node(0, 0)).models == {}
    assert needs.of(Node(64, 8)).gpus == 8
    assert needs.of(Node(4, 0)).models == {"m": {}}
    assert needs.of(Node(4, 0)).gpus == 0


def test_a_worker_asks_its_own_node_before_it_meets_the_others(tmp_path: Path, model: Path):
    """A node that joined after the survey; nothing of the worker's stack is imported for it."""
    other = Needs(
        storage=str(tmp_path), versions={}, models={str(model): {**fingerprint(model), "config.json": "hash 00"}}
    )
    with pytest.raises(InputError, match=rf"^node \S+: another model in {model}: config.json: hash "):
        train_worker({"needs": other, "cpus": 1, "storage": str(tmp_path), "jobs": [], "run_name": "r"})


def test_a_worker_asks_for_its_own_models_and_gpus_alone(tmp_path: Path):
    needs = Needs(storage=str(tmp_path), versions={}, models={"a": {}, "b": {}})
    jobs = [TrialJob(trial_id="t", label="t", spec=make_spec("a"), rows=[])]
    found = of_a_worker(needs, jobs, Node(8, 0.5))
    assert (found.models, found.gpus) == ({"a": {}}, 1)
