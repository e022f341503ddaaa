"""`ray job stop` at ten moments of a study: what is left after 15 s, and what a resubmission makes; the seconds are printed."""

import random
import time

import pytest
from job_head import job_head
from ray.job_submission import JobStatus
from study_jobs import ROOT, Jobs

pytestmark = pytest.mark.bench

STOPS = 10


@pytest.mark.timeout(3000)
def test_ten_stops(tmp_path, capsys):
    draw = random.Random(1)
    found = []
    (tmp_path / "head").mkdir()
    with job_head(tmp_path / "head", PYTHONPATH=str(ROOT)) as head:
        whole = Jobs(head, tmp_path / "whole")
        began = time.monotonic()
        whole.submit()
        assert whole.ended() == JobStatus.SUCCEEDED, whole.log()
        took, expected = time.monotonic() - began, whole.results()
        for number in range(STOPS):
            jobs = Jobs(head, tmp_path / str(number))
            moment = took * (number + draw.random()) / STOPS
            jobs.submit()
            time.sleep(moment)
            said = jobs.log().strip().splitlines()[-1:]
            jobs.client.stop_job(jobs.job)
            since = time.monotonic()
            status = jobs.ended()
            ended = time.monotonic() - since
            jobs.nothing_left(since)
            found.append((moment, status.value, ended, time.monotonic() - since, said))
            jobs.submit()
            assert jobs.ended() == JobStatus.SUCCEEDED, jobs.log()
            assert jobs.results() == expected
    with capsys.disabled():
        print(f"\n{STOPS} × `ray job stop` of a study that takes {took:.0f} s:")
        for moment, status, ended, clean, said in found:
            print(f"  at {moment:4.0f} s {status}: ended after {ended:.1f} s, nothing left after {clean:.1f} s; {said}")
