"""The jobs of a study by its name: `inoc-ray status`, `logs`, `stop` and `ls`."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from inoc_ray.config.base import check_name
from inoc_ray.config.reading import load_yaml, read_yaml_text
from inoc_ray.console import duration, say, table
from inoc_ray.errors import InputError, TrialError, hide_password, shown
from inoc_ray.run.job_server import JobServer, StudyJob
from inoc_ray.run.load import store_at
from inoc_ray.run.submit import STOP_SECONDS
from inoc_ray.study.study import Study

_JOB = re.compile(r"inoc-ray-(?P<study>.+)-[0-9a-f]{16}-\d+")
_ENDS_WITHIN = STOP_SECONDS + 30.0
"""Seconds within which a job that is stopped has ended: it is killed after STOP_SECONDS."""
_POLL_SECONDS = 1.0


def is_file(study: str) -> bool:
    """Return whether a text under STUDY is a study file rather than a study's name."""
    return study.endswith((".yaml", ".yml")) or "/" in study or os.path.isfile(study)


def name_of(study: str) -> str:
    """Return the name of the study that a text means: a study file, a name, or the id of a job of the study.

    Runs none of the study's plugins. Raises InputError for a file that cannot be read and for a text that is no name.
    """
    if is_file(study):
        path = Path(study)
        if not path.exists():
            raise InputError(f"{path}: no such study file.")
        value = load_yaml(read_yaml_text(path, "a study file"), path)
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise InputError(f"{path}: expected a mapping with the name of a study.")
        return str(value["name"])
    found = _JOB.fullmatch(study)
    try:
        return found["study"] if found else check_name(study)
    except ValueError as error:
        raise InputError(f"{error}; give a study file, or the name of a study.") from error


def check_study(study: str, storage: str | None = None) -> None:
    """Raise InputError, before anybody is asked, for a text that is no study file, no name of a study and no job of one.

    Also for a storage that is none, whether it is given or the file names it.
    """
    name_of(study)
    _storage_address(study, storage)


def latest_job(server: JobServer, study: str, storage: str | None = None) -> StudyJob:
    """Return the job of a study that runs, otherwise its latest; or the job of that id.

    A study file means the jobs on the storage that it names, unless `storage` is given; a name alone those on any storage.
    Raises InputError if there is none, or if several storages have one that runs: another's study may have the same name.
    """
    if _JOB.fullmatch(study):
        return server.job(study)
    jobs = _jobs_of(server, study, storage)
    running = [job for job in jobs if job.active]
    if len({job.storage for job in running}) > 1:
        raise InputError(
            f"{study}: {len(running)} jobs of this name are running: {_which(running)}; give the study's "
            "--storage, or the id of one."
        )
    return running[-1] if running else jobs[-1]


def _jobs_of(server: JobServer, study: str, storage: str | None) -> list[StudyJob]:
    """Return the jobs that a study file or a name means, the oldest first; at least one."""
    named = server.jobs(name_of(study))
    if not named:
        raise InputError(
            f"{study}: no such study was submitted to {server.address} since its head was started; "
            "`inoc-ray ls` shows those that were."
        )
    address = _storage_address(study, storage)
    jobs = [job for job in named if address in (None, job.storage)]
    if not jobs:
        last = {job.storage: job for job in named}
        raise InputError(
            f"{study}: no job of this study on {address} was submitted to {server.address}, but jobs of its name on "
            f"other storages: {_which(last.values())}; if one of them is meant, give its id."
        )
    return jobs


def _storage_address(study: str, storage: str | None) -> str | None:
    return store_at(storage).address if storage is not None else _storage_of(study)


def _storage_of(study: str) -> str | None:
    """Return the storage that a study file names; None for a name. Runs none of the study's plugins."""
    if not is_file(study):
        return None
    value = load_yaml(read_yaml_text(Path(study), "a study file"), Path(study))
    named = value.get("storage", Study.model_fields["storage"].default)
    if not isinstance(named, str):
        raise InputError(f"{study}: storage: must be a text, found {shown(named)}.")
    return store_at(named, f"{study}: storage").address


def _which(jobs: Iterable[StudyJob]) -> str:
    return ", ".join(f"{job.id} ({job.status.lower()}, results in {job.storage})" for job in jobs)


def job_of_storage(server: JobServer, study: str, storage: str) -> StudyJob | None:
    """Return the latest job of a study on a storage; None if there is none."""
    jobs = [job for job in server.jobs(study) if job.storage == storage]
    return jobs[-1] if jobs else None


def stop(server: JobServer, study: str, storage: str | None = None) -> StudyJob:
    """Stop the job that `latest_job` finds and wait until it has ended; a job that has ended is returned as it is.

    Raises InputError as `latest_job` does, and TrialError if the job does not end.
    """
    job = latest_job(server, study, storage)
    if not job.active:
        return job
    say(f"stopping {job.id} (results in {job.storage}); it may take {STOP_SECONDS} s to end in order ...")
    deadline = time.monotonic() + _ENDS_WITHIN
    while job.active:
        if time.monotonic() > deadline:
            raise TrialError(f"job {job.id} has not ended {_ENDS_WITHIN:.0f} s after it was told to; try again.")
        # Again and again, since a job that is still pending does not hear it; a job hears it once.
        server.stop(job.id)
        time.sleep(_POLL_SECONDS)
        job = server.job(job.id)
    return job


def jobs_text(jobs: Sequence[StudyJob], address: str, width: int | None = None) -> str:
    """Return the jobs of studies as a table, the newest first. width: as in `console.table`."""
    if not jobs:
        return f"No study was submitted to {hide_password(address)} since its head was started."
    rows = [
        [job.study, job.status, _time(job.started), _took(job), job.storage, job.id] for job in reversed(list(jobs))
    ]
    return table(rows, ["study", "status", "started (UTC)", "took", "storage", "job"], width)


def job_text(job: StudyJob) -> str:
    """Return the state of a job in a line."""
    code = f" with exit code {job.exit_code}" if job.exit_code else ""
    return (
        f"Job {job.id}: {job.status}{code}, started {_time(job.started)} UTC, {_took(job)}, results in {job.storage}."
    )


def last_words(server: JobServer, job: StudyJob) -> str:
    """Return the last line that a job has printed: of a running one its progress."""
    with contextlib.suppress(IndexError):
        return [line for line in server.log(job.id).splitlines() if line.strip()][-1].strip()
    return ""


def job_status_json(job: StudyJob, last_line: str) -> dict[str, Any]:
    """Return what the job server alone knows of a study: for a storage that this machine cannot read."""
    return {"study": job.study, "storage": job.storage, "job": job.to_json(), "last_line": last_line}


def _time(moment: float | None) -> str:
    return "–" if moment is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(moment))


def _took(job: StudyJob) -> str:
    if job.started is None:
        return "–"
    return duration(max(0.0, (job.ended or time.time()) - job.started))
