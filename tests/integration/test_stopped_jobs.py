"""`ray job stop` and a killed driver leave nothing on a cluster, and the next submission finishes without a hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from job_head import Head, job_head
from ray.job_submission import JobStatus
from study_jobs import PROMISED_S, ROOT, STEPS, Jobs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """Room for a worker, an engine and their drivers at once."""
    with job_head(tmp_path_factory.mktemp("head"), cpus=3, PYTHONPATH=str(ROOT)) as head:
        yield head


def test_stopped_jobs_and_a_killed_driver_leave_nothing_and_the_next_job_ends_as_an_undisturbed_one(
    head: Head, tmp_path: Path
):
    """Stopped while it trains and an engine starts beside that; tests/benchmarks has ten other moments, of a study in phases."""
    undisturbed, jobs = (Jobs(head, tmp_path / name, schedule="overlap") for name in ("undisturbed", "stopped"))
    began = time.monotonic()

    def after(what: str) -> None:
        print(f"{time.monotonic() - began:.0f} s: {what}")

    undisturbed.submit()
    assert undisturbed.ended() == JobStatus.SUCCEEDED, undisturbed.log()
    undisturbed.nothing_left(time.monotonic())
    after("undisturbed")

    def stopped_by(stop: Callable[[], None], status: JobStatus) -> None:
        jobs.submit()
        stop()
        since = time.monotonic()
        after("stopped")
        assert jobs.ended(PROMISED_S) == status
        jobs.nothing_left(since)
        after("nothing left")

    def stop_while_it_trains_and_an_engine_starts() -> None:
        jobs.wait_for(f"/{STEPS} steps · miniature")
        jobs.wait_for("vLLM to import")
        assert any("Replica" in one for one in jobs.left()), "what runs is not seen, so nothing that stays would be"
        jobs.client.stop_job(jobs.job)

    stopped_by(stop_while_it_trains_and_an_engine_starts, JobStatus.STOPPED)
    assert "took a snapshot just now" in jobs.log()
    assert "*** SIGTERM" not in jobs.log()
    stopped_by(jobs.kill_among_answers, JobStatus.FAILED)
    jobs.submit()
    assert jobs.ended() == JobStatus.SUCCEEDED, jobs.log()
    after("went on to the end")
    assert "Trained 0 trials" in jobs.log()
    # The driver was killed after the training, and while there was something to sample.
    assert "sampled 0 responses" not in jobs.log()
    jobs.nothing_left(time.monotonic())
    assert jobs.results() == undisturbed.results()
