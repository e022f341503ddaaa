"""Starts a submitted job in the interpreter that the cluster itself runs with.

A job's command is a shell line on the head, whose `python` is the first on the PATH that the head was started with: perhaps
one without the package, or none. This file travels with the study and is run by the interpreter behind the job's supervisor,
so it uses the standard library alone:

    /proc/$PPID/exe -I start.py $PPID run study.yaml
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

WORKER_COMMAND = "--python_worker_command="
"""The raylet's argument with its command for workers, which begins with the `sys.executable` of `ray start`. The supervisor's
own executable would not do: in a virtual environment it is the Python that the environment was made from."""

SENT_FROM = "sent-from.json"
"""The file that says where the job comes from: `machine`, and `storage` with `host` if that is a folder of that machine."""


def machine(proc: Path = Path("/proc")) -> str:
    """Return what tells this machine from others until it is started again; "" where there is nothing."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def misplaced(sent_from: dict[str, str], here: str) -> str | None:
    """Return why a job cannot use its storage: it is a relative path of another machine; None if it can."""
    if "storage" not in sent_from or sent_from.get("machine", "") == here:
        return None
    return (
        f"inoc-ray: storage: {sent_from['storage']} is a folder of {sent_from.get('host')}, from which the study was submitted, "
        "and this cluster is another machine; write s3://BUCKET/PREFIX, or the absolute path of a mount that every node has."
    )


def cluster_python(pid: int, proc: Path = Path("/proc")) -> str | None:
    """Return the interpreter of the raylet that is `pid` or one of its ancestors; None without one."""
    while pid > 0:
        for argument in (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0"):
            if argument.startswith(WORKER_COMMAND):
                return shlex.split(argument[len(WORKER_COMMAND) :])[0]
        status = (proc / str(pid) / "status").read_text()
        pid = int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))
    return None


def main(supervisor: int, arguments: list[str]) -> None:
    """Become `inoc-ray ARGUMENTS` in the cluster's interpreter; exit with a message if that has no inoc_ray."""
    sent_from = json.loads(Path(SENT_FROM).read_text()) if Path(SENT_FROM).exists() else {}
    if why := misplaced(sent_from, machine()):
        print(why, file=sys.stderr)
        sys.exit(2)
    python = cluster_python(supervisor)
    if python is None:
        sys.exit("inoc-ray: this job was not started by a Ray node, so the cluster's interpreter cannot be found.")
    if subprocess.run([python, "-c", "import inoc_ray"], stderr=subprocess.DEVNULL, check=False).returncode:
        sys.exit(
            f"inoc-ray: the cluster's Python, {python}, has no inoc_ray; install the package there, on every node, and start "
            "Ray with the `ray` of that environment."
        )
    os.execv(python, [python, "-m", "inoc_ray.cli", *arguments])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
