"""`inoc-ray status`, by whatever this machine can see of a study: its files, its storage, the job server of its cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inoc_ray.console import say
from inoc_ray.errors import InputError
from inoc_ray.plan.build import build_plan
from inoc_ray.run.job_server import JobServer, StudyJob
from inoc_ray.run.load import load_with_store, store_at
from inoc_ray.run.not_here import not_here
from inoc_ray.run.status import status_json, status_text, stored_status_json
from inoc_ray.run.study_jobs import is_file, job_of_storage, job_status_json, job_text, last_words, latest_job, name_of
from inoc_ray.store.address import is_bucket
from inoc_ray.store.progress import read_outline
from inoc_ray.store.store import Store


def look(study: str, storage: str | None, address: str | None) -> dict[str, Any]:
    """Return the status of a study for `--json`: that of its plan or of its store, with its job under `job`.

    study: a study file, or a study's name. address: of the job server; None asks one only if nothing else says where the
    results are.
    Raises InputError if nothing is known of the study.
    """
    if is_file(study):
        loaded, store = load_with_store(Path(study), storage)
        missing = not_here(loaded)
        server, job = _job_of(loaded.name, store, address)
        if missing:
            say(f"from the storage alone, since this machine does not have {', '.join(missing)}")
            return _from_store(loaded.name, store, server, job)
        if server is not None and job is not None and not _is_here(store):
            return _from_job(server, job)
        plan = build_plan(loaded, store)
        with store.glance(plan.stored_under()):
            return {**status_json(plan, store), "job": _json(job)}
    name = name_of(study)
    if storage is not None:
        store = store_at(storage)
        return _from_store(name, store, *_job_of(name, store, address))
    try:
        server = JobServer(address)
    except InputError as error:
        raise InputError(f"{error} Or give the study's --storage.") from error
    job = latest_job(server, study)
    return _from_store(name, store_at(job.storage), server, job)


def look_text(value: Mapping[str, Any], width: int | None = None) -> str:
    """Return what `look` found as text. width: as in `console.table`."""
    job = [job_text(StudyJob(**value["job"]))] if value.get("job") else []
    if "trials" not in value:
        unread = f"Results are in {value['storage']}, which has nothing of it that this machine can read."
        last = [f"Last line of its log: {value['last_line']}"] if value["last_line"] else []
        return "\n".join([*job, *last, unread])
    return "\n".join([*job, status_text(value, width)])


def _job_of(name: str, store: Store, address: str | None) -> tuple[JobServer | None, StudyJob | None]:
    """Return the job server, if one is named, and the study's latest job there on this storage.

    One that only the environment names may be away: the storage says what was done without it.
    """
    if address is None and "RAY_API_SERVER_ADDRESS" not in os.environ:
        return None, None
    try:
        server = JobServer(address)
        return server, job_of_storage(server, name, store.address)
    except InputError as error:
        if address is not None:
            raise
        say(f"from the storage alone: {error}")
        return None, None


def _from_store(name: str, store: Store, server: JobServer | None, job: StudyJob | None) -> dict[str, Any]:
    if server is not None and job is not None and read_outline(store, name) is None:
        return _from_job(server, job)
    return {**stored_status_json(name, store), "job": _json(job)}


def _from_job(server: JobServer, job: StudyJob) -> dict[str, Any]:
    return job_status_json(job, last_words(server, job))


def _is_here(store: Store) -> bool:
    """Return False for a folder that this machine does not have: it is the cluster's."""
    return is_bucket(store.address) or os.path.isdir(store.address)


def _json(job: StudyJob | None) -> dict[str, Any] | None:
    return None if job is None else job.to_json()
