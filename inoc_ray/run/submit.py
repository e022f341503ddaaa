"""`inoc-ray submit`: runs a study as a Ray job, under a submission id made from the study's content."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inoc_ray.config.identity import content_id
from inoc_ray.console import say
from inoc_ray.errors import InputError
from inoc_ray.evaluate.harness_task import find_task
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.judge_assignment import find_judge
from inoc_ray.plan.plan import Plan
from inoc_ray.run import job_start
from inoc_ray.run.bundle import pack
from inoc_ray.run.preflight import check_batches
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study

ACTIVE = ("PENDING", "RUNNING")
ENTRYPOINT = "/proc/$PPID/exe -I start.py $PPID run study.yaml"
"""The command of the job, which the head's shell runs as a child of the job's supervisor; see `job_start.py`."""


@dataclass(frozen=True)
class Submission:
    """A submitted study: its job and where it runs."""

    submission_id: str
    status: str
    attached: bool
    """Whether the job was already running and this call only followed it."""
    address: str

    @property
    def failed(self) -> bool:
        """Whether the job ended without success."""
        return self.status in ("FAILED", "STOPPED")

    def to_json(self) -> dict[str, Any]:
        """Return the value for `--json`."""
        return {**vars(self), "failed": self.failed}

    def to_text(self) -> str:
        """Return what was done with which job, in a line."""
        action = "Attached to" if self.attached else "Submitted"
        return f"{action} job {self.submission_id} at {self.address}: {self.status}"


def submission_id(plan: Plan, store: Store, bundle: str) -> str:
    """Return `inoc-ray-<study>-<16 hex>`: the same study, files and models on the same storage have the same id.

    bundle: hash of the files that travel with the study. A change of any file or model changes the id, so that nobody attaches
    to a job of the old content.
    """
    value = {
        "bundle": bundle,
        "storage": store.address,
        "trials": sorted({trial.trial_id for trial in plan.trials}),
        "evaluations": sorted({cell.evaluation_id for cell in plan.cells}),
        "judges": {use.name: plan.settings[use.name].judge_version for use in plan.study.settings},
        "judging_models": {name: find_judge(name, judge).id for name, judge in sorted(plan.study.judges.items())},
        "tasks": [find_task(capability).content for capability in plan.study.evaluation.capabilities],
    }
    return f"inoc-ray-{plan.study.name}-{content_id(value)}"


def submit_study(path: Path, study: Study, store: Store, address: str, *, wait: bool) -> Submission:
    """Submit the study, or attach to its job if that is pending or running.

    After a job that ended, the next attempt has a higher number at the end of its id, and does only what is missing.
    Raise InputError if the study is wrong, or if the job server cannot be reached or refuses the token.
    """
    plan = build_plan(study, store)
    check_batches(plan)
    with tempfile.TemporaryDirectory() as folder:
        bundle = pack(Path(folder), path, study, store)
        client = _client(address)
        base = submission_id(plan, store, bundle)
        earlier = sorted(
            (int((job.submission_id or "").removeprefix(base + "-")), str(job.status.value))
            for job in client.list_jobs()
            if (job.submission_id or "").startswith(base + "-")
            and (job.submission_id or "").removeprefix(base + "-").isdigit()
        )
        attempt, status = earlier[-1] if earlier else (0, "")
        attached = status in ACTIVE
        job = f"{base}-{attempt if attached else attempt + 1}"
        if attached:
            say(f"job {job} is already {status.lower()}; following it")
        else:
            attached = not _start(client, job, Path(folder), study)
    if wait:
        asyncio.run(_follow(client, job))
    return Submission(job, str(client.get_job_status(job).value), attached, address)


def _client(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"--address {address}: cannot reach a job server ({reason}); start a head with `ray start --head`, and set "
            "RAY_AUTH_TOKEN_PATH to its token."
        ) from error


def _start(client: Any, job: str, folder: Path, study: Study) -> bool:
    """Submit the job with `folder` as its working folder; return False if somebody else just did."""
    shutil.copy(job_start.__file__, folder / "start.py")
    try:
        client.submit_job(
            entrypoint=ENTRYPOINT,
            submission_id=job,
            runtime_env={"working_dir": str(folder)},
            metadata={"study": study.name},
        )
    except RuntimeError as error:
        if "already exists" not in str(error):
            raise
        say(f"job {job} was just submitted by somebody else; following it")
        return False
    say(f"submitted {job}")
    return True


async def _follow(client: Any, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        sys.stderr.write(lines)
        sys.stderr.flush()
