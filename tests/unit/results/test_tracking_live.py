"""What is kept of the runs that are RUNNING in MLflow while a study trains."""

from __future__ import annotations

import contextlib
from pathlib import Path
from unittest.mock import Mock

import pytest
from tracked_study import STUDY, a_trial

from inoc_ray.results.records import points_of
from inoc_ray.results.tracking_live import LiveRuns


def test_a_run_stays_known_as_running_when_a_call_about_it_fails(tmp_path: Path) -> None:
    """Else nobody ends it when the command ends with an error of its own."""
    trial = a_trial(tmp_path, "spanish", 0)
    runs = LiveRuns(
        "sqlite://", STUDY, [trial], lock=contextlib.nullcontext, artifact_root=None, inside=False, tell=print
    )
    [run] = runs._runs[trial.trial_id]
    runs._open = {run.identity: "r1", runs._study_run.identity: "r0"}
    client = Mock()
    client.log_batch.side_effect = ConnectionError
    with pytest.raises(ConnectionError):
        runs._begin(client, run, list(points_of(trial.curves[0])))
    # The one that was written last comes last.
    assert list(runs._open.values()) == ["r0", "r1"]
