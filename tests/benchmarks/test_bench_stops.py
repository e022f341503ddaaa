"""`ray job stop` at ten moments of a study: what is left after 15 s, and what a resubmission makes; the seconds are printed.

`-k` takes some of the moments; each is drawn from its tenth of the time that the study takes when nobody stops it.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from job_head import Head, job_head
from ray.job_submission import JobStatus
from study_jobs import ROOT, Jobs

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

MOMENTS = 10


@dataclass(frozen=True)
class Undisturbed:
    """A study that nobody stopped: how long it took, in seconds, and what it made."""

    seconds: float
    results: dict[str, Any]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with job_head(tmp_path_factory.mktemp("head"), PYTHONPATH=str(ROOT)) as head:
        yield head


@pytest.fixture(scope="module")
def undisturbed(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    jobs = Jobs(head, tmp_path_factory.mktemp("undisturbed") / "jobs")
    began = time.monotonic()
    jobs.submit()
    assert jobs.ended() == JobStatus.SUCCEEDED, jobs.log()
    return Undisturbed(time.monotonic() - began, jobs.results())


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_job_that_is_stopped_at_any_moment_leaves_nothing_and_the_next_one_ends_as_an_undisturbed_one(
    head, undisturbed, tmp_path, capsys, moment
):
    jobs = Jobs(head, tmp_path / "jobs")
    at = undisturbed.seconds * (moment + random.Random(moment).random()) / MOMENTS
    jobs.submit()
    time.sleep(at)
    said = jobs.log().strip().splitlines()[-1:]
    jobs.client.stop_job(jobs.job)
    since = time.monotonic()
    status = jobs.ended()
    ended = time.monotonic() - since
    jobs.nothing_left(since)
    clean = time.monotonic() - since
    jobs.submit()
    assert jobs.ended() == JobStatus.SUCCEEDED, jobs.log()
    assert jobs.results() == undisturbed.results
    with capsys.disabled():
        print(
            f"\nat {at:.0f} of {undisturbed.seconds:.0f} s {status.value}: ended after {ended:.1f} s, nothing left after "
            f"{clean:.1f} s; it had said {said}"
        )
