"""Training curves in MLflow while the trials train, and what became of the runs of a command that did not reach its end.

A thread of the command sends the latest steps that were reported, in one call for each trial in training, and the system metrics
of the command's machine to the study's run: every FLUSH_SECONDS at first, less often the longer a command trains, so that a
fine-tune of hours does not call a team's server thousands of times. The call that makes a trial's run takes no steps; they come
with the next sending or, of a fine-tune of seconds, with `tracking.sync`, which makes a call for what it writes anyway.
Training never waits for it: steps that cannot be sent are dropped, and a server that does not answer is asked more and more
rarely. `tracking.sync` writes the whole curves afterwards; a point that was sent here is one of theirs, bit by bit. Steps that were
trained again after a loss have two times, so MLflow shows both.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from inoc_ray import stopping
from inoc_ray.results.records import Point, RunRecord, StudyRecord, TrialRecord, points_of
from inoc_ray.results.study_runs import runs_under_way
from inoc_ray.results.system_metrics import SystemMetrics
from inoc_ray.results.tracking_checks import first_line
from inoc_ray.results.tracking_client import quiet
from inoc_ray.results.tracking_database import make_database
from inoc_ray.results.tracking_runs import all_tags, find_experiment, known_runs, log, open_run, parent_tag
from inoc_ray.variables import environment

if TYPE_CHECKING:
    from mlflow.entities import Param
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

FLUSH_SECONDS = 10.0
"""The least time between two sendings. A worker reports a step about every 2.5 s."""
MOST_FLUSH_SECONDS = 30.0
"""The most; between the two it is FLUSH_SHARE of the time for which the command has been sending."""
FLUSH_SHARE = 0.05
RETRY_SECONDS = 300.0
"""The most between two attempts to reach a server that does not answer."""
CALL_SECONDS = 5
"""How long one call may take."""
STOP_SECONDS = 2.0
"""How long a command that is stopped waits for MLflow to say so: `ray job stop` kills it 3 s after it has told it to stop."""
STEPS_KEPT = 30
"""Of each trial, for the next sending: more than those of twice MOST_FLUSH_SECONDS, for which a trial's first ones may wait."""
_CALLS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(CALL_SECONDS), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


def pause(seconds: float) -> float:
    """Return the seconds until the next sending of a command that has been sending for so many."""
    return min(max(FLUSH_SECONDS, FLUSH_SHARE * seconds), MOST_FLUSH_SECONDS)


@contextmanager
def live(
    tracking_uri: str,
    study: StudyRecord,
    trials: Sequence[TrialRecord],
    *,
    lock: Callable[[], AbstractContextManager[Any]],
    artifact_root: str | None = None,
    inside: bool = False,
    tell: Callable[[str], None],
) -> Iterator[LiveRuns]:
    """Have MLflow say what becomes of the study while a `with` block runs: RUNNING from `LiveRuns.sending` on.

    A block that ends with an error leaves the runs FAILED, one that is stopped (Ctrl-C, SIGTERM) KILLED; otherwise they are left
    to `tracking.sync`, which the block may call. lock: makes a lock as `tracking.sync` takes it; artifact_root and inside as there.
    tell: gets one line if MLflow cannot be reached. Nothing that MLflow does raises an error here.
    """
    runs = LiveRuns(tracking_uri, study, trials, lock=lock, artifact_root=artifact_root, inside=inside, tell=tell)
    try:
        yield runs
    except BaseException as error:
        runs.end(_status(error))
        raise


def _status(error: BaseException) -> str:
    return "FAILED" if isinstance(error, Exception) and not stopping.requested() else "KILLED"


