"""`inoc-ray submit`: runs a study as a Ray job, under a submission id made from the study's content.

Nothing here needs an engine, a model, a GPU or a path of the cluster: what the study says and names travels, and the job does the
rest.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from inoc_ray import stopping
from inoc_ray.console import say
from inoc_ray.errors import InputError, TrialError, hide_password
from inoc_ray.plan.build import build_plan
from inoc_ray.run import job_start
from inoc_ray.run.bundle import pack
from inoc_ray.run.job_server import JobServer, StudyJob
from inoc_ray.run.not_here import not_here
from inoc_ray.run.preflight import check_batches
from inoc_ray.store.address import is_bucket
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study

ENTRYPOINT = "/proc/$PPID/exe -I start.py $PPID run study.yaml"
"""The command of the job, which the head's shell runs as a child of the job's supervisor; see `job_start.py`."""
STOP_SECONDS = 30
"""How long a job that is stopped may take to end in order before it is killed; Ray's default is 3."""


@dataclass(frozen=True)
class Submission:
    """A submitted study: its job and where it runs."""

    job: StudyJob
    attached: bool
    """Whether the job was already running and this call only followed it."""
    address: str

    def to_json(self) -> dict[str, Any]:
        """Return the value for `--json`."""
        job = self.job
        failed = job.status in ("FAILED", "STOPPED")
        about = {
            "submission_id": job.id,
            "status": job.status,
            "attached": self.attached,
            "address": hide_password(self.address),
        }
        return {**about, "study": job.study, "storage": job.storage, "exit_code": job.exit_code, "failed": failed}

    def to_text(self) -> str:
        """Return what was done with which job, and how to go on."""
        action = "Attached to" if self.attached else "Submitted"
        line = f"{action} job {self.job.id} at {hide_password(self.address)}: {self.job.status}"
        study = self.job.study
        more = f"\n`inoc-ray logs {study} --follow` shows its log, `inoc-ray stop {study}` stops it."
        return line + (more if self.job.active else "")


def submission_id(study: Study, bundle: str) -> str:
    """Return `inoc-ray-<study>-<16 hex>`: the same study and files for the same storage have the same id.

    bundle: what `pack` returned. A change of any file that travels changes the id, so that nobody attaches to a job of the old
    content. What only the cluster has (models, files on its mounts) counts by its path.
    """
    return f"inoc-ray-{study.name}-{bundle}"


def submit_study(
    path: Path, study: Study, store: Store, address: str | None, *, follow: bool, relative: bool = False
) -> Submission:
    """Submit the study, or attach to its job if that is pending or running.

    After a job that ended, the next attempt has a higher number at the end of its id, and does only what is missing. relative:
    whether the storage was given as a path that counts from this machine's working folder.
    Raise InputError if the study is wrong, or if the job server cannot be reached or refuses the token.
    """
    with tempfile.TemporaryDirectory() as folder:
        bundle = pack(Path(folder), path, study, store)
        _check(study, store)
        server = JobServer(address)
        base = submission_id(study, bundle)
        attempt, latest = _latest(server.jobs(study.name), base, store)
        attached = latest is not None and latest.active
        job_id = f"{base}-{attempt if attached else attempt + 1}"
        if latest is not None and attached:
            say(f"job {job_id} is already {latest.status.lower()}" + ("; following it" if follow else ""))
        else:
            _add_start(Path(folder), store if relative else None)
            attached = not server.submit(
                job_id,
                ENTRYPOINT,
                Path(folder),
                metadata={"study": study.name, "storage": store.address},
                env={"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)},
            )
            say(f"job {job_id} was just submitted by somebody else" if attached else f"submitted {job_id}")
    job = follow_job(server, job_id) if follow else server.job(job_id)
    return Submission(job, attached, server.address)


def is_relative(storage: str) -> bool:
    """Return whether a storage is a folder that counts from this machine's working folder or home."""
    return not is_bucket(storage) and not os.path.isabs(storage)


def follow_job(server: JobServer, job_id: str, out: TextIO | None = None) -> StudyJob:
    """Print the log of a job on `out` (standard error) until it ends; return it as it ended."""
    out = out or sys.stderr

    def write(text: str) -> None:
        out.write(text)
        out.flush()

    try:
        return server.follow(job_id, write)
    except KeyboardInterrupt:
        stopping.keep_in_words(f"{job_id} goes on; `inoc-ray stop {job_id}` stops it", "while following")
        raise


def raise_if_failed(job: StudyJob) -> None:
    """Raise the error with which a command ends whose job failed: with the exit code of the job's own command."""
    if job.status not in ("FAILED", "STOPPED"):
        return
    lines = [line for line in job.message.splitlines() if line.startswith("inoc-ray: ")]
    why = f": {lines[-1].removeprefix('inoc-ray: ')}" if lines else ""
    message = f"job {job.id} ended with status {job.status}{why}"
    raise InputError(message) if job.exit_code == 2 else TrialError(message)


def _latest(jobs: Sequence[StudyJob], base: str, store: Store) -> tuple[int, StudyJob | None]:
    """Return the number of the last attempt, 0 for none, and its job.

    Raise InputError if the study runs on the same storage with another content: the new job could only fail.
    """
    attempts = {}
    for job in jobs:
        if re.fullmatch(re.escape(base) + r"-\d+", job.id):
            attempts[int(job.id.removeprefix(f"{base}-"))] = job
        elif job.active and job.storage == store.address:
            raise InputError(
                f"job {job.id} is {job.status.lower()}: an earlier version of this study, on the same storage; wait until it ends "
                f"(`inoc-ray logs {job.study} --follow`) or stop it (`inoc-ray stop {job.study}`). What both have in common "
                "is kept."
            )
    number = max(attempts, default=0)
    return number, attempts.get(number)


def _check(study: Study, store: Store) -> None:
    """Plan the study as far as that is possible without the cluster; the job checks the rest before it starts anything."""
    missing = not_here(study, rows_of_hub=True)
    if missing:
        say(f"the job checks the study, since this machine does not have {', '.join(missing)}")
    else:
        check_batches(build_plan(study, store))


def _add_start(folder: Path, relative: Store | None) -> None:
    """Add what starts the job; relative: the store if it is a folder of this machine and no other."""
    shutil.copy(job_start.__file__, folder / "start.py")
    about = {} if relative is None else {"storage": relative.address, "host": socket.gethostname()}
    (folder / job_start.SENT_FROM).write_text(json.dumps({**about, "machine": job_start.machine()}))
