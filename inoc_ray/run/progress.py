"""Writes how far a run is beside the study's results, while it runs and when it ends: what `inoc-ray status` shows.

A thread looks every second at what the console would show, and writes when something else is begun, otherwise at most every ten
seconds. So the cost of a run's progress depends on its duration, not on its trials, and nothing waits for a slow storage.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal

from inoc_ray import __version__, stopping
from inoc_ray.console import say, under_way
from inoc_ray.errors import StorageError
from inoc_ray.plan.cells import stored_once
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import Subject, Trial, seed_of
from inoc_ray.run.course_status import outlined_courses
from inoc_ray.run.outcome import StudyOutcome
from inoc_ray.store.progress import keep_outline, keep_progress
from inoc_ray.store.store import Store

WRITE_SECONDS = 10.0
"""Least time between two writes within a phase."""
_LOOK_SECONDS = 1.0
_JOIN_SECONDS = 30.0
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Where Ray tells the command of a job which job it is."""
BEFORE_ANYTHING = ("", "starting Ray")
"""Phases in which a run may still be refused, and writes nothing."""
State = Literal["running", "done", "failed", "stopped"]


@contextlib.contextmanager
def recorded(plan: Plan, store: Store, outcome: StudyOutcome) -> Iterator[None]:
    """Keep the progress of a run in the store while the block runs, and how it ended.

    Nothing is written for a run that is refused before it does anything. A storage that fails costs the progress, not the run.
    """
    recorder = _Recorder(plan, store, outcome)
    stop = threading.Event()

    state: State = "stopped"
    error = ""

    def look() -> None:
        while not stop.wait(_LOOK_SECONDS):
            recorder.write_if_due()
        recorder.write(state, error)

    thread = threading.Thread(target=look, daemon=True, name="progress")
    thread.start()
    try:
        yield
        state = "failed" if outcome.failed else "done"
    except Exception as problem:
        # What ends in a stop ends because of it, whatever a library makes of that.
        if not stopping.requested():
            state, error = "failed", _first_line(problem)
        raise
    finally:
        stop.set()
        # A storage that does not answer must not hold up the end of the run.
        thread.join(min(_JOIN_SECONDS, stopping.seconds_left()) if stopping.requested() else _JOIN_SECONDS)


class _Recorder:
    def __init__(self, plan: Plan, store: Store, outcome: StudyOutcome) -> None:
        self._plan, self._store, self._outcome = plan, store, outcome
        self._started = time.monotonic()
        self._phase, self._phase_started = "", self._started
        self._doing: tuple[str, ...] = ()
        self._written = 0.0
        self._has_outline = self._has_failed = False

    def write_if_due(self) -> None:
        """Write if something else is being done now, or if the last write is long enough ago."""
        if self._outcome.phase != self._phase:
            self._phase, self._phase_started = self._outcome.phase, time.monotonic()
        now = (self._phase, *(one["label"] for one in under_way() if "total" in one))
        if now != self._doing or time.monotonic() - self._written >= WRITE_SECONDS:
            self._doing = now
            self.write("running", "")

    def write(self, state: State, error: str) -> None:
        """Write the present state, unless the run has not begun."""
        if self._outcome.phase in BEFORE_ANYTHING:
            return
        self._written = time.monotonic()
        name = self._plan.study.name
        value = {
            "state": state,
            "error": error,
            "phase": self._outcome.phase,
            "seconds_in_phase": time.monotonic() - self._phase_started,
            "under_way": under_way() if state == "running" else [],
            "seconds": dict(self._outcome.seconds),
            "seconds_in_run": time.monotonic() - self._started,
            "job": submission_of_this_process(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "inoc_ray": __version__,
        }
        try:
            if not self._has_outline:
                keep_outline(self._store, name, outline_of(self._plan))
                self._has_outline = True
            keep_progress(self._store, name, value)
        except (OSError, StorageError) as problem:
            if not self._has_failed:
                self._has_failed = True
                say(f"note: progress cannot be written for `inoc-ray status` ({_first_line(problem)}); the run goes on")


def submission_of_this_process() -> str | None:
    """Return the id of the Ray job whose command this process is; None outside a job."""
    try:
        about = json.loads(os.environ[_JOB_CONFIG])["metadata"]
        return str(about["job_submission_id"])
    except (KeyError, ValueError, TypeError):
        return None


def outline_of(plan: Plan) -> dict[str, Any]:
    """Return the trials and bases of a plan, and what is asked over the steps, with their cells: plain values.

    They do not depend on what is done.
    """
    return {
        "trials": [_subject(plan, trial) for trial in plan.fine_tunes],
        "base": [_subject(plan, base) for base in plan.bases],
        "courses": outlined_courses(plan),
    }


def _subject(plan: Plan, subject: Subject) -> dict[str, Any]:
    known: dict[str, Any] = {
        "trial_id": subject.trial_id,
        "setting": subject.setting,
        "model": subject.model_label,
        "arm": subject.arm.name if isinstance(subject, Trial) else "base",
        "cells": [[cell.evaluation_id, cell.samples] for cell in stored_once(plan.cells_of(subject))],
    }
    return {**known, "kind": subject.arm.kind, "seed": seed_of(subject)} if isinstance(subject, Trial) else known


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