class LiveRuns:
    """The runs of a study in MLflow while it runs; see `live`."""

    def __init__(
        self,
        tracking_uri: str,
        study: StudyRecord,
        trials: Sequence[TrialRecord],
        *,
        lock: Callable[[], AbstractContextManager[Any]],
        artifact_root: str | None,
        inside: bool,
        tell: Callable[[str], None],
    ) -> None:
        self._uri, self._artifact_root, self._inside = tracking_uri, artifact_root, inside
        # The store has no time of a study that was never run before.
        study = study if study.created_at else replace(study, created_at=int(time.time() * 1000))
        self._study, self._trials, self._lock, self._tell = study, trials, lock, tell
        self._study_run, of_arms, of_trials = runs_under_way(study, trials)
        self._arms = {run.identity: run for run in of_arms}
        self._runs: dict[str, list[RunRecord]] = defaultdict(list)
        for run in of_trials:
            self._runs[run.tags["trial_id"]].append(run)
        self._steps: dict[str, deque[Mapping[str, Any]]] = {}
        self._mutex = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._status: str | None = None
        self._client: MlflowClient | None = None
        self._system: SystemMetrics | None = None
        self._experiment = ""
        self._known: dict[tuple[str, str], MlflowRun] = {}
        self._open: dict[tuple[str, str], str] = {}
        """Identity → id of each run that is RUNNING in MLflow; those that were written last come last."""
        self._later: dict[tuple[str, str], list[Param]] = {}
        """Identity → parameters of a run of `_open` that go with its first steps."""

    def record(self, trial_id: str, step: Mapping[str, Any]) -> None:
        """Have a step of a trial sent with the next ones; return at once. step: its record, as the trial's curve has it."""
        with self._mutex:
            self._steps.setdefault(trial_id, deque(maxlen=STEPS_KEPT)).append(step)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Show the study as RUNNING, and send what is recorded, while a `with` block runs; it must not call `tracking.sync`."""
        with quiet(), environment(_CALLS, over=True):
            thread = _thread(self._work)
            try:
                # At once when there is a stop: the command has other things to wait for, and perhaps 3 s in all.
                with stopping.told(self._begin_to_end):
                    yield
            except BaseException as error:
                self._status = _status(error)
                raise
            finally:
                self._closing = True
                self._wake.set()
                thread.join(2 * CALL_SECONDS if self._status is None else STOP_SECONDS)

    def _begin_to_end(self) -> None:
        self._status, self._closing = "KILLED", True
        self._wake.set()

    def end(self, status: str) -> None:
        """Write a status into the runs that are left RUNNING, within STOP_SECONDS."""
        if self._open and self._status is None:
            with quiet(), environment(_CALLS, over=True):
                _thread(self._finish, status).join(STOP_SECONDS)

    def _work(self) -> None:
        # Not at once: the imports of MLflow would hold up those of Ray, for which the training waits.
        wait, told, failed = FLUSH_SECONDS / 2, False, False
        began = time.monotonic()
        while True:
            self._wake.wait(wait)
            closing = self._closing
            if closing and self._status is not None:
                self._finish(self._status)
                return
            if closing and self._client is None and (failed or not self._steps):
                # It did not answer the last time, or there is nothing to send; the sync that follows says so, or writes everything.
                return
            try:
                self._send(at_once=False)
                failed = False
                wait = pause(time.monotonic() - began)
            except Exception as error:  # noqa: BLE001 - whatever MLflow, its database or the network raise, training goes on
                self._client, failed = None, True
                wait = min(2 * max(wait, FLUSH_SECONDS), RETRY_SECONDS)
                if not told:
                    told = True
                    self._tell(f"MLflow: {first_line(error)}; the curves are written when it answers, or at the end.")
            if closing:
                return

    def _send(self, *, at_once: bool) -> None:
        """Send what is recorded. at_once: at the end, so also the steps of trials that had no run, which wait otherwise."""
        client = self._client or self._connect()
        with self._mutex:
            waiting, self._steps = self._steps, {}
        for trial_id, steps in waiting.items():
            new = [run for run in self._runs[trial_id] if run.identity not in self._open]
            if new:
                self._open_all(client, new)
            if new and not at_once:
                self._put_back(trial_id, steps)
            else:
                points = [point for step in steps for point in points_of(step)]
                for run in self._runs[trial_id]:
                    self._begin(client, run, points)
        if not at_once:
            self._log_system(client)

    def _open_all(self, client: MlflowClient, runs: Sequence[RunRecord]) -> None:
        """Show the runs of a trial as RUNNING, and that of the arm of each."""
        with self._lock():
            for run in runs:
                if run.parent is not None:
                    self._begin(client, self._arms[run.parent])
                self._begin(client, run)

    def _put_back(self, trial_id: str, steps: Iterable[Mapping[str, Any]]) -> None:
        with self._mutex:
            self._steps[trial_id] = deque((*steps, *self._steps.get(trial_id, ())), maxlen=STEPS_KEPT)

    def _log_system(self, client: MlflowClient) -> None:
        """Add what this machine does to the study's run; trials may train elsewhere."""
        from mlflow.entities import Metric

        if self._system is None:
            self._system = SystemMetrics()
        step, values = self._system.sample()
        now = int(time.time() * 1000)
        client.log_batch(
            self._open[self._study_run.identity],
            metrics=[Metric(key, value, now, step) for key, value in values.items()],
        )

    def _connect(self) -> MlflowClient:
        from mlflow.tracking import MlflowClient

        make_database(self._uri)
        client = MlflowClient(self._uri)
        with self._lock():
            self._experiment = find_experiment(client, self._study.name, self._artifact_root).experiment_id
            shared = None if self._inside else self._study
            self._known = known_runs(client, self._experiment, self._trials, shared)
            self._begin(client, self._study_run)
        self._client = client
        return client

    def _begin(self, client: MlflowClient, run: RunRecord, points: Sequence[Point] = ()) -> str:
        """Return the id of a run that is RUNNING in MLflow from now on, and that has these points of its curves."""
        from mlflow.entities import Metric, Param, RunTag

        params = self._later.get(run.identity, [])
        changed: list[RunTag] = []
        if (run_id := self._open.pop(run.identity, None)) is None:
            # The place of study and arms in the list of runs follows from their times.
            begins_now = run.identity not in (self._study_run.identity, *self._arms)
            started = replace(run, started_at=int(time.time() * 1000)) if begins_now else run
            tags = all_tags(run, parent_tag(run, self._open))
            known, fresh = open_run(client, self._experiment, started, known=self._known.get(run.identity), tags=tags)
            run_id, data = known.info.run_id, known.data
            params = [Param(key, value) for key, value in run.params.items() if key not in data.params]
            changed = [RunTag(key, value) for key, value in tags.items() if data.tags.get(key) != value]
            if known.info.status != "RUNNING":
                client.update_run(run_id, status="RUNNING")
            if fresh and begins_now:
                self._later[run.identity], params = params, []
        metrics = [Metric(p.key, p.value, p.timestamp, p.step) for p in points]
        # Before anything is written: it is RUNNING in MLflow even if this call fails.
        self._open[run.identity] = run_id
        log(client, run_id, params=params, metrics=metrics, tags=changed)
        if metrics:
            self._later.pop(run.identity, None)
        return run_id

    def _finish(self, status: str) -> None:
        """Write the status and the steps that wait. There may be 3 s in all for it, so the study's run comes first."""
        study = self._study_run.identity
        self._terminate(status, [study])
        # The command ends with an error of its own; what is not sent is with the next sync.
        with contextlib.suppress(Exception):
            self._send(at_once=True)
        self._terminate(status, [study, *(identity for identity in reversed(self._open) if identity != study)])

    def _terminate(self, status: str, runs: Iterable[tuple[str, str]]) -> None:
        """Write the status into those of the runs that are RUNNING, in this order, as long as there is time."""
        from mlflow.tracking import MlflowClient

        client = self._client or MlflowClient(self._uri)
        end = time.monotonic() + STOP_SECONDS
        for identity in runs:
            if identity in self._open and time.monotonic() < end:
                # One that fails says nothing of the next one.
                with contextlib.suppress(Exception):
                    client.set_terminated(self._open[identity], status)


def _thread(work: Callable[..., None], *given: Any) -> threading.Thread:
    """Return a thread that does the work, and that nobody waits for when the process ends."""
    thread = threading.Thread(target=work, args=given, name="mlflow", daemon=True)
    thread.start()
    return thread
