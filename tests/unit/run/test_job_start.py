"""A submitted job finds the interpreter of the cluster, whatever is on PATH."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from inoc_ray.run import job_start
from inoc_ray.run.job_start import SENT_FROM, cluster_python, machine


def fake_process(proc: Path, pid: int, parent: int, *command: str) -> None:
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "cmdline").write_bytes("\0".join([*command, ""]).encode())
    (folder / "status").write_text(f"Name:\tx\nPid:\t{pid}\nPPid:\t{parent}\n")


@pytest.mark.parametrize(
    ("worker", "expected"),
    [
        ("/home/me/.venv/bin/python /home/me/.venv/lib/ray/setup_worker.py --node", "/home/me/.venv/bin/python"),
        ('"/home/my files/.venv/bin/python" "/home/my files/setup_worker.py"', "/home/my files/.venv/bin/python"),
    ],
)
def test_the_interpreter_is_the_one_that_the_raylet_starts_workers_with(tmp_path, worker, expected):
    fake_process(tmp_path, 1, 0, "/sbin/init")
    fake_process(tmp_path, 50, 1, "/x/raylet", "--node_id=1", f"--python_worker_command={worker}", "--head")
    fake_process(tmp_path, 60, 50, "ray::JobSupervisor")
    assert cluster_python(60, tmp_path) == expected


def test_a_process_outside_ray_has_none(tmp_path):
    fake_process(tmp_path, 1, 0, "/sbin/init")
    fake_process(tmp_path, 60, 1, "sh")
    assert cluster_python(60, tmp_path) is None


def start(python: Path, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """`job_start.py` as a job runs it, below a process that looks like a raylet whose workers run `python`."""
    program = (
        "import os, subprocess, sys; "
        "sys.exit(subprocess.call([sys.executable, '-I', sys.argv[1], str(os.getpid()), 'run', 'study.yaml']))"
    )
    return subprocess.run(
        [sys.executable, "-c", program, job_start.__file__, f"--python_worker_command={python} setup_worker.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_job_continues_in_that_interpreter_with_its_arguments(tmp_path):
    python = script(tmp_path / "python", '[ "$1" = -c ] || echo "$@"')
    done = start(python)
    assert (done.returncode, done.stdout) == (0, "-m inoc_ray.cli run study.yaml\n"), done.stderr


def test_an_interpreter_without_the_package_is_named(tmp_path):
    python = script(tmp_path / "python", "exit 1")
    done = start(python)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"the cluster's Python, {python}, has no inoc_ray" in done.stderr


def test_it_needs_nothing_but_the_standard_library():
    text = Path(job_start.__file__).read_text()
    modules = {line.split()[1] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert modules <= {*sys.stdlib_module_names, "__future__"}


@pytest.mark.parametrize(
    ("sent_from", "code"),
    [
        ({"machine": "another"}, 0),
        ({"machine": machine(), "storage": "/home/me/runs", "host": "laptop"}, 0),
        ({"machine": "another", "storage": "/home/me/runs", "host": "laptop"}, 2),
    ],
)
def test_a_folder_of_the_machine_that_submitted_is_no_storage_of_another(tmp_path, sent_from, code):
    python = script(tmp_path / "python", "exit 0")
    (tmp_path / SENT_FROM).write_text(json.dumps(sent_from))
    done = start(python, tmp_path)
    assert done.returncode == code, done.stderr
    assert ("storage: /home/me/runs is a folder of laptop" in done.stderr) == (code == 2)
