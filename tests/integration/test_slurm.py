"""deploy/slurm.sh on a real Slurm of two machines: Ray on both, the study on the first, a stop before the time limit."""

import time
from collections.abc import Iterator

import pytest
import slurm
from machines import ROOT, Machine, two_machines, why_not

WHY = why_not() or f"not installed: {', '.join(slurm.missing())}"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not() or slurm.missing()), reason=WHY)]

STUDY = """#!/usr/bin/env bash
# In place of `inoc-ray`: says what it finds, and runs until it is told to stop.
trap 'echo "stopped at a commit point"; exit 143' TERM
python - <<'PYTHON'
import ray

ray.init(log_to_driver=False, logging_level="error")
print("nodes", sorted((node["Resources"].get("CPU"), "inoc_ray_driver" in node["Resources"]) for node in ray.nodes()))
PYTHON
echo "running $*"
[ "$2" = short.yaml ] && exit 0
[ "$2" = wrong.yaml ] && exit 2
for _ in $(seq 600); do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Machine, Machine]]:
    with two_machines() as machines:
        for machine in machines:
            machine.copy_checkout()
            # The programs of the environment, but a study that costs nothing.
            machine.run(
                "cd inoc_ray && mkdir bin && ln -s $(readlink .venv/bin)/* bin/ && rm .venv/bin && mv bin .venv/bin"
            )
            machine.run("rm inoc_ray/.venv/bin/inoc-ray")
            machine.write("inoc_ray/.venv/bin/inoc-ray", STUDY)
            machine.run("chmod +x inoc_ray/.venv/bin/inoc-ray")
        slurm.start(machines)
        yield machines


def submit(head: Machine, *words: str) -> str:
    """Send the job; return its number."""
    options = " ".join(("--parsable", *words))
    return head.run(f"cd inoc_ray && SLURM_CONF={slurm.CONFIG} sbatch {options}").stdout.split()[-1]


def log(head: Machine, job: str) -> str:
    return head.run(f"cat inoc_ray/inoc-ray-{job}.log 2>/dev/null", check=False).stdout


def state(head: Machine, job: str) -> dict[str, str]:
    shown = head.run(f"SLURM_CONF={slurm.CONFIG} scontrol show job {job}").stdout
    return dict(word.partition("=")[::2] for word in shown.split())


def wait(head: Machine, job: str, *states: str, seconds: float = 90.0) -> dict[str, str]:
    end = time.monotonic() + seconds
    while (found := state(head, job))["JobState"] not in states:
        assert time.monotonic() < end, f"{found['JobState']}\n{log(head, job)}"
        time.sleep(0.5)
    return found


def nothing_is_left(machines: tuple[Machine, Machine]) -> None:
    for machine in machines:
        machine.until("! pgrep -f raylet && ! pgrep gcs_server", seconds=20)
    assert machines[0].run("ls -d /tmp/inoc-ray-*", check=False).stdout == ""


def test_ray_runs_on_every_node_and_ends_with_the_study(cluster):
    job = submit(cluster[0], "deploy/slurm.sh", "short.yaml")
    found = wait(cluster[0], job, "COMPLETED", "FAILED")
    text = log(cluster[0], job)
    assert found["JobState"] == "COMPLETED", text
    # Two CPUs each; the drivers of trials on the head alone.
    assert "nodes [(2.0, False), (2.0, True)]" in text
    assert "running run short.yaml" in text
    nothing_is_left(cluster)


def test_a_study_that_fails_fails_the_job_and_is_not_started_again(cluster):
    job = submit(cluster[0], "--nodes=1", "deploy/slurm.sh", "wrong.yaml")
    found = wait(cluster[0], job, "COMPLETED", "FAILED")
    assert (found["JobState"], found["ExitCode"], found["Restarts"]) == ("FAILED", "2:0", "0")


def test_before_the_time_limit_the_study_stops_and_the_job_goes_back_into_the_queue(cluster):
    # The signal comes in the first seconds: 60 s before the end of a minute. Slurm may be up to 60 s early, never late.
    job = submit(cluster[0], "--nodes=1", "--time=1", "--signal=B:USR1@20", "deploy/slurm.sh", "long.yaml")
    wait(cluster[0], job, "PENDING", "REQUEUED", seconds=100)
    assert "stopped at a commit point" in log(cluster[0], job)
    assert state(cluster[0], job)["Restarts"] == "1"
    cluster[0].run(f"SLURM_CONF={slurm.CONFIG} scancel {job}")
    nothing_is_left(cluster)


def test_a_job_that_is_cancelled_stops_at_a_commit_point_and_stays_away(cluster):
    job = submit(cluster[0], "deploy/slurm.sh", "long.yaml")
    end = time.monotonic() + 90
    while "running run long.yaml" not in log(cluster[0], job):
        assert time.monotonic() < end, log(cluster[0], job)
        time.sleep(0.5)
    cluster[0].run(f"SLURM_CONF={slurm.CONFIG} scancel {job}")
    assert wait(cluster[0], job, "CANCELLED")["Restarts"] == "0"
    nothing_is_left(cluster)
    assert "stopped at a commit point" in log(cluster[0], job)


def test_the_script_is_the_one_of_the_repository():
    assert (ROOT / "deploy" / "slurm.sh").stat().st_mode & 0o111
