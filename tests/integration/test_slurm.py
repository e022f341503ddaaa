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


def wait_for_study(head: Machine, job: str, seconds: float = 180.0) -> None:
    """Wait until the job's study runs: how long Ray takes to start depends on what else the machine does."""
    end = time.monotonic() + seconds
    while "running run" not in log(head, job):
        assert time.monotonic() < end, f"{state(head, job)}\n{log(head, job)}"
        time.sleep(0.5)


def wait(head: Machine, job: str, *states: str, seconds: float = 180.0) -> dict[str, str]:
    end = time.monotonic() + seconds
    while (found := state(head, job))["JobState"] not in states:
        assert time.monotonic() < end, f"{found['JobState']}\n{log(head, job)}"
        time.sleep(0.5)
    return found


def nothing_is_left(machines: tuple[Machine, Machine]) -> None:
    # pgrep takes at most 15 characters.
    left = "find /tmp/inoc-ray-* 2>/dev/null | tail -5; pgrep -a raylet; pgrep -a gcs_server; pgrep -a ^ray::"
    for machine in machines:
        machine.until(f'left=$({left}); echo "$left"; test -z "$left"', seconds=60)


def test_ray_runs_on_every_node_and_ends_with_the_study(cluster):
    # Of a job that Slurm had to kill.
    for machine in cluster:
        machine.run("mkdir -p /tmp/inoc-ray-job-4000000/session")
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
    job = submit(cluster[0], "--nodes=1", "--time=20", "--signal=B:USR1@90", "deploy/slurm.sh", "long.yaml")
    wait_for_study(cluster[0], job)
    # The signal is due at once: Slurm looks twice a minute.
    gone = cluster[0].run(f"SLURM_CONF={slurm.CONFIG} squeue --noheader --format=%M --jobs={job}").stdout.split()[-1]
    minutes, seconds = map(int, gone.split(":"))
    limit = minutes + (1 if seconds < 20 else 2)
    cluster[0].run(f"SLURM_CONF={slurm.CONFIG} scontrol update jobid={job} timelimit={limit}")
    wait(cluster[0], job, "PENDING", "REQUEUED")
    assert "stopped at a commit point" in log(cluster[0], job)
    assert state(cluster[0], job)["Restarts"] == "1"
    nothing_is_left(cluster)
    cluster[0].run(f"SLURM_CONF={slurm.CONFIG} scancel {job}")


@pytest.mark.parametrize("study_runs", [True, False])
def test_a_job_that_is_cancelled_ends_at_whatever_moment_and_stays_away(cluster, study_runs: bool):
    """While Ray starts, or when the study runs, which then stops at a commit point."""
    job = submit(cluster[0], "deploy/slurm.sh", "long.yaml")
    if study_runs:
        wait_for_study(cluster[0], job)
    else:
        cluster[0].until("ls -d /tmp/inoc-ray-*", seconds=60)
    cluster[0].run(f"SLURM_CONF={slurm.CONFIG} scancel {job}")
    assert wait(cluster[0], job, "CANCELLED")["Restarts"] == "0"
    nothing_is_left(cluster)
    assert ("stopped at a commit point" in log(cluster[0], job)) is study_runs
    assert ("stopped before the study ran" in log(cluster[0], job)) is not study_runs


def test_the_script_is_the_one_of_the_repository():
    assert (ROOT / "deploy" / "slurm.sh").stat().st_mode & 0o111
